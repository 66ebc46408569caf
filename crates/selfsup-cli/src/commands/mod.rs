//! One file a command.

pub mod bench;
pub mod data;
pub mod embed;
pub mod inspect;
pub mod list;
pub mod pretrain;
pub mod probe;
pub mod show;
