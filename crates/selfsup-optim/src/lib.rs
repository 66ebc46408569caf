//! SGD, LARS and AdamW with parameter groups, learning-rate schedules and gradient checks.
//!
//! An optimiser is built from a configuration and named variables. Its state goes to and comes from a
//! checkpoint bit by bit, so that a resumed run is the run that was never interrupted. On the CPU a tensor's
//! update is one pass over memory, with the same bits for any number of threads and any instruction set; on
//! other devices it is made of candle's own operations.
//!
//! ```
//! use candle_core::{Device, Tensor, Var};
//! use selfsup_optim::{OptimizerConfig, Param, Schedule, check_gradients};
//!
//! # fn main() -> selfsup_optim::Result<()> {
//! let weight = Var::from_tensor(&Tensor::ones((4, 2), candle_core::DType::F32, &Device::Cpu)?)?;
//! let params = vec![Param { name: "weight".into(), var: weight.clone() }];
//! let config = OptimizerConfig::sgd(0.1);
//! let schedule = Schedule::cosine(1.0);
//! let mut optimizer = config.build(config.groups(params.clone()))?;
//! let (total, steps_per_epoch) = (100, 5);
//! for step in 0..total {
//!     let loss = weight.as_tensor().sqr()?.sum_all()?;
//!     let grads = loss.backward()?;
//!     check_gradients(&grads, &params)?;
//!     optimizer.step(&grads, config.lr() * schedule.factor(step, total, steps_per_epoch))?;
//! }
//! assert!(weight.as_tensor().sqr()?.sum_all()?.to_scalar::<f32>()? < 0.1);
//! # Ok(())
//! # }
//! ```
//!
//! | item | subject |
//! |---|---|
//! | [`OptimizerConfig`] | which optimiser, with which settings; builds it |
//! | [`Optimizer`] | one step; state out and in |
//! | [`SgdConfig`], [`LarsConfig`], [`AdamWConfig`] | the update rules |
//! | [`Param`], [`ParamGroup`] | what is optimised, and what is exempt from decay and adaptation |
//! | [`Schedule`] | the learning rate over time |
//! | [`momentum_update`] | the weights of a momentum encoder |
//! | [`check_gradients`], [`clip_grad_norm`] | a gradient that is missing, not finite or too long |
#![forbid(unsafe_code)]

mod adamw;
mod config;
mod error;
mod gradients;
mod lars;
mod momentum;
mod norm;
mod param;
mod schedule;
mod sgd;
mod slots;

pub use adamw::AdamWConfig;
pub use config::{Optimizer, OptimizerConfig};
pub use error::{Error, Result};
pub use gradients::{check_gradients, clip_grad_norm};
pub use lars::LarsConfig;
pub use momentum::momentum_update;
pub use param::{Param, ParamGroup};
pub use schedule::{Constant, Cosine, Schedule, Step};
pub use sgd::SgdConfig;
