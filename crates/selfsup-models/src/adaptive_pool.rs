//! Average pooling to a grid of a given size, whatever the map's: `torch.nn.AdaptiveAvgPool2d`.
//!
//! Letters: n images, h rows, w columns, c channels, g the grid's side.

use crate::Result;
use candle_core::{DType, Device, Tensor};
use std::ops::Range;

/// x `[n, h, w, c]` → `[n, g, g, c]`, at (i, j) the mean over the rows ⌊i·h/g⌋ … ⌈(i + 1)·h/g⌉ − 1 and the columns alike: cells that
/// overlap where g does not divide h, and repeat pixels where g > h. At h = w = g nothing is done. Gradient: x.
pub(crate) fn adaptive_avg_pool2d(x: &Tensor, g: usize) -> Result<Tensor> {
    let (n, h, w, c) = x.dims4()?;
    let shares = |size| shares(size, g, x.dtype(), x.device());
    // A cell's mean is a product of the two sides' shares: rows, then columns.
    let rows = match h == g {
        true => x.clone(),
        false => shares(h)?.broadcast_matmul(&x.reshape((n, h, w * c))?)?,
    };
    let cells = match w == g {
        true => rows,
        false => shares(w)?.broadcast_matmul(&rows.reshape((n * g, w, c))?)?,
    };
    Ok(cells.reshape((n, g, g, c))?)
}

/// Of `size` rows, those of the grid's row i.
fn window(i: usize, size: usize, g: usize) -> Range<usize> {
    i * size / g..((i + 1) * size).div_ceil(g)
}

/// `[g, size]`: what each of the grid's rows takes of each row.
fn shares(size: usize, g: usize, dtype: DType, device: &Device) -> Result<Tensor> {
    let mut shares = vec![0f64; g * size];
    for (i, row) in shares.chunks_exact_mut(size).enumerate() {
        let window = window(i, size, g);
        let share = 1.0 / window.len() as f64;
        row[window].fill(share);
    }
    Ok(Tensor::from_vec(shares, (g, size), device)?.to_dtype(dtype)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{D, Var};

    /// torch.nn.functional.adaptive_avg_pool1d of 0, 1, 2, …, PyTorch 2.11.
    #[test]
    fn cells_are_pytorch_s() {
        for (size, g, expected) in [
            (2, 7, vec![0.0, 0.0, 0.0, 0.5, 1.0, 1.0, 1.0]),
            (4, 6, vec![0.0, 0.5, 1.0, 2.0, 2.5, 3.0]),
            (5, 3, vec![0.5, 2.0, 3.5]),
            (8, 6, vec![0.5, 1.5, 2.5, 4.5, 5.5, 6.5]),
            (12, 6, vec![0.5, 2.5, 4.5, 6.5, 8.5, 10.5]),
            (1, 3, vec![0.0, 0.0, 0.0]),
        ] {
            let line = Tensor::arange(0f64, size as f64, &Device::Cpu).unwrap();
            for (side, dims) in [(1, (1, size, g, 1)), (2, (1, g, size, 1))] {
                let shape = if side == 1 { (1, size, 1, 1) } else { (1, 1, size, 1) };
                let x = line.reshape(shape).unwrap().broadcast_as(dims).unwrap().contiguous().unwrap();
                let y = adaptive_avg_pool2d(&x, g).unwrap();
                assert_eq!(y.dims(), [1, g, g, 1]);
                let other = y.mean(3 - side).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
                assert!(other.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-12), "{size}: {other:?}");
            }
        }
    }

    /// Every number against the formula's, channel by channel; and the gradient, which goes back by the same shares.
    #[test]
    fn a_cell_is_its_window_s_mean_and_its_gradient_goes_back_in_shares() {
        let (n, h, w, c, g) = (2, 7, 4, 3, 5);
        let values: Vec<f64> = (0..n * h * w * c).map(|i| ((i * 37) % 101) as f64).collect();
        let x = Var::from_tensor(&Tensor::from_vec(values, (n, h, w, c), &Device::Cpu).unwrap()).unwrap();
        let y = adaptive_avg_pool2d(&x, g).unwrap();
        let weight = Tensor::arange(0f64, (n * g * g * c) as f64, &Device::Cpu).unwrap();
        let weight = weight.reshape((n, g, g, c)).unwrap();
        let grads = (&y * &weight).unwrap().sum_all().unwrap().backward().unwrap();
        let mut expected = Tensor::zeros((n, h, w, c), DType::F64, &Device::Cpu).unwrap();
        for i in 0..g {
            for j in 0..g {
                let (rows, columns) = (window(i, h, g), window(j, w, g));
                let cut = |t: &Tensor| {
                    let t = t.narrow(1, rows.start, rows.len()).unwrap();
                    t.narrow(2, columns.start, columns.len()).unwrap()
                };
                let mean = cut(&x).mean_keepdim(1).unwrap().mean_keepdim(2).unwrap();
                let cell = y.narrow(1, i, 1).unwrap().narrow(2, j, 1).unwrap();
                let off = (cell - mean).unwrap().abs().unwrap().flatten_all().unwrap().max(D::Minus1);
                assert!(off.unwrap().to_scalar::<f64>().unwrap() < 1e-12);
                let share = (weight.narrow(1, i, 1).unwrap().narrow(2, j, 1).unwrap()
                    / (rows.len() * columns.len()) as f64)
                    .unwrap();
                let share = share.broadcast_as((n, rows.len(), columns.len(), c)).unwrap();
                let (below, right) = (h - rows.end, w - columns.end);
                let share = share.pad_with_zeros(1, rows.start, below).unwrap();
                expected = (expected + share.pad_with_zeros(2, columns.start, right).unwrap()).unwrap();
            }
        }
        let off = (grads.get(&x).unwrap() - expected).unwrap().abs().unwrap().flatten_all().unwrap();
        assert!(off.max(D::Minus1).unwrap().to_scalar::<f64>().unwrap() < 1e-9);
    }
}
