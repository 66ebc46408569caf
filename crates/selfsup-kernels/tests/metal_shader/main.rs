//! `info_nce.metal`, compiled as C++ and launched by the crate's own launch code, against the formula in f64. No GPU
//! is needed, and none is tested: neither Metal's compiler nor an Apple GPU sees the shader here.

#[path = "../../src/info_nce/launch.rs"]
mod launch;
mod oracle;
#[path = "../../src/info_nce/roles.rs"]
mod roles;
mod shader;

use launch::{Contrast, Scale};
use oracle::{Matrix, Place, Term, oracle};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use roles::Role;
use shader::{Buffer, Emulator, SOURCE, Shader};
use std::cell::Cell;

/// A form of the loss, with what it takes besides matrices.
#[derive(Clone, Debug)]
enum Form {
    NtXent,
    SupCon(Vec<u32>),
    InfoNce { positives: Vec<u32>, excluded: Option<Vec<u32>> },
    Queue,
    TwoTower,
}

/// A form with its matrices, and 1/τ.
#[derive(Clone, Debug)]
struct Case {
    form: Form,
    matrices: Vec<Matrix>,
    scale: f32,
}

/// What the shader gives.
#[derive(Debug, PartialEq)]
struct Got {
    loss: f32,
    gradients: Vec<Vec<f32>>,
    scale: Option<f32>,
}

impl Case {
    /// The loss by its definition.
    fn terms(&self) -> Vec<Term> {
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
    fn run(&self, device: &Emulator, grad: f32) -> Result<Got, String> {
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
    fn check(&self, shader: &Shader, order: u32) -> Result<(), String> {
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

fn random(n: usize, d: usize, seed: u64) -> Matrix {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    Matrix { values: (0..n * d).map(|_| rng.random_range(-1.0..1.0)).collect(), d }
}

/// Every form with n rows of width d, and m candidates or rows of the queue.
fn forms(n: usize, m: usize, d: usize, scale: f32) -> Vec<Case> {
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

/// The shader, or a notice that nothing is tested.
fn shader() -> Option<Shader> {
    static NAMES: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let name = NAMES.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let shader = Shader::compile(SOURCE, &name.to_string());
    if shader.is_none() {
        println!("no C++ compiler is installed: info_nce.metal is not tested");
    }
    shader
}

#[track_caller]
fn agree(shader: &Shader, case: &Case) {
    if let Err(why) = case.check(shader, 0) {
        let rows: Vec<usize> = case.matrices.iter().map(Matrix::len).collect();
        panic!("{:?}, {rows:?} rows of {}, scale {}: {why}", case.form, case.matrices[0].d, case.scale);
    }
}

#[test]
fn every_size_gives_the_formula_s_loss_and_gradients() {
    let Some(shader) = shader() else { return };
    let sizes = [
        (1, 1, 1),
        (2, 1, 2),
        (3, 5, 7),
        (16, 64, 8),
        (31, 33, 31),
        (32, 65, 32),
        (33, 7, 33),
        (65, 130, 100),
        (5, 3, 300),
    ];
    for (n, m, d) in sizes {
        for case in forms(n, m, d, 5.0) {
            agree(&shader, &case);
        }
    }
}

#[test]
fn every_temperature() {
    let Some(shader) = shader() else { return };
    for temperature in [0.01, 0.024, 0.07, 0.5, 1.0, 10.0] {
        for case in forms(21, 70, 12, 1.0 / temperature) {
            agree(&shader, &case);
        }
    }
}

#[test]
fn lengths_zeros_and_logits_at_their_ends() {
    let Some(shader) = shader() else { return };
    for case in ends() {
        agree(&shader, &case);
    }
}

/// Rows of zeros, rows of any length, equal rows, and logits that overflow exp.
fn ends() -> Vec<Case> {
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

#[test]
fn rows_of_zeros_get_no_gradient_and_equal_rows_none_either() {
    let Some(shader) = shader() else { return };
    let device = Emulator { shader: &shader, order: 0, allocated: Cell::new(0) };
    let zeros = Matrix { values: vec![0.0; 40], d: 4 };
    let got = Case { form: Form::NtXent, matrices: vec![zeros], scale: 10.0 }.run(&device, 1.0).unwrap();
    assert!((got.loss - 9f32.ln()).abs() < 1e-6 && got.gradients[0].iter().all(|g| *g == 0.0), "{got:?}");
    let alone = Case { form: Form::NtXent, matrices: vec![random(2, 5, 1)], scale: 10.0 };
    let got = alone.run(&device, 1.0).unwrap();
    assert!(got.loss == 0.0 && got.gradients[0].iter().all(|g| *g == 0.0), "{got:?}");
}

#[test]
fn a_loss_near_0_keeps_its_digits() {
    let Some(shader) = shader() else { return };
    small_losses(&shader).unwrap();
}

fn small_losses(shader: &Shader) -> Result<(), String> {
    let device = Emulator { shader, order: 0, allocated: Cell::new(0) };
    let matrix = |values: &[f32]| Matrix { values: values.to_vec(), d: 2 };
    let query = matrix(&[1.0, 0.0]);
    let queue = vec![query.clone(), matrix(&[1.0, 0.1]), matrix(&[0.0, 1.0])];
    let pairs = vec![query, matrix(&[1.0, 0.1, 0.0, 1.0])];
    let pairing = Form::InfoNce { positives: vec![0], excluded: None };
    for (form, matrices) in [(Form::Queue, queue), (pairing, pairs)] {
        let case = Case { form, matrices, scale: 20.0 };
        let got = case.run(&device, 1.0)?;
        let expected = oracle(&case.matrices, &case.terms(), case.scale.into());
        assert!(expected.loss < 1e-8);
        let losses = (f64::from(got.loss), expected.loss);
        let gradients = got.gradients.concat().into_iter().map(f64::from).zip(expected.gradients.concat());
        for (got, expected) in gradients.filter(|(_, expected)| *expected != 0.0).chain([losses]) {
            if (got / expected - 1.0).abs() > 1e-5 {
                return Err(format!("{:?}: got {got:e}, expected {expected:e}", case.form));
            }
        }
    }
    Ok(())
}

#[test]
fn no_number_comes_out_where_none_went_in() {
    let Some(shader) = shader() else { return };
    let device = Emulator { shader: &shader, order: 0, allocated: Cell::new(0) };
    for case in forms(5, 70, 3, 4.0) {
        for x in 0..case.matrices.len() {
            for bad in [f32::NAN, f32::INFINITY] {
                for row in [0, case.matrices[x].len() - 1] {
                    let mut case = case.clone();
                    case.matrices[x].values[row * 3 + 1] = bad;
                    let got = case.run(&device, 1.0).unwrap();
                    assert!(got.loss.is_nan(), "{:?}, matrix {x}, row {row}: {}", case.form, got.loss);
                }
            }
        }
    }
}

#[test]
fn the_same_bits_in_any_order_of_the_threads() {
    let Some(shader) = shader() else { return };
    for case in forms(35, 70, 40, 20.0) {
        let run = |order| {
            let device = Emulator { shader: &shader, order, allocated: Cell::new(0) };
            case.run(&device, 1.0).unwrap()
        };
        let first = run(0);
        for order in 1..4 {
            assert_eq!(run(order), first, "{:?}, order {order}", case.form);
        }
    }
}

#[test]
fn memory_is_linear_in_the_number_of_rows() {
    let Some(shader) = shader() else { return };
    let numbers = |n: usize| {
        let device = Emulator { shader: &shader, order: 0, allocated: Cell::new(0) };
        let case = Case { form: Form::NtXent, matrices: vec![random(n, 3, 1)], scale: 5.0 };
        case.run(&device, 1.0).unwrap();
        device.allocated.get()
    };
    let (some, more) = (numbers(256), numbers(512));
    assert!(more <= 2 * some, "{more} numbers for 512 rows, {some} for 256");
}

#[test]
fn a_broken_shader_is_found() {
    if shader().is_none() {
        return;
    }
    let barriers =
        (0..SOURCE.matches("threadgroup_barrier(").count()).map(|i| ("threadgroup_barrier(", i, "(void)("));
    let mutations: Vec<_> = MUTATIONS.into_iter().chain(barriers).collect();
    let unseen: Vec<_> = mutations
        .into_par_iter()
        .enumerate()
        .filter_map(|(number, mutation)| {
            let (words, place, by) = mutation;
            let (at, _) = SOURCE.match_indices(words).nth(place).unwrap_or_else(|| panic!("no {words:?}"));
            let source = [&SOURCE[..at], by, &SOURCE[at + words.len()..]].concat();
            let shader = Shader::compile(&source, &format!("mutation_{number}"))?;
            match broken(&shader) {
                Ok(()) => Some(mutation),
                Err(why) => {
                    println!("{mutation:?} is found: {why}");
                    None
                }
            }
        })
        .collect();
    assert!(unseen.is_empty(), "not found: {unseen:#?}");
}

/// A part of the tests above.
fn broken(shader: &Shader) -> Result<(), String> {
    small_losses(shader)?;
    for order in [0, 1] {
        for case in forms(5, 3, 4, 6.0).into_iter().chain(forms(35, 70, 40, 6.0)) {
            case.check(shader, order)?;
        }
    }
    let many = Case { form: Form::NtXent, matrices: vec![random(130, 3, 1)], scale: 6.0 };
    ends().iter().rev().take(12).chain([&many]).try_for_each(|case| case.check(shader, 0))
}

/// What breaks the shader: the words that stand there, which of their places (from 0), and what replaces them.
const MUTATIONS: [(&str, usize, &str); 27] = [
    // Masks.
    ("k != role.excluded", 0, "true"),
    ("k != role.excluded", 1, "true"),
    ("|| k == role.excluded", 0, ""),
    ("k < sizes.m &&", 0, ""),
    ("k < sizes.m &&", 1, ""),
    ("i < sizes.n && k < sizes.m", 0, "i < sizes.n && k + 1 < sizes.m"),
    // Places.
    ("b + ulong(column) * sizes.depth", 0, "b"),
    ("const uint k = column + q;", 2, "const uint k = row + q;"),
    ("depth, ulong2(0, 0), true);", 0, "depth, ulong2(0, 0), false);"),
    ("if (column > 0)", 0, "if (column > 64)"),
    ("16 * (simdgroup_index / 2)", 1, "16 * (simdgroup_index % 2)"),
    ("c = 32 * (simdgroup_index % 2)", 0, "c = 32"),
    // Terms.
    ("+ derivative(b_roles, b_softmax, k, i, a_roles[i].label, s)", 0, ""),
    ("? exp_minus_one(x) :", 0, "? exp(x) :"),
    ("exp(x) - role.share", 0, "exp(x) - 1.0f"),
    ("total *= exp(before - shift);", 0, ""),
    ("total.x = 1.0f;", 0, ""),
    ("a.x, ushort(2)", 0, "a.x, ushort(1)"),
    ("da[at] += w * b[at];", 0, ""),
    // Lengths.
    ("- from[c] * component", 0, ""),
    ("simd_sum(sum) / scale", 0, "simd_sum(sum)"),
    ("squares == 0.0f ? 0.0f :", 0, ""),
    ("from[c] / divisor;", 0, "from[c];"),
    // Compensation of the rounding, and the last step of a sum over threads.
    ("+ total.y / total.x", 0, ""),
    ("t < THREADS", 0, "t < THREADS - 1"),
    ("* grad[0];", 0, ";"),
    ("(a.y + b.y) + dropped", 0, "(a.y + b.y)"),
];
