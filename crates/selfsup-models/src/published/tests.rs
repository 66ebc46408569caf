//! What the files say, file by file.

use super::*;

fn said(files: &[(&str, &str)]) -> Result<Option<Said>> {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    beside(&folder.path().join("model.safetensors"))
}

#[test]
fn transformers_files_are_read() {
    let vit = r#"{"do_normalize": true, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.25],
        "rescale_factor": 0.00392156862745098, "size": {"height": 224, "width": 224}}"#;
    let got = said(&[("preprocessor_config.json", vit), ("config.json", "{}")]).unwrap().unwrap();
    let by = "preprocessor_config.json".to_owned();
    let mean = Some([0.5; 3]);
    let expected = Said {
        by,
        image_size: Some(224),
        shorter: Some(Shorter::Pixels(224)),
        crop_mode: Some(CropMode::Squash),
        mean,
        std: Some([0.5, 0.5, 0.25]),
        ..Said::default()
    };
    assert_eq!(got, expected);
    // Older ones: a number, and a crop; images of -1…1 by their factor; none of it done.
    let crop = r#"{"size": 256, "crop_size": {"height": 224, "width": 224}, "image_mean": [0, 0, 0], "image_std": [1, 1, 1]}"#;
    assert_eq!(said(&[("preprocessor_config.json", crop)]).unwrap().unwrap().image_size, Some(224));
    let scaled = r#"{"size": {"shortest_edge": 96}, "image_mean": [1, 1, 1], "image_std": [1, 1, 1], "rescale_factor": 0.00784313725490196}"#;
    let got = said(&[("preprocessor_config.json", scaled)]).unwrap().unwrap();
    assert_eq!((got.image_size, got.mean, got.std), (Some(96), mean, Some([0.5; 3])));
    let none = r#"{"size": 96, "do_normalize": false, "image_mean": [9, 9, 9]}"#;
    let got = said(&[("preprocessor_config.json", none)]).unwrap().unwrap();
    assert_eq!((got.mean, got.std), (Some([0.0; 3]), Some([1.0; 3])));
}

#[test]
fn what_is_null_says_nothing_and_is_not_done() {
    let read = |text: &str| said(&[("preprocessor_config.json", text)]).unwrap();
    // As transformers' fast processors are saved.
    let fast = r#"{"crop_size": null, "do_center_crop": null, "do_normalize": true, "do_rescale": true, "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.25, 0.25, 0.25], "rescale_factor": 0.00392156862745098,
        "size": {"height": 224, "width": 224, "shortest_edge": null}}"#;
    let got = read(fast).unwrap();
    assert_eq!((got.image_size, got.mean, got.std), (Some(224), Some([0.5; 3]), Some([0.25; 3])));
    // A crop that is not done has no say, nor has a mean that is not subtracted.
    let undone = r#"{"size": 96, "crop_size": 64, "do_center_crop": null, "do_normalize": null, "image_mean": [0.5, 0.5, 0.5],
        "image_std": null}"#;
    let got = read(undone).unwrap();
    assert_eq!((got.image_size, got.mean, got.std), (Some(96), Some([0.0; 3]), Some([1.0; 3])));
    let bytes =
        r#"{"size": [32, 32], "do_rescale": null, "image_mean": [51, 51, 51], "image_std": [255, 255, 255]}"#;
    let got = read(bytes).unwrap();
    assert_eq!((got.image_size, got.mean, got.std), (Some(32), Some([0.2; 3]), Some([1.0; 3])));
    let absent = r#"{"size": 32, "image_mean": null, "image_std": null, "rescale_factor": null}"#;
    let got = read(absent).unwrap();
    assert_eq!((got.image_size, got.mean, got.std), (Some(32), None, None));
    assert_eq!(read(r#"{"size": null, "image_mean": null}"#), None);
    let timm = r#"{"pretrained_cfg": {"input_size": null, "mean": [0.4, 0.5, 0.6], "std": null}}"#;
    let got = said(&[("config.json", timm)]).unwrap().unwrap();
    assert_eq!((got.image_size, got.mean, got.std), (None, Some([0.4, 0.5, 0.6]), None));
    assert_eq!(said(&[("config.json", r#"{"pretrained_cfg": null}"#)]).unwrap(), None);
}

#[test]
fn timms_files_are_read() {
    let new = r#"{"architecture": "resnet18", "pretrained_cfg": {"input_size": [3, 288, 288], "mean": [0.4, 0.5, 0.6], "std": [0.1, 0.2, 0.3]}}"#;
    let got = said(&[("config.json", new)]).unwrap().unwrap();
    let (mean, std) = (Some([0.4, 0.5, 0.6]), Some([0.1, 0.2, 0.3]));
    let expected = Said {
        by: "config.json".into(),
        image_size: Some(288),
        mean,
        std,
        shorter: Some(Shorter::CropPct(0.875)),
        interpolation: Some(Interpolation::Bicubic),
        crop_mode: Some(CropMode::Center),
        not_followed: vec![],
    };
    assert_eq!(got, expected);
    let old = r#"{"architecture": "resnet18", "input_size": [3, 96, 96], "mean": [0.4, 0.5, 0.6]}"#;
    let got = said(&[("config.json", old)]).unwrap().unwrap();
    assert_eq!((got.image_size, got.mean, got.std), (Some(96), mean, None));
    // What others call so says nothing.
    for other in [
        r#"{"mean": 0.5, "lr": 1}"#,
        r#"{"input_size": 784, "hidden": 10}"#,
        r#"{"architecture": "mlp", "mean": 0.5}"#,
    ] {
        assert_eq!(said(&[("config.json", other)]).unwrap(), None, "{other}");
    }
    assert_eq!(said(&[("config.json", r#"{"model_type": "resnet", "hidden_sizes": [1]}"#)]).unwrap(), None);
    assert_eq!(said(&[("config.json", "not JSON at all")]).unwrap(), None);
    assert_eq!(said(&[]).unwrap(), None);
}

#[test]
fn what_is_not_followed_is_named() {
    let not = |name: &str, text: &str| said(&[(name, text)]).unwrap().unwrap().not_followed;
    let timm =
        r#"{"pretrained_cfg": {"mean": [0, 0, 0], "interpolation": "lanczos", "crop_mode": "border"}}"#;
    assert_eq!(not("config.json", timm), [r#"interpolation "lanczos""#, r#"crop_mode "border""#]);
    for (text, words) in [
        (r#"{"size": 9, "do_resize": false}"#, "do_resize false"),
        (r#"{"size": 9, "resample": 1}"#, "resample 1"),
        // Which of two shares; a square of what is smaller; a side that the longer one limits.
        (
            r#"{"size": {"height": 384, "width": 384}, "crop_pct": 0.875}"#,
            r#"size {"height":384,"width":384}"#,
        ),
        (
            r#"{"size": {"shortest_edge": 256}, "crop_size": 224, "crop_pct": 0.875}"#,
            r#"size {"shortest_edge":256}"#,
        ),
        (r#"{"size": 200, "crop_size": 224}"#, "size 200"),
        (r#"{"size": 9, "do_flip_channel_order": true}"#, "do_flip_channel_order true"),
        (
            r#"{"size": {"shortest_edge": 224, "longest_edge": 256}}"#,
            r#"size {"longest_edge":256,"shortest_edge":224}"#,
        ),
    ] {
        assert_eq!(not("preprocessor_config.json", text), [words], "{text}");
    }
}

#[test]
fn what_images_are_cut_from_is_followed() {
    use CropMode::{Center, Squash};
    use Interpolation::{Bicubic, Bilinear};
    let usual = Preprocessing::rgb(32, [0.5; 3], [0.25; 3]);
    for (name, text, expected) in [
        ("config.json", r#"{"pretrained_cfg": {"mean": [0, 0, 0]}}"#, (32, 36, Bicubic, Center)),
        ("config.json", r#"{"pretrained_cfg": {"input_size": [3, 224, 224]}}"#, (224, 256, Bicubic, Center)),
        (
            "config.json",
            r#"{"pretrained_cfg": {"input_size": [3, 224, 224], "crop_pct": 0.95, "interpolation": "bilinear", "crop_mode": "center"}}"#,
            (224, 235, Bilinear, Center),
        ),
        (
            "config.json",
            r#"{"pretrained_cfg": {"input_size": [3, 288, 288], "crop_pct": 1.0}}"#,
            (288, 288, Bicubic, Center),
        ),
        (
            "preprocessor_config.json",
            r#"{"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}, "resample": 3}"#,
            (224, 256, Bicubic, Center),
        ),
        (
            "preprocessor_config.json",
            r#"{"size": 256, "crop_size": 224, "resample": 2}"#,
            (224, 256, Bilinear, Center),
        ),
        // ConvNext's, which transformers' residual networks have.
        (
            "preprocessor_config.json",
            r#"{"size": 224, "crop_pct": 0.875, "resample": 3}"#,
            (224, 256, Bicubic, Center),
        ),
        ("preprocessor_config.json", r#"{"size": 96}"#, (96, 96, Bilinear, Center)),
        (
            "preprocessor_config.json",
            r#"{"size": {"shortest_edge": 256}, "do_center_crop": null}"#,
            (256, 256, Bilinear, Center),
        ),
        // Both sides.
        (
            "config.json",
            r#"{"pretrained_cfg": {"input_size": [3, 224, 224], "crop_pct": 0.875, "crop_mode": "squash"}}"#,
            (224, 256, Bicubic, Squash),
        ),
        ("preprocessor_config.json", r#"{"size": {"height": 96, "width": 96}}"#, (96, 96, Bilinear, Squash)),
        ("preprocessor_config.json", r#"{"size": [96, 96]}"#, (96, 96, Bilinear, Squash)),
        (
            "preprocessor_config.json",
            r#"{"size": {"height": 256, "width": 256}, "crop_size": 224}"#,
            (224, 256, Bilinear, Squash),
        ),
        // ConvNext's, where it crops no more.
        (
            "preprocessor_config.json",
            r#"{"size": {"shortest_edge": 384}, "crop_pct": 0.875}"#,
            (384, 384, Bilinear, Squash),
        ),
        // A number means what the processor takes it for.
        (
            "preprocessor_config.json",
            r#"{"size": 96, "feature_extractor_type": "ViTFeatureExtractor"}"#,
            (96, 96, Bilinear, Squash),
        ),
        (
            "preprocessor_config.json",
            r#"{"size": 256, "crop_size": 224, "image_processor_type": "DeiTImageProcessor"}"#,
            (224, 256, Bilinear, Squash),
        ),
        (
            "preprocessor_config.json",
            r#"{"size": 256, "crop_size": 224, "image_processor_type": "BitImageProcessor"}"#,
            (224, 256, Bilinear, Center),
        ),
        (
            "preprocessor_config.json",
            r#"{"size": 224, "crop_pct": 0.875, "feature_extractor_type": "ConvNextFeatureExtractor"}"#,
            (224, 256, Bilinear, Center),
        ),
        ("preprocessor_config.json", r#"{"size": 256, "crop_size": 224}"#, (224, 256, Bilinear, Center)),
    ] {
        let said = said(&[(name, text)]).unwrap().unwrap();
        let Preprocessing { image_size, resize, interpolation, crop_mode, .. } = said.or(usual.clone());
        assert_eq!((image_size, resize, interpolation, crop_mode), expected, "{text}");
        assert!(said.not_followed.is_empty(), "{text}: {:?}", said.not_followed);
    }
}

#[test]
fn what_cannot_be_meant_is_named() {
    const TIMM: &str = "config.json";
    const TRANSFORMERS: &str = "preprocessor_config.json";
    for (name, text, field) in [
        (TIMM, r#"{"pretrained_cfg": {"mean": [0.5, 0.5], "std": [1, 1, 1]}}"#, "mean"),
        (TIMM, r#"{"pretrained_cfg": {"mean": [0, 0, 0], "std": [0, 1, 1]}}"#, "std"),
        (TIMM, r#"{"pretrained_cfg": {"mean": [0, 0, 0], "input_size": [3, 224, 160]}}"#, "input_size"),
        (TIMM, r#"{"pretrained_cfg": {"mean": [0, 0, 0], "input_size": [3, 0, 0]}}"#, "input_size"),
        (TIMM, r#"{"architecture": "vit", "input_size": 224}"#, "input_size"),
        (TIMM, r#"{"pretrained_cfg": {"mean": [0, 0, 0], "crop_pct": 1e-9}}"#, "crop_pct"),
        (TIMM, r#"{"pretrained_cfg": {"mean": [0, 0, 0], "crop_pct": 1.5}}"#, "crop_pct"),
        (TRANSFORMERS, r#"{"size": 224, "crop_pct": "all"}"#, "crop_pct"),
        (TRANSFORMERS, r#"{"size": {"height": 224, "width": 160}}"#, "size"),
        (TRANSFORMERS, r#"{"size": [224, 160]}"#, "size"),
        (TRANSFORMERS, r#"{"size": [224]}"#, "size"),
        (TRANSFORMERS, r#"{"size": -1}"#, "size"),
        (TRANSFORMERS, r#"{"size": 4097}"#, "size"),
        (TRANSFORMERS, r#"{"size": 9, "image_mean": "none"}"#, "image_mean"),
        (TRANSFORMERS, r#"{"size": 9, "rescale_factor": 0}"#, "rescale_factor"),
        (TRANSFORMERS, r#"{"size": 9, "rescale_factor": -0.1}"#, "rescale_factor"),
        (TRANSFORMERS, r#"{"size": 9, "rescale_factor": 1e300}"#, "rescale_factor"),
        (TRANSFORMERS, r#"{"size": 9, "rescale_factor": "1/255"}"#, "rescale_factor"),
    ] {
        let error = said(&[(name, text)]).unwrap_err().to_string();
        assert!(error.contains(field) && error.contains(name), "{error}");
    }
}
