//! The linear probe: multinomial logistic regression on the frozen, standardised features.
//!
//! ```text
//! min over W, b of  1/n Σ_i −log softmax(W x_i + b)[y_i] + l2/2 · Σ W²
//! ```
//!
//! solved to convergence by L-BFGS, as CLIP's probe is (Radford et al. 2021, arXiv:2103.00020, §3.2 and A.3):
//! there is no learning rate, no number of epochs and no augmentation to tune. The strength l2 is chosen on a
//! held-out part of the *training* labels, from strong to weak, each fit starting at the last one's solution;
//! the chosen one is then fitted on all training labels. The test part is only measured with.
//!
//! Letters: n samples, d features, c classes.

use crate::Result;
use crate::error::setting;
use crate::features::{Labelled, share_correct};
use crate::few_labels::hold_out;
use crate::lbfgs::{self, Stop};
use crate::softmax_regression::{Block, Shape, evaluate, objective};
use crate::standardize::Standardizer;

/// The strengths tried, strong to weak. They act on the mean loss: scikit-learn's C is 1 / (n · l2).
pub const DEFAULT_L2: [f64; 6] = [1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5];

/// The strength where nothing can be held out, because no class has two labels: C = 1 for ten labels.
pub const DEFAULT_L2_WITHOUT_HELD_OUT: f64 = 0.1;

/// Settings of the linear probe.
#[derive(Debug, Clone, PartialEq)]
pub struct LinearConfig {
    /// The strengths of the regularisation to choose from; with a single one nothing is held out.
    pub l2: Vec<f64>,
    /// The strength where no class has two labels, so that nothing can be held out.
    pub l2_without_held_out: f64,
    /// The share of each class's training labels on which the strength is chosen: at least one label of a
    /// class with two, never all.
    pub held_out: f64,
    /// Steps of L-BFGS for each fit, at most.
    pub max_iterations: usize,
    /// A fit is done where no component of the gradient of the (mean) objective is larger, or where ten steps
    /// have lowered the objective by less than a tenth of this, relatively: the directions that are left are
    /// so flat that no prediction depends on them.
    pub tolerance: f64,
}

impl Default for LinearConfig {
    fn default() -> Self {
        Self {
            l2: DEFAULT_L2.to_vec(),
            l2_without_held_out: DEFAULT_L2_WITHOUT_HELD_OUT,
            held_out: 0.2,
            max_iterations: 200,
            tolerance: 1e-5,
        }
    }
}

impl LinearConfig {
    /// Strengths must be positive and finite (without a penalty, separable classes have no optimum), the
    /// held-out share between 0 and 1, the tolerance positive, the steps at least 1.
    pub fn validate(&self) -> Result<()> {
        if self.l2.is_empty() {
            return Err(setting("l2", "at least one strength", "none"));
        }
        for &l2 in self.l2.iter().chain([&self.l2_without_held_out]) {
            if !(l2 > 0.0 && l2.is_finite()) {
                return Err(setting("l2", "positive and finite", l2));
            }
        }
        if !(self.held_out > 0.0 && self.held_out < 1.0) {
            return Err(setting("the held-out share", "between 0 and 1, both excluded", self.held_out));
        }
        if self.max_iterations == 0 {
            return Err(setting("max_iterations", "at least 1", 0));
        }
        if !(self.tolerance > 0.0 && self.tolerance.is_finite()) {
            return Err(setting("tolerance", "positive and finite", self.tolerance));
        }
        Ok(())
    }
}

/// A fitted linear probe.
#[derive(Debug, Clone)]
pub struct LinearModel {
    standardizer: Standardizer,
    shape: Shape,
    theta: Vec<f64>,
    /// The label of each class fitted, ascending.
    labels: Vec<u32>,
    /// The strength that was chosen.
    pub l2: f64,
    /// The strengths tried, strong to weak. Empty where there was nothing to choose.
    pub tried: Vec<Tried>,
    /// Value of the objective on all training labels.
    pub objective: f64,
    /// The largest component of its gradient.
    pub gradient: f64,
    /// Steps of the last fit; at [`LinearConfig::max_iterations`] it may not have converged.
    pub iterations: usize,
}

/// What a strength reached on the held-out labels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tried {
    /// The strength.
    pub l2: f64,
    /// The share of the held-out labels that is predicted right, in 0…1.
    pub accuracy: f64,
    /// The mean of −log p of the held-out labels.
    pub loss: f64,
}

/// What the linear probe measured.
#[derive(Debug, Clone, PartialEq)]
pub struct LinearResult {
    /// The share of test samples whose class is predicted right (top-1), in 0…1.
    pub accuracy: f64,
    /// The strength of the regularisation that was chosen.
    pub l2: f64,
    /// Steps of the fit on all training labels.
    pub iterations: usize,
}

/// Fits on `train` and measures on `test`. See [`fit`] and [`LinearModel::predict`].
pub fn accuracy(train: &Labelled, test: &Labelled, config: &LinearConfig, seed: u64) -> Result<LinearResult> {
    train.check_test(test)?;
    let model = fit(train, config, seed)?;
    let accuracy = share_correct(&model.predict(test)?, test.labels());
    Ok(LinearResult { accuracy, l2: model.l2, iterations: model.iterations })
}

/// Chooses the strength and fits. `seed` decides which labels are held out, and nothing else.
///
/// Of the strengths whose held-out accuracy is within one standard error √(a(1 − a)/m) of the best accuracy a on m
/// labels, the one with the lowest held-out loss is chosen. On thousands of labels accuracy decides; on twenty,
/// where one label more or less is 0.05, the loss does. Weaker strengths are not tried any more after one whose
/// accuracy is two standard errors below the best and whose loss is not the lowest.
///
/// Memory: one standardised f32 copy of the features.
///
/// # Errors
///
/// [`Error::Setting`](crate::Error::Setting), [`Error::OneClass`](crate::Error::OneClass).
pub fn fit(train: &Labelled, config: &LinearConfig, seed: u64) -> Result<LinearModel> {
    config.validate()?;
    train.check_train()?;
    let counts = train.counts();
    let labels: Vec<u32> = (0..counts.len() as u32).filter(|&l| counts[l as usize] > 0).collect();
    let class_of = class_of(&labels, counts.len());
    let shape = Shape { classes: labels.len(), dim: train.dim() };
    let stop = Stop {
        tolerance: config.tolerance,
        decrease: 0.1 * config.tolerance,
        max_iterations: config.max_iterations,
    };
    let standardizer = Standardizer::new(train);

    let mut l2s = config.l2.clone();
    l2s.sort_by(|a, b| b.total_cmp(a));
    let (fit_rows, held_rows) = match &l2s[..] {
        [_] => ((0..train.len()).collect(), Vec::new()),
        _ => hold_out(train.labels(), counts.len(), config.held_out, seed),
    };
    let fit_blocks = Block::all(train, &fit_rows, &standardizer, &class_of)?;
    let held_blocks = Block::all(train, &held_rows, &standardizer, &class_of)?;

    let mut theta = vec![0.0; shape.len()];
    let mut tried = Vec::new();
    let mut l2 = match &l2s[..] {
        [only] => *only,
        _ => config.l2_without_held_out,
    };
    if !held_rows.is_empty() {
        let part: Vec<&Block> = fit_blocks.iter().collect();
        let held_labels: Vec<u32> = held_rows.iter().map(|&i| class_of[train.labels()[i] as usize]).collect();
        let mut solutions = Vec::new();
        for candidate in l2s {
            lbfgs::minimize(&mut theta, stop, |x, g| objective(&part, shape, candidate, x, g))?;
            let (predicted, loss) = evaluate(&held_blocks, shape, &theta)?;
            tried.push(Tried { l2: candidate, accuracy: share_correct(&predicted, &held_labels), loss });
            solutions.push(theta.clone());
            if overfits(&tried, held_rows.len()) {
                break;
            }
        }
        let best = choose(&tried, held_rows.len());
        l2 = tried[best].l2;
        theta = solutions.swap_remove(best);
    }
    let all: Vec<&Block> = fit_blocks.iter().chain(&held_blocks).collect();
    let outcome = lbfgs::minimize(&mut theta, stop, |x, g| objective(&all, shape, l2, x, g))?;
    let lbfgs::Outcome { value: objective, gradient, iterations } = outcome;
    Ok(LinearModel { standardizer, shape, theta, labels, l2, tried, objective, gradient, iterations })
}

impl LinearModel {
    /// The predicted class of each test sample; of equal logits the lower class.
    ///
    /// # Errors
    ///
    /// [`Error::Dimensions`](crate::Error::Dimensions).
    pub fn predict(&self, test: &Labelled) -> Result<Vec<u32>> {
        if test.dim() != self.shape.dim {
            return Err(crate::Error::Dimensions { train: self.shape.dim, test: test.dim() });
        }
        // Blocks at a time, so that the test features are never copied whole.
        const ROWS: usize = 8192;
        let known = vec![0; test.classes().len()];
        let rows: Vec<usize> = (0..test.len()).collect();
        let mut predicted = Vec::with_capacity(test.len());
        for rows in rows.chunks(ROWS) {
            let blocks = Block::all(test, rows, &self.standardizer, &known)?;
            let (classes, _) = evaluate(&blocks, self.shape, &self.theta)?;
            predicted.extend(classes.into_iter().map(|c| self.labels[c as usize]));
        }
        Ok(predicted)
    }

    /// W `[c, d]`, row by row, for standardised features; c counts the classes that training samples are of.
    pub fn weights(&self) -> &[f64] {
        &self.theta[..self.shape.classes * self.shape.dim]
    }

    /// b `[c]`.
    pub fn biases(&self) -> &[f64] {
        &self.theta[self.shape.classes * self.shape.dim..]
    }
}

/// Whether the last strength tried is clearly too weak, so that still weaker ones, which take the most steps, need
/// not be tried: its loss is above the lowest, and its accuracy two standard errors below the best.
fn overfits(tried: &[Tried], m: usize) -> bool {
    let best = tried.iter().map(|t| t.accuracy).fold(0.0, f64::max);
    let lowest = tried.iter().map(|t| t.loss).fold(f64::INFINITY, f64::min);
    let last = tried[tried.len() - 1];
    last.loss > lowest && last.accuracy < best - 2.0 * (best * (1.0 - best) / m as f64).sqrt()
}

/// The index of the strength to take, given `m` held-out labels: see [`fit`].
fn choose(tried: &[Tried], m: usize) -> usize {
    let best = tried.iter().map(|t| t.accuracy).fold(0.0, f64::max);
    let standard_error = (best * (1.0 - best) / m as f64).sqrt();
    let mut chosen = None;
    for (i, t) in tried.iter().enumerate() {
        let lowest = chosen.is_none_or(|c: usize| t.loss < tried[c].loss);
        if t.accuracy >= best - standard_error && lowest {
            chosen = Some(i);
        }
    }
    chosen.unwrap_or(0)
}

/// A label's place among those fitted. Labels that no sample has are never looked up.
fn class_of(labels: &[u32], classes: usize) -> Vec<u32> {
    let mut class_of = vec![0; classes];
    for (class, &label) in labels.iter().enumerate() {
        class_of[label as usize] = class as u32;
    }
    class_of
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accuracy_decides_on_many_labels_and_the_loss_on_few() {
        let tried = |l2, accuracy, loss| Tried { l2, accuracy, loss };
        let all =
            [tried(1.0, 0.60, 1.2), tried(0.1, 0.65, 1.3), tried(0.01, 0.66, 1.4), tried(1e-3, 0.50, 1.0)];
        // Standard errors of 0.66: 0.106 on 20 labels, 0.015 on 1000, 0.0047 on 10,000.
        assert_eq!(choose(&all, 20), 0);
        assert_eq!(choose(&all, 1000), 1);
        assert_eq!(choose(&all, 10_000), 2);
        assert!(!overfits(&all, 20) && overfits(&[all[1], all[2], tried(1e-3, 0.50, 1.5)], 1000));
        assert!(!overfits(&all, 1000), "the last has the lowest loss");
        assert_eq!(choose(&[tried(1.0, 0.0, 3.0), tried(0.1, 0.0, 3.0)], 5), 0, "of equals the stronger");
    }
}
