//! `selfsup embed`: the features of every image, to a file.

use crate::failure::{Failure, OrUsage, Result};
use crate::frozen::ExtractArgs;
use crate::index::{self, Index};
use crate::{destination, frozen, output};
use anyhow::{Context, anyhow};
use clap::Args;
use selfsup_data::{OpenOptions, Part};
use selfsup_probe::Features;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// `embed`
#[derive(Debug, Args)]
pub struct EmbedArgs {
    /// A run folder, a weight file (ours, or what others publish), hf:OWNER/NAME, random:ARCH, or pixels
    pub encoder: String,
    /// The images
    #[arg(long, value_name = "SRC")]
    pub data: String,
    /// FILE.safetensors or FILE.npy (then labels and ids stand beside it)
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub extract: ExtractArgs,
}

/// Writes `features` f32 `[n, d]`, `labels` i64 `[n]` (−1 = none) and ids, in the source's order.
pub fn run(args: EmbedArgs) -> Result {
    let format = Format::of(&args.out)?;
    destination::check(&args.out, &frozen::files(&args.encoder)).or_usage()?;
    let options = OpenOptions { part: Part::All, ..OpenOptions::default() };
    let data = Arc::new(selfsup_data::open(&args.data, &options).or_usage()?);
    frozen::say_not_read(&data);
    let frozen = frozen::open(&args.encoder, &args.extract)?;
    let features = frozen::features(&frozen, &data, &args.extract, "embed")?;
    let n = features.len();
    if let Some(at) = features.values.iter().position(|value| !value.is_finite()) {
        let id = &features.ids[at / features.dim];
        return Err(Failure::Work(anyhow!("the features of {id} are not finite")));
    }
    let index = Index::of(&args, &frozen, &data, features)?;
    match format {
        Format::SafeTensors => index.save(&args.out)?,
        Format::Npy => npy(&args.out, &index.features)?,
    }
    let width = index.features.dim;
    output::print_line(format_args!("{}: {n} images, {width} features each", args.out.display()))?;
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

/// `F.npy`, and beside it `F.labels.npy` and `F.ids.txt`, an id a line, with `\\`, `\n` and `\r` for what would be more than one.
fn npy(path: &Path, features: &Features) -> Result {
    let (values, labels) = index::tensors(features)?;
    let beside = |ending: &str| path.with_extension(ending);
    values.write_npy(path).with_context(|| format!("cannot write {}", path.display()))?;
    labels.write_npy(beside("labels.npy"))?;
    // A name may have a line's end in it.
    let line = |id: &String| id.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r") + "\n";
    std::fs::write(beside("ids.txt"), features.ids.iter().map(line).collect::<String>())?;
    Ok(())
}
