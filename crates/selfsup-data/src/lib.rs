//! Image sources, decoding and the parallel loader.
//!
//! A source is opened by name; its images are decoded to RGB, 8 bits a channel, height × width × channels,
//! when they are wanted; a loader makes batches of them on worker threads. Every random draw is keyed by
//! (seed, epoch, sample, view), so batches are the same bits for any number of workers and after a resume in
//! mid-epoch.
//!
//! ```
//! use selfsup_data::{OpenOptions, Source, open};
//!
//! # fn main() -> selfsup_data::Result<()> {
//! let data = open("fashion-mnist#test", &OpenOptions::default())?;
//! assert_eq!((data.len(), data.classes().len()), (2000, 10));
//! let (sample, image) = (data.sample(0), data.image(0)?);
//! assert_eq!(sample.id, "test/00000");
//! assert_eq!(sample.label.map(|l| data.classes()[l as usize].as_str()), Some("Ankle boot"));
//! assert_eq!(image.dimensions(), (28, 28));
//! # Ok(())
//! # }
//! ```
//!
//! | item | subject |
//! |---|---|
//! | [`open`], [`Dataset`], [`Source`] | folders, CIFAR-10, IDX, manifests, the built-in subset |
//! | [`open_labelled_parts`] | a training and a test part for a probe |
//! | [`decode`] | an image file's bytes → RGB |
//! | [`BatchLoader`] | batches of prepared examples, in order, from worker threads |
//! | [`sample_rng`], [`shuffled`], [`permutation`] | counted randomness |
//! | [`summarize`] | what a source holds, and what of it cannot be read |

#![forbid(unsafe_code)]

mod decode;
mod error;
mod jpeg;
mod loader;
mod order;
mod rng;
mod source;
mod split;
mod summary;

pub use decode::{DEFAULT_MAX_PIXELS, DecodeError, Decoded, decode};
pub use error::{Error, Result};
pub use loader::{Batch, BatchLoader, LoaderConfig, LoaderStats, Order, Prepare, Skipped};
pub use order::{permutation, shuffled};
pub use rng::{SampleKey, sample_rng};
pub use source::{Dataset, OpenOptions, Part, Sample, Source, open};
pub use split::{LabelledParts, Split, open_labelled_parts};
pub use summary::{Count, Range, Summary, summarize, summary_of};
