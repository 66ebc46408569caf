//! selfsup beside PyTorch on one machine.
//!
//! ```text
//! cargo run --release -p selfsup-bench -- compare     ours and PyTorch's in turn: a table, JSON, a roofline
//! cargo run --release -p selfsup-bench -- guard       fast paths against plain ones, without Python
//! cargo run --release -p selfsup-bench -- race        pretraining, ours and lightly's in turn: accuracy against time
//! cargo bench -p selfsup-bench [--bench NAME]         criterion over the crates
//! ```
//!
//! | file | subject |
//! |---|---|
//! | `cases` | what is measured: one table for both sides |
//! | `compare` | the rounds |
//! | `worker` | PyTorch's side, a child process; `peers/compare.py` |
//! | `peak` | what the machine can do |
//! | `report` | text, Markdown, JSON, roofline |
//! | `guard` | what CI runs |
//! | `race` | whole pretrainings; `peers/pretrain.py` |
//!
//! Exit status: 0 done, 1 something failed, 2 wrong usage, 130 interrupted; what was measured is reported then too.

// The `selfsup` command's, which this speaks for.
#[path = "../../crates/selfsup-cli/src/allocator.rs"]
mod allocator;
mod args;
#[path = "../../crates/selfsup-cli/src/candle_pool.rs"]
mod candle_pool;
mod cases;
mod compare;
mod guard;
mod interrupt;
mod machine;
mod memory;
mod peak;
mod race;
mod report;
mod statistics;
mod worker;

use args::{Cli, Command};
use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    candle_pool::let_threads_sleep();
    allocator::keep_freed_memory();
    let result = match Cli::parse().command {
        Command::Compare(args) => compare::run(&args),
        Command::Guard(args) => guard::run(&args),
        Command::Race(args) => race::run(&args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(if error.is::<args::Usage>() { 2 } else { 1 })
    })
}
