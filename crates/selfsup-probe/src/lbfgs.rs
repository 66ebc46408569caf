//! L-BFGS (Nocedal & Wright 2006, algorithm 7.5) for smooth convex functions, in f64.
//!
//! The line search brackets a step that satisfies the weak Wolfe conditions (Lewis & Overton 2013, algorithm
//! 4.6), with a cubic step inside the bracket where it is safe. The function may carry a relative rounding
//! error of about [`NOISE`], as one that is computed with f32 products does.

use crate::Result;
use std::collections::VecDeque;

/// Pairs of steps and gradient changes that are remembered.
const MEMORY: usize = 10;

/// Sufficient decrease (Nocedal & Wright, eq. 3.6a) and curvature (3.6b), their usual values.
const DECREASE: f64 = 1e-4;
const CURVATURE: f64 = 0.9;

/// Evaluations in one line search.
const MAX_TRIALS: usize = 20;

/// The function's relative rounding error: smaller increases are taken for none.
const NOISE: f64 = 1e-8;

/// Steps over which [`Stop::decrease`] is taken.
const WINDOW: usize = 10;

/// When to stop.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stop {
    /// At a gradient whose largest component is at most this.
    pub tolerance: f64,
    /// Where the last [`WINDOW`] steps have lowered the value by at most this share of it.
    pub decrease: f64,
    /// After so many steps.
    pub max_iterations: usize,
}

/// Where it stopped.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outcome {
    /// The function's value.
    pub value: f64,
    /// The gradient's largest component, absolute.
    pub gradient: f64,
    /// Steps taken.
    pub iterations: usize,
}

/// Minimises from `x` on, which ends as the point reached. `f(x, g)` returns the value and writes the gradient.
///
/// It also stops where the line search finds no lower point: the rounding error's floor.
pub(crate) fn minimize(
    x: &mut Vec<f64>,
    stop: Stop,
    mut f: impl FnMut(&[f64], &mut [f64]) -> Result<f64>,
) -> Result<Outcome> {
    let mut gradient = vec![0.0; x.len()];
    let mut value = f(x, &mut gradient)?;
    let mut history: VecDeque<Pair> = VecDeque::with_capacity(MEMORY);
    let mut iterations = 0;
    let mut values = VecDeque::with_capacity(WINDOW);
    while iterations < stop.max_iterations && largest(&gradient) > stop.tolerance {
        let mut direction = direction(&gradient, &history);
        let mut slope = dot(&gradient, &direction);
        if slope >= 0.0 {
            // Rounding has spoilt the history: begin again with steepest descent.
            history.clear();
            direction = gradient.iter().map(|g| -g).collect();
            slope = dot(&gradient, &direction);
        }
        let first = if history.is_empty() { 1.0 / dot(&gradient, &gradient).sqrt().max(1.0) } else { 1.0 };
        let Some(found) = line_search(x, value, &direction, slope, first, &mut f)? else {
            if history.is_empty() {
                break;
            }
            history.clear();
            continue;
        };
        let step: Vec<f64> = direction.iter().map(|d| found.step * d).collect();
        let change: Vec<f64> = found.gradient.iter().zip(&gradient).map(|(new, old)| new - old).collect();
        let curvature = dot(&step, &change);
        if curvature > f64::EPSILON * dot(&change, &change) {
            if history.len() == MEMORY {
                history.pop_front();
            }
            history.push_back(Pair { step, change, curvature });
        }
        (*x, gradient, value) = (found.x, found.gradient, found.value);
        iterations += 1;
        if values.len() == WINDOW
            && values.pop_front().is_some_and(|old| old - value <= stop.decrease * value.abs())
        {
            break;
        }
        values.push_back(value);
    }
    Ok(Outcome { value, gradient: largest(&gradient), iterations })
}

struct Pair {
    step: Vec<f64>,
    change: Vec<f64>,
    curvature: f64,
}

/// −H·g by the two loops over the remembered pairs.
fn direction(gradient: &[f64], history: &VecDeque<Pair>) -> Vec<f64> {
    let mut d: Vec<f64> = gradient.iter().map(|g| -g).collect();
    let mut weights = Vec::with_capacity(history.len());
    for pair in history.iter().rev() {
        let weight = dot(&pair.step, &d) / pair.curvature;
        add(&mut d, -weight, &pair.change);
        weights.push(weight);
    }
    if let Some(last) = history.back() {
        let scale = last.curvature / dot(&last.change, &last.change);
        d.iter_mut().for_each(|v| *v *= scale);
    }
    for (pair, weight) in history.iter().zip(weights.into_iter().rev()) {
        let correction = weight - dot(&pair.change, &d) / pair.curvature;
        add(&mut d, correction, &pair.step);
    }
    d
}

struct Found {
    x: Vec<f64>,
    value: f64,
    gradient: Vec<f64>,
    step: f64,
}

/// A step along `direction` that satisfies the weak Wolfe conditions; failing that, the lowest point seen that
/// decreases the value enough; failing that, none.
fn line_search(
    x: &[f64],
    value: f64,
    direction: &[f64],
    slope: f64,
    first: f64,
    f: &mut impl FnMut(&[f64], &mut [f64]) -> Result<f64>,
) -> Result<Option<Found>> {
    let (mut low, mut high) = (End { step: 0.0, value, slope }, None::<End>);
    let mut best: Option<Found> = None;
    let mut step = first;
    for _ in 0..MAX_TRIALS {
        let mut at = x.to_vec();
        add(&mut at, step, direction);
        let mut gradient = vec![0.0; x.len()];
        let new = f(&at, &mut gradient)?;
        let new_slope = dot(&gradient, direction);
        let end = End { step, value: new, slope: new_slope };
        let allowed = value + DECREASE * step * slope + NOISE * value.abs();
        if new.is_nan() || new > allowed {
            high = Some(end);
        } else {
            let wolfe = new_slope >= CURVATURE * slope;
            if best.as_ref().is_none_or(|b| new < b.value) {
                best = Some(Found { x: at, value: new, gradient, step });
            }
            if wolfe {
                return Ok(best);
            }
            low = end;
        }
        step = match &high {
            Some(high) => inside(&low, high),
            None => 2.0 * step,
        };
    }
    Ok(best)
}

#[derive(Clone, Copy)]
struct End {
    step: f64,
    value: f64,
    slope: f64,
}

/// The minimum of the cubic through both ends (Nocedal & Wright, eq. 3.59), or the middle where that is not a
/// number or lies within a tenth of either end.
fn inside(low: &End, high: &End) -> f64 {
    let width = high.step - low.step;
    let d1 = low.slope + high.slope - 3.0 * (high.value - low.value) / width;
    let d2 = (d1 * d1 - low.slope * high.slope).sqrt();
    let cubic = high.step - width * (high.slope + d2 - d1) / (high.slope - low.slope + 2.0 * d2);
    if cubic > low.step + 0.1 * width && cubic < high.step - 0.1 * width {
        cubic
    } else {
        low.step + 0.5 * width
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(to: &mut [f64], weight: f64, values: &[f64]) {
    to.iter_mut().zip(values).for_each(|(t, v)| *t += weight * v);
}

fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |m: f64, v| m.max(v.abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ill-conditioned quadratic, ½ Σ c_i (x_i − i)², condition number 10⁴: the minimum is known.
    #[test]
    fn finds_the_minimum_of_a_quadratic() {
        let scale = |i: usize| 10f64.powf(4.0 * i as f64 / 29.0);
        let mut x = vec![0.0; 30];
        let stop = Stop { tolerance: 1e-8, decrease: 0.0, max_iterations: 1200 };
        let outcome = minimize(&mut x, stop, |x, g| {
            let mut value = 0.0;
            for i in 0..x.len() {
                let e = x[i] - i as f64;
                g[i] = scale(i) * e;
                value += 0.5 * scale(i) * e * e;
            }
            Ok(value)
        })
        .unwrap();
        assert!(outcome.iterations < 1200, "{outcome:?}");
        assert!(outcome.gradient <= 1e-8, "{outcome:?}");
        for (i, v) in x.iter().enumerate() {
            assert!((v - i as f64).abs() < 1e-7, "x[{i}] = {v}");
        }
    }

    /// log Σ exp in disguise: flat far out, so that a search without the curvature condition crawls.
    #[test]
    fn goes_far_where_the_function_is_flat() {
        let mut x = vec![60.0, -45.0];
        let stop = Stop { tolerance: 1e-9, decrease: 0.0, max_iterations: 100 };
        let outcome = minimize(&mut x, stop, |x, g| {
            let mut value = 0.0;
            for i in 0..2 {
                value += (1.0 + (x[i] - 1.0).powi(2)).sqrt();
                g[i] = (x[i] - 1.0) / (1.0 + (x[i] - 1.0).powi(2)).sqrt();
            }
            Ok(value)
        })
        .unwrap();
        assert!(outcome.iterations < 40, "{outcome:?}");
        assert!((x[0] - 1.0).abs() < 1e-8 && (x[1] - 1.0).abs() < 1e-8, "{x:?}");
    }

    #[test]
    fn stops_at_once_at_the_minimum_and_after_the_cap() {
        let mut x = vec![3.0];
        let quadratic = |x: &[f64], g: &mut [f64]| {
            g[0] = x[0] - 3.0;
            Ok(0.5 * g[0] * g[0])
        };
        let stop = Stop { tolerance: 1e-12, decrease: 0.0, max_iterations: 50 };
        assert_eq!(minimize(&mut x, stop, quadratic).unwrap().iterations, 0);
        x[0] = 1e6;
        let stop = Stop { tolerance: 1e-12, decrease: 0.0, max_iterations: 1 };
        assert_eq!(minimize(&mut x, stop, quadratic).unwrap().iterations, 1);
    }

    /// Σ x⁴ has ever smaller slopes: the gradient's bound is far, the value's is near.
    #[test]
    fn stops_where_the_value_hardly_falls() {
        let run = |decrease| {
            let mut x = vec![1.0, 2.0];
            let stop = Stop { tolerance: 0.0, decrease, max_iterations: 500 };
            minimize(&mut x, stop, |x, g| {
                (0..2).for_each(|i| g[i] = 4.0 * x[i].powi(3));
                Ok(1.0 + x.iter().map(|v| v.powi(4)).sum::<f64>())
            })
        };
        let outcome = run(1e-6).unwrap();
        assert!((11..60).contains(&outcome.iterations), "{outcome:?}");
        assert!(outcome.value - 1.0 < 1e-5, "{outcome:?}");
    }
}
