//! Pure self-supervised losses: tensors in, tensor out.
//!
//! A loss knows no model and no data set, keeps no state and draws no random number. It takes embeddings as a
//! projector gives them, so normalising is its own work. Beside the losses stand the measures that tell a
//! healthy run from a collapsed one; they return plain numbers and carry no gradient.
//!
//! ```
//! use candle_core::{Device, Tensor};
//! use selfsup_objectives::{contrastive_accuracy, nt_xent};
//!
//! # fn main() -> selfsup_objectives::Result<()> {
//! // Three images, two views each: row i of z1 and row i of z2 belong together.
//! let z1 = Tensor::new(&[[1f32, 0., 0.], [0., 1., 0.], [0., 0., 1.]], &Device::Cpu)?;
//! let z2 = Tensor::new(&[[3f32, 1., 0.], [0., 2., 1.], [1., 0., 5.]], &Device::Cpu)?;
//! let loss = nt_xent(&z1, &z2, 0.5)?.to_scalar::<f32>()?;
//! assert!(loss < (5f32).ln(), "better than guessing among the other five views");
//! assert_eq!(contrastive_accuracy(&z1, &z2)?, 1.0);
//! # Ok(())
//! # }
//! ```
//!
//! | item | subject |
//! |---|---|
//! | [`nt_xent`] | SimCLR's loss |
//! | [`info_nce_queue`] | MoCo's loss |
//! | [`negative_cosine`] | SimSiam's loss, and BYOL's |
//! | [`barlow_twins`] | Barlow Twins' loss |
//! | [`vicreg`] | VICReg's loss |
//! | [`dino`](fn@dino) | DINO's loss |
//! | [`cross_entropy`](fn@cross_entropy), [`accuracy`] | the loss of a classification, and how often it is right |
//! | [`colorization`](fn@colorization), [`ab_bins`](fn@ab_bins), [`annealed_mean`] | colours as classes: loss, classes, and back |
//! | [`weighted_l2`], [`psnr`], [`binary_cross_entropy`] | pictures against the truth, and against an adversary |
//! | [`distant_permutations`] | the classes of the jigsaw task |
//! | [`contrastive_accuracy`], [`queue_accuracy`] | how often the positive is the nearest of all |
//! | [`embedding_std`] | whether the embeddings spread |
//! | [`effective_rank`] | over how many directions they spread |
#![forbid(unsafe_code)]

mod ab_bins;
mod barlow_twins;
mod colorization;
mod contrastive_accuracy;
mod cross_entropy;
mod dino;
mod effective_rank;
mod eigenvalues;
mod embedding_std;
mod embeddings;
mod error;
mod info_nce_queue;
mod negative_cosine;
mod nt_xent;
mod permutations;
mod reconstruction;
mod vicreg;

pub use ab_bins::{SoftBins, ab_bins, count_bins, soft_bins};
pub use barlow_twins::barlow_twins;
pub use colorization::{annealed_mean, colorization, rebalancing_weights};
pub use contrastive_accuracy::contrastive_accuracy;
pub use cross_entropy::{accuracy, cross_entropy};
pub use dino::dino;
pub use effective_rank::effective_rank;
pub use embedding_std::embedding_std;
pub use error::{Error, Result};
pub use info_nce_queue::{info_nce_queue, queue_accuracy};
pub use negative_cosine::negative_cosine;
pub use nt_xent::{MIN_TEMPERATURE, nt_xent, validate_temperature};
pub use permutations::{Permutation, TILES, distant_permutations, hamming_distance};
pub use reconstruction::{binary_cross_entropy, psnr, weighted_l2};
pub use vicreg::{VicRegWeights, vicreg};
