//! The launches of the kernels in `rows.cu` that come after the passes over the tiles.

use super::launch::Argument::{self, F64, In, Null, Out, Tensor, U32};
use super::launch::{Address, Gpu, Launch};
use super::tiles::{Passes, Rows, Sums, Weights};
use candle_core::Result;

/// Threads of the kernels that add up one number.
const SUM_THREADS: usize = 1024;
/// Columns of a block of `label_sums`, and its threads.
const LABEL_COLUMNS: usize = 32;
const LABEL_THREADS: usize = 256;

/// Rows `[·, d]` of f32, which stand for unit vectors if there are norms.
pub(super) enum Vectors<'a, B> {
    Of(&'a Rows<B>),
    Plain(&'a B),
}

impl<'a, B> Vectors<'a, B> {
    fn arguments(self) -> [Argument<'a, B>; 2] {
        match self {
            Vectors::Of(rows) => [Tensor(rows.matrix.address), In(&rows.norms)],
            Vectors::Plain(values) => [In(values), Null],
        }
    }
}

/// Which vectors belong to row i.
pub(super) enum Which<'a, B> {
    /// The i-th.
    Same,
    /// The one that a list has for i.
    Listed(&'a B),
    /// Those from offsets[i] to offsets[i + 1] of a list.
    Many { offsets: &'a B, list: &'a B },
}

/// What is added to the gradient of a row besides the tiles' sums: Σ (pulls + other_pulls[k]) u_k over the vectors that
/// belong to it. `pulls` has a number for each row, or with [`Which::Many`] for each vector.
pub(super) struct Pull<'a, B> {
    pub(super) vectors: Vectors<'a, B>,
    pub(super) which: Which<'a, B>,
    pub(super) pulls: &'a B,
    pub(super) other_pulls: Option<&'a B>,
}

impl<G: Gpu> Passes<'_, G> {
    /// ⟨v_i, u⟩/τ with the vector u of a row; with `shares`, times the row's share, of u without v_i.
    pub(super) fn own_logits(
        &self,
        rows: &Rows<G::Buffer>,
        vectors: Vectors<'_, G::Buffer>,
        targets: Option<&G::Buffer>,
        shares: Option<&G::Buffer>,
    ) -> Result<G::Buffer> {
        let mut logits = self.column(rows.padded)?;
        let [u, u_norms] = vectors.arguments();
        let arguments = &mut [
            Tensor(rows.matrix.address),
            In(&rows.norms),
            U32(rows.len() as u32),
            U32(self.d as u32),
            u,
            u_norms,
            Argument::maybe(targets),
            Argument::maybe(shares),
            U32(shares.is_some().into()),
            F64(self.scale),
            Out(&mut logits),
        ];
        self.launch_warps("own_logits", rows.padded, arguments)?;
        Ok(logits)
    }

    /// The sum of the unit vectors of each label, whose rows are list[offsets[label]] … list[offsets[label + 1] − 1].
    pub(super) fn label_sums(
        &self,
        rows: &Rows<G::Buffer>,
        labels: usize,
        offsets: &G::Buffer,
        list: &G::Buffer,
    ) -> Result<G::Buffer> {
        let mut sums = self.gpu.allocate(4 * labels * self.d)?;
        let grid = [labels, self.d.div_ceil(LABEL_COLUMNS)];
        self.gpu.launch(
            Launch { kernel: "label_sums", grid, threads: LABEL_THREADS, shared: 0 },
            &mut [
                Tensor(rows.matrix.address),
                In(&rows.norms),
                U32(self.d as u32),
                In(offsets),
                In(list),
                Out(&mut sums),
            ],
        )?;
        Ok(sums)
    }

    /// Σ w_i (lse_i − own_i), and the same of the other lse where there is one.
    pub(super) fn loss(
        &self,
        rows: usize,
        lse: &G::Buffer,
        other_lse: Option<&G::Buffer>,
        own: &G::Buffer,
        weights: Weights<'_, G::Buffer>,
    ) -> Result<G::Buffer> {
        let mut loss = self.gpu.allocate(4)?;
        let [weights, weight] = weights.arguments();
        let arguments = &mut [
            In(lse),
            Argument::maybe(other_lse),
            In(own),
            weights,
            weight,
            U32(rows as u32),
            Out(&mut loss),
        ];
        self.launch_sum("loss", arguments)?;
        Ok(loss)
    }

    /// grad · Σ x_i of f64.
    pub(super) fn total(&self, x: &G::Buffer, rows: usize, grad: Address) -> Result<G::Buffer> {
        let mut total = self.gpu.allocate(4)?;
        self.launch_sum("total", &mut [In(x), U32(rows as u32), Tensor(grad), Out(&mut total)])?;
        Ok(total)
    }

    fn launch_sum(&self, kernel: &str, arguments: &mut [Argument<'_, G::Buffer>]) -> Result<()> {
        self.gpu.launch(Launch { kernel, grid: [1, 1], threads: SUM_THREADS, shared: 0 }, arguments)
    }

    /// The gradient of a matrix from those of its unit vectors, times grad/τ; and ⟨v_i, dv_i⟩ if `along`, f64.
    pub(super) fn finish(
        &self,
        rows: &Rows<G::Buffer>,
        sums: Option<&Sums<G::Buffer>>,
        pull: Pull<'_, G::Buffer>,
        grad: Address,
        along: bool,
    ) -> Result<(G::Buffer, Option<G::Buffer>)> {
        let mut dz = self.gpu.allocate(4 * rows.len() * self.d)?;
        let mut along = if along { Some(self.gpu.allocate(8 * rows.padded)?) } else { None };
        let [u, u_norms] = pull.vectors.arguments();
        let (targets, offsets, list) = match pull.which {
            Which::Same => (Null, Null, Null),
            Which::Listed(targets) => (In(targets), Null, Null),
            Which::Many { offsets, list } => (Null, In(offsets), In(list)),
        };
        let arguments = &mut [
            Tensor(rows.matrix.address),
            In(&rows.norms),
            U32(rows.len() as u32),
            U32(self.d as u32),
            U32(self.width as u32),
            Argument::maybe(sums.map(|sums| &sums.values)),
            U32(sums.map_or(0, |sums| sums.slices as u32)),
            U32(rows.padded as u32),
            u,
            u_norms,
            targets,
            In(pull.pulls),
            Argument::maybe(pull.other_pulls),
            offsets,
            list,
            F64(self.scale),
            Tensor(grad),
            Argument::maybe_out(along.as_mut()),
            Out(&mut dz),
        ];
        self.launch_warps("finish", rows.len(), arguments)?;
        Ok((dz, along))
    }
}
