//! The arithmetic of a resize: two passes of weighted sums, rows first, as PIL's `Resample.c` does it.
//!
//! Like PIL, the first pass rounds to whole levels in 0…255 before the second one reads them. Sums are f32 in a
//! fixed order without contracted multiply-adds, so every machine gives the same bits; PIL sums integers of 22
//! fractional bits, and a sum within about 10⁻⁴ of a half may round the other way.

use crate::pixel_op::{larger, smaller};
use crate::{Interpolation, Region};
use pulp::NullaryFnOnce;

/// Rows that the first pass takes at a time. Interleaved pixel by pixel they make 15 values, which with one
/// more fill the registers of 512 bits (or two, or four smaller ones): one multiplication serves five rows.
const ROWS: usize = 5;

/// Values a pixel in the interleaved rows.
const GROUP: usize = 16;

/// Values whose sums are kept in registers at a time in the second pass.
const LANES: usize = 64;

/// Buffers that are kept from image to image.
#[derive(Default)]
pub(crate) struct Scratch {
    columns: Weights,
    rows: Weights,
    /// Interleaved rows of the source.
    levels: Vec<[u8; GROUP]>,
    /// The same as f32, padded for taps of weight 0.
    lines: Vec<[f32; GROUP]>,
    /// Interleaved rows of the first pass.
    narrow: Vec<[u8; GROUP]>,
    /// What the first pass makes, padded to whole groups of lanes.
    middle: Vec<u8>,
}

/// For each place of the output where its source begins, and the weights of the places from there on.
#[derive(Default)]
struct Weights {
    taps: usize,
    starts: Vec<usize>,
    values: Vec<f32>,
}

/// One resize of a region of `source`, whose rows hold `source_width` pixels.
pub(crate) struct Resample<'a> {
    pub(crate) source: &'a [u8],
    pub(crate) source_width: usize,
    pub(crate) region: Region,
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) interpolation: Interpolation,
    /// The result is mirrored: the weights of the columns are written in reverse.
    pub(crate) flip: bool,
    pub(crate) scratch: &'a mut Scratch,
}

impl NullaryFnOnce for Resample<'_> {
    type Output = Vec<u8>;

    #[inline(always)]
    fn call(self) -> Vec<u8> {
        let Self { source, source_width, region, width, height, interpolation, flip, scratch } = self;
        let Scratch { columns, rows, levels, lines, narrow, middle } = scratch;
        let (region_width, region_height) = (region.width as usize, region.height as usize);
        columns.fill(region_width, width, interpolation, flip);
        rows.fill(region_height, height, interpolation, false);

        // First pass: every row of the region, from its own width to the output's.
        levels.clear();
        levels.resize(region_width, [0; GROUP]);
        lines.clear();
        lines.resize(region_width + columns.taps, [0.0; GROUP]);
        narrow.clear();
        narrow.resize(width, [0; GROUP]);
        let stride = (3 * width + 1).next_multiple_of(LANES);
        middle.clear();
        middle.resize(stride * (region_height.next_multiple_of(ROWS) + rows.taps), 0);
        let first = 3 * (region.top as usize * source_width + region.left as usize);
        let line =
            |y: usize| &source[first + 3 * y.min(region_height - 1) * source_width..][..3 * region_width];
        for (top, out) in (0..region_height).step_by(ROWS).zip(middle.chunks_exact_mut(ROWS * stride)) {
            interleave([line(top), line(top + 1), line(top + 2), line(top + 3), line(top + 4)], levels);
            for (values, levels) in lines.as_flattened_mut().iter_mut().zip(levels.as_flattened()) {
                *values = f32::from(*levels);
            }
            weigh_columns(lines, columns, narrow);
            separate(narrow, stride, out);
        }

        // Second pass: every row of the output is a sum of whole rows.
        let mut out = vec![0; 3 * width * height];
        for (y, row) in out.chunks_exact_mut(3 * width).enumerate() {
            let weights = &rows.values[y * rows.taps..][..rows.taps];
            let source = &middle[rows.starts[y] * stride..];
            let (whole, rest) = row.as_chunks_mut::<LANES>();
            for (group, levels) in whole.iter_mut().enumerate() {
                *levels = weigh_rows(&source[group * LANES..], stride, weights);
            }
            let last = weigh_rows(&source[whole.len() * LANES % stride..], stride, weights);
            rest.copy_from_slice(&last[..rest.len()]);
        }
        out
    }
}

impl Weights {
    /// Weights for `from` places that become `to`, normalised to sum 1, all places padded to the same number.
    fn fill(&mut self, from: usize, to: usize, interpolation: Interpolation, reverse: bool) {
        let scale = from as f64 / to as f64;
        // Shrinking widens the filter: this is the antialiasing.
        let filter_scale = scale.max(1.0);
        let support = interpolation.support() * filter_scale;
        self.taps = (2 * support.ceil() as usize + 1).min(from);
        self.starts.clear();
        self.values.clear();
        self.values.resize(self.taps * to, 0.0);
        let mut most = 0;
        for place in 0..to {
            let place = if reverse { to - 1 - place } else { place };
            let centre = (place as f64 + 0.5) * scale;
            let start = (centre - support + 0.5).max(0.0) as usize;
            let end = ((centre + support + 0.5) as usize).min(from);
            let values = &mut self.values[self.starts.len() * self.taps..][..end - start];
            let weight = |i: usize| interpolation.weight(((start + i) as f64 - centre + 0.5) / filter_scale);
            let total: f64 = (0..values.len()).map(weight).sum();
            for (i, value) in values.iter_mut().enumerate() {
                *value = (weight(i) / total) as f32;
            }
            most = most.max(values.len());
            self.starts.push(start);
        }
        self.shorten(most);
    }

    /// Drops the padding that no place needs.
    fn shorten(&mut self, taps: usize) {
        if taps < self.taps {
            for place in 1..self.starts.len() {
                self.values.copy_within(place * self.taps..place * self.taps + taps, place * taps);
            }
            self.taps = taps;
            self.values.truncate(taps * self.starts.len());
        }
    }
}

impl Interpolation {
    /// Where the filter ends, in pixels from its centre.
    fn support(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        let x = x.abs();
        match self {
            Self::Bilinear => (1.0 - x).max(0.0),
            // Keys' cubic with a = −1/2.
            Self::Bicubic if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
            Self::Bicubic if x < 2.0 => ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0,
            Self::Bicubic => 0.0,
        }
    }
}

/// Puts five rows beside each other, pixel by pixel.
///
/// Each pixel is moved as four values, the fourth of which, its right neighbour's red, is overwritten by the row
/// below or has no part in any result.
#[inline(always)]
fn interleave(rows: [&[u8]; ROWS], levels: &mut [[u8; GROUP]]) {
    let (last, whole) = levels.split_last_mut().expect("a region has columns");
    for (x, group) in whole.iter_mut().enumerate() {
        for (row, line) in rows.iter().enumerate() {
            group[3 * row..3 * row + 4].copy_from_slice(&line[3 * x..3 * x + 4]);
        }
    }
    for (row, line) in rows.iter().enumerate() {
        last[3 * row..3 * row + 3].copy_from_slice(&line[line.len() - 3..]);
    }
}

/// Takes the five rows apart again, into rows of `stride` values; as in `interleave`, four values a pixel.
#[inline(always)]
fn separate(narrow: &[[u8; GROUP]], stride: usize, out: &mut [u8]) {
    let (a, rest) = out.split_at_mut(stride);
    let (b, rest) = rest.split_at_mut(stride);
    let (c, rest) = rest.split_at_mut(stride);
    let (d, e) = rest.split_at_mut(stride);
    let mut rows = [a, b, c, d, e];
    for (x, group) in narrow.iter().enumerate() {
        for (row, line) in rows.iter_mut().enumerate() {
            line[3 * x..3 * x + 4].copy_from_slice(&group[3 * row..3 * row + 4]);
        }
    }
}

/// The first pass on interleaved rows. The usual numbers of taps get a loop of their own, without a counter.
#[inline(always)]
fn weigh_columns(lines: &[[f32; GROUP]], columns: &Weights, narrow: &mut [[u8; GROUP]]) {
    match columns.taps {
        1 => weigh_columns_by::<1>(lines, columns, narrow),
        2 => weigh_columns_by::<2>(lines, columns, narrow),
        3 => weigh_columns_by::<3>(lines, columns, narrow),
        4 => weigh_columns_by::<4>(lines, columns, narrow),
        5 => weigh_columns_by::<5>(lines, columns, narrow),
        6 => weigh_columns_by::<6>(lines, columns, narrow),
        7 => weigh_columns_by::<7>(lines, columns, narrow),
        8 => weigh_columns_by::<8>(lines, columns, narrow),
        taps => {
            for (x, (out, &start)) in narrow.iter_mut().zip(&columns.starts).enumerate() {
                let weights = &columns.values[x * taps..][..taps];
                let lines = &lines[start..][..taps];
                let mut sums = [0f32; GROUP];
                let (weights, rest_weights) = weights.as_chunks::<4>();
                let (lines, rest_lines) = lines.as_chunks::<4>();
                for (lines, weights) in lines.iter().zip(weights) {
                    weigh(lines, weights, &mut sums);
                }
                for (line, weight) in rest_lines.iter().zip(rest_weights) {
                    weigh(&[*line], &[*weight], &mut sums);
                }
                *out = levels(&sums);
            }
        }
    }
}

#[inline(always)]
fn weigh_columns_by<const TAPS: usize>(
    lines: &[[f32; GROUP]],
    columns: &Weights,
    narrow: &mut [[u8; GROUP]],
) {
    for ((out, &start), weights) in
        narrow.iter_mut().zip(&columns.starts).zip(columns.values.as_chunks::<TAPS>().0)
    {
        let mut sums = [0f32; GROUP];
        weigh::<TAPS>(lines[start..].first_chunk().expect("lines are padded"), weights, &mut sums);
        *out = levels(&sums);
    }
}

#[inline(always)]
fn weigh<const TAPS: usize>(lines: &[[f32; GROUP]; TAPS], weights: &[f32; TAPS], sums: &mut [f32; GROUP]) {
    for (line, weight) in lines.iter().zip(weights) {
        for (sum, value) in sums.iter_mut().zip(line) {
            *sum += weight * value;
        }
    }
}

/// The second pass on one group of lanes.
#[inline(always)]
fn weigh_rows(source: &[u8], stride: usize, weights: &[f32]) -> [u8; LANES] {
    let mut sums = [0f32; LANES];
    for (tap, &weight) in weights.iter().enumerate() {
        let levels: &[u8; LANES] =
            source[tap * stride..].first_chunk().expect("rows are padded to whole groups");
        for i in 0..LANES {
            sums[i] += weight * f32::from(levels[i]);
        }
    }
    levels(&sums)
}

#[inline(always)]
fn levels<const N: usize>(sums: &[f32; N]) -> [u8; N] {
    let mut levels = [0; N];
    for (level, sum) in levels.iter_mut().zip(sums) {
        *level = round(*sum);
    }
    levels
}

/// The nearest level, halves up.
#[inline(always)]
fn round(sum: f32) -> u8 {
    // A whole level plus 2²³ has the level in its last byte.
    ((smaller(larger(sum, 0.0), 255.0) + 0.5).floor() + 8_388_608.0).to_bits() as u8
}
