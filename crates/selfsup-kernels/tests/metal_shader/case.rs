//! The forms of the loss on given numbers: by the formula, and by the shader.

use crate::launch::{Contrast, Scale};
use crate::oracle::{Matrix, Place, Term, oracle};
use crate::roles::Role;
use crate::shader::{Buffer, Emulator, Shader};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::cell::Cell;

/// A form of the loss, with what it takes besides matrices.
#[derive(Clone, Debug)]
pub enum Form {
    NtXent,
    SupCon(Vec<u32>),
    InfoNce { positives: Vec<u32>, excluded: Option<Vec<u32>> },
    Queue,
    TwoTower,
}

/// A form with its matrices, and 1/τ.
#[derive(Clone, Debug)]
pub struct Case {
    pub form: Form,
    pub matrices: Vec<Matrix>,
    pub scale: f32,
}

/// What the shader gives.
#[derive(Debug, PartialEq)]
pub struct Got {
    pub loss: f32,
    pub gradients: Vec<Vec<f32>>,
    pub scale: Option<f32>,
}

impl Case {
    /// The loss by its definition.
    pub fn terms(&self) -> Vec<Term> {
        let n = self.matrices[0].len();
        let rows = |x: usize| (0..self.matrices[x].len()).map(move |k| (x, k));
        let mean = |anchors: usize| 1.0 / anchors as f64;
        match &self.form {
            Form::NtXent => (0..n)
                .map(|i| Term {
                    weight: mean(n),
                    anchor: (0, i),
                    candidates: rows(0).filter(|c| c.1 != i).collect(),
                    positives: vec![(0, (i + n / 2) % n)],
                })
                .collect(),
            Form::SupCon(labels) => {
                let positives = |i: usize| -> Vec<Place> {
                    rows(0).filter(|c| c.1 != i && labels[c.1] == labels[i]).collect()
                };
                let anchors: Vec<usize> = (0..n).filter(|&i| !positives(i).is_empty()).collect();
                let term = |i| Term {
                    weight: mean(anchors.len()),
                    anchor: (0, i),
                    candidates: rows(0).filter(|c| c.1 != i).collect(),
                    positives: positives(i),
                };
                anchors.iter().map(|i| term(*i)).collect()
            }
            Form::InfoNce { positives, excluded } => (0..n)
                .map(|i| Term {
                    weight: mean(n),
                    anchor: (0, i),
                    candidates: rows(1)
                        .filter(|c| excluded.as_ref().is_none_or(|e| e[i] as usize != c.1))
                        .collect(),
                    positives: vec![(1, positives[i] as usize)],
                })
                .collect(),
            Form::Queue => (0..n)
                .map(|i| Term {
                    weight: mean(n),
                    anchor: (0, i),
                    candidates: std::iter::once((1, i)).chain(rows(2)).collect(),
                    positives: vec![(1, i)],
                })
                .collect(),
            Form::TwoTower => [0, 1]
                .into_iter()
                .flat_map(|x| (0..n).map(move |i| (x, i)))
                .map(|(x, i)| Term {
                    weight: mean(2 * n),
                    anchor: (x, i),
                    candidates: rows(1 - x).collect(),
                    positives: vec![(1 - x, i)],
                })
                .collect(),
        }
    }

    /// Loss and gradients by the shader, `grad` times.
    pub fn run(&self, device: &Emulator, grad: f32) -> Result<Got, String> {
        let x: Vec<Buffer> = self.matrices.iter().map(|x| Buffer::from_floats(&x.values)).collect();
        let d = self.matrices[0].d;
        let [n, m] = [0, self.matrices.len() - 1].map(|x| self.matrices[x].len());
        let scale = Scale::Number(self.scale);
        let (contrast, loss) = match &self.form {
            Form::NtXent => Contrast::itself(device, &x[0], &Role::other_views(n), d, scale)?,
            Form::SupCon(labels) => Contrast::itself(device, &x[0], &Role::same_labels(labels), d, scale)?,
            Form::InfoNce { positives, excluded } => {
                let [a, b] = Role::pairs(positives, excluded.as_deref(), m);
                Contrast::between(device, [&x[0], &x[1]], [&a, &b], d, scale)?
            }
            Form::Queue => Contrast::queue(device, [&x[0], &x[1], &x[2]], [n, m], d, scale)?,
            Form::TwoTower => {
                let roles = Role::two_towers(n);
                let scale = Scale::Scalar(Buffer::from_floats(&[self.scale]));
                Contrast::between(device, [&x[0], &x[1]], [&roles, &roles], d, scale)?
            }
        };
        let both = x.len() > 1;
        let gradients = contrast.gradients(device, &Buffer::from_floats(&[grad]), both)?;
        let all = std::iter::once(gradients.a).chain(gradients.b);
        Ok(Got {
            loss: loss.to_floats()[0],
            gradients: all.map(|g| g.to_floats()).collect(),
            scale: gradients.scale.map(|g| g.to_floats()[0]),
        })
    }

    /// Why the shader's loss or gradients are not the formula's.
    pub fn check(&self, shader: &Shader, order: u32) -> Result<(), String> {
        let device = Emulator { shader, order, allocated: Cell::new(0) };
        let grad = -1.5f32;
        let got = self.run(&device, grad)?;
        let scale = f64::from(self.scale);
        let terms = self.terms();
        let expected = oracle(&self.matrices, &terms, scale);
        // exp S is known to as much as S, which is known to some units in the last place of the scale.
        let tolerance = 5e-7 * (1.0 + scale);
        let near = |what: &str, got: f64, expected: f64| {
            let error = (got - expected).abs() / (1.0 + expected.abs());
            match error <= tolerance {
                true => Ok(()),
                false => Err(format!("{what}: got {got:e}, expected {expected:e}, error {error:e}")),
            }
        };
        near("loss", got.loss.into(), expected.loss)?;
        // Relative to the size of the terms that a gradient is the sum of, weight · scale/‖x‖: where they cancel,
        // nothing but their rounding is left.
        let weight = terms.first().map_or(1.0, |t| t.weight);
        for (x, gradient) in got.gradients.iter().enumerate() {
            let rows =
                gradient.chunks(self.matrices[x].d).zip(expected.gradients[x].chunks(self.matrices[x].d));
            for (i, ((got, expected), row)) in
                rows.zip(self.matrices[x].values.chunks(self.matrices[x].d)).enumerate()
            {
                let norm = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
                let size = norm / (weight * scale * f64::from(grad));
                for (c, (got, expected)) in got.iter().zip(expected).enumerate() {
                    let what = format!("gradient {x}, row {i}, column {c}");
                    near(&what, f64::from(*got) * size, expected * f64::from(grad) * size)?;
                }
            }
        }
        match got.scale {
            Some(got) => near("gradient of the scale", f64::from(got) / f64::from(grad), expected.scale),
            None => Ok(()),
        }
    }
}

pub fn random(n: usize, d: usize, seed: u64) -> Matrix {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    Matrix { values: (0..n * d).map(|_| rng.random_range(-1.0..1.0)).collect(), d }
}

/// Every form with n rows of width d, and m candidates or rows of the queue.
pub fn forms(n: usize, m: usize, d: usize, scale: f32) -> Vec<Case> {
    let case = |form, rows: &[usize]| Case {
        form,
        matrices: rows.iter().enumerate().map(|(seed, n)| random(*n, d, seed as u64)).collect(),
        scale,
    };
    let positives: Vec<u32> = (0..n).map(|i| (i * 5 % m) as u32).collect();
    let excluded: Vec<u32> = (0..n).map(|i| ((i * 5 + 1) % m) as u32).collect();
    // Rows alone with their label too.
    let labels: Vec<u32> = (0..n as u32).map(|i| if i % 7 == 6 { u32::MAX - i } else { i % 3 }).collect();
    let mut forms = vec![
        case(Form::NtXent, &[2 * n]),
        case(Form::SupCon(labels), &[n]),
        case(Form::InfoNce { positives: positives.clone(), excluded: None }, &[n, m]),
        case(Form::Queue, &[n, n, m]),
        case(Form::TwoTower, &[n, n]),
    ];
    if m > 1 {
        forms.push(case(Form::InfoNce { positives, excluded: Some(excluded) }, &[n, m]));
    }
    forms
}

/// Rows of zeros, rows of any length, equal rows, and logits that overflow exp.
pub fn ends() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |case: &Case, change: &dyn Fn(usize, &mut [f32])| {
        let mut case = case.clone();
        for x in &mut case.matrices {
            x.values.chunks_mut(x.d).enumerate().for_each(|(i, row)| change(i, row));
        }
        cases.push(case);
    };
    for scale in [2.0, 100.0] {
        for case in forms(9, 20, 5, scale) {
            add(&case, &|i, row| {
                if i % 4 == 1 {
                    row.fill(0.0)
                }
            });
            add(&case, &|_, row| row.fill(0.0));
            add(&case, &|_, row| row.copy_from_slice(&[0.3, -1.0, 2.0, 0.0, 0.5]));
            add(&case, &|i, row| {
                let length = [1e-30, 1.0, 1e30, 1e-12, 3e37][i % 5];
                row.iter_mut().for_each(|v| *v *= length);
            });
        }
    }
    for case in forms(9, 20, 5, 1e6) {
        add(&case, &|_, _| {});
    }
    // exp S underflows for every candidate.
    cases.push(Case {
        form: Form::InfoNce { positives: vec![1], excluded: None },
        matrices: vec![
            Matrix { values: vec![1.0, 0.0], d: 2 },
            Matrix { values: vec![-1.0, 0.04, -1.0, -0.05], d: 2 },
        ],
        scale: 1e3,
    });
    cases
}
