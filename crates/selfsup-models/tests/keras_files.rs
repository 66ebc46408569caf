//! Keras models as files: what a `model.json` and its shards hold, and those that lie.

#[path = "common/memory.rs"]
mod memory;

use candle_core::{DType, Device};
use selfsup_models::weights::{self, WeightFile};
use serde_json::{Value, json};
use std::path::Path;

/// Far more than any of the files here needs, far less than what they claim.
const MOST_BYTES: usize = 64 << 20;

/// A folder with shards of so many bytes, each number its own place in all of them, and a model.json.
fn read(model: &str, shards: &[(&str, usize)]) -> Result<WeightFile, String> {
    let folder = tempfile::tempdir().unwrap();
    let mut bytes = (0..).flat_map(|i: u32| (i as f32).to_le_bytes());
    for (name, length) in shards {
        std::fs::write(folder.path().join(name), bytes.by_ref().take(*length).collect::<Vec<u8>>()).unwrap();
    }
    let path = folder.path().join("model.json");
    std::fs::write(&path, model).unwrap();
    let (read, peak) = memory::peak(|| weights::read(&path, &Device::Cpu));
    assert!(peak < MOST_BYTES, "{peak} bytes for {model}");
    read.map_err(|e| e.to_string())
}

fn weight(name: &str, shape: &[i64]) -> Value {
    json!({"name": name, "shape": shape, "dtype": "float32"})
}

fn group(paths: &[&str], weights: &[Value]) -> Value {
    json!({"paths": paths, "weights": weights})
}

fn model(groups: &[Value]) -> Value {
    json!({"format": "layers-model", "modelTopology": null, "weightsManifest": groups})
}

/// Weights lie across shards, even a single number does, and a group begins at its own shards.
#[test]
fn shards_are_joined_within_their_group() {
    let groups = [
        group(
            &["a", "b", "empty", "c"],
            &[weight("x/scalar", &[]), weight("x/kernel", &[2, 3]), weight("y", &[2])],
        ),
        group(&[], &[]),
        group(&["d"], &[weight("z", &[1, 2])]),
    ];
    let shards = [("a", 5), ("b", 2), ("empty", 0), ("c", 29), ("d", 8)];
    let file = read(&model(&groups).to_string(), &shards).unwrap();
    let of = |name: &str| {
        let tensor = &file.tensors[name];
        assert_eq!(tensor.dtype(), DType::F32);
        (tensor.dims().to_vec(), tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap())
    };
    assert_eq!(file.tensors.len(), 4);
    assert_eq!(of("x/kernel"), (vec![2, 3], (1..7).map(|i| i as f32).collect()));
    assert_eq!(of("x/scalar"), (vec![], vec![0.0]));
    assert_eq!(of("y"), (vec![2], vec![7.0, 8.0]));
    assert_eq!(of("z"), (vec![1, 2], vec![9.0, 10.0]));
}

#[test]
fn what_the_topology_says_of_layers_is_metadata() {
    let norm = |name: &str, epsilon: Value| json!({"class_name": "BatchNormalizationV1", "config": {"name": name, "epsilon": epsilon}});
    let conv = |name: &str, strides: [u32; 2]| {
        json!({"class_name": "Conv2D", "config": {"name": name, "strides": strides,
            "kernel_initializer": {"class_name": "VarianceScaling", "config": {}}}})
    };
    let of = |layers: Value| {
        let topology = json!({"model_config": {"class_name": "Model", "config": {"layers": layers}}});
        let mut model = model(&[group(&["a"], &[weight("x", &[1])])]);
        model["modelTopology"] = topology;
        model["generatedBy"] = json!("keras v2");
        model["convertedBy"] = Value::Null;
        read(&model.to_string(), &[("a", 4)]).unwrap().metadata
    };
    let inner =
        json!({"class_name": "Model", "config": {"layers": [norm("b", json!(0.001)), conv("c", [2, 2])]}});
    let said = of(json!([norm("a", json!(0.001)), conv("plain", [1, 1]), conv("a", [1, 2]), inner]));
    let expected = [
        ("batch_norm_epsilon", "0.001"),
        ("format", "layers-model"),
        ("generated_by", "keras v2"),
        ("strided_layers", "a c"),
    ];
    assert_eq!(said, expected.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect());
    let said = of(json!([norm("a", json!(0.001)), norm("b", json!(1.001e-5)), norm("c", Value::Null)]));
    assert_eq!(said["batch_norm_epsilon"], "0.00001001 0.001 unsaid");
    assert!(!of(json!([])).contains_key("batch_norm_epsilon"));
}

#[test]
fn models_that_lie_are_refused() {
    let one = |path: &str, weights: &[Value]| model(&[group(&[path], weights)]);
    let with = |field: &str, value: Value| {
        let mut weight = weight("w", &[2]);
        weight[field] = value;
        one("a", &[weight])
    };
    let two = |first: &[&str], second: &[&str]| {
        model(&[group(first, &[weight("v", &[1])]), group(second, &[weight("w", &[1])])])
    };
    for (model, part) in [
        // Dtypes.
        (with("dtype", json!("uint8")), "`w` is of uint8"),
        (with("dtype", json!("float16")), "`w` is of float16"),
        (
            with("quantization", json!({"dtype": "uint16", "scale": 1, "min": 0})),
            "`w` is quantised to uint16",
        ),
        // Sizes.
        (with("shape", json!([-2])), "`w` has a size of -2"),
        (with("shape", json!([0, 1_i64 << 40, 1_i64 << 40])), "`w` has a size of 0"),
        (with("shape", json!([1_i64 << 40, 1_i64 << 40])), "is too large"),
        (with("shape", json!([i64::MAX])), "is too large"),
        (with("shape", json!([1_i64 << 33])), "`w` ends beyond the 8 bytes of `a`"),
        (with("shape", json!([3])), "`w` ends beyond the 8 bytes of `a`"),
        (with("shape", json!([1])), "its weights have 4 bytes, `a` have 8"),
        (one("a", &[]), "its weights have 0 bytes, `a` have 8"),
        (
            one("a", &[weight("v", &[i64::MAX / 4]), weight("w", &[i64::MAX / 4]), weight("x", &[8])]),
            "`v` ends beyond",
        ),
        (model(&[group(&[], &[weight("w", &[1])])]), "`w` ends beyond the 0 bytes"),
        // Names.
        (one("a", &[weight("w", &[1]), weight("w", &[1])]), "two weights `w`"),
        (
            model(&[group(&["a"], &[weight("w", &[2])]), group(&["b"], &[weight("w", &[2])])]),
            "two weights `w`",
        ),
        (two(&["b"], &["b"]), "names the shard `b` twice"),
        (model(&[group(&["a", "a"], &[weight("w", &[4])])]), "names the shard `a` twice"),
        (one("missing", &[weight("w", &[2])]), "missing"),
        (one("../a", &[weight("w", &[2])]), "the shard `../a` is not a file beside it"),
        (one("/etc/passwd", &[weight("w", &[2])]), "the shard `/etc/passwd` is not a file beside it"),
        (one("sub/a", &[weight("w", &[2])]), "is not a file beside it"),
        (one("sub\\a", &[weight("w", &[2])]), "is not a file beside it"),
        (one("..", &[weight("w", &[2])]), "the shard `..` is not a file beside it"),
        (one(".", &[weight("w", &[2])]), "the shard `.` is not a file beside it"),
        (one("", &[weight("w", &[2])]), "the shard `` is not a file beside it"),
        (one("a\0b", &[weight("w", &[2])]), "is not a file beside it"),
        // Form.
        (with("shape", json!(["2"])), "not a model.json of Keras"),
        (with("shape", json!([1.5])), "not a model.json of Keras"),
        (with("name", json!(7)), "not a model.json of Keras"),
        (json!({"weightsManifest": {}}), "not a model.json of Keras"),
        (json!({"weightsManifest": [{"paths": ["a"]}]}), "missing field `weights`"),
    ] {
        let error = read(&model.to_string(), &[("a", 8), ("b", 4)]).expect_err(part);
        assert!(error.contains(part), "expected `{part}`: {error}");
    }
}

#[test]
fn cut_and_doubled_models_are_errors() {
    let shards = [("a", 8)];
    let whole = model(&[group(&["a"], &[weight("w", &[2])])]).to_string();
    assert!(read(&whole, &shards).is_ok());
    for cut in 1..whole.len() {
        let error = read(&whole[..cut], &shards).expect_err("it is cut");
        assert!(error.contains("neither an index of shards nor a model.json"), "at {cut}: {error}");
    }
    let twice = whole.replacen('{', r#"{"weightsManifest":[],"#, 1);
    assert!(read(&twice, &shards).unwrap_err().contains("duplicate field `weightsManifest`"));
    let deep = whole.replace("null", &format!("{}{}", "[".repeat(10_000), "]".repeat(10_000)));
    assert!(read(&deep, &shards).unwrap_err().contains("recursion limit"));
    // Of zeros that take no place.
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), whole).unwrap();
    file.as_file().set_len(17 << 20).unwrap();
    let error = weights::read(file.path(), &Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("JSON of 17825792 bytes"), "{error}");
}

#[test]
fn an_hdf5_file_is_refused_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.h5");
    std::fs::write(&path, b"\x89HDF\r\n\x1a\n\0\0\0\0\0\x08\x08\0").unwrap();
    let error = weights::read(&path, &Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("HDF5") && error.contains("tensorflowjs_converter"), "{error}");
    assert!(weights::read(Path::new("nothing/model.json"), &Device::Cpu).is_err());
}
