//! Keras's residual networks: a model made here in Keras's names, layout and conventions, loaded, against the same network computed as
//! Keras computes it, nothing folded, in f64.

mod common;

use candle_core::{D, DType, Device, Tensor};
use common::uniform;
use selfsup_models::names::{Convention, recognise};
use selfsup_models::weights::{self, WeightFile};
use selfsup_models::{Encoder, LoadOptions, Mode, Preprocessing, arch, convert, load_file};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// Halves in its stem and in three stages; two 3×3 convolutions a block.
const ARCH: &str = "resnet10-mini";
const SIDE: usize = 40;
const CLASSES: usize = 7;
/// Of the values' root mean square.
const TOLERANCE: f64 = 1e-4;
/// Of the small networks here; large enough to matter beside variances near 10⁻³.
const EPSILON: f64 = 1e-3;
const CAFFE_MEAN_BGR: [f64; 3] = [103.939, 116.779, 123.68];

/// Shape and numbers by Keras's names.
type Weights = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// Layer names, written out by hand: (ours, convolution, normalisation).
fn layers(caffe: bool) -> Vec<(String, String, String)> {
    let mut layers = Vec::new();
    let stem = if caffe { ("conv1", "bn_conv1") } else { ("conv1_conv", "conv1_bn") };
    layers.push(("conv1".into(), stem.0.to_owned(), stem.1.to_owned()));
    for stage in 1..=4 {
        let theirs = stage + 1;
        for (ours, letter, number) in [("conv1", "2a", 1), ("conv2", "2b", 2), ("downsample.0", "1", 0)] {
            if stage == 1 && number == 0 {
                continue; // as wide as the stem
            }
            let (conv, norm) = if caffe {
                (format!("res{theirs}a_branch{letter}"), format!("bn{theirs}a_branch{letter}"))
            } else {
                let layer = format!("conv{theirs}_block1_{number}");
                (format!("{layer}_conv"), format!("{layer}_bn"))
            };
            layers.push((format!("layer{stage}.0.{ours}"), conv, norm));
        }
    }
    layers
}

/// The model's weights in Keras's layout, in f32, with biases that are not 0.
fn weights(caffe: bool) -> Weights {
    let encoder = Encoder::untrained(
        arch(ARCH).unwrap(),
        Preprocessing::rgb(SIDE, [0.5; 3], [0.5; 3]),
        0,
        &Device::Cpu,
    )
    .unwrap();
    let shapes: HashMap<String, Vec<usize>> =
        encoder.params().iter().map(|t| (t.name.clone(), t.var.dims().to_vec())).collect();
    let mut all = BTreeMap::new();
    let mut put = |name: String, shape: Vec<usize>, value: &dyn Fn(f64) -> f64| {
        let values = uniform(shape.iter().product(), name.bytes().map(u64::from).sum());
        all.insert(name, (shape, values.into_iter().map(|v| value(v) as f32).collect()));
    };
    for (ours, conv, norm) in layers(caffe) {
        // In memory ours are HWIO, as Keras's.
        let kernel = shapes[&format!("{ours}.weight")].clone();
        let (c, inputs) = (kernel[3], kernel[0] * kernel[1] * kernel[2]);
        // The first convolution sees 0…255.
        let scale = (6.0 / inputs as f64).sqrt() / if ours == "conv1" { 70.0 } else { 1.0 };
        put(format!("{conv}/kernel"), kernel, &|v| scale * v);
        put(format!("{conv}/bias"), vec![c], &|v| 0.5 * v);
        put(format!("{norm}/gamma"), vec![c], &|v| 0.5 + 0.2 * v);
        put(format!("{norm}/beta"), vec![c], &|v| 0.3 * v);
        put(format!("{norm}/moving_mean"), vec![c], &|v| 0.4 * v);
        put(format!("{norm}/moving_variance"), vec![c], &|v| if v < -0.8 { 0.002 } else { 1.0 + 0.5 * v });
    }
    let head = if caffe { "fc1000" } else { "predictions" };
    put(format!("{head}/kernel"), vec![256, CLASSES], &|v| 0.1 * v);
    put(format!("{head}/bias"), vec![CLASSES], &|v| v);
    all
}

/// Writes the model: two groups, cut into shards within numbers.
fn write(folder: &Path, weights: &Weights, topology: Value) -> PathBuf {
    let names: Vec<&String> = weights.keys().collect();
    let mut groups = Vec::new();
    for (g, names) in names.chunks(names.len().div_ceil(2)).enumerate() {
        let bytes: Vec<u8> =
            names.iter().flat_map(|name| weights[*name].1.iter().flat_map(|v| v.to_le_bytes())).collect();
        let mut paths = Vec::new();
        for (i, shard) in bytes.chunks(700_001).enumerate() {
            paths.push(format!("group{}-shard{}.bin", g + 1, i + 1));
            std::fs::write(folder.join(paths.last().unwrap()), shard).unwrap();
        }
        let entry = |name: &String| json!({"name": name, "shape": weights[name].0, "dtype": "float32"});
        let entries: Vec<Value> = names.iter().map(|name| entry(name)).collect();
        groups.push(json!({"paths": paths, "weights": entries}));
    }
    let path = folder.join("model.json");
    let model = json!({"format": "layers-model", "modelTopology": topology, "weightsManifest": groups});
    std::fs::write(&path, model.to_string()).unwrap();
    path
}

fn topology(caffe: bool, epsilon: f64) -> Value {
    let norm = |name: &str| {
        json!({"class_name": "BatchNormalization",
        "config": {"name": name, "axis": [3], "epsilon": epsilon}})
    };
    let layers: Vec<Value> = layers(caffe).iter().map(|(_, _, name)| norm(name)).collect();
    json!({"model_config": {"class_name": "Model", "config": {"name": "resnet50", "layers": layers}}})
}

fn options() -> LoadOptions {
    LoadOptions { arch: Some(ARCH.into()), ..LoadOptions::default() }
}

fn images() -> Tensor {
    let pixels: Vec<u8> = uniform(3 * SIDE * SIDE * 3, 5).iter().map(|v| (128.0 + 128.0 * v) as u8).collect();
    Tensor::from_vec(pixels, (3, SIDE, SIDE, 3), &Device::Cpu).unwrap()
}

/// Features and logits, computed as Keras does.
fn unfolded(weights: &Weights, caffe: bool, epsilon: f64) -> candle_core::Result<[Tensor; 2]> {
    let tensor = |name: &str| {
        let (shape, values) = &weights[name];
        Tensor::from_vec(values.clone(), &shape[..], &Device::Cpu)?.to_dtype(DType::F64)
    };
    let names: HashMap<String, (String, String)> =
        layers(caffe).into_iter().map(|(ours, conv, norm)| (ours, (conv, norm))).collect();
    let channel = |t: Tensor| t.reshape((1, (), 1, 1));
    let layer = |x: &Tensor, ours: &str, stride: usize| -> candle_core::Result<Tensor> {
        let (conv, norm) = &names[ours];
        let kernel = tensor(&format!("{conv}/kernel"))?;
        let padding = kernel.dim(0)? / 2;
        let kernel = kernel.permute((3, 2, 0, 1))?.contiguous()?;
        let y = x.conv2d(&kernel, padding, stride, 1, 1)?;
        let y = y.broadcast_add(&channel(tensor(&format!("{conv}/bias"))?)?)?;
        let y = y.broadcast_sub(&channel(tensor(&format!("{norm}/moving_mean"))?)?)?;
        let std = (tensor(&format!("{norm}/moving_variance"))? + epsilon)?.sqrt()?;
        let y = y.broadcast_div(&channel(std)?)?;
        let y = y.broadcast_mul(&channel(tensor(&format!("{norm}/gamma"))?)?)?;
        y.broadcast_add(&channel(tensor(&format!("{norm}/beta"))?)?)
    };
    let x = images().to_dtype(DType::F64)?;
    let bgr = x.index_select(&Tensor::new(&[2u32, 1, 0], &Device::Cpu)?, 3)?;
    let x = bgr.broadcast_sub(&Tensor::new(&CAFFE_MEAN_BGR, &Device::Cpu)?)?;
    let mut x = layer(&x.permute((0, 3, 1, 2))?.contiguous()?, "conv1", 2)?.relu()?;
    for stage in 1..=4 {
        let stride = if stage == 1 { 1 } else { 2 };
        let block = |name: &str| format!("layer{stage}.0.{name}");
        let y = layer(&layer(&x, &block("conv1"), stride)?.relu()?, &block("conv2"), 1)?;
        let shortcut = if stage == 1 { x } else { layer(&x, &block("downsample.0"), stride)? };
        x = (y + shortcut)?.relu()?;
    }
    let features = x.mean((2, 3))?;
    let head = if caffe { "fc1000" } else { "predictions" };
    let logits = features.matmul(&tensor(&format!("{head}/kernel"))?)?;
    let logits = logits.broadcast_add(&tensor(&format!("{head}/bias"))?)?;
    Ok([features, logits])
}

fn values(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn assert_near(own: &Tensor, expected: &Tensor, what: &str) {
    assert_eq!(own.dims(), expected.dims(), "{what}");
    let (own, expected) = (values(own), values(expected));
    let rms = (expected.iter().map(|v| v * v).sum::<f64>() / expected.len() as f64).sqrt();
    for (i, (a, b)) in own.iter().zip(&expected).enumerate() {
        assert!((a - b).abs() <= TOLERANCE * rms, "{what}[{i}]: {a} and {b}, of {rms}");
    }
}

/// Biases, epsilon, layout, channel order and mean, by both generations of names; and of them converted.
#[test]
fn a_loaded_model_computes_what_keras_does() {
    for (caffe, epsilon) in [(true, EPSILON), (false, EPSILON), (true, 1.001e-5)] {
        let folder = tempfile::tempdir().unwrap();
        let weights = weights(caffe);
        let path = write(folder.path(), &weights, topology(caffe, epsilon));
        let loaded = load_file(&path, &options(), &Device::Cpu).unwrap();
        let what = format!("caffe {caffe}, epsilon {epsilon}");
        assert_eq!(loaded.account.convention.name, "keras", "{what}");
        assert!(loaded.account.dropped.is_empty() && loaded.account.head.len() == 2, "{what}");
        assert!(!loaded.says_itself());
        let [features, logits] = unfolded(&weights, caffe, epsilon).unwrap();
        let own = loaded.encoder.forward(&images(), Mode::Eval).unwrap();
        assert_near(&own, &features, &format!("{what}: features"));
        let head = loaded.head.unwrap();
        assert_eq!(head.classes(), CLASSES);
        assert_near(&head.forward(&own).unwrap(), &logits, &format!("{what}: logits"));

        // Under other names the file says what the names no longer do.
        let file = weights::read(&path, &Device::Cpu).unwrap();
        let error = convert(&file, None, Convention::named("timm").unwrap()).unwrap_err().to_string();
        assert!(error.contains("resnet10-mini and of resnet10-narrow-cifar"), "{error}");
        let error = convert(&file, None, Convention::named("keras").unwrap()).unwrap_err().to_string();
        assert!(error.contains("read and not written"), "{error}");
    }
}

#[test]
fn what_a_model_does_not_say_is_an_error() {
    let weights = weights(true);
    let load = |weights: &Weights, topology: Value| {
        let folder = tempfile::tempdir().unwrap();
        load_file(&write(folder.path(), weights, topology), &options(), &Device::Cpu)
            .map(|loaded| loaded.head.is_some())
            .map_err(|e| e.to_string())
    };
    let good = topology(true, EPSILON);
    assert_eq!(load(&weights, good.clone()), Ok(true));
    let error = load(&weights, Value::Null).unwrap_err();
    assert!(error.contains("epsilon, is missing"), "{error}");
    let mut two = good.clone();
    two["model_config"]["config"]["layers"][3]["config"]["epsilon"] = json!(1e-5);
    let error = load(&weights, two).unwrap_err();
    assert!(error.contains("epsilons 0.00001 0.001;"), "{error}");
    for wrong in [json!(-1.0), json!(0), json!("small")] {
        let mut topology = good.clone();
        for layer in topology["model_config"]["config"]["layers"].as_array_mut().unwrap() {
            layer["config"]["epsilon"] = wrong.clone();
        }
        let error = load(&weights, topology).unwrap_err();
        assert!(error.contains("one positive number"), "{wrong}: {error}");
    }

    let with = |change: &dyn Fn(&mut Weights)| {
        let mut weights = weights.clone();
        change(&mut weights);
        load(&weights, good.clone())
    };
    let error = with(&|w| drop(w.insert("res2a_branch2a/bias".into(), (vec![3], vec![0.0; 3])))).unwrap_err();
    assert!(error.contains("`layer1.0.conv1.bias` has shape [3]"), "{error}");
    let error = with(&|w| drop(w.remove("bn2a_branch2a/moving_mean"))).unwrap_err();
    assert!(error.contains("`layer1.0.bn1.running_mean` is missing"), "{error}");
    let error = with(&|w| drop(w.insert("res2a_branch2a/gate".into(), (vec![1], vec![0.0])))).unwrap_err();
    assert!(error.contains("`res2a_branch2a/gate` is left over"), "{error}");
    // Two names of one tensor.
    let error = with(&|w| drop(w.insert("conv1_bn/gamma".into(), w["bn_conv1/gamma"].clone()))).unwrap_err();
    assert!(error.contains("is left over"), "{error}");
    let error = with(&|w| w.get_mut("conv1/bias").unwrap().1[4] = f32::NAN).unwrap_err();
    assert!(error.contains("`conv1/bias` has 1 values that are not finite"), "{error}");
    let error = with(&|w| w.get_mut("fc1000/kernel").unwrap().1[4] = f32::NAN).unwrap_err();
    assert!(error.contains("`fc1000/kernel` has 1 values that are not finite"), "{error}");
    // A head of another width is none.
    let narrow =
        with(&|w| drop(w.insert("fc1000/kernel".into(), (vec![255, CLASSES], vec![0.0; 255 * CLASSES]))));
    assert_eq!(narrow, Ok(false));
    assert_eq!(with(&|w| drop(w.remove("fc1000/bias"))), Ok(false));
}

/// The names of a whole ResNet-50 there and back, and that a file by them, converted, still is what it was.
#[test]
fn a_resnet50_of_keras_has_its_stride_first() {
    let keras = Convention::named("keras").unwrap();
    let network = arch("resnet50-v1").unwrap();
    let build =
        Encoder::untrained(network, Preprocessing::rgb(64, [0.5; 3], [0.5; 3]), 1, &Device::Cpu).unwrap();
    let mut tensors = HashMap::new();
    for (name, tensor) in build.params().to_file().unwrap() {
        let theirs = keras.theirs(&name).unwrap();
        assert_eq!(keras.ours(&theirs).as_deref(), Some(&name[..]));
        let tensor = if tensor.rank() == 4 { tensor.permute((2, 3, 1, 0)).unwrap() } else { tensor };
        tensors.insert(theirs, tensor.contiguous().unwrap());
    }
    assert!(tensors.contains_key("conv5_block3_3_bn/moving_variance"));
    assert_eq!(recognise(tensors.keys().map(String::as_str)).unwrap().convention.name, "keras");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let mut metadata = BTreeMap::from([("batch_norm_epsilon".to_owned(), "0.00001".to_owned())]);
    let mut load = |strided: Option<&str>| {
        metadata.extend(strided.map(|layers| ("strided_layers".to_owned(), layers.to_owned())));
        let file = WeightFile { tensors: tensors.clone(), metadata: metadata.clone() };
        weights::write(&path, &file).unwrap();
        (load_file(&path, &LoadOptions::default(), &Device::Cpu).unwrap().encoder, file)
    };
    let (encoder, file) = load(None);
    assert_eq!(encoder.arch().name, "resnet50-v1");
    // Keras's channels are the other way round; everything else is as it was.
    for (a, b) in encoder.params().iter().zip(build.params().iter()) {
        let reversed = a.name == "conv1.weight";
        let b = if reversed {
            b.var.index_select(&Tensor::new(&[2u32, 1, 0], &Device::Cpu).unwrap(), 2).unwrap()
        } else {
            b.var.as_tensor().clone()
        };
        let off =
            (a.var.as_tensor() - b).unwrap().abs().unwrap().flatten_all().unwrap().max(D::Minus1).unwrap();
        assert_eq!(off.to_scalar::<f32>().unwrap(), 0.0, "{}", a.name);
    }
    let mean = encoder.preprocessing().mean.map(|mean| mean * 255.0);
    assert!(mean.iter().zip([123.68, 116.779, 103.939]).all(|(a, b)| (a - b).abs() < 1e-4), "{mean:?}");

    let (converted, _) = convert(&file, None, Convention::named("torchvision").unwrap()).unwrap();
    let again = folder.path().join("converted.safetensors");
    weights::write(&again, &converted).unwrap();
    let again = Encoder::load(&again, &Device::Cpu).unwrap();
    assert_eq!(again.arch().name, "resnet50-v1");
    assert_eq!(again.preprocessing(), encoder.preprocessing());
    assert_eq!(again.params().sha256().unwrap(), encoder.params().sha256().unwrap());

    let second = "conv1_conv conv3_block1_0_conv conv3_block1_2_conv conv4_block1_2_conv conv5_block1_2_conv";
    assert_eq!(load(Some(second)).0.arch().name, "resnet50");
}
