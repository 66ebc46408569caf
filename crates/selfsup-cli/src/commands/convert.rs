//! `selfsup convert`: a weight file under another convention's names.

use crate::failure::{Failure, OrUsage, Result};
use crate::{destination, frozen, output};
use anyhow::anyhow;
use candle_core::Device;
use clap::Args;
use selfsup_models::names::Convention;
use selfsup_models::{Error, LoadOptions, convert_file, load_file, weights};
use std::path::PathBuf;

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
    destination::check(&args.to, &frozen::files(&args.from)).or_usage()?;
    let from = frozen::file(&args.from, false)?;
    let (converted, account) = convert_file(&from, args.from_names.as_deref(), to).or_usage()?;
    weights::write(&args.to, &converted)?;
    // Of a part of a network, or one that is none here, the names are converted all the same.
    let again = LoadOptions { names: Some(to.name.into()), ..LoadOptions::default() };
    if let Err(why @ Error::Mismatch { .. }) = load_file(&args.to, &again, &Device::Cpu) {
        output::say(format_args!("the tensors are converted, but they are no whole encoder: {why}"));
    }
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
