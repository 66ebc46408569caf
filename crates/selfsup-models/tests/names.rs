//! Files of others: each convention's names there and back, what is recognised, and that nothing loads by half.

use candle_core::{DType, Device, Tensor};
use selfsup_models::names::{CONVENTIONS, Convention, Framework, recognise};
use selfsup_models::params::ParamBuilder;
use selfsup_models::weights::{self, WeightFile};
use selfsup_models::{
    Backbone, CropMode, Encoder, Error, Interpolation, LoadOptions, Preprocessing, arch, convert,
    convert_file, load_file,
};
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

/// The names of a network's tensors, here and in files of ours.
fn backbone_names(name: &str) -> Vec<String> {
    let build = ParamBuilder::zeros(&Device::Cpu);
    Backbone::new(&arch(name).unwrap().config, &build).unwrap();
    build.finish().iter().map(|t| t.name.clone()).collect()
}

fn write(folder: &tempfile::TempDir, tensors: HashMap<String, Tensor>) -> PathBuf {
    let path = folder.path().join("weights.safetensors");
    weights::write(&path, &WeightFile { tensors, metadata: BTreeMap::new() }).unwrap();
    path
}

#[test]
fn every_convention_is_recognised_and_loads_whole() {
    let folder = tempfile::tempdir().unwrap();
    // Keras's numbers are other ones: tests/keras.rs.
    for convention in CONVENTIONS.iter().filter(|c| c.framework == Framework::PyTorch) {
        let archs: &[&str] = match convention.name {
            "hf-vit" | "hf-vit-5" | "dino" | "timm" | "moco-v3" => &["vit-mini-cifar"],
            "deepcluster" => &["alexnet_2012_bn"],
            "rotnet" => &["alexnet_bn"],
            _ => &["resnet10-narrow-cifar", "resnet50-cifar"],
        };
        for name in archs {
            let original = encoder(name);
            let (ours, hash) = (tensors(&original), original.params().sha256().unwrap());
            // The larger networks say nothing new of prefixes.
            let large = *name == "resnet50-cifar" || name.starts_with("alexnet");
            let prefixes = if large { 1 } else { convention.prefixes.len() };
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

/// What training scripts, `DataParallel`, Lightning and `torch.compile` put before the names, and leave beside them.
#[test]
fn weights_are_found_behind_what_wraps_them() {
    let folder = tempfile::tempdir().unwrap();
    let (original, vit) = (encoder("resnet18"), encoder("vit-tiny-16"));
    let (residual, transformer) = (tensors(&original), tensors(&vit));
    let one = Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap();
    for (prefix, beside, said) in [
        ("model.module.", "best_acc1", "torchvision"),
        ("module.", "optimizer.state.0.momentum_buffer", "torchvision"),
        ("state_dict._orig_mod.", "state_dict_ema.conv1.weight", "torchvision"),
        ("state_dict.model.", "epoch", "torchvision"),
        ("state_dict.net.", "rng_states.0", "torchvision"),
        ("model.", "model_ema.conv1.weight", "torchvision"),
        // SimSiam's, Barlow Twins', VICReg's.
        ("state_dict.module.encoder.", "state_dict.module.predictor.0.weight", "solo-learn"),
        ("model.module.backbone.", "model.module.bn.running_mean", "solo-learn"),
        ("model.module.backbone.", "model.module.projector.0.weight", "solo-learn"),
        ("module.backbone.", "module.projector.0.weight", "solo-learn"),
        ("model._orig_mod.module.", "scaler.scale", "torchvision"),
        ("state_dict.", "state_dict.decoder_blocks.0.norm1.weight", "timm"),
        ("model.", "model.mask_token", "timm"),
    ] {
        let (ours, encoder) = if said == "timm" { (&transformer, &vit) } else { (&residual, &original) };
        let mut file: HashMap<String, Tensor> =
            ours.iter().map(|(name, t)| (format!("{prefix}{name}"), t.clone())).collect();
        file.insert(beside.into(), one.clone());
        let loaded = load_file(&write(&folder, file), &LoadOptions::default(), &Device::Cpu)
            .unwrap_or_else(|e| panic!("{prefix} {beside}: {e}"));
        assert_eq!((loaded.account.convention.name, &loaded.account.prefix[..]), (said, prefix));
        assert_eq!(loaded.account.dropped, [beside]);
        assert_eq!(loaded.encoder.params().sha256().unwrap(), encoder.params().sha256().unwrap(), "{prefix}");
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
    for (name, dtype) in
        [("resnet10-narrow-cifar", DType::F32), ("vit-mini-cifar", DType::F16), ("alexnet_bn", DType::F32)]
    {
        let plain = name.starts_with("alexnet");
        // Of a large network the names, which are all that matters here, with a number each.
        let number = |(i, name): (usize, String)| (name, Tensor::new(&[i as f32], &Device::Cpu).unwrap());
        let tensors = match plain {
            true => backbone_names(name).into_iter().enumerate().map(number).collect(),
            false => tensors(&encoder(name)),
        };
        let tensors = tensors.into_iter().map(|(name, t)| (name, t.to_dtype(dtype).unwrap())).collect();
        let metadata = BTreeMap::from([("arch".to_owned(), name.to_owned())]);
        let ours = WeightFile { tensors, metadata };
        for convention in CONVENTIONS.iter().filter(|c| c.framework == Framework::PyTorch) {
            let there = convert(&ours, None, convention);
            let takes = match convention.name {
                "torchvision" => !name.starts_with("vit"),
                "deepcluster" | "rotnet" => plain,
                of if of.starts_with("hf-vit") => name.starts_with("vit"),
                _ => convention.same || name.starts_with("resnet"),
            };
            if !takes {
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

#[test]
fn what_is_dropped_is_counted_by_kind() {
    let names = [
        "state_dict.module.encoder_q.conv1.weight",
        "state_dict.module.encoder_q.bn1.num_batches_tracked",
        "state_dict.module.encoder_q.fc.0.weight",
        "state_dict.module.encoder_q.fc.0.bias",
        "state_dict.module.encoder_k.conv1.weight",
        "state_dict.module.queue",
        "optimizer.state.0.momentum_buffer",
    ];
    let account = recognise(names.into_iter()).unwrap();
    assert_eq!(account.convention.name, "moco");
    let kinds = account.dropped_kinds();
    let kinds: Vec<(&str, usize)> = kinds.iter().map(|(kind, count)| (kind.as_str(), *count)).collect();
    let expected = [("encoder_k", 1), ("fc", 2), ("num_batches_tracked", 1), ("optimizer", 1), ("queue", 1)];
    assert_eq!(kinds, expected);
    let account = recognise(["layer1.0.conv1.weight", "fc.weight"].into_iter()).unwrap();
    assert_eq!(account.dropped_kinds(), [("fc".to_owned(), 1)]);
}

/// Converted, a file no longer lies beside the configuration that says how images are prepared.
#[test]
fn a_configuration_goes_with_the_weights() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(&folder, tensors(&encoder("resnet18")));
    let moco = Convention::named("moco").unwrap();
    let (nobody, _) = convert_file(&path, None, moco).unwrap();
    assert!(nobody.metadata.is_empty());

    let json = r#"{"size": [110, 110], "crop_size": 96, "resample": 3, "image_mean": [0.1, 0.5, 0.9], "image_std": [0.5, 0.25, 0.2]}"#;
    std::fs::write(folder.path().join("preprocessor_config.json"), json).unwrap();
    let original = load_file(&path, &LoadOptions::default(), &Device::Cpu).unwrap().encoder;
    let (converted, _) = convert_file(&path, None, moco).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let path = elsewhere.path().join("weights.safetensors");
    weights::write(&path, &converted).unwrap();
    let loaded = load_file(&path, &LoadOptions::default(), &Device::Cpu).unwrap().encoder;
    assert_eq!(loaded.preprocessing(), original.preprocessing());
    let prepared = loaded.preprocessing();
    assert_eq!(
        (prepared.image_size, prepared.resize, prepared.interpolation, prepared.crop_mode),
        (96, 110, Interpolation::Bicubic, CropMode::Squash)
    );
    assert_eq!(loaded.params().sha256().unwrap(), original.params().sha256().unwrap());
}

/// Names and shapes as the libraries have them, from `golden/make_names.py`.
fn golden() -> BTreeMap<String, BTreeMap<String, Vec<usize>>> {
    serde_json::from_str(include_str!("golden/names.json")).unwrap()
}

/// Zeros, of large networks in half as many bytes: what a file's numbers are in says nothing of its names.
fn zeros(shapes: &BTreeMap<String, Vec<usize>>) -> HashMap<String, Tensor> {
    const LARGE: usize = 40_000_000;
    let count: usize = shapes.values().map(|shape| shape.iter().product::<usize>()).sum();
    let dtype = if count > LARGE { DType::F16 } else { DType::F32 };
    let zeros = |shape: &[usize]| Tensor::zeros(shape, dtype, &Device::Cpu).unwrap();
    shapes.iter().map(|(name, shape)| (name.clone(), zeros(shape))).collect()
}

/// Each is recognised and loads whole.
#[test]
fn the_libraries_own_names_are_read() {
    let golden = golden();
    assert_eq!(golden.len(), 17);
    let folder = tempfile::tempdir().unwrap();
    for (key, shapes) in golden {
        let mut words = key.split(' ');
        let (convention, network) = (words.next().unwrap(), words.next().unwrap());
        let loaded = load_file(&write(&folder, zeros(&shapes)), &LoadOptions::default(), &Device::Cpu)
            .unwrap_or_else(|e| panic!("{key}: {e}"));
        assert_eq!(loaded.encoder.arch().name, network, "{key}");
        let said = loaded.account.convention.name;
        assert!(said == convention || (said, convention) == ("torchvision", "timm"), "{key}: {said}");
        // What is dropped are heads and counters.
        for name in &loaded.account.dropped {
            let head = ["fc.", "head.", "classifier.", "projection_head.", "pooler.", "top_layer.", "sobel."];
            let head = [&head[..], &["_feature_blocks.9."]].concat();
            assert!(
                name.ends_with("num_batches_tracked") || head.iter().any(|h| name.contains(h)),
                "{key}: {name}"
            );
        }
    }
}

/// Fully connected layers and a head are called alike: the former are used wherever they stand, the latter is dropped and may be absent.
#[test]
fn plain_networks_keep_their_fully_connected_layers_and_no_others_do() {
    let golden = golden();
    let theirs: Vec<&str> = golden["torchvision vgg16_bn"].keys().map(String::as_str).collect();
    let deepcluster = |name: &str| name.replacen("features.", "features.module.", 1);
    for (prefix, parallel, convention) in [
        ("", false, "torchvision"),
        ("state_dict.", false, "torchvision"),
        ("module.", false, "torchvision"),
        ("state_dict.module.", false, "torchvision"),
        ("state_dict.backbone.", false, "solo-learn"),
        ("module.encoder_q.", false, "moco"),
        ("state_dict.", true, "deepcluster"),
    ] {
        for head in [true, false] {
            let names: Vec<String> = theirs
                .iter()
                .filter(|name| head || !name.starts_with("classifier.6."))
                .map(|name| format!("{prefix}{}", if parallel { deepcluster(name) } else { (*name).into() }))
                .collect();
            let account = recognise(names.iter().map(String::as_str)).unwrap();
            assert_eq!(account.convention.name, convention, "{prefix}");
            assert_eq!(account.left, [""; 0], "{prefix}");
            assert_eq!(account.backbone.len(), 82, "{prefix}");
            assert_eq!(account.backbone["classifier.3.weight"], format!("{prefix}classifier.3.weight"));
            let heads = account.dropped.iter().filter(|name| !name.ends_with("num_batches_tracked")).count();
            assert_eq!(heads, if head { 2 } else { 0 }, "{prefix}");
        }
    }
    // DeepCluster's without DataParallel, by its head.
    let names = theirs.iter().map(|name| name.replace("classifier.6.", "top_layer."));
    let names: Vec<String> = names.map(|name| format!("state_dict.{name}")).collect();
    let account = recognise(names.iter().map(String::as_str)).unwrap();
    assert_eq!((account.convention.name, account.left.len(), account.backbone.len()), ("deepcluster", 0, 82));
    // A residual network's head stays one, whatever its number.
    let names = backbone_names("resnet18");
    let heads = ["classifier.0.weight", "classifier.1.weight", "classifier.4.bias"];
    let account = recognise(names.iter().map(String::as_str).chain(heads)).unwrap();
    assert_eq!((account.convention.name, account.backbone.len()), ("torchvision", names.len()));
    assert_eq!((account.dropped, account.left.len()), (heads.map(str::to_owned).to_vec(), 0));
}

#[test]
fn a_plain_network_does_not_load_by_half() {
    let folder = tempfile::tempdir().unwrap();
    let mut file = zeros(&golden()["torchvision alexnet"]);
    let fc7 = file.remove("classifier.4.weight").unwrap();
    let error = |file: HashMap<String, Tensor>| {
        load_file(&write(&folder, file), &LoadOptions::default(), &Device::Cpu).unwrap_err().to_string()
    };
    let text = error(file.clone());
    assert!(text.contains("fit alexnet ") && text.contains("`classifier.4.weight` is missing"), "{text}");
    file.insert("classifier.4.weight".into(), fc7);
    file.insert("features.30.weight".into(), file["features.0.weight"].clone());
    let text = error(file);
    assert!(text.contains("`features.30.weight` is left over"), "{text}");
}
