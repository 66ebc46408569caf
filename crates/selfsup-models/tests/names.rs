//! Files of others: each convention's names there and back, what is recognised, and that nothing loads by half.

use candle_core::{DType, Device, Tensor};
use selfsup_models::names::{CONVENTIONS, Convention, recognise};
use selfsup_models::weights::{self, WeightFile};
use selfsup_models::{Encoder, Error, LoadOptions, Preprocessing, arch, convert, load_file};
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

fn encoder(name: &str) -> Encoder {
    let arch = arch(name).unwrap();
    Encoder::untrained(arch, Preprocessing::rgb(arch.image_size, [0.5; 3], [0.25; 3]), 7, &Device::Cpu)
        .unwrap()
}

fn tensors(encoder: &Encoder) -> HashMap<String, Tensor> {
    encoder.params().to_file().unwrap().into_iter().collect()
}

/// The tensors as a file of a convention has them, behind one of its prefixes, with something of what it drops.
fn of(convention: &Convention, prefix: &str, ours: &HashMap<String, Tensor>) -> HashMap<String, Tensor> {
    let mut theirs = HashMap::new();
    let mut put = |ours: &str, tensor: Tensor| {
        let name = convention.theirs(ours).unwrap_or_else(|| panic!("{}: {ours}", convention.name));
        let inner = name.strip_prefix(convention.prefixes[0]).unwrap();
        theirs.insert(format!("{prefix}{inner}"), tensor);
    };
    for (name, tensor) in ours {
        if convention.name.starts_with("hf-vit") && name.contains(".attn.qkv.") {
            let d = tensor.dim(0).unwrap() / 3;
            for (i, part) in ["q", "k", "v"].into_iter().enumerate() {
                put(
                    &name.replace(".attn.qkv.", &format!(".attn.{part}.")),
                    tensor.narrow(0, i * d, d).unwrap(),
                );
            }
        } else {
            put(name, tensor.clone());
        }
        if let Some(norm) = name.strip_suffix("running_mean") {
            put(&format!("{norm}num_batches_tracked"), Tensor::new(5i64, &Device::Cpu).unwrap());
        }
    }
    let head = Tensor::zeros((10, 4), DType::F32, &Device::Cpu).unwrap();
    for name in convention.heads {
        theirs.insert(format!("{prefix}{}.0.weight", name.trim_end_matches('.')), head.clone());
    }
    for name in convention.beside {
        theirs.insert(format!("{}.0.weight", name.trim_end_matches('.')), head.clone());
    }
    theirs.insert("optimizer.state.0.momentum_buffer".into(), head);
    theirs
}

fn write(folder: &tempfile::TempDir, tensors: HashMap<String, Tensor>) -> PathBuf {
    let path = folder.path().join("weights.safetensors");
    weights::write(&path, &WeightFile { tensors, metadata: BTreeMap::new() }).unwrap();
    path
}

#[test]
fn every_convention_is_recognised_and_loads_whole() {
    let folder = tempfile::tempdir().unwrap();
    for convention in CONVENTIONS {
        let archs: &[&str] = match convention.name {
            "hf-vit" | "hf-vit-5" | "dino" | "timm" | "moco-v3" => &["vit-mini-cifar"],
            _ => &["resnet10-narrow-cifar", "resnet50-cifar"],
        };
        for name in archs {
            let original = encoder(name);
            let (ours, hash) = (tensors(&original), original.params().sha256().unwrap());
            // The larger network says nothing new of prefixes.
            let prefixes = if *name == "resnet50-cifar" { 1 } else { convention.prefixes.len() };
            for prefix in &convention.prefixes[..prefixes] {
                let what = format!("{} {name} `{prefix}`", convention.name);
                let file = of(convention, prefix, &ours);
                let count = file.len();
                let path = write(&folder, file);
                // The small network's tensors are another's too.
                let plain = LoadOptions {
                    arch: name.starts_with("resnet10").then(|| (*name).to_owned()),
                    ..LoadOptions::default()
                };
                // The same names may be those of two conventions; with its own it must load in any case.
                let named = LoadOptions { names: Some(convention.name.into()), ..plain.clone() };
                for options in [named, plain] {
                    let loaded =
                        load_file(&path, &options, &Device::Cpu).unwrap_or_else(|e| panic!("{what}: {e}"));
                    assert_eq!(loaded.encoder.arch().name, *name, "{what}");
                    assert_eq!(loaded.encoder.params().sha256().unwrap(), hash, "{what}");
                    let account = &loaded.account;
                    assert_eq!(account.left, [""; 0], "{what}");
                    assert_eq!(
                        account.backbone.len() + account.dropped.len(),
                        count,
                        "{what}: each is accounted for"
                    );
                }
            }
            let file = of(convention, convention.prefixes[0], &ours);
            let said = recognise(file.keys().map(String::as_str)).unwrap().convention.name;
            assert_eq!(said, convention.name);
        }
    }
}

/// Of two towers in one file the one that is meant is taken.
#[test]
fn of_two_encoders_in_a_file_the_right_one_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let (meant, other) = (encoder("resnet18"), {
        let arch = arch("resnet18").unwrap();
        Encoder::untrained(arch, Preprocessing::rgb(224, [0.5; 3], [0.25; 3]), 8, &Device::Cpu).unwrap()
    });
    for (right, wrong, said) in [
        ("state_dict.module.encoder_q.", "state_dict.module.encoder_k.", "moco"),
        ("state_dict.module.base_encoder.", "state_dict.module.momentum_encoder.", "moco-v3"),
        ("teacher.backbone.", "student.module.backbone.", "dino"),
        ("state_dict.backbone.", "state_dict.momentum_backbone.", "solo-learn"),
        ("online_encoder.net.", "target_encoder.net.", "byol"),
    ] {
        let mut file = HashMap::new();
        for (prefix, encoder) in [(right, &meant), (wrong, &other)] {
            file.extend(tensors(encoder).into_iter().map(|(name, t)| (format!("{prefix}{name}"), t)));
        }
        let loaded = load_file(&write(&folder, file), &LoadOptions::default(), &Device::Cpu).unwrap();
        assert_eq!(loaded.account.convention.name, said);
        assert_eq!(loaded.encoder.params().sha256().unwrap(), meant.params().sha256().unwrap(), "{said}");
    }
}

#[test]
fn nothing_loads_by_half() {
    let folder = tempfile::tempdir().unwrap();
    let ours = tensors(&encoder("resnet18"));
    let with = |change: &dyn Fn(&mut HashMap<String, Tensor>)| {
        let mut file = ours.clone();
        change(&mut file);
        load_file(&write(&folder, file), &LoadOptions::default(), &Device::Cpu).unwrap_err().to_string()
    };
    let move_to = |from: &'static str, to: &'static str| {
        with(&move |file| {
            let t = file.remove(from).unwrap();
            file.insert(to.into(), t);
        })
    };
    let text = move_to("layer3.1.conv2.weight", "layer3.1.conv_2.weight");
    assert!(text.contains("`layer3.1.conv2.weight` is missing (is it `layer3.1.conv_2.weight`?)"), "{text}");
    let text = move_to("layer4.0.bn1.weight", "other.weight");
    assert!(
        text.contains("`layer4.0.bn1.weight` is missing") && text.contains("`other.weight` is left over"),
        "{text}"
    );
    let text = with(&|file| drop(file.insert("layer1.0.se.fc1.weight".into(), ours["conv1.weight"].clone())));
    assert!(text.contains("`layer1.0.se.fc1.weight` is left over"), "{text}");
    let text = with(&|file| {
        let poisoned = (ours["layer2.0.conv1.weight"].ones_like().unwrap() * f64::NAN).unwrap();
        file.insert("layer2.0.conv1.weight".into(), poisoned);
    });
    assert!(text.contains("`layer2.0.conv1.weight` has 73728 values that are not finite"), "{text}");
    // Nor is anything dropped because it looks like what is.
    for (prefix, strange) in [
        ("", "amplifier.weight"),
        ("", "queue_of_mine.weight"),
        ("state_dict.module.encoder_q.", "state_dict.module.encoder_q.gate.weight"),
        ("state_dict.module.encoder_q.", "state_dict.module.encoder_q.queue"),
        (
            "classy_state_dict.base_model.model.trunk._feature_blocks.",
            "classy_state_dict.base_model.model.trunk._feature_blocks.gate.weight",
        ),
        ("module.", "module.projection.weight"),
    ] {
        let text = with(&|file| {
            *file = file.drain().map(|(name, t)| (format!("{prefix}{name}"), t)).collect();
            file.insert(strange.into(), ours["conv1.weight"].clone());
        });
        assert!(text.contains(&format!("`{strange}` is left over")), "{strange}: {text}");
    }
    let text = with(&|file| file.retain(|name, _| name.starts_with("fc.")));
    assert!(text.contains("none of its tensors"), "{text}");
}

#[test]
fn architectures_are_told_by_their_tensors() {
    let folder = tempfile::tempdir().unwrap();
    let file = tensors(&encoder("resnet10-mini"));
    let path = write(&folder, file);
    let text = load_file(&path, &LoadOptions::default(), &Device::Cpu).unwrap_err().to_string();
    assert!(text.contains("resnet10-mini and of resnet10-narrow-cifar") && text.contains("--arch"), "{text}");
    let options = LoadOptions { arch: Some("resnet10-mini".into()), ..LoadOptions::default() };
    let loaded = load_file(&path, &options, &Device::Cpu).unwrap();
    assert_eq!(loaded.encoder.preprocessing().mean, [0.485, 0.456, 0.406], "nothing else is said");
    let unknown = LoadOptions { names: Some("timmm".into()), ..LoadOptions::default() };
    let error = load_file(&path, &unknown, &Device::Cpu).unwrap_err();
    assert!(
        matches!(error, Error::UnknownConvention { .. }) && error.to_string().contains("did you mean `timm`")
    );
    assert!(recognise(["a", "b"].into_iter()).unwrap_err().to_string().contains("a, b"));
}

/// From any convention to any other and back: the same names, the same bits, in a half-precision dtype too.
#[test]
fn conversions_go_there_and_back_bit_by_bit() {
    let bits = |file: &WeightFile| -> BTreeMap<String, (Vec<usize>, DType, Vec<f32>)> {
        let of = |t: &Tensor| t.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        file.tensors.iter().map(|(n, t)| (n.clone(), (t.dims().to_vec(), t.dtype(), of(t)))).collect()
    };
    for (name, dtype) in [("resnet10-narrow-cifar", DType::F32), ("vit-mini-cifar", DType::F16)] {
        let tensors = tensors(&encoder(name)).into_iter();
        let tensors = tensors.map(|(name, t)| (name, t.to_dtype(dtype).unwrap())).collect();
        let metadata = BTreeMap::from([("arch".to_owned(), name.to_owned())]);
        let ours = WeightFile { tensors, metadata };
        for convention in CONVENTIONS {
            let there = convert(&ours, None, convention);
            let of_vits = convention.name.starts_with("hf-vit");
            if of_vits != name.starts_with("vit") && !convention.same {
                let error = there.unwrap_err().to_string();
                assert!(error.contains("there is none for"), "{}: {error}", convention.name);
                continue;
            }
            let (there, _) = there.unwrap();
            assert_eq!(there.metadata, ours.metadata);
            let (back, account) = convert(&there, None, Convention::named("timm").unwrap()).unwrap();
            assert_eq!(bits(&back), bits(&ours), "{} {name}", convention.name);
            assert!(account.dropped.is_empty());
            let (again, _) = convert(&back, None, convention).unwrap();
            assert_eq!(bits(&again), bits(&there), "{} {name}", convention.name);
        }
        let mut more = ours.clone();
        more.tensors.insert("layer1.0.gate".into(), Tensor::new(1f32, &Device::Cpu).unwrap());
        more.tensors.insert("strange".into(), Tensor::new(1f32, &Device::Cpu).unwrap());
        let error = convert(&more, None, &CONVENTIONS[0]).unwrap_err().to_string();
        assert!(error.contains("`strange`"), "{error}");
    }
}

/// The libraries' own names, of which the golden file comes from `golden/make_names.py`: each is recognised and loads whole.
#[test]
fn the_libraries_own_names_are_read() {
    let golden: BTreeMap<String, BTreeMap<String, Vec<usize>>> =
        serde_json::from_str(include_str!("golden/names.json")).unwrap();
    assert_eq!(golden.len(), 12);
    let folder = tempfile::tempdir().unwrap();
    for (key, shapes) in golden {
        let mut words = key.split(' ');
        let (convention, network) = (words.next().unwrap(), words.next().unwrap());
        let zeros = |shape: &Vec<usize>| Tensor::zeros(&shape[..], DType::F32, &Device::Cpu).unwrap();
        let file = shapes.iter().map(|(name, shape)| (name.clone(), zeros(shape))).collect();
        let loaded = load_file(&write(&folder, file), &LoadOptions::default(), &Device::Cpu)
            .unwrap_or_else(|e| panic!("{key}: {e}"));
        assert_eq!(loaded.encoder.arch().name, network, "{key}");
        let said = loaded.account.convention.name;
        assert!(said == convention || (said, convention) == ("torchvision", "timm"), "{key}: {said}");
        // What is dropped are heads and counters.
        for name in &loaded.account.dropped {
            let head = ["fc.", "head.", "classifier.", "projection_head.", "pooler."];
            assert!(
                name.ends_with("num_batches_tracked") || head.iter().any(|h| name.contains(h)),
                "{key}: {name}"
            );
        }
    }
}
