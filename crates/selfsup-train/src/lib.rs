//! One training loop for every self-supervised method.
//!
//! A run is a [`PretrainConfig`], a data source and a folder. [`Trainer`] makes batches of views, asks the
//! [`method`] for a loss, updates the weights, and writes metrics and checkpoints; it ends when all steps are
//! done or when it is told to stop, and goes on from there bit for bit.
//!
//! ```no_run
//! use selfsup_data::{OpenOptions, open};
//! use selfsup_train::{Outcome, PretrainConfig, Trainer, parse_setting};
//! use std::sync::Arc;
//! use std::sync::atomic::AtomicBool;
//!
//! # fn main() -> selfsup_train::Result<()> {
//! let config = PretrainConfig::resolve("simclr", &[parse_setting("steps=100")?])?;
//! let data = Arc::new(open(&config.data, &OpenOptions::default())?);
//! let mut trainer = Trainer::create(config, data, "runs/first".as_ref())?;
//! let outcome = trainer.run(&AtomicBool::new(false), &mut |_event| {})?;
//! assert_eq!(outcome, Outcome::Finished);
//! # Ok(())
//! # }
//! ```
//!
//! | file | subject |
//! |---|---|
//! | [`PretrainConfig`] | settings, their layers and checks |
//! | `defaults` | each method's defaults by kind of data |
//! | [`method`] | what a method is, and each method |
//! | [`Trainer`] | the loop |
//! | [`RunFolder`], `checkpoint` | the files of a run |
//! | `run_lock` | one process at a time |
//! | [`metrics`], `events` | `metrics.jsonl` and TensorBoard's files |

#![forbid(unsafe_code)]

mod checkpoint;
mod config;
mod defaults;
mod device;
mod error;
mod events;
pub mod method;
pub mod metrics;
mod run_folder;
mod run_lock;
mod trainer;

pub use checkpoint::load_model;
pub use config::{Normalization, PretrainConfig, parse_setting, read_settings};
pub use device::device;
pub use error::{Error, Result};
pub use method::{METHODS, MethodConfig, MethodInfo};
pub use run_folder::RunFolder;
pub use run_lock::RunLock;
pub use selfsup_models::nearest;
pub use trainer::{Event, Outcome, Trainer};
