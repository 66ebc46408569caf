//! Random Gaussian blur (SimCLR, arXiv 2002.05709, appendix A; torchvision's `GaussianBlur`).
//!
//! Separable, in unsigned 16-bit fixed point: levels with 7 fractional bits, weights with 16. A product loses its
//! fraction, half a unit on average, which is added back once a sum: a pass errs by at most 1/256 of a level a
//! product. All integers: every machine gives the same bits.

use crate::draw::{chance, uniform};
use crate::limits::Limits;
use crate::pixel_op::arch;
use crate::{Error, Result};
use image::RgbImage;
use pulp::NullaryFnOnce;
use rand::Rng;
use serde::{Deserialize, Serialize};
use std::cell::RefCell;

/// Largest kernel side.
const MAX_KERNEL: u32 = 255;

/// Values whose sums are kept in registers at a time.
const LANES: usize = 96;

/// Fractional bits of a level.
const LEVEL_BITS: u32 = 7;

/// Values that are worked on together.
type Lanes = [u16; LANES];

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Buffers that are kept from image to image.
#[derive(Default)]
pub(crate) struct Scratch {
    /// Each tap's weight, once a lane: from memory the compiler multiplies 16 bits by 16, where a weight in a
    /// register would be widened to 32.
    weights: Vec<Lanes>,
    /// A row of the image, mirrored beyond its ends.
    padded: Vec<u16>,
    /// Rows filtered along themselves.
    ring: Vec<u16>,
}

/// With probability `p` the image is blurred with a Gaussian whose σ is uniform in `sigma`.
///
/// The kernel has `kernel_size` taps a side, or, without one, a tenth of the image's shorter side made odd:
/// 2⌊side/20⌋ + 1, as in SimCLR.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GaussianBlur {
    /// Probability that it happens.
    pub p: f64,
    /// Least and greatest standard deviation, in pixels.
    pub sigma: [f64; 2],
    /// Taps a side, odd.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_size: Option<u32>,
}

impl GaussianBlur {
    /// Checks the settings.
    pub fn validate(&self) -> Result<()> {
        let limits = Limits("gaussian_blur");
        limits.probability("p", self.p)?;
        limits.positive_range("sigma", self.sigma)?;
        let kernel = self.kernel_size.unwrap_or(1);
        limits.require(kernel % 2 == 1 && kernel <= MAX_KERNEL, "kernel_size", "odd and in 1…255", kernel)
    }

    /// Taps a side for an image of `width` × `height`.
    pub fn kernel_size(&self, width: u32, height: u32) -> u32 {
        self.kernel_size.unwrap_or_else(|| (width.min(height) / 10 / 2 * 2 + 1).min(MAX_KERNEL))
    }

    /// The standard deviation, if it happens this time.
    pub fn draw(&self, rng: &mut impl Rng) -> Option<f64> {
        chance(self.p, rng).then(|| uniform(self.sigma, rng))
    }
}

/// Blurs in place with weights ∝ exp(−x²/2σ²), x = −⌊kernel/2⌋…⌊kernel/2⌋, along rows and columns.
///
/// Beyond an edge the image is mirrored at the outermost pixel (which is not repeated), as often as needed: a
/// kernel may be larger than the image, which torchvision refuses. Fails on an even kernel, one above 255, or
/// a σ that is not positive.
pub fn gaussian_blur(image: &mut RgbImage, kernel_size: u32, sigma: f64) -> Result<()> {
    GaussianBlur { p: 1.0, sigma: [sigma; 2], kernel_size: Some(kernel_size) }.validate()?;
    let (width, height) = (image.width() as usize, image.height() as usize);
    if width == 0 || height == 0 {
        return Err(Error::EmptyImage { width: image.width(), height: image.height() });
    }
    let (weights, radius) = half_weights(kernel_size, sigma);
    if radius == 0 {
        return Ok(());
    }
    let weights = &weights[..=radius];
    SCRATCH
        .with_borrow_mut(|scratch| arch().dispatch(Blur { pixels: image, width, height, weights, scratch }));
    Ok(())
}

/// The weights of one half, from the centre on, in units of 2⁻¹⁶, and the radius beyond which they are 0.
pub(crate) fn half_weights(kernel_size: u32, sigma: f64) -> ([u16; 128], usize) {
    let radius = kernel_size as usize / 2;
    let gauss = |x: usize| (-0.5 * (x as f64 / sigma).powi(2)).exp();
    let total = 1.0 + 2.0 * (1..=radius).map(gauss).sum::<f64>();
    let mut weights = [0u16; 128];
    let mut sides = 0;
    let mut last = 0;
    for (x, weight) in weights.iter_mut().enumerate().take(radius + 1).skip(1) {
        *weight = (gauss(x) / total * 65536.0).round() as u16;
        sides += 2 * i32::from(*weight);
        if *weight > 0 {
            last = x;
        }
    }
    // The centre takes the rounding of the others, so that the weights sum to 1 and a plain area stays.
    weights[0] = (65536 - sides).clamp(0, 65535) as u16;
    (weights, last)
}

/// One blur, ready to be run with any set of vector instructions.
pub(crate) struct Blur<'a> {
    pub(crate) pixels: &'a mut [u8],
    pub(crate) width: usize,
    pub(crate) height: usize,
    /// One half of the weights, from the centre on.
    pub(crate) weights: &'a [u16],
    pub(crate) scratch: &'a mut Scratch,
}

impl NullaryFnOnce for Blur<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { pixels, width, height, weights, scratch } = self;
        let radius = weights.len() - 1;
        let Scratch { weights: lanes, padded, ring } = scratch;
        lanes.clear();
        lanes.extend(weights.iter().map(|&weight| [weight; LANES]));
        let row_values = 3 * width;
        // Whole groups of lanes: what lies beyond the row is computed and dropped.
        let stride = row_values.next_multiple_of(LANES);
        padded.clear();
        padded.resize(stride + 6 * radius, 0);
        // All rows that one output row can ask for: its neighbours, or the whole of a low image.
        let kept = (2 * radius + 1).min(height);
        ring.clear();
        ring.resize(kept * stride, 0);
        let mut filtered = 0;
        // Where the two rows of each tap begin in the ring.
        let mut rows = [(0, 0); 128];
        for y in 0..height {
            while filtered < height && filtered <= y + radius {
                pad_row(&pixels[filtered * row_values..][..row_values], radius, padded);
                let out = &mut ring[filtered % kept * stride..][..stride];
                for (group, out) in out.as_chunks_mut().0.iter_mut().enumerate() {
                    let start = group * LANES;
                    *out = weighted(padded, lanes, |tap| {
                        (start + 3 * (radius - tap), start + 3 * (radius + tap))
                    });
                }
                filtered += 1;
            }
            for (tap, pair) in rows[..=radius].iter_mut().enumerate() {
                // 32 bits divide in half the time.
                let slot = |row: usize| (row as u32 % kept as u32) as usize;
                let row = |offset: isize| slot(mirrored(y as isize + offset, height)) * stride;
                *pair = (row(-(tap as isize)), row(tap as isize));
            }
            let out = &mut pixels[y * row_values..][..row_values];
            for (group, out) in out.chunks_mut(LANES).enumerate() {
                let start = group * LANES;
                let levels =
                    to_levels(&weighted(ring, lanes, |tap| (rows[tap].0 + start, rows[tap].1 + start)));
                match out.as_chunks_mut().0 {
                    [whole] => *whole = levels,
                    _ => out.copy_from_slice(&levels[..out.len()]),
                }
            }
        }
    }
}

/// Σ over taps of weight·(a + b), where `at` says where a and b begin; the centre counts once.
#[inline(always)]
fn weighted(values: &[u16], weights: &[Lanes], at: impl Fn(usize) -> (usize, usize)) -> Lanes {
    let part = |start: usize| -> &Lanes { values[start..].first_chunk().expect("padded to whole groups") };
    // The upper half of the product, which is one instruction.
    let product = |v: u16, w: u16| ((u32::from(v) * u32::from(w)) >> 16) as u16;
    let lost = weights.len() as u16 / 2;
    let mut sums = [lost; LANES];
    let centre = part(at(0).0);
    for i in 0..LANES {
        sums[i] += product(centre[i], weights[0][i]);
    }
    for (tap, weight) in weights.iter().enumerate().skip(1) {
        let (a, b) = at(tap);
        let (a, b) = (part(a), part(b));
        for i in 0..LANES {
            sums[i] += product(a[i] + b[i], weight[i]);
        }
    }
    sums
}

#[inline(always)]
fn to_levels(sums: &Lanes) -> [u8; LANES] {
    let mut levels = [0; LANES];
    for (level, sum) in levels.iter_mut().zip(sums) {
        *level = ((sum + (1 << (LEVEL_BITS - 1))) >> LEVEL_BITS).min(255) as u8;
    }
    levels
}

/// The row in fixed point, mirrored by `radius` pixels on both sides.
#[inline(always)]
fn pad_row(row: &[u8], radius: usize, padded: &mut [u16]) {
    let width = row.len() / 3;
    let fixed = |v: u8| u16::from(v) << LEVEL_BITS;
    for (out, &v) in padded[3 * radius..].iter_mut().zip(row) {
        *out = fixed(v);
    }
    for x in 0..radius {
        let left = mirrored(x as isize - radius as isize, width);
        let right = mirrored((width + x) as isize, width);
        for channel in 0..3 {
            padded[3 * x + channel] = fixed(row[3 * left + channel]);
            padded[3 * (radius + width + x) + channel] = fixed(row[3 * right + channel]);
        }
    }
}

/// The place in 0…length − 1 that `i` falls on when the line is mirrored at both ends.
#[inline(always)]
fn mirrored(i: isize, length: usize) -> usize {
    let last = length as isize - 1;
    if (0..=last).contains(&i) {
        return i as usize;
    }
    if last == 0 {
        return 0;
    }
    let i = i.rem_euclid(2 * last);
    (if i > last { 2 * last - i } else { i }) as usize
}
