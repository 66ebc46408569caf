//! `selfsup data`: what a source holds.

use crate::failure::{OrUsage, Result};
use crate::output;
use clap::Args;

/// `data`
#[derive(Debug, Args)]
pub struct DataArgs {
    /// The source
    pub source: String,
    /// One JSON document on stdout
    #[arg(long)]
    pub json: bool,
}

/// Opens the source, reads every image and says what was found.
pub fn run(args: DataArgs) -> Result {
    let summary = selfsup_data::summarize(&args.source).or_usage()?;
    if args.json {
        output::print_line(serde_json::to_string_pretty(&summary)?)?;
    } else {
        output::print(summary)?;
    }
    Ok(())
}
