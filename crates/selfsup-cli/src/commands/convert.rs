//! `selfsup convert`: a weight file under another convention's names.

use crate::failure::{Failure, OrUsage, Result};
use crate::{frozen, output};
use anyhow::anyhow;
use clap::Args;
use selfsup_models::names::Convention;
use selfsup_models::{convert_file, weights};
use std::path::{Path, PathBuf};

/// `convert`
#[derive(Debug, Args)]
pub struct ConvertArgs {
    /// A run folder or a weight file, of any convention
    pub from: String,
    /// FILE.safetensors
    pub to: PathBuf,
    /// The names that it gets: timm (for residual networks also torchvision's), moco, dino, vissl, hf-resnet, …
    #[arg(long, value_name = "CONVENTION", default_value = "timm")]
    pub names: String,
    /// The names that it has [default: those that fit best]
    #[arg(long, value_name = "CONVENTION")]
    pub from_names: Option<String>,
}

/// Runs the command.
pub fn run(args: ConvertArgs) -> Result {
    if args.to.extension().is_none_or(|e| e != "safetensors") {
        return Err(Failure::Usage(anyhow!("TO must end in .safetensors, got {}", args.to.display())));
    }
    let to = Convention::named(&args.names).or_usage()?;
    let from = frozen::file(&args.from, false)?;
    let same = |a: &Path, b: &Path| Some(a.canonicalize().ok()? == b.canonicalize().ok()?);
    if same(&from, &args.to) == Some(true) {
        return Err(Failure::Usage(anyhow!("{} would replace what it is made from", args.to.display())));
    }
    let (converted, account) = convert_file(&from, args.from_names.as_deref(), to).or_usage()?;
    weights::write(&args.to, &converted)?;
    output::print_line(format_args!(
        "{}: {} tensors of {} as {} has them, {}",
        args.to.display(),
        converted.tensors.len(),
        account.convention.name,
        to.name,
        frozen::dropped(&account),
    ))?;
    Ok(())
}
