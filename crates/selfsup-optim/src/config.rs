//! Which optimiser, as a configuration file names it, and what every optimiser can do.

use crate::error::Result;
use crate::{AdamWConfig, LarsConfig, Param, ParamGroup, SgdConfig, adamw, lars, sgd};
use candle_core::Tensor;
use candle_core::backprop::GradStore;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// Moves variables along their gradients.
pub trait Optimizer: Send {
    /// One step with learning rate `lr` (times each group's `lr_scale`).
    ///
    /// Every parameter needs a gradient of its own shape: a missing one is an error and not, as in PyTorch,
    /// a parameter that silently stays. After such an error nothing has changed.
    fn step(&mut self, grads: &GradStore, lr: f64) -> Result<()>;

    /// Everything but the parameters that the next step depends on, by name. The tensors are copies.
    fn state(&self) -> Result<Vec<(String, Tensor)>>;

    /// Takes up a state that [`Optimizer::state`] gave. Names, shapes and dtypes must be exactly this
    /// optimiser's; otherwise the error names what differs and nothing has changed.
    fn load_state(&mut self, state: &HashMap<String, Tensor>) -> Result<()>;
}

/// An optimiser and its settings. In a file, `name` chooses: `sgd`, `lars` or `adamw`.
///
/// ```
/// use selfsup_optim::OptimizerConfig;
/// let config: OptimizerConfig = serde_json::from_str(
///     r#"{"name": "sgd", "lr": 0.5, "momentum": 0.9, "nesterov": false, "weight_decay": 1e-4}"#,
/// ).unwrap();
/// assert_eq!(config.lr(), 0.5);
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "lowercase")]
#[non_exhaustive]
pub enum OptimizerConfig {
    /// Stochastic gradient descent.
    Sgd(SgdConfig),
    /// Layer-wise adaptive rate scaling.
    Lars(LarsConfig),
    /// Adam with decoupled weight decay.
    AdamW(AdamWConfig),
}

impl OptimizerConfig {
    /// [`SgdConfig::new`].
    pub fn sgd(lr: f64) -> Self {
        Self::Sgd(SgdConfig::new(lr))
    }

    /// [`LarsConfig::new`].
    pub fn lars(lr: f64) -> Self {
        Self::Lars(LarsConfig::new(lr))
    }

    /// [`AdamWConfig::new`].
    pub fn adamw(lr: f64) -> Self {
        Self::AdamW(AdamWConfig::new(lr))
    }

    /// The optimiser of a name with its own defaults; `None` if there is none of that name.
    pub fn named(name: &str, lr: f64) -> Option<Self> {
        match name {
            "sgd" => Some(Self::sgd(lr)),
            "lars" => Some(Self::lars(lr)),
            "adamw" => Some(Self::adamw(lr)),
            _ => None,
        }
    }

    /// The name that chooses it in a file.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Sgd(_) => "sgd",
            Self::Lars(_) => "lars",
            Self::AdamW(_) => "adamw",
        }
    }

    /// The peak learning rate, which a [`crate::Schedule`] multiplies.
    pub fn lr(&self) -> f64 {
        match self {
            Self::Sgd(c) => c.lr,
            Self::Lars(c) => c.lr,
            Self::AdamW(c) => c.lr,
        }
    }

    /// The decay of the parameters that are not exempt.
    pub fn weight_decay(&self) -> f64 {
        match self {
            Self::Sgd(c) => c.weight_decay,
            Self::Lars(c) => c.weight_decay,
            Self::AdamW(c) => c.weight_decay,
        }
    }

    /// Checks every value; the error names the first wrong one as `optimizer.FIELD`.
    pub fn validate(&self) -> Result<()> {
        match self {
            Self::Sgd(c) => c.validate(),
            Self::Lars(c) => c.validate(),
            Self::AdamW(c) => c.validate(),
        }
    }

    /// [`ParamGroup::by_rank`] with this configuration's weight decay. PyTorch decays every parameter unless
    /// told otherwise; here that takes a single group made by hand.
    pub fn groups(&self, params: Vec<Param>) -> Vec<ParamGroup> {
        ParamGroup::by_rank(params, self.weight_decay())
    }

    /// The optimiser of these groups. The decay is the groups', not the configuration's.
    pub fn build(&self, groups: Vec<ParamGroup>) -> Result<Box<dyn Optimizer>> {
        self.validate()?;
        match self {
            Self::Sgd(c) => sgd::build(c, groups),
            Self::Lars(c) => lars::build(c, groups),
            Self::AdamW(c) => adamw::build(c, groups),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_field_is_refused_by_name() {
        for (name, fields) in [
            ("sgd", r#""momentum":0.9,"nesterov":false,"weight_decay":0.0"#),
            ("lars", r#""momentum":0.9,"weight_decay":0.0,"trust_coefficient":0.001"#),
            ("adamw", r#""beta1":0.9,"beta2":0.999,"eps":1e-8,"weight_decay":0.0"#),
        ] {
            let good = format!(r#"{{"name":"{name}","lr":1,{fields}}}"#);
            let config: OptimizerConfig = serde_json::from_str(&good).unwrap();
            assert_eq!((config.name(), config.lr()), (name, 1.0));
            let named = OptimizerConfig::named(name, 2.0).unwrap();
            assert_eq!((named.name(), named.lr()), (name, 2.0));
            let again: OptimizerConfig =
                serde_json::from_str(&serde_json::to_string(&config).unwrap()).unwrap();
            assert_eq!(again, config);
            let bad = format!(r#"{{"name":"{name}","lr":1,"lerning":2,{fields}}}"#);
            let error = serde_json::from_str::<OptimizerConfig>(&bad).unwrap_err().to_string();
            assert!(error.contains("unknown field `lerning`, expected one of `lr`"), "{error}");
            let short = format!(r#"{{"name":"{name}",{fields}}}"#);
            let error = serde_json::from_str::<OptimizerConfig>(&short).unwrap_err().to_string();
            assert!(error.contains("missing field `lr`"), "{error}");
        }
        let error = serde_json::from_str::<OptimizerConfig>(r#"{"name":"adam","lr":1}"#).unwrap_err();
        assert!(error.to_string().contains("unknown variant `adam`"), "{error}");
    }

    #[test]
    fn a_wrong_value_is_refused_by_name() {
        let sgd = |f: &dyn Fn(&mut SgdConfig)| {
            let mut c = SgdConfig::new(0.1);
            f(&mut c);
            OptimizerConfig::Sgd(c)
        };
        let lars = |f: &dyn Fn(&mut LarsConfig)| {
            let mut c = LarsConfig::new(0.1);
            f(&mut c);
            OptimizerConfig::Lars(c)
        };
        let adamw = |f: &dyn Fn(&mut AdamWConfig)| {
            let mut c = AdamWConfig::new(0.1);
            f(&mut c);
            OptimizerConfig::AdamW(c)
        };
        for ok in [sgd(&|_| ()), lars(&|_| ()), adamw(&|_| ()), sgd(&|c| c.momentum = 0.0)] {
            ok.validate().unwrap();
        }
        for (config, field) in [
            (sgd(&|c| c.lr = 0.0), "optimizer.lr"),
            (sgd(&|c| c.lr = f64::NAN), "optimizer.lr"),
            (sgd(&|c| c.momentum = 1.0), "optimizer.momentum"),
            (sgd(&|c| c.momentum = -0.1), "optimizer.momentum"),
            (sgd(&|c| c.weight_decay = -1.0), "optimizer.weight_decay"),
            (sgd(&|c| (c.nesterov, c.momentum) = (true, 0.0)), "optimizer.nesterov"),
            (lars(&|c| c.lr = f64::INFINITY), "optimizer.lr"),
            (lars(&|c| c.momentum = 1.5), "optimizer.momentum"),
            (lars(&|c| c.weight_decay = f64::NAN), "optimizer.weight_decay"),
            (lars(&|c| c.trust_coefficient = 0.0), "optimizer.trust_coefficient"),
            (adamw(&|c| c.lr = -1.0), "optimizer.lr"),
            (adamw(&|c| c.beta1 = 1.0), "optimizer.beta1"),
            (adamw(&|c| c.beta2 = -0.5), "optimizer.beta2"),
            (adamw(&|c| c.eps = 0.0), "optimizer.eps"),
            (adamw(&|c| c.weight_decay = -0.1), "optimizer.weight_decay"),
        ] {
            let error = config.validate().unwrap_err().to_string();
            assert!(error.starts_with(&format!("{field} must be ")), "{error}");
        }
    }
}
