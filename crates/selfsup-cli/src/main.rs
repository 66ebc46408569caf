//! The `selfsup` command: reads arguments, prints, exits. Everything else is in the crates below.
//!
//! Exit status: 0 done, 1 the work failed, 2 wrong usage or configuration (nothing was written),
//! 130 interrupted with a checkpoint written.

mod allocator;
mod args;
mod candle_pool;
mod closing_table;
mod commands;
mod destination;
mod failure;
mod frozen;
mod index;
mod output;
mod progress;
mod source;
mod table;

use args::{Cli, Command};
use clap::{CommandFactory, Parser};
use std::process::ExitCode;

fn main() -> ExitCode {
    candle_pool::let_threads_sleep();
    allocator::keep_freed_memory();
    let result = match Cli::parse().command {
        Command::Pretrain(args) => commands::pretrain::run(args),
        Command::Probe(args) => commands::probe::run(args),
        Command::Bench(args) => commands::bench::run(args),
        Command::Embed(args) => commands::embed::run(args),
        Command::Search(args) => commands::search::run(args),
        Command::Inspect(args) => commands::inspect::run(args),
        Command::Methods(args) => commands::list::methods(args),
        Command::Archs(args) => commands::list::archs(args),
        Command::Data(args) => commands::data::run(args),
        Command::Show(args) => commands::show::run(args),
        Command::Report(args) => commands::report::run(args),
        Command::Colorize(args) => commands::colorize::run(args),
        Command::Convert(args) => commands::convert::run(args),
        Command::Publish(args) => commands::publish::run(args),
        Command::Permutations(args) => commands::permutations::run(args),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "selfsup", &mut script);
            output::print(String::from_utf8_lossy(&script)).map_err(Into::into)
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
