//! 3×3 convolution of stride 1 with 16 products for each 2×2 output pixels instead of 36 (Winograd's minimal
//! filtering, F(2×2, 3×3): Lavin & Gray 2016, section 4.1).
//!
//! For a tile of 2×2 outputs, d the 4×4 inputs that it sees and g the 3×3 weights,
//!
//! ```text
//! y = Aᵀ [ (G g Gᵀ) ⊙ (Bᵀ d B) ] A        the sum over channels going inside the brackets
//!
//! Bᵀ = 1  0 -1  0     G = 1   0   0      Aᵀ = 1 1  1  0
//!      0  1  1  0         ½   ½   ½           0 1 -1 -1
//!      0 -1  1  0         ½  -½   ½
//!      0  1  0 -1         0   0   1
//! ```
//!
//! so that each of the 16 places ξ of the bracket is a matrix product over channels, of tiles by columns. The input
//! gradient is the same with the weights flipped and transposed, the weight's gradient the adjoint:
//! dg = Gᵀ [ Σ over tiles (A dy Aᵀ) ⊙ (Bᵀ d B) ] G.
//!
//! The factors are 0, ±1 and ½, so rounding errors grow little: below three times those of the plain sum. But an
//! infinity in x makes NaN of its tile's four outputs, also of those that do not see it.

mod gradient;
mod product;

pub(super) use gradient::backward_weight;
pub(super) use product::{backward_input, forward};

use super::geometry::Geometry;
use super::microkernel::Block;
use crate::element::Element;
use std::ops::Range;

/// Places of the bracket.
const PLACES: usize = 16;
/// Channels below which a product over them is too short.
const MIN_CHANNELS: usize = 16;
/// Share of the plain sum's products above which the transforms are not worth their time.
const MAX_SHARE: f64 = 0.75;

/// A row of Bᵀ: first + sign · second, of the four inputs along an axis.
const INPUT: [(usize, usize, f64); 4] = [(0, 2, -1.0), (1, 2, 1.0), (2, 1, -1.0), (1, 3, -1.0)];
/// A row of A: factors of the two outputs along an axis.
const OUTPUT: [[f64; 2]; 4] = [[1.0, 0.0], [1.0, 1.0], [1.0, -1.0], [0.0, -1.0]];
/// A row of G: factors of the three weights along an axis.
const WEIGHT: [[f64; 3]; 4] = [[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.0, 0.0, 1.0]];

/// Whether a convolution is of the kind, and the work so saved is worth the transforms.
pub(super) fn applies(g: &Geometry) -> bool {
    let plain = g.kh == 3 && g.kw == 3 && g.stride == 1 && g.dilation == 1 && g.groups == 1;
    if !plain || g.pad_h > 2 || g.pad_w > 2 || g.c < MIN_CHANNELS || g.k < MIN_CHANNELS {
        return false;
    }
    let inside = |out: usize, size: usize, padding: usize| {
        (0..out)
            .map(|i| (i..i + 3).filter(|at| (padding..padding + size).contains(at)).count())
            .sum::<usize>()
    };
    let sums = inside(g.out_h, g.h, g.pad_h) * inside(g.out_w, g.w, g.pad_w);
    let tiles = g.out_h.div_ceil(2) * g.out_w.div_ceil(2);
    (tiles * PLACES) as f64 <= MAX_SHARE * sums as f64
}

/// The images that are read, and the tiles of those that are written.
#[derive(Debug, Clone, Copy)]
struct Tiles {
    n: usize,
    h: usize,
    w: usize,
    c: usize,
    pad_h: usize,
    pad_w: usize,
    out_h: usize,
    out_w: usize,
    k: usize,
}

impl Tiles {
    fn forward(g: &Geometry) -> Self {
        let Geometry { n, h, w, c, pad_h, pad_w, out_h, out_w, k, .. } = *g;
        Self { n, h, w, c, pad_h, pad_w, out_h, out_w, k }
    }

    /// Those of the input gradient, which reads dy.
    fn backward(g: &Geometry) -> Self {
        let Geometry { n, h, w, c, pad_h, pad_w, out_h, out_w, k, .. } = *g;
        Self { n, h: out_h, w: out_w, c: k, pad_h: 2 - pad_h, pad_w: 2 - pad_w, out_h: h, out_w: w, k: c }
    }

    fn count(&self) -> usize {
        self.n * self.out_h.div_ceil(2) * self.out_w.div_ceil(2)
    }

    /// Image of a tile, and row and column of its first output.
    #[inline(always)]
    fn place(&self, tile: usize) -> (usize, usize, usize) {
        let (high, wide) = (self.out_h.div_ceil(2), self.out_w.div_ceil(2));
        (tile / (high * wide), tile / wide % high * 2, tile % wide * 2)
    }

    /// Writes (Bᵀ d B) at the places (r, 0) to (r, 3) of some tiles, `[4, tiles, c]`.
    #[inline(always)]
    fn input<T: Element>(&self, x: &[T], zeros: &[T], tiles: Range<usize>, r: usize, to: &mut [T]) {
        let (top, bottom, sign) = INPUT[r];
        let sign = T::from_f64(sign);
        let c = self.c;
        let (to0, rest) = to.split_at_mut(tiles.len() * c);
        let (to1, rest) = rest.split_at_mut(tiles.len() * c);
        let (to2, rest) = rest.split_at_mut(tiles.len() * c);
        let to3 = &mut rest[..tiles.len() * c];
        for (index, tile) in tiles.enumerate() {
            let (image, i, j) = self.place(tile);
            let pixel = |a: usize, b: usize| {
                let (y, x_at) = ((i + a).wrapping_sub(self.pad_h), (j + b).wrapping_sub(self.pad_w));
                if y < self.h && x_at < self.w {
                    &x[((image * self.h + y) * self.w + x_at) * c..][..c]
                } else {
                    &zeros[..c]
                }
            };
            let (a0, a1, a2, a3) = (pixel(top, 0), pixel(top, 1), pixel(top, 2), pixel(top, 3));
            let (b0, b1, b2, b3) = (pixel(bottom, 0), pixel(bottom, 1), pixel(bottom, 2), pixel(bottom, 3));
            let row = index * c..(index + 1) * c;
            let (to0, to1) = (&mut to0[row.clone()], &mut to1[row.clone()]);
            let (to2, to3) = (&mut to2[row.clone()], &mut to3[row]);
            for k in 0..c {
                let d0 = a0[k] + sign * b0[k];
                let d1 = a1[k] + sign * b1[k];
                let d2 = a2[k] + sign * b2[k];
                let d3 = a3[k] + sign * b3[k];
                to0[k] = d0 - d2;
                to1[k] = d1 + d2;
                to2[k] = d2 - d1;
                to3[k] = d1 - d3;
            }
        }
    }

    /// Writes (A dy Aᵀ) at the places (r, 0) to (r, 3) of some tiles for a block of columns, `[4, tiles, stride]`.
    #[inline(always)]
    fn output_gradient<T: Element>(
        &self,
        dy: &[T],
        zeros: &[T],
        tiles: Range<usize>,
        r: usize,
        block: &Block,
        to: &mut [T],
    ) {
        let [top, bottom] = OUTPUT[r].map(T::from_f64);
        let len = tiles.len() * block.stride;
        let width = block.width;
        let (to0, rest) = to.split_at_mut(len);
        let (to1, rest) = rest.split_at_mut(len);
        let (to2, rest) = rest.split_at_mut(len);
        let to3 = &mut rest[..len];
        for (index, tile) in tiles.enumerate() {
            let (image, i, j) = self.place(tile);
            let pixel = |a: usize, b: usize| {
                if i + a < self.out_h && j + b < self.out_w {
                    let at = (image * self.out_h + i + a) * self.out_w + j + b;
                    &dy[at * self.k + block.column..][..width]
                } else {
                    &zeros[..width]
                }
            };
            let (a0, a1, b0, b1) = (pixel(0, 0), pixel(0, 1), pixel(1, 0), pixel(1, 1));
            let row = index * block.stride..index * block.stride + width;
            let (to0, to1) = (&mut to0[row.clone()], &mut to1[row.clone()]);
            let (to2, to3) = (&mut to2[row.clone()], &mut to3[row]);
            for k in 0..width {
                let left = top * a0[k] + bottom * b0[k];
                let right = top * a1[k] + bottom * b1[k];
                to0[k] = left;
                to1[k] = left + right;
                to2[k] = left - right;
                to3[k] = -right;
            }
        }
    }
}
