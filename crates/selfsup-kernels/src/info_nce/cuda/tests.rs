//! The kernels and their launches, run on the CPU, against the CPU's operations in f64, whose own oracle is written from
//! the formulas.

use super::emulator::Emulator;
use super::forms::{Form, Inputs};
use super::launch::{Address, Gpu};
use super::tiles::{Matrix, Passes, Precision};
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
