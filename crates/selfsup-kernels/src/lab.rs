//! sRGB to and from CIE L*a*b*: lightness L in 0…100, a from green to red, b from blue to yellow.
//!
//! Bytes are linearised as IEC 61966-2-1 has it, mixed to X, Y, Z by the primaries of ITU-R BT.709 and the white point D65
//! (x .3127, y .3290), and, with f(t) = ∛t for t > (6/29)³ and t·(29/6)²/3 + 4/29 below (CIE 15, 8.2.1),
//!
//! ```text
//! L = 116·f(Y/Yₙ) − 16      a = 500·(f(X/Xₙ) − f(Y/Yₙ))      b = 200·(f(Y/Yₙ) − f(Z/Zₙ))
//! ```
//!
//! The mixtures' weights add up to 1 for each of X/Xₙ, Y/Yₙ, Z/Zₙ, so that gray has a = b = 0 but for rounding. There are no gradients: one
//! side is bytes. On a GPU the work is done on the host.

use crate::{Result, check};
use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;
use std::sync::LazyLock;

const TO_LAB: &str = "rgb_to_lab";
const TO_RGB: &str = "lab_to_rgb";
const CHANNELS: usize = 3;
/// Pixels in a task.
const TASK: usize = 4096;
/// Primaries red, green, blue and white: chromaticities x, y.
const PRIMARIES: [[f64; 2]; 3] = [[0.64, 0.33], [0.30, 0.60], [0.15, 0.06]];
const WHITE: [f64; 2] = [0.3127, 0.3290];
/// Where f goes from a line to the cube root.
const DELTA: f64 = 6.0 / 29.0;

/// Bytes `[.., 3]` → L, a, b of the same shape, f32.
///
/// # Errors
/// Another dtype, a last dimension that is not 3.
pub fn rgb_to_lab(images: &Tensor) -> Result<Tensor> {
    if images.dtype() != DType::U8 {
        return Err(check::dtype_error(TO_LAB, "images of U8", images.dtype()));
    }
    rows(TO_LAB, images)?;
    let bytes: Vec<u8> = images.to_device(&Device::Cpu)?.flatten_all()?.to_vec1()?;
    let mut lab = vec![0f32; bytes.len()];
    lab.par_chunks_mut(CHANNELS * TASK).zip(bytes.par_chunks(CHANNELS * TASK)).for_each(|(lab, rgb)| {
        for (lab, rgb) in lab.chunks_exact_mut(CHANNELS).zip(rgb.chunks_exact(CHANNELS)) {
            lab.copy_from_slice(&pixel_to_lab([rgb[0], rgb[1], rgb[2]]));
        }
    });
    Ok(Tensor::from_vec(lab, images.dims(), images.device())?)
}

/// L, a, b `[.., 3]`, f32 → the nearest bytes of the same shape. Colours that sRGB does not have are cut off channel by channel,
/// and NaN becomes 0.
///
/// # Errors
/// Another dtype, a last dimension that is not 3.
pub fn lab_to_rgb(lab: &Tensor) -> Result<Tensor> {
    if lab.dtype() != DType::F32 {
        return Err(check::dtype_error(TO_RGB, "lab of F32", lab.dtype()));
    }
    rows(TO_RGB, lab)?;
    let values: Vec<f32> = lab.to_device(&Device::Cpu)?.flatten_all()?.to_vec1()?;
    let mut rgb = vec![0u8; values.len()];
    rgb.par_chunks_mut(CHANNELS * TASK).zip(values.par_chunks(CHANNELS * TASK)).for_each(|(rgb, lab)| {
        for (rgb, lab) in rgb.chunks_exact_mut(CHANNELS).zip(lab.chunks_exact(CHANNELS)) {
            rgb.copy_from_slice(&lab_to_pixel([lab[0], lab[1], lab[2]]));
        }
    });
    Ok(Tensor::from_vec(rgb, lab.dims(), lab.device())?)
}

fn rows(op: &'static str, x: &Tensor) -> Result<()> {
    if x.dims().last() == Some(&CHANNELS) { Ok(()) } else { Err(check::shape_error(op, "[.., 3]", x)) }
}

struct Constants {
    /// Of each byte.
    linear: [f32; 256],
    /// Linear red, green, blue to X/Xₙ, Y/Yₙ, Z/Zₙ.
    mix: [[f32; 3]; 3],
    unmix: [[f32; 3]; 3],
}

static CONSTANTS: LazyLock<Constants> = LazyLock::new(|| {
    let (mix, unmix) = mixtures();
    Constants {
        linear: std::array::from_fn(|byte| linearised(byte as f64 / 255.0) as f32),
        mix: mix.map(|row| row.map(|v| v as f32)),
        unmix: unmix.map(|row| row.map(|v| v as f32)),
    }
});

fn linearised(v: f64) -> f64 {
    if v <= 0.04045 { v / 12.92 } else { ((v + 0.055) / 1.055).powf(2.4) }
}

/// Both ways. The columns of the primaries are scaled so that equal parts give white, then each row by white's.
fn mixtures() -> ([[f64; 3]; 3], [[f64; 3]; 3]) {
    let xyz = |[x, y]: [f64; 2]| [x / y, 1.0, (1.0 - x - y) / y];
    let white = xyz(WHITE);
    let columns = PRIMARIES.map(xyz);
    let primaries: [[f64; 3]; 3] = std::array::from_fn(|row| columns.map(|column| column[row]));
    let scale = times(&inverse(&primaries), white);
    let mix = std::array::from_fn(|row| std::array::from_fn(|c| primaries[row][c] * scale[c] / white[row]));
    (mix, inverse(&mix))
}

fn times(m: &[[f64; 3]; 3], v: [f64; 3]) -> [f64; 3] {
    m.map(|row| row.iter().zip(v).map(|(m, v)| m * v).sum())
}

/// By cofactors.
fn inverse(m: &[[f64; 3]; 3]) -> [[f64; 3]; 3] {
    let minor = |row: usize, column: usize| {
        let at = |i: usize, j: usize| m[(row + i) % 3][(column + j) % 3];
        at(1, 1) * at(2, 2) - at(1, 2) * at(2, 1)
    };
    let determinant: f64 = (0..3).map(|column| m[0][column] * minor(0, column)).sum();
    std::array::from_fn(|row| std::array::from_fn(|column| minor(column, row) / determinant))
}

fn pixel_to_lab(rgb: [u8; 3]) -> [f32; 3] {
    const SLOPE: f32 = (1.0 / (3.0 * DELTA * DELTA)) as f32;
    const EDGE: f32 = (DELTA * DELTA * DELTA) as f32;
    let Constants { linear, mix, .. } = &*CONSTANTS;
    let [r, g, b] = rgb.map(|byte| linear[byte as usize]);
    let f = |row: &[f32; 3]| {
        let t = row[0] * r + row[1] * g + row[2] * b;
        if t > EDGE { t.cbrt() } else { t * SLOPE + 4.0 / 29.0 }
    };
    let (x, y, z) = (f(&mix[0]), f(&mix[1]), f(&mix[2]));
    [116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)]
}

fn lab_to_pixel([l, a, b]: [f32; 3]) -> [u8; 3] {
    let y = (l + 16.0) / 116.0;
    let inverse = |f: f32| {
        const D: f32 = DELTA as f32;
        if f > D { f * f * f } else { 3.0 * D * D * (f - 4.0 / 29.0) }
    };
    let xyz = [y + a / 500.0, y, y - b / 200.0].map(inverse);
    CONSTANTS.unmix.map(|row| {
        let v = row[0] * xyz[0] + row[1] * xyz[1] + row[2] * xyz[2];
        let v = if v <= 0.003_130_8 { 12.92 * v } else { 1.055 * v.powf(1.0 / 2.4) - 0.055 };
        (255.0 * v).round().clamp(0.0, 255.0) as u8 // NaN becomes 0
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::values;

    fn lab(rgb: [u8; 3]) -> Vec<f64> {
        values(&rgb_to_lab(&Tensor::new(&rgb, &Device::Cpu).unwrap()).unwrap())
    }

    /// The formula in f64.
    fn oracle(rgb: [u8; 3]) -> [f64; 3] {
        let xyz = times(&mixtures().0, rgb.map(|v| linearised(f64::from(v) / 255.0)));
        let [x, y, z] =
            xyz.map(|t| if t > DELTA.powi(3) { t.cbrt() } else { t / (3.0 * DELTA * DELTA) + 4.0 / 29.0 });
        [116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)]
    }

    /// Lindbloom's calculator and scikit-image say so, to the digits given.
    #[test]
    fn known_colours() {
        let known = [
            ([255, 255, 255], [100.0, 0.0, 0.0]),
            ([0, 0, 0], [0.0, 0.0, 0.0]),
            ([255, 0, 0], [53.24, 80.09, 67.20]),
            ([0, 255, 0], [87.73, -86.18, 83.18]),
            ([0, 0, 255], [32.30, 79.19, -107.86]),
        ];
        for (rgb, expected) in known {
            for (got, expected) in lab(rgb).iter().zip(expected) {
                assert!((got - expected).abs() < 0.02, "{rgb:?}: {got}, expected {expected}");
            }
        }
    }

    #[test]
    fn f32_is_near_the_formula_and_gray_is_gray() {
        let mut worst = 0f64;
        for i in 0..40_000u32 {
            let rgb = (i.wrapping_mul(2_654_435_761) >> 8).to_le_bytes();
            let rgb = [rgb[0], rgb[1], rgb[2]];
            let (got, expected) = (lab(rgb), oracle(rgb));
            worst = got.iter().zip(expected).fold(worst, |w, (g, e)| w.max((g - e).abs()));
        }
        assert!(worst < 1e-4, "{worst}");
        for v in 0..=255 {
            let gray = lab([v; 3]);
            assert!(gray[1].abs() < 1e-4 && gray[2].abs() < 1e-4, "{gray:?}");
        }
    }

    #[test]
    fn every_colour_comes_back() {
        // A seventeenth of all, every level of every channel among them.
        let bytes: Vec<u8> =
            (0..1u32 << 24).step_by(17).flat_map(|i| i.to_le_bytes().into_iter().take(3)).collect();
        let n = bytes.len() / 3;
        let rgb = Tensor::from_vec(bytes.clone(), (n, 3), &Device::Cpu).unwrap();
        let back = lab_to_rgb(&rgb_to_lab(&rgb).unwrap()).unwrap();
        let back: Vec<u8> = back.flatten_all().unwrap().to_vec1().unwrap();
        let lost = bytes.iter().zip(&back).position(|(a, b)| a != b);
        assert_eq!(lost, None);
    }

    #[test]
    fn colours_out_of_reach_are_cut_off() {
        let x = Tensor::new(
            &[[50f32, 300.0, 0.0], [200.0, 0.0, 0.0], [-5.0, 0.0, 0.0], [f32::NAN; 3]],
            &Device::Cpu,
        );
        let rgb = lab_to_rgb(&x.unwrap()).unwrap().to_vec2::<u8>().unwrap();
        assert_eq!(
            (rgb[0][0], rgb[1].clone(), rgb[2].clone(), rgb[3].clone()),
            (255, vec![255; 3], vec![0; 3], vec![0; 3])
        );
    }

    #[test]
    fn what_does_not_fit_is_an_error_that_says_so() {
        let f = Tensor::zeros((2, 3), DType::F32, &Device::Cpu).unwrap();
        let u = Tensor::zeros((2, 4), DType::U8, &Device::Cpu).unwrap();
        assert!(rgb_to_lab(&f).unwrap_err().to_string().contains("U8"));
        assert!(rgb_to_lab(&u).unwrap_err().to_string().contains("[.., 3]"));
        assert!(lab_to_rgb(&u).unwrap_err().to_string().contains("F32"));
        assert!(lab_to_rgb(&f.narrow(1, 0, 2).unwrap()).unwrap_err().to_string().contains("[.., 3]"));
    }
}
