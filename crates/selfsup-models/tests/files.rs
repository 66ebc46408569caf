//! Encoders to files and back; files that are not what they should be; seeds.

use candle_core::{DType, Device, Tensor};
use selfsup_models::weights::{self, WeightFile};
use selfsup_models::{CropMode, Encoder, Error, Interpolation, Mode, Preprocessing, arch};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

const ARCH: &str = "resnet10-narrow-cifar";

fn untrained(seed: u64) -> Encoder {
    let preprocessing = Preprocessing {
        resize: 14,
        interpolation: Interpolation::Bicubic,
        crop_mode: CropMode::Squash,
        ..Preprocessing::rgb(12, [0.4, 0.5, 0.6], [0.2, 0.3, 0.25])
    };
    Encoder::untrained(arch(ARCH).unwrap(), preprocessing, seed, &Device::Cpu).unwrap()
}

fn images() -> Tensor {
    let pixels: Vec<u8> = (0..2 * 12 * 12 * 3).map(|i: u32| (i * 37 % 256) as u8).collect();
    Tensor::from_vec(pixels, (2, 12, 12, 3), &Device::Cpu).unwrap()
}

fn values(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn a_saved_encoder_computes_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("encoder.safetensors");
    let encoder = untrained(3);
    // Training moves the running statistics; they must be in the file too.
    encoder.forward(&images(), Mode::Train).unwrap();
    encoder.save(&path, &BTreeMap::from([("method".to_owned(), "simclr".to_owned())])).unwrap();
    let again = Encoder::load(&path, &Device::Cpu).unwrap();
    assert_eq!(again.preprocessing(), encoder.preprocessing());
    assert_eq!(again.params().sha256().unwrap(), encoder.params().sha256().unwrap());
    let features = |e: &Encoder| values(&e.forward(&images(), Mode::Eval).unwrap());
    assert_eq!(features(&again), features(&encoder));
    assert_eq!(weights::read(&path, &Device::Cpu).unwrap().metadata["method"], "simclr");
    // The same content gives the same bytes.
    let second = folder.path().join("second.safetensors");
    again.save(&second, &BTreeMap::from([("method".to_owned(), "simclr".to_owned())])).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(&second).unwrap());
}

#[test]
fn files_hold_convolutions_as_oihw() {
    let encoder = untrained(0);
    let in_memory =
        encoder.params().iter().find(|t| t.name == "layer2.0.conv1.weight").unwrap().var.as_tensor().clone();
    let in_file = encoder
        .params()
        .to_file()
        .unwrap()
        .into_iter()
        .find(|(n, _)| n == "layer2.0.conv1.weight")
        .unwrap()
        .1;
    assert_eq!((in_memory.dims(), in_file.dims()), (&[3, 3, 32, 64][..], &[64, 32, 3, 3][..]));
    let at = |t: &Tensor, i: [usize; 4]| {
        t.get(i[0])
            .unwrap()
            .get(i[1])
            .unwrap()
            .get(i[2])
            .unwrap()
            .get(i[3])
            .unwrap()
            .to_scalar::<f32>()
            .unwrap()
    };
    assert_eq!(at(&in_memory, [2, 1, 30, 63]), at(&in_file, [63, 30, 2, 1]));
}

#[test]
fn the_seed_decides_every_weight() {
    let hash = |seed| untrained(seed).params().sha256().unwrap();
    assert_eq!(hash(1), hash(1));
    assert_ne!(hash(1), hash(2));
}

#[test]
fn a_file_that_does_not_fit_names_what_is_wrong_and_changes_nothing() {
    let encoder = untrained(0);
    let before = encoder.params().sha256().unwrap();
    let whole: HashMap<String, Tensor> = encoder.params().to_file().unwrap().into_iter().collect();
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    let problem = |change: &dyn Fn(&mut HashMap<String, Tensor>)| {
        let mut tensors: HashMap<String, Tensor> =
            whole.iter().map(|(n, t)| (n.clone(), t.ones_like().unwrap())).collect();
        change(&mut tensors);
        encoder.params().load_file(&tensors, ARCH).unwrap_err().to_string()
    };
    let text = problem(&|t| drop(t.remove("bn1.running_var")));
    assert!(text.contains("`bn1.running_var` is missing"), "{text}");
    let text = problem(&|t| drop(t.insert("fc.weight".into(), zeros(&[10, 256]))));
    assert!(text.contains("`fc.weight` is left over"), "{text}");
    let text = problem(&|t| drop(t.insert("conv1.weight".into(), zeros(&[64, 3, 7, 7]))));
    assert!(text.contains("`conv1.weight` has shape"), "{text}");
    let text = problem(&|t| drop(t.insert("conv1.weight".into(), zeros(&[32]))));
    assert!(text.contains("`conv1.weight` has shape [32]"), "{text}");
    assert_eq!(encoder.params().sha256().unwrap(), before);
}

#[test]
fn broken_files_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("encoder.safetensors");
    untrained(0).save(&path, &BTreeMap::new()).unwrap();
    let whole = std::fs::read(&path).unwrap();
    let load = |bytes: &[u8]| {
        let path = folder.path().join("broken.safetensors");
        std::fs::write(&path, bytes).unwrap();
        Encoder::load(&path, &Device::Cpu).unwrap_err()
    };
    for cut in [0, 7, 8, 100, whole.len() / 2, whole.len() - 1] {
        assert!(matches!(load(&whole[..cut]), Error::WeightFile { .. }), "cut at {cut}");
    }
    let mut long = whole.clone();
    long[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(matches!(load(&long), Error::WeightFile { .. }));
    // A file of somebody else: no metadata.
    let foreign = folder.path().join("foreign.safetensors");
    weights::write(&foreign, &WeightFile::default()).unwrap();
    assert!(matches!(Encoder::load(&foreign, &Device::Cpu), Err(Error::NoBackbone { .. })));
    assert!(matches!(Encoder::load(Path::new("missing"), &Device::Cpu), Err(Error::Io { .. })));
}

#[test]
fn a_failed_write_leaves_the_old_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a/encoder.safetensors");
    assert!(matches!(untrained(0).save(&path, &BTreeMap::new()), Err(Error::Io { .. })));
    // A folder stands where the file should go: the rename fails, the folder stays, no temporary is left.
    let taken = folder.path().join("taken");
    std::fs::create_dir_all(taken.join("inside")).unwrap();
    assert!(untrained(0).save(&taken, &BTreeMap::new()).is_err());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn the_bytes_are_those_of_the_safetensors_crate_with_the_metadata_in_front() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("all.safetensors");
    let numbers = Tensor::arange(0f32, 6f32, &Device::Cpu).unwrap();
    let of = |shape: &[usize], dtype| numbers.reshape(shape).unwrap().to_dtype(dtype).unwrap();
    let tensors: HashMap<String, Tensor> = [
        ("z.wide", of(&[2, 3], DType::F32)),
        ("a.narrow", of(&[6], DType::U8)),
        ("b.turned", of(&[2, 3], DType::BF16).t().unwrap()),
        ("a.whole", of(&[6, 1], DType::I64)),
        ("scalar", Tensor::new(7i64, &Device::Cpu).unwrap()),
        ("none", Tensor::zeros((0, 4), DType::F32, &Device::Cpu).unwrap()),
    ]
    .map(|(name, t)| (name.to_owned(), t))
    .into();
    let metadata = BTreeMap::from([("b", "2"), ("a", "\"1\"")].map(|(k, v)| (k.to_owned(), v.to_owned())));
    weights::write(&path, &WeightFile { tensors: tensors.clone(), metadata: metadata.clone() }).unwrap();
    let ours = std::fs::read(&path).unwrap();
    let theirs = safetensors::serialize(&tensors, None).unwrap();
    let split = |bytes: &[u8]| {
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        assert_eq!(length % 8, 0);
        let json: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        (json, bytes[8 + length..].to_vec())
    };
    let ((mut header, data), (expected_header, expected_data)) = (split(&ours), split(&theirs));
    let own = header.as_object_mut().unwrap().remove("__metadata__").unwrap();
    assert_eq!(own, serde_json::json!({"a": "\"1\"", "b": "2"}));
    assert_eq!((header, data), (expected_header, expected_data));
    assert!(ours[8..].starts_with(br#"{"__metadata__":{"a":"\"1\"","b":"2"},"#));
    let read = weights::read(&path, &Device::Cpu).unwrap();
    assert_eq!(read.metadata, metadata);
    assert_eq!(
        read.tensors["b.turned"].to_dtype(DType::F32).unwrap().to_vec2::<f32>().unwrap()[2],
        [2.0, 5.0]
    );
}

#[test]
fn a_fingerprint_tells_one_number_from_another() {
    let encoder = untrained(0);
    let print = || encoder.params().fingerprint().unwrap();
    let before = print();
    assert_eq!(before, untrained(0).params().fingerprint().unwrap());
    assert_ne!(before, untrained(1).params().fingerprint().unwrap());
    for t in encoder.params().iter() {
        let values = t.var.as_tensor().flatten_all().unwrap();
        let mut changed = values.to_vec1::<f32>().unwrap();
        let last = changed.len() - 1;
        changed[last] = f32::from_bits(changed[last].to_bits() ^ 1);
        let old = t.var.as_tensor().copy().unwrap();
        t.var.set(&Tensor::from_vec(changed, t.var.dims(), t.var.device()).unwrap()).unwrap();
        assert_ne!(print(), before, "{}", t.name);
        t.var.set(&old).unwrap();
        assert_eq!(print(), before, "{}", t.name);
    }
}
