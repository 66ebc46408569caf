//! `info_nce.metal`, compiled as C++ and launched by the crate's own launch code, against the formula in f64. No GPU
//! is needed, and none is tested: neither Metal's compiler nor an Apple GPU sees the shader here.
#![cfg(unix)]

mod case;
#[path = "../../src/info_nce/launch.rs"]
mod launch;
mod oracle;
#[path = "../../src/info_nce/roles.rs"]
mod roles;
mod shader;

use case::{Case, Form, ends, forms, random};
use oracle::{Matrix, oracle};
use rayon::prelude::*;
use shader::{Emulator, SOURCE, Shader};
use std::cell::Cell;

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
