//! What a published network says of photographs: the five likeliest classes of its own classifier.
//!
//! ```sh
//! cargo run -p selfsup-models --example classify -- MODEL [--classes NAMES] [--out NUMBERS.safetensors] IMAGE…
//! ```
//!
//! MODEL is any weight file that the library reads and that ends with a classifier. NAMES has the classes' names: a text file with one a
//! line, or JSON, an array or an object by number. Images are prepared as the model says; where it says no side to cut from, the shorter side
//! is resized to 8/7 of the encoder's, 256 pixels for 224, and the centre cut out. NUMBERS gets what went in and came out: `pixels`, `features`, `logits`.

use candle_core::{Device, Tensor};
use selfsup_augment::CenterView;
use selfsup_models::weights::{self, WeightFile};
use selfsup_models::{CropMode, Interpolation, LoadOptions, Mode, Preprocessing, load_file};
use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::path::{Path, PathBuf};

const SHOWN: usize = 5;

fn main() -> Result<(), Box<dyn Error>> {
    let (mut paths, mut names, mut out) = (Vec::new(), None, None);
    let mut args = std::env::args_os().skip(1).map(PathBuf::from);
    while let Some(arg) = args.next() {
        match arg.to_str() {
            Some("--classes") => names = Some(args.next().ok_or("--classes needs a file")?),
            Some("--out") => out = Some(args.next().ok_or("--out needs a file")?),
            _ => paths.push(arg),
        }
    }
    let [model, images @ ..] = &paths[..] else { return Err("MODEL and IMAGE… are expected".into()) };
    let names = names.map(|path| read_names(&path)).transpose()?.unwrap_or_default();
    let loaded = load_file(model, &LoadOptions::default(), &Device::Cpu)?;
    let head = loaded.head.ok_or("the model has no classifier of its own")?;
    let prepared = loaded.encoder.preprocessing();
    let side = prepared.image_size;
    println!("{} with {} classes, images of {side} pixels", loaded.encoder.arch().name, head.classes());
    let mut all: [Vec<Tensor>; 3] = Default::default();
    for image in images {
        let pixels = centre(image, prepared)?;
        let features = loaded.encoder.forward(&pixels, Mode::Eval)?;
        let logits = head.forward(&features)?;
        println!("{}", image.display());
        for (class, share) in likeliest(&logits)? {
            let name = names.get(&class).cloned().unwrap_or_else(|| class.to_string());
            println!("  {:5.1} %  {name}", 100.0 * share);
        }
        for (list, tensor) in all.iter_mut().zip([pixels, features, logits]) {
            list.push(tensor);
        }
    }
    if let Some(out) = out {
        let tensors = ["pixels", "features", "logits"].into_iter().zip(&all);
        let tensors = tensors.map(|(name, list)| Ok((name.to_owned(), Tensor::cat(list, 0)?)));
        let tensors = tensors.collect::<Result<HashMap<_, _>, candle_core::Error>>()?;
        weights::write(&out, &WeightFile { tensors, metadata: BTreeMap::new() })?;
    }
    Ok(())
}

/// What the encoder is shown of a photograph `[1, side, side, 3]`, u8.
fn centre(path: &Path, p: &Preprocessing) -> Result<Tensor, Box<dyn Error>> {
    let image = image::open(path).map_err(|e| format!("{}: {e}", path.display()))?.to_rgb8();
    let side = p.image_size;
    let resize = if p.resize == side && p.crop_mode == CropMode::Center { side * 8 / 7 } else { p.resize };
    let interpolation = match p.interpolation {
        Interpolation::Bilinear => selfsup_augment::Interpolation::Bilinear,
        Interpolation::Bicubic => selfsup_augment::Interpolation::Bicubic,
    };
    let squash = p.crop_mode == CropMode::Squash;
    let view = CenterView { size: side.try_into()?, resize: resize.try_into()?, interpolation, squash };
    Ok(Tensor::from_vec(view.apply(&image)?.into_raw(), (1, side, side, 3), &Device::Cpu)?)
}

/// Classes and their softmax, the likeliest first.
fn likeliest(logits: &Tensor) -> Result<Vec<(usize, f32)>, Box<dyn Error>> {
    let shares = selfsup_kernels::softmax(logits)?.flatten_all()?.to_vec1::<f32>()?;
    let mut shares: Vec<(usize, f32)> = shares.into_iter().enumerate().collect();
    shares.sort_by(|a, b| b.1.total_cmp(&a.1));
    shares.truncate(SHOWN);
    Ok(shares)
}

fn read_names(path: &Path) -> Result<HashMap<usize, String>, Box<dyn Error>> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    if let Ok(names) = serde_json::from_str::<HashMap<usize, String>>(&text) {
        return Ok(names);
    }
    let lines = || text.lines().map(str::to_owned).collect();
    let names: Vec<String> = serde_json::from_str(&text).unwrap_or_else(|_| lines());
    Ok(names.into_iter().enumerate().collect())
}
