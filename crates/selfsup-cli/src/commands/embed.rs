//! `selfsup embed`: the features of every image, to a file.

use crate::args::EmbedArgs;
use crate::failure::{Failure, OrUsage, Result};
use crate::frozen;
use crate::output;
use anyhow::{Context, anyhow};
use candle_core::{Device, Tensor};
use selfsup_data::{OpenOptions, Part};
use selfsup_models::weights::{WeightFile, write};
use selfsup_probe::Features;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

/// A label's number where the source has none.
const NO_LABEL: i64 = -1;

/// Writes `features` f32 `[n, d]`, `labels` i64 `[n]` (−1 = none) and ids, in the source's order.
pub fn run(args: EmbedArgs) -> Result {
    let format = Format::of(&args.out)?;
    let options = OpenOptions { part: Part::All, ..OpenOptions::default() };
    let data = Arc::new(selfsup_data::open(&args.data, &options).or_usage()?);
    let frozen = frozen::open(&args.encoder, &args.extract)?;
    let features = frozen::features(&frozen, &data, &args.extract, "embed")?;
    let n = features.len();
    let values = Tensor::from_slice(&features.values, (n, features.dim), &Device::Cpu)?;
    let labels: Vec<i64> = features.labels.iter().map(|l| l.map_or(NO_LABEL, i64::from)).collect();
    let labels = Tensor::from_vec(labels, n, &Device::Cpu)?;
    match format {
        Format::SafeTensors => {
            let metadata = BTreeMap::from([
                ("encoder".to_owned(), args.encoder.clone()),
                ("data".to_owned(), args.data.clone()),
                ("classes".to_owned(), serde_json::to_string(data.classes())?),
                ("ids".to_owned(), serde_json::to_string(&features.ids)?),
            ]);
            let tensors = HashMap::from([("features".to_owned(), values), ("labels".to_owned(), labels)]);
            write(&args.out, &WeightFile { tensors, metadata })?;
        }
        Format::Npy => npy(&args.out, &values, &labels, &features)?,
    }
    output::print_line(format_args!("{}: {n} images, {} features each", args.out.display(), features.dim))?;
    Ok(())
}

enum Format {
    SafeTensors,
    Npy,
}

impl Format {
    fn of(path: &Path) -> Result<Self> {
        match path.extension().and_then(|e| e.to_str()) {
            Some("safetensors") => Ok(Format::SafeTensors),
            Some("npy") => Ok(Format::Npy),
            _ => {
                Err(Failure::Usage(anyhow!("--out must end in .safetensors or .npy, got {}", path.display())))
            }
        }
    }
}

/// `F.npy`, and beside it `F.labels.npy` and `F.ids.txt`, an id a line.
fn npy(path: &Path, values: &Tensor, labels: &Tensor, features: &Features) -> Result {
    let beside = |ending: &str| path.with_extension(ending);
    values.write_npy(path).with_context(|| format!("cannot write {}", path.display()))?;
    labels.write_npy(beside("labels.npy"))?;
    std::fs::write(beside("ids.txt"), features.ids.join("\n") + "\n")?;
    Ok(())
}
