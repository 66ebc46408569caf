//! Pooling as a gather of windows in candle's operations: the oracle, and what other devices and dtypes run.
//! candle's own `max_pool2d` has a wrong gradient.
//!
//! A window with several NaN sends the gradient to its first one here.

use super::Geometry;
use crate::Result;
use candle_core::Tensor;

pub(super) fn max_pool2d(x: &Tensor, g: &Geometry) -> Result<Tensor> {
    let taps = g.kernel * g.kernel;
    let mut places = Vec::with_capacity(g.out_h * g.out_w * taps);
    for i in 0..g.out_h {
        for j in 0..g.out_w {
            let first = (g.window(i, g.h).start * g.w + g.window(j, g.w).start) as u32;
            let at = places.len();
            for row in g.window(i, g.h) {
                places.extend(g.window(j, g.w).map(|column| (row * g.w + column) as u32));
            }
            // Windows at the border are filled up with their first pixel: it changes no maximum, and among
            // equals the first wins.
            places.resize(at + taps, first);
        }
    }
    let places = Tensor::from_vec(places, g.out_h * g.out_w * taps, x.device())?;
    let windows = x.reshape((g.n, g.h * g.w, g.c))?.contiguous()?.index_select(&places, 1)?;
    let windows = windows.reshape((g.n, g.out_h * g.out_w, taps, g.c))?;
    let key = windows.detach();
    let infinity = (key.zeros_like()? + f64::INFINITY)?;
    let key = key.eq(&key)?.where_cond(&key, &infinity)?;
    let best = key.argmax_keepdim(2)?.contiguous()?;
    let y = windows.contiguous()?.gather(&best, 2)?;
    Ok(y.reshape((g.n, g.out_h, g.out_w, g.c))?)
}
