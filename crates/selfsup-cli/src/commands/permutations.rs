//! `selfsup permutations`: the orders that the jigsaw task tells apart.

use crate::failure::{OrUsage, Result};
use crate::{destination, output};
use clap::Args;
use selfsup_objectives::distant_permutations;
use std::path::PathBuf;

/// `permutations`
#[derive(Debug, Args)]
pub struct PermutationsArgs {
    /// How many
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub count: usize,
    /// A file in place of stdout
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// Prints them, an order a line, as `method.permutation_file` takes them.
pub fn run(args: PermutationsArgs) -> Result {
    if let Some(path) = &args.out {
        destination::check(path, &[]).or_usage()?;
    }
    let mut text = String::new();
    for order in distant_permutations(args.count).or_usage()? {
        text += &order.map(|tile| tile.to_string()).join(" ");
        text.push('\n');
    }
    match &args.out {
        Some(path) => {
            destination::write(path, |path| Ok(std::fs::write(path, &text)?))?;
            output::say(format_args!("{} orders in {}", args.count, path.display()));
        }
        None => output::print(text)?,
    }
    Ok(())
}
