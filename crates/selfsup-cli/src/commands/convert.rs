//! `selfsup convert`: a weight file under another convention's names.

use crate::args::ConvertArgs;
use crate::failure::{Failure, OrUsage, Result};
use crate::{frozen, output};
use anyhow::anyhow;
use candle_core::Device;
use selfsup_models::names::Convention;
use selfsup_models::{convert, weights};

/// Runs the command.
pub fn run(args: ConvertArgs) -> Result {
    if args.to.extension().is_none_or(|e| e != "safetensors") {
        return Err(Failure::Usage(anyhow!("TO must end in .safetensors, got {}", args.to.display())));
    }
    let to = Convention::named(&args.names).or_usage()?;
    let from = frozen::file(&args.from)?;
    let file = weights::read(&from, &Device::Cpu).or_usage()?;
    let (converted, account) = convert(&file, args.from_names.as_deref(), to).or_usage()?;
    weights::write(&args.to, &converted)?;
    output::print_line(format_args!(
        "{}: {} tensors of {} as {} has them, {} dropped",
        args.to.display(),
        converted.tensors.len(),
        account.convention.name,
        to.name,
        account.dropped.len()
    ))?;
    for name in &account.dropped {
        output::say(format_args!("dropped {name}"));
    }
    Ok(())
}
