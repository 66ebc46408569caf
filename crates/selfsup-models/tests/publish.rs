//! What is published can be read back, and says of the network what it is. That timm and transformers make the same features of it,
//! `golden/check_published.py` finds out.

use candle_core::{DType, Device, Tensor};
use selfsup_models::publish::{Library, Publication, publication};
use selfsup_models::{
    Colors, CropMode, Encoder, Error, Interpolation, LoadOptions, Mode, Preprocessing, arch, load_file,
    weights,
};
use serde_json::json;
use std::collections::BTreeMap;

fn encoder(name: &str, image_size: usize) -> Encoder {
    prepared(name, image_size, CropMode::Center)
}

fn prepared(name: &str, image_size: usize, crop_mode: CropMode) -> Encoder {
    // As much of an image as 224 of 256 pixels.
    let resize = image_size * 8 / 7;
    let interpolation = Interpolation::Bicubic;
    let preprocessing = Preprocessing::rgb(image_size, [0.485, 0.5, 0.1], [0.25, 0.3, 0.225]);
    let preprocessing = Preprocessing { resize, interpolation, crop_mode, ..preprocessing };
    Encoder::untrained(arch(name).unwrap(), preprocessing, 7, &Device::Cpu).unwrap()
}

fn published(name: &str, image_size: usize, library: Library) -> Publication {
    publication_of(&encoder(name, image_size), library)
}

fn publication_of(encoder: &Encoder, library: Library) -> Publication {
    let more = BTreeMap::from([("method".to_owned(), "simclr".to_owned())]);
    publication(encoder, library, &more).unwrap()
}

#[test]
fn what_is_published_is_the_encoder() {
    use CropMode::{Center, Squash};
    for (name, image_size, crop_mode, library) in [
        ("resnet18", 40, Center, Library::Timm),
        ("resnet18", 40, Squash, Library::Transformers),
        ("resnet50-cifar", 16, Center, Library::Code),
        ("resnet10-mini", 32, Center, Library::Code),
        ("vit-mini-cifar", 32, Squash, Library::Timm),
        ("vit-tiny-16", 48, Center, Library::Timm),
        ("vit-tiny-16", 48, Center, Library::Transformers),
    ] {
        let original = prepared(name, image_size, crop_mode);
        let file = publication_of(&original, library);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        weights::write(&path, &file.weights).unwrap();
        let loaded = load_file(&path, &LoadOptions::default(), &Device::Cpu).unwrap();
        assert_eq!(loaded.encoder.params().sha256().unwrap(), original.params().sha256().unwrap(), "{name}");
        assert_eq!(loaded.encoder.preprocessing(), original.preprocessing());
        assert_eq!(loaded.metadata["format"], "pt");
        assert_eq!(loaded.metadata["method"], "simclr");
        let images = Tensor::zeros((1, image_size, image_size, 3), DType::U8, &Device::Cpu).unwrap();
        let features = |encoder: &Encoder| {
            encoder.forward(&images, Mode::Eval).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        assert_eq!(features(&loaded.encoder), features(&original));
        assert_eq!(file.code.is_some(), library == Library::Code);

        // Without the metadata, as another program might rewrite it: architecture and preparation from names, shapes and files beside.
        let bare = weights::WeightFile { metadata: BTreeMap::new(), ..file.weights };
        weights::write(&path, &bare).unwrap();
        let options = LoadOptions { arch: Some(name.into()), ..LoadOptions::default() };
        for (name, json) in [("config.json", &file.config), ("preprocessor_config.json", &file.preprocessor)]
        {
            std::fs::write(folder.path().join(name), json.to_string()).unwrap();
            let loaded = load_file(&path, &options, &Device::Cpu).unwrap();
            if name == "config.json" && library != Library::Timm {
                assert_eq!(loaded.prepared_by, None, "of images it says nothing");
                continue;
            }
            assert_eq!(loaded.prepared_by.as_deref(), Some(name));
            assert_eq!(loaded.encoder.preprocessing(), original.preprocessing());
            assert_eq!(features(&loaded.encoder), features(&original));
        }
    }
}

#[test]
fn configurations_say_what_the_networks_are() {
    let config = published("vit-tiny-16", 48, Library::Timm).config;
    assert_eq!(config["architecture"], "vit_tiny_patch16_224");
    let args = json!({ "img_size": 48, "patch_size": 16, "embed_dim": 192, "depth": 12, "num_heads": 3 });
    assert_eq!(config["model_args"], args);
    assert_eq!(config["pretrained_cfg"]["input_size"], json!([3, 48, 48]));
    // As they were written, not as f32 has them.
    assert_eq!(config["pretrained_cfg"]["mean"].to_string(), "[0.485,0.5,0.1]");
    let positions = &published("vit-tiny-16", 48, Library::Timm).weights.tensors["pos_embed"];
    assert_eq!(positions.dims(), [1, 10, 192]);

    let config = published("resnet50", 64, Library::Transformers).config;
    assert_eq!(config["hidden_sizes"], json!([256, 512, 1024, 2048]));
    assert_eq!((&config["layer_type"], &config["depths"]), (&json!("bottleneck"), &json!([3, 4, 6, 3])));
    let code = published("resnet10-mini", 32, Library::Code);
    assert_eq!((&code.config["stem"], &code.config["width"]), (&json!("halving"), &json!(32)));
    assert!(code.code.unwrap().contains("class SelfsupResNet("));
    let weights = code.weights.tensors;
    assert_eq!(weights["layer4.0.bn2.num_batches_tracked"].dtype(), DType::I64);
}

#[test]
fn what_a_library_has_not_is_refused() {
    let refused = |encoder: &Encoder, library| {
        let error = publication(encoder, library, &BTreeMap::new()).unwrap_err();
        assert!(matches!(error, Error::Publish { .. }), "{error}");
        error.to_string()
    };
    assert!(
        refused(&encoder("resnet18-cifar", 32), Library::Timm)
            .contains("resnet18-cifar cannot be published for timm")
    );
    refused(&encoder("resnet18-cifar", 32), Library::Transformers);
    refused(&encoder("wide_resnet50_2", 32), Library::Transformers);
    refused(&encoder("vit-mini-cifar", 32), Library::Code);
    let of = |name, side| Library::of(&encoder(name, side)).unwrap();
    assert_eq!(of("resnet18", 64), Library::Timm);
    assert_eq!(of("resnet18-cifar", 32), Library::Code);
    let gray = Preprocessing { colors: Colors::Lightness, ..encoder("resnet18", 32).preprocessing().clone() };
    let gray = Encoder::untrained(arch("resnet18").unwrap(), gray, 0, &Device::Cpu).unwrap();
    for library in Library::ALL {
        assert!(refused(&gray, library).contains("lightness"));
    }
    let nobody = Library::of(&gray).unwrap_err().to_string();
    assert!(nobody.contains("for any library: the encoder sees lightness"), "{nobody}");
    let nobody = Library::of(&encoder("alexnet", 224)).unwrap_err().to_string();
    assert!(nobody.contains("timm has no such network; transformers has no such network"), "{nobody}");
}
