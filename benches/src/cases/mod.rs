//! What is measured. A case is declared once: our side is a closure here, PyTorch's the function of the same name in
//! `peers/compare.py`, and both get the inputs and parameters that the case declares.

mod data;
mod features;
mod layers;
mod steps;
mod table;

pub use data::Fingerprint;
pub use table::all;

use crate::args::{Peer, Usage};
use anyhow::{Result, bail};
use candle_core::{Device, Tensor, Var};
use serde::Serialize;
use serde_json::{Value, json};
use std::hint::black_box;

/// How a tensor of ours becomes one of PyTorch's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// As it is.
    Plain,
    /// Images, to NCHW in channels_last.
    Nhwc,
    /// A convolution's weight, to OIHW in channels_last.
    Hwio,
}

/// A tensor of f32 in ±0.5.
#[derive(Debug, Clone, Serialize)]
pub struct Input {
    shape: Vec<usize>,
    layout: Layout,
    /// Whether its gradient is wanted.
    variable: bool,
}

impl Input {
    /// A variable.
    pub fn new(layout: Layout, shape: &[usize]) -> Self {
        Self { shape: shape.to_vec(), layout, variable: true }
    }

    /// The same without a gradient.
    pub fn constant(self) -> Self {
        Self { variable: false, ..self }
    }

    fn count(&self) -> usize {
        self.shape.iter().product()
    }

    fn tensor(&self, stream: usize) -> Result<Tensor> {
        let values = data::uniform(self.count(), stream as u32);
        let tensor = Tensor::from_vec(values, &self.shape[..], &Device::Cpu)?;
        Ok(if self.variable { Var::from_tensor(&tensor)?.as_tensor().clone() } else { tensor })
    }
}

/// A differentiable function of the inputs.
pub type Function = Box<dyn Fn(&[Tensor]) -> Result<Tensor>>;
/// Sets a training step up.
pub type Step = Box<dyn Fn() -> Result<Box<dyn FnMut() -> Result<()>>>>;

/// Our side.
pub enum Ours {
    /// The function alone.
    Forward(Function),
    /// The function, and the gradients of all variables, seeded with ones.
    Backward(Function),
    /// A whole training step.
    Step(Step),
}

/// A case.
pub struct Case {
    /// Its name in reports and for `--only`.
    pub name: String,
    /// The function's name in `peers/compare.py`.
    pub operation: &'static str,
    /// What both sides take.
    pub inputs: Vec<Input>,
    /// What else PyTorch's side is told, by parameter name.
    pub parameters: Value,
    /// Floating-point operations of the formula, a multiply-add being two; None where they are not what counts.
    pub flop: Option<f64>,
    /// What PyTorch's side is run as.
    pub peers: &'static [Peer],
    /// Our side.
    pub ours: Ours,
}

impl Case {
    /// What the worker is told.
    pub fn request(&self) -> Value {
        json!({
            "name": self.name,
            "operation": self.operation,
            "inputs": self.inputs,
            "parameters": self.parameters,
            "backward": matches!(self.ours, Ours::Backward(_)),
        })
    }

    /// Sets our side up and runs it once.
    pub fn prepare(&self) -> Result<Prepared<'_>> {
        let (function, backward) = match &self.ours {
            Ours::Step(build) => {
                let mut iteration = build()?;
                iteration()?;
                return Ok(Prepared { iteration, results: Vec::new(), bytes: None });
            }
            Ours::Forward(function) => (function, false),
            Ours::Backward(function) => (function, true),
        };
        let inputs =
            self.inputs.iter().enumerate().map(|(i, x)| x.tensor(i)).collect::<Result<Vec<Tensor>>>()?;
        let y = function(&inputs)?;
        let mut results = vec![Fingerprint::new(&y)?];
        // Each tensor moved once: inputs and y, then y's gradient and the inputs again, and the gradients.
        let mut numbers = self.inputs.iter().map(Input::count).sum::<usize>() + y.elem_count();
        if backward {
            numbers *= 2;
            let gradients = y.backward()?;
            for input in inputs.iter().filter(|x| x.is_variable()) {
                let Some(gradient) = gradients.get(input) else { bail!("a variable got no gradient") };
                results.push(Fingerprint::new(gradient)?);
                numbers += gradient.elem_count();
            }
        }
        let iteration = Box::new(move || {
            let y = function(&inputs)?;
            if backward {
                black_box(y.backward()?);
            }
            black_box(y);
            Ok(())
        });
        Ok(Prepared { iteration, results, bytes: Some((numbers * size_of::<f32>()) as f64) })
    }
}

/// Our side, ready to run.
pub struct Prepared<'a> {
    /// An iteration.
    pub iteration: Box<dyn FnMut() -> Result<()> + 'a>,
    /// Of y and of each variable's gradient; empty for a step, whose weights are drawn differently.
    pub results: Vec<Fingerprint>,
    /// The least memory traffic: every tensor read or written once.
    pub bytes: Option<f64>,
}

/// The cases that any of the patterns matches; all without patterns. A whole name matches that case alone, and a
/// pattern that matches none is an error.
pub fn select(cases: Vec<Case>, patterns: &[String]) -> Result<Vec<Case>> {
    let names: Vec<&str> = cases.iter().map(|case| &case.name[..]).collect();
    let mut chosen = vec![patterns.is_empty(); names.len()];
    for pattern in patterns {
        let whole = names.contains(&&pattern[..]);
        let mut found = false;
        for (name, chosen) in names.iter().zip(&mut chosen) {
            if if whole { name == pattern } else { matches(pattern, name) } {
                *chosen = true;
                found = true;
            }
        }
        if !found {
            let hint = selfsup_models::nearest(pattern, names.iter().copied());
            let hint = hint.map(|name| format!("; did you mean `{name}`?")).unwrap_or_default();
            return Err(
                Usage(format!("no case's name contains `{pattern}`{hint} (`--list` prints all)")).into()
            );
        }
    }
    Ok(cases.into_iter().zip(chosen).filter_map(|(case, chosen)| chosen.then_some(case)).collect())
}

/// Whether the pattern's parts between `*` occur in the name in order.
fn matches(pattern: &str, name: &str) -> bool {
    let mut rest = name;
    pattern.split('*').all(|part| match rest.find(part) {
        Some(at) => {
            rest = &rest[at + part.len()..];
            true
        }
        None => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_plain() {
        let cases = all();
        let names: BTreeSet<&str> = cases.iter().map(|case| &case.name[..]).collect();
        assert_eq!(names.len(), cases.len());
        for name in names {
            assert!(
                name.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-_+".contains(&b)),
                "{name}: a shell would want it quoted"
            );
        }
    }

    #[test]
    fn every_operation_has_its_function_in_python() {
        let python = include_str!("../../peers/compare.py");
        for case in all() {
            assert!(python.contains(&format!("\"{}\": ", case.operation)), "{}", case.operation);
        }
    }

    #[test]
    fn patterns_select_by_parts_in_order() {
        assert!(matches("conv2d", "conv2d/1x1/f"));
        assert!(matches("conv2d*/f", "conv2d/1x1/f"));
        assert!(!matches("1x1*conv2d", "conv2d/1x1/f"));
        let names = |patterns: &[&str]| {
            let patterns: Vec<String> = patterns.iter().map(|p| (*p).to_owned()).collect();
            select(all(), &patterns).map(|cases| cases.len())
        };
        assert_eq!(names(&[]).unwrap(), all().len());
        assert_eq!(names(&["nt_xent/1024"]).unwrap(), 2);
        assert_eq!(names(&["nt_xent/1024x128/f"]).unwrap(), 1);
        assert_eq!(names(&["nt_xent/1024x128/f", "nt_xent/1024", "nt_xent/4096"]).unwrap(), 4);
        let error = names(&["nt_xent/1024", "nt_xnet"]).unwrap_err();
        assert!(error.is::<Usage>() && error.to_string().contains("`nt_xnet`"), "{error}");
    }
}
