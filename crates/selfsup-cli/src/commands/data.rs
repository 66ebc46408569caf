//! `selfsup data`: what a source holds.

use crate::args::DataArgs;
use crate::failure::{OrUsage, Result};
use crate::output;

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
