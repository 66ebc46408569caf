//! The examples, on an encoder's file and a folder of images that are easily told apart.

#[path = "../examples/custom_head.rs"]
#[allow(dead_code)]
mod custom_head;
#[path = "../examples/embed_folder.rs"]
#[allow(dead_code)]
mod embed_folder;
#[path = "../examples/fine_tune.rs"]
#[allow(dead_code)]
mod fine_tune;
#[path = "../examples/linear_probe.rs"]
#[allow(dead_code)]
mod linear_probe;
#[path = "../examples/nearest_images.rs"]
#[allow(dead_code)]
mod nearest_images;

use candle_core::{Device, Tensor};
use selfsup_models::{Encoder, Mode, Preprocessing, arch, load};

#[test]
fn the_examples_run() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    for (class, red) in [("red", 200u8), ("blue", 20)] {
        std::fs::create_dir_all(folder.path().join("images").join(class)).unwrap();
        for i in 0..12u8 {
            let image = image::RgbImage::from_fn(32, 32, |x, y| {
                image::Rgb([red, (x * 31 + y * 17) as u8 % 97 + i, 220 - red])
            });
            image.save(folder.path().join("images").join(class).join(format!("{i}.png"))).unwrap();
        }
    }
    let preprocessing = Preprocessing::rgb(32, [0.5; 3], [0.25; 3]);
    let encoder = Encoder::untrained(arch("resnet10-mini").unwrap(), preprocessing, 0, &Device::Cpu).unwrap();
    encoder.save(folder.path().join("encoder.safetensors").as_path(), &Default::default()).unwrap();

    let (encoder, images, tuned) =
        (&path("encoder.safetensors"), &path("images"), &path("tuned.safetensors"));
    let embedded = embed_folder::run(encoder, images).unwrap();
    assert!(embedded.lines().count() == 24 && embedded.starts_with("blue/0.png: ["), "{embedded}");
    assert!(embedded.lines().all(|line| line.ends_with(" of 256")), "{embedded}");
    let like = nearest_images::run(encoder, images).unwrap();
    assert_eq!(like.lines().count(), 24);
    for line in like.lines() {
        let (image, other) = line.split_once(" is like ").unwrap();
        assert!(image.split('/').next() == other.split('/').next() && !other.starts_with(image), "{line}");
    }
    let right = |text: String| {
        assert!(!text.is_empty() && text.lines().all(|line| line.contains("100.0 % of ")), "{text}");
    };
    right(linear_probe::run(encoder, images).unwrap());
    right(custom_head::run(encoder, images).unwrap());
    right(fine_tune::run(encoder, images, tuned).unwrap());
    let hash = |path: &str| load(path).unwrap().encoder.params().sha256().unwrap();
    assert_ne!(hash(encoder), hash(tuned));
    // The head goes with it: what it says of the images is what they are.
    let loaded = load(tuned).unwrap();
    assert_eq!(loaded.metadata["classes"], r#"["blue","red"]"#);
    let pixels = |class: &str| {
        let image = image::open(folder.path().join("images").join(class).join("3.png")).unwrap().to_rgb8();
        Tensor::from_vec(image.into_raw(), (1, 32, 32, 3), &Device::Cpu).unwrap()
    };
    for (i, class) in ["blue", "red"].into_iter().enumerate() {
        let features = loaded.encoder.forward(&pixels(class), Mode::Eval).unwrap();
        let logits = loaded.head.as_ref().unwrap().forward(&features).unwrap();
        assert_eq!(logits.argmax(1).unwrap().to_vec1::<u32>().unwrap(), [i as u32]);
    }
    let nowhere = fine_tune::run(encoder, images, &path("nowhere/tuned.safetensors")).unwrap_err();
    assert!(nowhere.to_string().contains("is no folder"), "{nowhere}");
    assert!(
        embed_folder::run("nothing", images).unwrap_err().to_string().contains("no encoder at `nothing`")
    );
}
