//! The launches of the kernels in `tiles.cu`, and of those in `rows.cu` that they need.

use super::launch::Argument::{self, F32, F64, In, Null, Out, U32};
use super::launch::{Address, Gpu, Launch};
use candle_core::Result;

/// Threads of a block of the kernels in `rows.cu`, and the rows that it takes at a warp each.
const THREADS: usize = 256;
const WARP_ROWS: usize = THREADS / 32;
/// Every array with a number for each row is padded to a multiple of this, the most rows a block of tiles takes.
const PADDING: usize = 128;
/// Threads of a block of tiles, its columns, and the numbers that come with each column.
const TILE_THREADS: usize = 128;
const TILE: usize = 64;
const LISTS: usize = 4;
/// The widest row that there is a kernel for.
pub(super) const MAX_WIDTH: usize = 256;
/// exp(S − 1/τ) is a normal number for every S ≥ −1/τ up to this 2/τ.
const MAX_EXPONENT: f64 = 80.0;

/// A tensor of f32, `[rows, d]`.
#[derive(Clone, Copy)]
pub(super) struct Matrix {
    pub(super) address: Address,
    pub(super) rows: usize,
}

/// How a row is rounded for the tensor cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Precision {
    /// To bf16: eight bits.
    Bf16,
    /// To the sum of two bf16, sixteen bits, for three times the products.
    Split,
}

/// A matrix, and its rows as unit vectors in bf16.
pub(super) struct Rows<B> {
    pub(super) matrix: Matrix,
    pub(super) padded: usize,
    units: B,
    pub(super) norms: B,
}

impl<B> Rows<B> {
    pub(super) fn len(&self) -> usize {
        self.matrix.rows
    }
}

/// The weights of rows' terms: one for all, or f32 for each padded row.
pub(super) enum Weights<'a, B> {
    All(f64),
    Each(&'a B),
}

impl<'a, B> Weights<'a, B> {
    pub(super) fn arguments(self) -> [Argument<'a, B>; 2] {
        match self {
            Weights::All(weight) => [Null, F32(weight as f32)],
            Weights::Each(weights) => [In(weights), F32(0.0)],
        }
    }
}

/// A softmax w exp(S − lse) as the tiles take it, and w (exp(own − lse) − 1).
pub(super) struct Softmax<B> {
    factors: B,
    lse: Option<B>,
    pulls: Option<B>,
}

impl<B> Softmax<B> {
    /// w (exp(own − lse) − 1) of each row.
    pub(super) fn pulls(&self) -> Result<&B> {
        match &self.pulls {
            Some(pulls) => Ok(pulls),
            None => candle_core::bail!("a softmax without logits of its own"),
        }
    }
}

/// One side of `weighted_sums`: its softmax, if it has one, and what each of its rows leaves out of the other side's.
pub(super) struct Half<'a, B> {
    pub(super) softmax: Option<&'a Softmax<B>>,
    pub(super) left_out: [Option<&'a B>; 2],
}

impl<'a, B> Half<'a, B> {
    fn arguments(&self) -> [Argument<'a, B>; 4] {
        let factors = self.softmax.map(|softmax| &softmax.factors);
        let lse = self.softmax.and_then(|softmax| softmax.lse.as_ref());
        [factors, lse, self.left_out[0], self.left_out[1]].map(Argument::maybe)
    }
}

/// Sums over slices of the columns, `[slices, padded rows, width]`.
pub(super) struct Sums<B> {
    pub(super) values: B,
    pub(super) slices: usize,
}

/// The launches of one call: its width, its scale 1/τ, and where they go.
pub(super) struct Passes<'g, G> {
    pub(super) gpu: &'g G,
    pub(super) d: usize,
    pub(super) width: usize,
    parts: usize,
    pub(super) scale: f64,
    /// The fewest tiles of a slice.
    pub(super) slice_tiles: usize,
}

/// Bytes of shared memory that the passes take at a width.
pub(super) fn shared_bytes(d: usize, precision: Precision) -> Option<usize> {
    let width = width(d)?;
    let parts = parts(precision);
    Some(lse_sizes(width, parts).1.max(gradient_sizes(width, parts).1))
}

fn width(d: usize) -> Option<usize> {
    [64, 128, MAX_WIDTH].into_iter().find(|&width| d <= width)
}

fn parts(precision: Precision) -> usize {
    match precision {
        Precision::Bf16 => 1,
        Precision::Split => 2,
    }
}

/// Rows and shared bytes of a block, as `tiles.cu` has them.
fn sizes(width: usize, parts: usize, row_tiles: usize) -> (usize, usize) {
    let (rows, row_bytes) = (64 * row_tiles, 2 * width * parts);
    (rows, rows * row_bytes + 2 * (TILE * row_bytes + LISTS * TILE * 4))
}

fn lse_sizes(width: usize, parts: usize) -> (usize, usize) {
    sizes(width, parts, if width * parts <= 256 { 2 } else { 1 })
}

fn gradient_sizes(width: usize, parts: usize) -> (usize, usize) {
    sizes(width, parts, if width <= 128 { 2 } else { 1 })
}

/// Rows that arrays have numbers for.
pub(super) fn padded(rows: usize) -> usize {
    rows.next_multiple_of(PADDING)
}

impl<'g, G: Gpu> Passes<'g, G> {
    /// For rows of d ≤ [`MAX_WIDTH`] numbers.
    pub(super) fn new(gpu: &'g G, d: usize, precision: Precision, scale: f64) -> Result<Self> {
        let Some(width) = width(d) else { candle_core::bail!("no kernel for rows of {d} numbers") };
        Ok(Self { gpu, d, width, parts: parts(precision), scale, slice_tiles: 8 })
    }

    /// Whether one bound serves all logits.
    fn one_bound(&self) -> bool {
        2.0 * self.scale <= MAX_EXPONENT
    }

    fn tile_kernel(&self, pass: &str) -> String {
        let shift = if self.one_bound() { "bound" } else { "online" };
        format!("{pass}_{}_{}_{shift}", self.width, self.parts)
    }

    /// A number for each padded row.
    pub(super) fn column(&self, padded: usize) -> Result<G::Buffer> {
        self.gpu.allocate(4 * padded)
    }

    /// With a thread for each of `rows`.
    pub(super) fn launch_rows(
        &self,
        kernel: &str,
        rows: usize,
        arguments: &mut [Argument<'_, G::Buffer>],
    ) -> Result<()> {
        let grid = [rows.div_ceil(THREADS), 1];
        self.gpu.launch(Launch { kernel, grid, threads: THREADS, shared: 0 }, arguments)
    }

    /// With a warp for each of `rows`.
    pub(super) fn launch_warps(
        &self,
        kernel: &str,
        rows: usize,
        arguments: &mut [Argument<'_, G::Buffer>],
    ) -> Result<()> {
        let grid = [rows.div_ceil(WARP_ROWS), 1];
        self.gpu.launch(Launch { kernel, grid, threads: THREADS, shared: 0 }, arguments)
    }

    /// How the columns' tiles are cut for about `blocks` blocks: slices, and tiles of each. By sizes alone, as the
    /// order of the sums is.
    fn slices(&self, row_blocks: usize, columns: usize, blocks: usize) -> (usize, usize) {
        let tiles = columns.div_ceil(TILE);
        let slice = tiles.div_ceil((blocks / row_blocks).max(1)).max(self.slice_tiles);
        (tiles.div_ceil(slice), slice)
    }

    pub(super) fn normalize(&self, matrix: Matrix) -> Result<Rows<G::Buffer>> {
        let padded = padded(matrix.rows);
        let mut units = self.gpu.allocate(2 * padded * self.parts * self.width)?;
        let mut norms = self.gpu.allocate(8 * padded)?;
        let [n, d, width, parts] = [matrix.rows, self.d, self.width, self.parts].map(|x| U32(x as u32));
        let arguments =
            &mut [Argument::Tensor(matrix.address), n, d, width, parts, Out(&mut units), Out(&mut norms)];
        self.launch_warps("normalize", padded, arguments)?;
        Ok(Rows { matrix, padded, units, norms })
    }

    /// For each row the one `shift` on, in a ring.
    pub(super) fn shifted(&self, rows: usize, shift: usize) -> Result<G::Buffer> {
        let padded = padded(rows);
        let mut list = self.column(padded)?;
        let arguments = &mut [U32(rows as u32), U32(padded as u32), U32(shift as u32), Out(&mut list)];
        self.launch_rows("shifted_rows", padded, arguments)?;
        Ok(list)
    }

    /// A list with a row of the other side for each row.
    pub(super) fn list(&self, rows: &[u32]) -> Result<G::Buffer> {
        let mut list = rows.to_vec();
        list.resize(padded(rows.len()), u32::MAX);
        self.gpu.upload(&list)
    }

    /// A number for each row, 0 for the padding.
    pub(super) fn numbers(&self, numbers: impl ExactSizeIterator<Item = f64>) -> Result<G::Buffer> {
        let padded = padded(numbers.len());
        let mut bits: Vec<u32> = numbers.map(|x| (x as f32).to_bits()).collect();
        bits.resize(padded, 0);
        self.gpu.upload(&bits)
    }

    /// ln Σ exp S(i, k) over the columns k other than excluded[i], and with exp(own[i]) where given; and S(i,
    /// positives[i]) where given.
    pub(super) fn log_sum_exp(
        &self,
        a: &Rows<G::Buffer>,
        b: &Rows<G::Buffer>,
        excluded: Option<&G::Buffer>,
        positives: Option<&G::Buffer>,
        own: Option<&G::Buffer>,
    ) -> Result<(G::Buffer, Option<G::Buffer>)> {
        let (block_rows, shared) = lse_sizes(self.width, self.parts);
        let row_blocks = a.padded / block_rows;
        let (slices, slice_tiles) = self.slices(row_blocks, b.len(), 8192);
        let mut sums = self.column(slices * a.padded)?;
        let online = !self.one_bound();
        let mut maxima = if online { Some(self.column(slices * a.padded)?) } else { None };
        let mut logits = if positives.is_some() { Some(self.column(a.padded)?) } else { None };
        let log2e = std::f64::consts::LOG2_E;
        let scale = (self.scale * log2e) as f32;
        let kernel = &self.tile_kernel("lse");
        self.gpu.launch(
            Launch { kernel, grid: [row_blocks, slices], threads: TILE_THREADS, shared },
            &mut [
                In(&a.units),
                In(&b.units),
                U32(b.len() as u32),
                U32(slice_tiles as u32),
                F32(scale),
                F32(scale),
                Argument::maybe(excluded),
                Argument::maybe(positives),
                Argument::maybe_out(maxima.as_mut()),
                Out(&mut sums),
                Argument::maybe_out(logits.as_mut()),
            ],
        )?;
        if let Some(logits) = &mut logits {
            let arguments = &mut [Out(logits), U32(a.padded as u32), F32(self.scale as f32)];
            self.launch_rows("scale_rows", a.padded, arguments)?;
        }
        let mut lse = self.column(a.padded)?;
        let arguments = &mut [
            Argument::maybe(maxima.as_ref()),
            In(&sums),
            U32(slices as u32),
            U32(a.padded as u32),
            F64(self.scale),
            Argument::maybe(own),
            Out(&mut lse),
        ];
        self.launch_rows("lse_of_slices", a.padded, arguments)?;
        Ok((lse, logits))
    }

    /// The softmax of rows from their lse; with `own`, logits of a column each, also the pulls.
    pub(super) fn softmax(
        &self,
        rows: usize,
        lse: &G::Buffer,
        weights: Weights<'_, G::Buffer>,
        own: Option<&G::Buffer>,
    ) -> Result<Softmax<G::Buffer>> {
        let padded = padded(rows);
        let mut factors = self.column(padded)?;
        let mut lse2 = if self.one_bound() { None } else { Some(self.column(padded)?) };
        let mut pulls = if own.is_some() { Some(self.column(padded)?) } else { None };
        let [weights, weight] = weights.arguments();
        let arguments = &mut [
            In(lse),
            weights,
            weight,
            U32(rows as u32),
            U32(padded as u32),
            F64(self.scale),
            Argument::maybe(own),
            Out(&mut factors),
            Argument::maybe_out(lse2.as_mut()),
            Argument::maybe_out(pulls.as_mut()),
        ];
        self.launch_rows("softmax_factors", padded, arguments)?;
        Ok(Softmax { factors, lse: lse2, pulls })
    }

    /// Σ_k W(i, k) b_k for each row i of a, where W(i, k) is the sum of both sides' softmaxes.
    pub(super) fn weighted_sums(
        &self,
        a: &Rows<G::Buffer>,
        b: &Rows<G::Buffer>,
        rows: Half<'_, G::Buffer>,
        columns: Half<'_, G::Buffer>,
    ) -> Result<Sums<G::Buffer>> {
        let (block_rows, shared) = gradient_sizes(self.width, self.parts);
        let row_blocks = a.padded / block_rows;
        let (slices, slice_tiles) = self.slices(row_blocks, b.len(), 2048);
        let mut values = self.gpu.allocate(4 * slices * a.padded * self.width)?;
        let scale = (self.scale * std::f64::consts::LOG2_E) as f32;
        let (m, tiles) = (U32(b.len() as u32), U32(slice_tiles as u32));
        let mut arguments = vec![In(&a.units), In(&b.units), m, tiles, F32(scale), F32(scale)];
        arguments.extend(rows.arguments().into_iter().chain(columns.arguments()));
        arguments.push(Out(&mut values));
        let kernel = &self.tile_kernel("gradient");
        let launch = Launch { kernel, grid: [row_blocks, slices], threads: TILE_THREADS, shared };
        self.gpu.launch(launch, &mut arguments)?;
        drop(arguments);
        Ok(Sums { values, slices })
    }
}
