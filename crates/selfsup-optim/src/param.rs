//! What is optimised: named variables, in groups that share their exemptions.

use candle_core::Var;

/// A named variable. The name is the key of its state in a checkpoint.
#[derive(Debug, Clone)]
pub struct Param {
    /// A name that no other parameter of the optimiser has.
    pub name: String,
    /// The value. A clone shares it.
    pub var: Var,
}

/// Parameters that are treated alike.
#[derive(Debug, Clone)]
pub struct ParamGroup {
    /// The parameters.
    pub params: Vec<Param>,
    /// Weight decay of these; 0 is none.
    pub weight_decay: f64,
    /// Whether LARS adapts the step to the tensor's norm. Other optimisers do not ask.
    pub adapt: bool,
    /// Multiplies the step's learning rate.
    pub lr_scale: f64,
}

impl ParamGroup {
    /// Parameters of rank 0 and 1 (scale and shift of normalisation layers, biases, single scalars) without
    /// decay and adaptation, the others with both, as SimCLR exempts them (Chen et al. 2020, appendix B.9).
    /// The order within each group is the given one; a group that would be empty is left out.
    pub fn by_rank(params: Vec<Param>, weight_decay: f64) -> Vec<Self> {
        let (small, large): (Vec<Param>, Vec<Param>) = params.into_iter().partition(|p| p.var.rank() <= 1);
        [
            Self { params: large, weight_decay, adapt: true, lr_scale: 1.0 },
            Self { params: small, weight_decay: 0.0, adapt: false, lr_scale: 1.0 },
        ]
        .into_iter()
        .filter(|g| !g.params.is_empty())
        .collect()
    }
}
