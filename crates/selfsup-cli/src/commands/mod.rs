//! One file a command.

pub mod bench;
pub mod colorize;
pub mod convert;
pub mod data;
pub mod embed;
pub mod inspect;
pub mod list;
pub mod permutations;
pub mod pretrain;
pub mod probe;
pub mod publish;
pub mod report;
pub mod search;
pub mod show;
