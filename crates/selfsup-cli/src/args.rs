//! The command line's grammar: the commands. What each takes stands in its own file.

use crate::commands::*;
use clap::{Parser, Subcommand};

/// Pretrain an image encoder without labels, then measure what its features are worth.
#[derive(Debug, Parser)]
#[command(name = "selfsup", version, about, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Pretrain an encoder on unlabelled images; ends with the probe's table where the data has labels
    Pretrain(pretrain::PretrainArgs),
    /// Measure an encoder's frozen features: kNN and linear probes, with all labels or few
    Probe(probe::ProbeArgs),
    /// Compare methods, or answer a study's question: many pretrainings under one protocol, with their table and picture
    Bench(bench::BenchArgs),
    /// Write an encoder's features of every image to a file
    Embed(embed::EmbedArgs),
    /// Find the images of an embedded source that are most like some images
    Search(search::SearchArgs),
    /// Say what is inside an encoder, a weight file or a run folder
    Inspect(inspect::InspectArgs),
    /// List the methods that can be trained
    Methods(list::JsonArgs),
    /// List the architectures
    Archs(list::JsonArgs),
    /// Say what a data source holds: counts, classes, sizes, what cannot be read and why
    Data(data::DataArgs),
    /// Draw what a method sees of some images
    Show(show::ShowArgs),
    /// Write one self-contained page about runs: curves, probes, neighbours, the embedding, filters
    Report(report::ReportArgs),
    /// Colour images with the model of a colorization run
    Colorize(colorize::ColorizeArgs),
    /// Write a weight file under another convention's names
    Convert(convert::ConvertArgs),
    /// Write a folder of a run's encoder for the hub: weights and configuration for timm or transformers, and a model card
    Publish(publish::PublishArgs),
    /// Print the orders of nine tiles that the jigsaw task tells apart
    Permutations(permutations::PermutationsArgs),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}
