//! `selfsup data`: what a source holds.

use crate::args::DataArgs;
use crate::failure::{OrUsage, Result};

/// Opens the source, reads every image and says what was found.
pub fn run(args: DataArgs) -> Result {
    let summary = selfsup_data::summarize(&args.source).or_usage()?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&summary)?);
    } else {
        print!("{summary}");
    }
    Ok(())
}
