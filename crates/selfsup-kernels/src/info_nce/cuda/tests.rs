//! The kernels and their launches, run on the CPU, against the CPU's operations in f64, whose own oracle is written from
//! the formulas.

use super::emulator::Emulator;
use super::forms::{Form, Inputs};
use super::launch::{Address, Argument, Gpu, Launch};
use super::tiles::{Matrix, Passes, Precision, shared_bytes};
use crate::info_nce::positives::Positives;
use crate::testing::{random_f32, values};
use crate::{Result, info_nce as cpu};
use candle_core::{DType, Device, Tensor, Var};

/// A loss, and its gradients.
struct Results {
    loss: f64,
    gradients: Vec<Option<Vec<f64>>>,
}

struct Case<'a> {
    form: Form,
    matrices: &'a [Tensor],
    scale: f64,
    precision: Precision,
    slice_tiles: usize,
    seed: u32,
}

impl<'a> Case<'a> {
    fn new(form: Form, matrices: &'a [Tensor], temperature: f64) -> Self {
        let (precision, slice_tiles) = (Precision::Split, 8);
        Self { form, matrices, scale: 1.0 / temperature, precision, slice_tiles, seed: 1 }
    }

    /// By the kernels. None without a C++ compiler.
    fn run(&self) -> Option<Results> {
        let gpu = Emulator::new(self.seed)?;
        assert_eq!(self.form.matrices(), self.matrices.len());
        let bits = |t: &Tensor| values(t).into_iter().map(|x| (x as f32).to_bits()).collect::<Vec<_>>();
        let memory: Vec<_> = self.matrices.iter().map(|m| gpu.upload(&bits(m)).unwrap()).collect();
        let d = self.matrices[0].dim(1).unwrap();
        let matrix = |i: usize| Matrix {
            address: Address(memory[i].address()),
            rows: self.matrices[i].dim(0).unwrap(),
        };
        let mut passes = Passes::new(&gpu, d, self.precision, self.scale).unwrap();
        passes.slice_tiles = self.slice_tiles;
        let inputs = Inputs { matrices: (0..memory.len()).map(matrix).collect(), wanted: [true; 3] };
        let (loss, saved) = self.form.forward(&passes, &inputs).unwrap();
        let grad = gpu.upload(&[1f32.to_bits()]).unwrap();
        let gradients = self.form.backward(&passes, &inputs, &saved, Address(grad.address())).unwrap();
        assert_eq!(gpu.bank_conflicts(), 0);
        let numbers = |i: usize, gradient: &super::emulator::Memory| {
            let count = self.matrices.get(i).map_or(1, Tensor::elem_count);
            gradient.numbers(count).into_iter().map(f64::from).collect()
        };
        Some(Results {
            loss: loss.numbers(1)[0].into(),
            gradients: gradients.iter().enumerate().map(|(i, g)| g.as_ref().map(|g| numbers(i, g))).collect(),
        })
    }

    /// By the CPU, in f64.
    fn expected(&self) -> Results {
        let vars: Vec<Var> = self
            .matrices
            .iter()
            .map(|m| Var::from_tensor(&m.to_dtype(DType::F64).unwrap()).unwrap())
            .collect();
        let scale = Var::new(self.scale, &Device::Cpu).unwrap();
        let temperature = 1.0 / self.scale;
        let loss: Result<Tensor> = match &self.form {
            Form::SelfContrast(Positives::OtherView) => cpu::nt_xent(&vars[0], temperature),
            Form::SelfContrast(Positives::Listed(_)) => unreachable!("lists have no kernel"),
            Form::SelfContrast(Positives::SameLabel(labels)) => cpu::sup_con(&vars[0], labels, temperature),
            Form::Pairs { positives, excluded } => {
                cpu::info_nce(&vars[0], &vars[1], positives, excluded.as_deref(), temperature)
            }
            Form::QueryKey => cpu::info_nce_queue(&vars[0], &vars[1], &vars[2], temperature),
            Form::TwoTower => cpu::two_tower(&vars[0], &vars[1], &scale),
        };
        let loss = loss.unwrap();
        let grads = loss.backward().unwrap();
        let mut gradients: Vec<_> = vars.iter().map(|v| grads.get(v).map(values)).collect();
        gradients.resize(3, None);
        if matches!(self.form, Form::TwoTower) {
            gradients[2] = grads.get(&scale).map(values);
        }
        Results { loss: values(&loss)[0], gradients }
    }

    /// What the cosines' rounding allows: |Δcos| ≤ Σ_c |v_c u_c| times the rounding of v and u and of what a product
    /// leaves out, which is at most `rounding`; exp S and so the gradient's terms are known to `rounding`/τ.
    fn tolerance(&self) -> f64 {
        let rounding: f64 = match self.precision {
            Precision::Split => 3.0 / 2f64.powi(18),
            Precision::Bf16 => 2.0 / 2f64.powi(9),
        };
        rounding * (1.0 + self.scale)
    }

    #[track_caller]
    fn check(&self) {
        self.check_to(self.tolerance());
    }

    /// A gradient is compared relative to the terms that it is a sum of, w/(τ‖z_i‖) for row i: where they cancel
    /// nothing but their rounding is left. The scale's is relative to the cosines, and that is 1.
    #[track_caller]
    fn check_to(&self, tolerance: f64) {
        let Some(got) = self.run() else { return };
        let expected = self.expected();
        let sizes: Vec<_> = self.matrices.iter().map(|m| m.dims2().unwrap()).collect();
        let what = format!("{sizes:?}, 1/τ = {}, {:?}", self.scale, self.precision);
        let error = (got.loss - expected.loss).abs() / (1.0 + expected.loss.abs());
        assert!(error <= tolerance, "{what}: loss {}, expected {}", got.loss, expected.loss);
        for (input, (got, expected)) in got.gradients.iter().zip(&expected.gradients).enumerate() {
            let (Some(got), Some(expected)) = (got, expected) else {
                assert_eq!(got.is_some(), expected.is_some(), "{what}: gradient {input}");
                continue;
            };
            assert_eq!(got.len(), expected.len());
            let (d, n) = (sizes[0].1, sizes[0].0 as f64);
            let norms: Vec<f64> = self.matrices.get(input).map_or(vec![1.0], |m| {
                values(m).chunks(d).map(|row| row.iter().map(|x| x * x).sum::<f64>().sqrt()).collect()
            });
            for (i, (g, e)) in got.iter().zip(expected).enumerate() {
                let size = if input < sizes.len() { n * norms[i / d] / self.scale } else { 1.0 };
                let error = (g - e).abs() * size / (1.0 + e.abs() * size);
                assert!(
                    error <= tolerance || g == e,
                    "{what}: gradient {input}, number {i}: {g}, expected {e}, error {error:e}"
                );
            }
        }
    }
}

const TEMPERATURES: [f64; 3] = [1.0, 0.1, 0.02];

#[test]
fn nt_xent_of_any_size() {
    for (n, d) in [(2, 1), (6, 3), (18, 16), (130, 33), (258, 64), (70, 65), (34, 128), (20, 200)] {
        for temperature in TEMPERATURES {
            let z = [random_f32((n, d), (n * d) as u64)];
            for precision in [Precision::Split, Precision::Bf16] {
                let case = Case::new(Form::SelfContrast(Positives::OtherView), &z, temperature);
                Case { precision, slice_tiles: 1 + n % 3, ..case }.check();
            }
        }
    }
}

#[test]
fn unit_vectors_that_bf16_holds_lose_nothing_in_the_forward_pass() {
    // ±1 in 4ᵏ columns has a norm of 2ᵏ.
    for (n, d) in [(6, 16), (150, 64), (70, 256)] {
        for temperature in TEMPERATURES {
            let signs = random_f32((n, d), 3).sign().unwrap();
            let z = [signs];
            for precision in [Precision::Split, Precision::Bf16] {
                let case = Case::new(Form::SelfContrast(Positives::OtherView), &z, temperature);
                let case = Case { precision, slice_tiles: 1, ..case };
                let Some(got) = case.run() else { return };
                let expected = case.expected();
                // f32's rounding of logits up to 1/τ.
                let tolerance = 3e-7 * (1.0 + case.scale);
                assert!((got.loss - expected.loss).abs() < tolerance, "{}, {}", got.loss, expected.loss);
                // The gradient's weights are rounded to 9 or 17 bits, their sum being at most 2.
                case.check_to(tolerance + 2.0 * if precision == Precision::Bf16 { 2e-3 } else { 8e-6 });
            }
        }
    }
}

#[test]
fn labels_of_any_size() {
    let cycle = |n: u32, labels: u32| (0..n).map(|i| i * i % labels).collect::<Vec<_>>();
    for labels in [vec![7], vec![0, 1], vec![5; 4], vec![0, 0, 0, 1, 1, 9, 4_000_000_000], cycle(140, 11)] {
        for temperature in TEMPERATURES {
            let z = [random_f32((labels.len(), 40), 8)];
            for precision in [Precision::Split, Precision::Bf16] {
                let positives = Positives::SameLabel(labels.clone());
                let case = Case::new(Form::SelfContrast(positives), &z, temperature);
                Case { precision, slice_tiles: 1, ..case }.check();
            }
        }
    }
}

/// Positives and excluded columns, several anchors to a candidate.
fn lists(n: u32, m: u32) -> (Vec<u32>, Vec<u32>) {
    let positives: Vec<u32> = (0..n).map(|i| i * 7 % m.min(50)).collect();
    let excluded = positives.iter().enumerate().map(|(i, p)| (p + 1 + i as u32 % (m - 1)) % m).collect();
    (positives, excluded)
}

#[test]
fn anchors_and_candidates_of_any_size() {
    for (n, m, d) in [(1, 2, 5), (3, 2, 1), (1, 140, 30), (140, 3, 64), (65, 64, 20), (150, 129, 100)] {
        for temperature in TEMPERATURES {
            let matrices = [random_f32((n, d), 1), random_f32((m, d), 2)];
            let (positives, excluded) = lists(n as u32, m as u32);
            for excluded in [None, Some(excluded)] {
                for precision in [Precision::Split, Precision::Bf16] {
                    let form = Form::Pairs { positives: positives.clone(), excluded: excluded.clone() };
                    let case = Case::new(form, &matrices, temperature);
                    Case { precision, slice_tiles: 1, ..case }.check();
                }
            }
        }
    }
}

#[test]
fn a_single_candidate_leaves_no_choice() {
    let matrices = [random_f32((3, 5), 1), random_f32((1, 5), 2)];
    for temperature in TEMPERATURES {
        Case::new(Form::Pairs { positives: vec![0; 3], excluded: None }, &matrices, temperature).check();
    }
}

#[test]
fn queries_and_a_queue_of_any_size() {
    for (n, m, d) in [(1, 1, 1), (3, 130, 40), (140, 5, 64), (66, 65, 150)] {
        for temperature in TEMPERATURES {
            let matrices = [random_f32((n, d), 1), random_f32((n, d), 2), random_f32((m, d), 3)];
            for precision in [Precision::Split, Precision::Bf16] {
                let case = Case::new(Form::QueryKey, &matrices, temperature);
                Case { precision, slice_tiles: 1, ..case }.check();
            }
        }
    }
}

#[test]
fn two_towers_of_any_size() {
    for (n, d) in [(1, 3), (2, 64), (67, 20), (130, 70)] {
        for temperature in TEMPERATURES {
            let matrices = [random_f32((n, d), 1), random_f32((n, d), 2)];
            for precision in [Precision::Split, Precision::Bf16] {
                let case = Case::new(Form::TwoTower, &matrices, temperature);
                Case { precision, slice_tiles: 1, ..case }.check();
            }
        }
    }
}

#[test]
fn rows_of_zeros_are_defined_and_stay() {
    for temperature in TEMPERATURES {
        let mut numbers = values(&random_f32((70, 6), 3));
        numbers[6..12].fill(0.0);
        numbers[390..396].fill(0.0);
        let z = Tensor::from_vec(numbers, (70, 6), &Device::Cpu).unwrap().to_dtype(DType::F32).unwrap();
        for z in [z.clone(), z.zeros_like().unwrap()] {
            let matrices = [z];
            let case = Case::new(Form::SelfContrast(Positives::OtherView), &matrices, temperature);
            case.check();
            let Some(got) = case.run() else { return };
            assert!(got.gradients[0].as_ref().unwrap()[6..12].iter().all(|g| *g == 0.0));
        }
    }
}

#[test]
fn vectors_of_any_length_and_logits_that_overflow_exp() {
    for (temperature, length) in [(1e-3, 1.0), (0.5, 1e15), (0.5, 1e-15), (0.02, 1e-30)] {
        let z = [(random_f32((20, 3), 7) * length).unwrap()];
        Case::new(Form::SelfContrast(Positives::OtherView), &z, temperature).check();
    }
    let z = [random_f32((20, 3), 7)];
    let Some(got) = Case::new(Form::SelfContrast(Positives::OtherView), &z, 1e-6).run() else { return };
    let gradient = got.gradients[0].as_ref().unwrap();
    assert!(got.loss.is_finite() && gradient.iter().all(|g| g.is_finite()));
}

#[test]
fn no_number_comes_out_where_none_went_in() {
    for temperature in TEMPERATURES {
        for bad in [f64::NAN, f64::INFINITY] {
            for n in [2, 8, 130] {
                let mut numbers = values(&random_f32((n, 3), 3));
                numbers[4] = bad;
                let z = [Tensor::from_vec(numbers, (n, 3), &Device::Cpu).unwrap()];
                let case = Case::new(Form::SelfContrast(Positives::OtherView), &z, temperature);
                let Some(got) = case.run() else { return };
                assert!(got.loss.is_nan(), "{bad}, {n} rows, temperature {temperature}: {}", got.loss);
            }
        }
    }
}

#[test]
fn a_slice_of_nothing_but_nan_is_not_passed_over() {
    // The last candidate has a slice of its own, and is nobody's positive.
    let mut numbers = values(&random_f32((65, 3), 2));
    numbers[64 * 3] = f64::NAN;
    let matrices = [random_f32((4, 3), 1), Tensor::from_vec(numbers, (65, 3), &Device::Cpu).unwrap()];
    for temperature in TEMPERATURES {
        let form = Form::Pairs { positives: vec![0, 1, 2, 3], excluded: None };
        let case = Case::new(form, &matrices, temperature);
        let Some(got) = (Case { slice_tiles: 1, ..case }).run() else { return };
        assert!(got.loss.is_nan(), "temperature {temperature}: {}", got.loss);
    }
}

#[test]
fn the_same_bits_in_any_order_of_blocks_and_warps() {
    let matrices = [random_f32((150, 40), 1), random_f32((150, 40), 2)];
    for temperature in TEMPERATURES {
        let run = |seed| {
            let case = Case::new(Form::TwoTower, &matrices, temperature);
            Case { seed, slice_tiles: 1, ..case }.run()
        };
        let (Some(one), Some(two)) = (run(1), run(2)) else { return };
        assert_eq!(one.loss.to_bits(), two.loss.to_bits());
        assert_eq!(one.gradients, two.gradients);
    }
}

#[test]
fn a_launch_that_does_not_fit_its_kernel_is_refused() {
    let Some(gpu) = Emulator::new(1) else { return };
    let memory = gpu.upload(&[0; 64]).unwrap();
    let launch = |kernel| Launch { kernel, grid: [1, 1], threads: 32, shared: 0 };
    let error = gpu.launch(launch("total"), &mut [Argument::In(&memory)]).unwrap_err().to_string();
    assert!(error.contains("total takes 4 arguments"), "{error}");
    let error = gpu.launch(launch("none"), &mut [Argument::In(&memory)]).unwrap_err().to_string();
    assert!(error.contains("no kernel none"), "{error}");
}

#[test]
fn every_width_fits_the_shared_memory_of_hopper() {
    for d in 1..=256 {
        for precision in [Precision::Split, Precision::Bf16] {
            assert!(shared_bytes(d, precision).unwrap() <= 227 * 1024, "{d}, {precision:?}");
        }
    }
    assert!(shared_bytes(257, Precision::Bf16).is_none());
}
