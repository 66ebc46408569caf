//! The CPU's passes over the similarities: tile by tile, so that memory stays linear in the number of rows.
//!
//! S = a bᵀ, `[rows of a, rows of b]`, is never stored. Where b is a, only the tiles on and above the diagonal are
//! worked out, each standing for its mirror image as well: half a product for the sums, one and a half for the
//! gradient, where a rectangle takes one and three.
//!
//! Tiles are worked on in rounds. No two tiles of a round share rows of a or of b, so that each may add to both
//! sides' results, and each result gets its terms in an order that depends on the sizes alone.

use crate::element::Element;
use crate::matmul::{Matrix, MatrixMut, matmul};
use crate::simd::vectorized;
use rayon::prelude::*;
use std::sync::Mutex;

/// Rows of a matrix, all scaled to one length: row i is x_i · (length/‖x_i‖), or 0 where x_i is 0.
pub(super) struct Rows<T> {
    pub(super) values: Vec<T>,
    pub(super) d: usize,
    norms: Vec<f64>,
    length: f64,
}

impl<T: Element> Rows<T> {
    /// Squares are summed in f64: no finite row has an infinite norm, and no row but 0 has the norm 0.
    pub(super) fn new(x: &[T], d: usize, length: f64) -> Self {
        let norms: Vec<f64> = x.par_chunks(d).map(|x| dot(x, x).sqrt()).collect();
        let mut values = vec![T::ZERO; x.len()];
        values.par_chunks_mut(d).zip(x.par_chunks(d)).zip(&norms).for_each(|((v, x), &norm)| {
            if norm != 0.0 {
                let scale = length / norm;
                v.iter_mut().zip(x).for_each(|(v, x)| *v = T::from_f64(x.to_f64() * scale));
            }
        });
        Self { values, d, norms, length }
    }

    pub(super) fn len(&self) -> usize {
        self.norms.len()
    }

    pub(super) fn row(&self, i: usize) -> &[T] {
        &self.values[i * self.d..(i + 1) * self.d]
    }

    /// The gradient of x from that of the scaled rows v, in place: (dv − v⟨v, dv⟩/length²) · length/‖x‖. A row of
    /// zeros has no direction and gets 0.
    pub(super) fn backward(&self, dv: &mut [T]) {
        let rows = self.values.par_chunks(self.d).zip(&self.norms);
        dv.par_chunks_mut(self.d).zip(rows).for_each(|(dv, (v, &norm))| {
            if norm == 0.0 {
                return dv.fill(T::ZERO);
            }
            let along = dot(v, dv) / (self.length * self.length);
            let scale = self.length / norm;
            for (dv, v) in dv.iter_mut().zip(v) {
                *dv = T::from_f64((dv.to_f64() - v.to_f64() * along) * scale);
            }
        });
    }
}

pub(super) fn dot<T: Element>(a: &[T], b: &[T]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a.to_f64() * b.to_f64()).sum()
}

/// The similarities S = a bᵀ of all rows of a with all rows of b, in tiles. All lie in ±`bound`.
pub(super) struct Tiles<'a, T> {
    a: &'a Rows<T>,
    b: &'a Rows<T>,
    /// b is a, and no row meets itself.
    triangle: bool,
    /// The column that row i leaves out.
    excluded: Option<&'a [u32]>,
    /// The column of row i's positive.
    positives: Option<&'a [u32]>,
    block: usize,
    bound: f64,
}

/// A tile's place: the number of its block of rows of a, and of its block of rows of b.
#[derive(Clone, Copy)]
struct Tile {
    i: usize,
    j: usize,
}

/// A softmax over rows or over columns: w exp(S − lse), with a weight w and an lse for each.
#[derive(Clone, Copy)]
pub(super) struct Softmax<'a> {
    pub(super) weights: &'a [f64],
    pub(super) lse: &'a [f64],
}

impl<'a, T: Element> Tiles<'a, T> {
    /// Every row with every other one.
    pub(super) fn triangle(rows: &'a Rows<T>) -> Self {
        Self { triangle: true, ..Self::rectangle(rows, rows, None) }
    }

    /// Every row of a with every row of b, but for row `excluded[i]` of b with row i of a.
    pub(super) fn rectangle(a: &'a Rows<T>, b: &'a Rows<T>, excluded: Option<&'a [u32]>) -> Self {
        // The size follows from the number of rows alone, as the order of the sums does: small enough that few
        // rows give every thread work, large enough that many are worked on by large products.
        let block = match a.len().max(b.len()) {
            0..1024 => 64,
            1024..4096 => 128,
            _ => 256,
        };
        Self { a, b, triangle: false, excluded, positives: None, block, bound: a.length * b.length }
    }

    /// Has [`log_sum_exp`](Self::log_sum_exp) pick out S(i, positives[i]).
    pub(super) fn with_positives(self, positives: &'a [u32]) -> Self {
        Self { positives: Some(positives), ..self }
    }

    /// Blocks of another size, if one is given.
    pub(super) fn with_block(self, block: Option<usize>) -> Self {
        Self { block: block.unwrap_or(self.block), ..self }
    }

    /// Over each row, and if `columns` over each column of a rectangle.
    pub(super) fn log_sum_exp(&self, columns: bool) -> LogSumExp {
        let mut sums = vec![Sum::EMPTY; self.a.len()];
        let mut column_sums = vec![Sum::EMPTY; if columns { self.b.len() } else { 0 }];
        let sides = self.sides(&mut sums, &mut column_sums, 1);
        let one_bound = self.one_bound();
        let bound = T::from_f64(self.bound);
        self.for_each_tile(|tile, s, scratch| {
            let width = self.width(tile.j);
            let mut rows = lock(&sides.rows[tile.i]);
            let mut columns = sides.columns(tile).map(lock);
            let (i0, j0) = (tile.i * self.block, tile.j * self.block);
            if let Some(positives) = self.positives {
                for (i, sum) in rows.iter_mut().enumerate() {
                    if let Some(j) = within(positives[i0 + i], j0, width) {
                        sum.positive = s[i * width + j].to_f64();
                    }
                }
                // The mirror image.
                if self.triangle {
                    for (j, sum) in columns.iter_mut().flat_map(|c| c.iter_mut()).enumerate() {
                        if let Some(i) = within(positives[j0 + j], i0, self.height(tile.i)) {
                            sum.positive = s[i * width + j].to_f64();
                        }
                    }
                }
            }
            if one_bound {
                scratch.fill(T::ZERO);
                for (row, sum) in s.chunks_mut(width).zip(rows.iter_mut()) {
                    let mut total = 0.0;
                    vectorized(
                        #[inline(always)]
                        || total = exp_into(row, scratch, bound),
                    );
                    sum.add(self.bound, total);
                }
                for (sum, c) in columns.iter_mut().flat_map(|c| c.iter_mut()).zip(scratch) {
                    sum.add(self.bound, c.to_f64());
                }
            } else {
                for (row, sum) in s.chunks(width).zip(rows.iter_mut()) {
                    sum.add_all(row.iter());
                }
                for (j, sum) in columns.iter_mut().flat_map(|c| c.iter_mut()).enumerate() {
                    sum.add_all(s[j..].iter().step_by(width));
                }
            }
        });
        drop(sides);
        LogSumExp {
            rows: sums.iter().map(Sum::ln).collect(),
            columns: column_sums.iter().map(Sum::ln).collect(),
            positives: sums.iter().map(|sum| sum.positive).collect(),
        }
    }

    /// The gradients of a and b: da_i = Σ_j W(i, j) b_j and db_j = Σ_i W(i, j) a_i, where W(i, j) is the sum of a
    /// softmax over row i and one over column j. Of a triangle both softmaxes are the rows', and the result is
    /// da + db; of a rectangle db is worked out where it is asked for.
    pub(super) fn weighted_sums(
        &self,
        rows: Softmax,
        columns: Option<Softmax>,
        with_db: bool,
    ) -> (Vec<T>, Vec<T>) {
        let d = self.a.d;
        let mut da = vec![T::ZERO; self.a.values.len()];
        let mut db = vec![T::ZERO; if with_db { self.b.values.len() } else { 0 }];
        let sides = self.sides(&mut da, &mut db, d);
        let one_bound = self.one_bound();
        let bound = T::from_f64(self.bound);
        let rows = Factors::new(rows, self.bound);
        let columns = match columns {
            _ if self.triangle => None,
            None => Some(Factors::none(self.b.len(), self.bound)),
            Some(columns) => Some(Factors::new(columns, self.bound)),
        };
        let columns = columns.as_ref().unwrap_or(&rows);
        self.for_each_tile(|tile, s, _| {
            let (height, width) = (self.height(tile.i), self.width(tile.j));
            let (i0, j0) = (tile.i * self.block, tile.j * self.block);
            let range = j0..j0 + width;
            for (i, row) in s.chunks_mut(width).enumerate() {
                let i = i0 + i;
                if one_bound {
                    let f = rows.one[i];
                    let others = &columns.one[range.clone()];
                    vectorized(
                        #[inline(always)]
                        || {
                            for (s, g) in row.iter_mut().zip(others) {
                                *s = (*s - bound).exp_nonpositive() * (f + *g);
                            }
                        },
                    );
                } else {
                    let (w, lse) = (rows.weights[i], rows.lse[i]);
                    let others = columns.weights[range.clone()].iter().zip(&columns.lse[range.clone()]);
                    vectorized(
                        #[inline(always)]
                        || {
                            for (s, (v, l)) in row.iter_mut().zip(others.clone()) {
                                *s = (*s - lse).exp_nonpositive() * w + (*s - *l).exp_nonpositive() * *v;
                            }
                        },
                    );
                }
            }
            let s = Matrix::new(s, height, width, width);
            let out = &mut lock(&sides.rows[tile.i]);
            matmul(MatrixMut::new(out, height, d, d), s, self.b_block(tile.j), true);
            if let Some(out) = sides.columns(tile) {
                matmul(
                    MatrixMut::new(&mut lock(out), width, d, d),
                    s.transposed(),
                    self.a_block(tile.i),
                    true,
                );
            }
        });
        drop(sides);
        (da, db)
    }

    /// Whether exp(S − bound) is a normal number for every S ≥ −bound, so that no maximum need be known.
    fn one_bound(&self) -> bool {
        2.0 * self.bound <= T::MAX_EXPONENT
    }

    /// Calls `f` with each tile of S, −∞ where a column is left out, and a row of scratch of the tile's width.
    fn for_each_tile(&self, f: impl Fn(Tile, &mut [T], &mut [T]) + Sync) {
        let (heights, widths) = (self.a.len().div_ceil(self.block), self.b.len().div_ceil(self.block));
        let rounds = heights.max(widths);
        for round in 0..rounds {
            // i + j = round modulo the number of rounds: every pair once, and each block once a round.
            let tiles = (0..heights).map(|i| Tile { i, j: (round + rounds - i) % rounds });
            let tiles: Vec<Tile> =
                tiles.filter(|t| if self.triangle { t.i <= t.j } else { t.j < widths }).collect();
            tiles.into_par_iter().for_each(|tile| {
                let (height, width) = (self.height(tile.i), self.width(tile.j));
                T::with_scratch((height + 1) * width, |scratch| {
                    let (s, columns) = scratch.split_at_mut(height * width);
                    let out = MatrixMut::new(s, height, width, width);
                    matmul(out, self.a_block(tile.i), self.b_block(tile.j).transposed(), false);
                    if self.triangle && tile.i == tile.j {
                        s.iter_mut().step_by(width + 1).for_each(|s| *s = T::NEG_INFINITY);
                    }
                    if let Some(excluded) = self.excluded {
                        let (i0, j0) = (tile.i * self.block, tile.j * self.block);
                        for (row, &j) in s.chunks_mut(width).zip(&excluded[i0..]) {
                            if let Some(j) = within(j, j0, width) {
                                row[j] = T::NEG_INFINITY;
                            }
                        }
                    }
                    f(tile, s, columns);
                });
            });
        }
    }

    /// Results for the rows of a and of b, `width` numbers each, in blocks that tiles add to.
    fn sides<'s, R>(&self, rows: &'s mut [R], columns: &'s mut [R], width: usize) -> Sides<'s, R> {
        let blocks = |all: &'s mut [R]| all.chunks_mut(self.block * width).map(Mutex::new).collect();
        Sides { rows: blocks(rows), columns: blocks(columns), triangle: self.triangle }
    }

    fn height(&self, i: usize) -> usize {
        self.block.min(self.a.len() - i * self.block)
    }

    fn width(&self, j: usize) -> usize {
        self.block.min(self.b.len() - j * self.block)
    }

    fn a_block(&self, i: usize) -> Matrix<'_, T> {
        let d = self.a.d;
        Matrix::new(&self.a.values[i * self.block * d..], self.height(i), d, d)
    }

    fn b_block(&self, j: usize) -> Matrix<'_, T> {
        let d = self.b.d;
        Matrix::new(&self.b.values[j * self.block * d..], self.width(j), d, d)
    }
}

/// What the forward pass finds.
pub(super) struct LogSumExp {
    /// ln Σ_k exp S(i, k) of each row i; −∞ of nothing.
    pub(super) rows: Vec<f64>,
    /// ln Σ_i exp S(i, k) of each column k, if asked for.
    pub(super) columns: Vec<f64>,
    /// S(i, positive i), if asked for: with the rounding that the sums have, so that the loss of a positive that takes
    /// all is 0.
    pub(super) positives: Vec<f64>,
}

/// The place of row `row` among the `len` rows from `from` on.
fn within(row: u32, from: usize, len: usize) -> Option<usize> {
    (row as usize).checked_sub(from).filter(|&i| i < len)
}

/// What tiles add to. Two tiles of a round never share a block, so that no lock is waited for.
struct Sides<'s, R> {
    rows: Vec<Mutex<&'s mut [R]>>,
    columns: Vec<Mutex<&'s mut [R]>>,
    triangle: bool,
}

impl<'s, R> Sides<'s, R> {
    /// What the tile's columns add to, if anything: of a triangle the rows' own result, but for the diagonal's tiles,
    /// which are their own mirror images.
    fn columns(&self, tile: Tile) -> Option<&Mutex<&'s mut [R]>> {
        match self.triangle {
            true => (tile.i != tile.j).then(|| &self.rows[tile.j]),
            false => self.columns.get(tile.j),
        }
    }
}

/// A [`Softmax`] in T.
struct Factors<T> {
    /// w exp(bound − lse): with it, one exponential exp(S − bound) serves the row's and the column's softmax.
    one: Vec<T>,
    weights: Vec<T>,
    lse: Vec<T>,
}

impl<T: Element> Factors<T> {
    fn new(softmax: Softmax, bound: f64) -> Self {
        let Softmax { weights, lse } = softmax;
        let to = |values: &[f64]| values.iter().map(|v| T::from_f64(*v)).collect();
        // Where the weight is 0, any lse that keeps exp(S − lse) finite: a row that meets no other has −∞.
        let safe: Vec<f64> =
            weights.iter().zip(lse).map(|(w, lse)| if *w == 0.0 { bound } else { *lse }).collect();
        let one = weights.iter().zip(lse).map(|(w, lse)| T::from_f64(weight(*w, bound - lse))).collect();
        Self { one, weights: to(weights), lse: to(&safe) }
    }

    /// Weights of 0.
    fn none(n: usize, bound: f64) -> Self {
        Self::new(Softmax { weights: &vec![0.0; n], lse: &vec![bound; n] }, bound)
    }
}

/// ln(exp a + exp b).
pub(super) fn add_exp(a: f64, b: f64) -> f64 {
    let (low, high) = if a < b { (a, b) } else { (b, a) };
    if low == f64::NEG_INFINITY { high } else { high + (low - high).exp().ln_1p() }
}

/// w·exp(x), 0 for w = 0 whatever x.
fn weight(w: f64, x: f64) -> f64 {
    if w == 0.0 { 0.0 } else { w * x.exp() }
}

/// Turns s into exp(s − bound), adds it to `columns`, and returns its sum.
#[inline(always)]
fn exp_into<T: Element>(s: &mut [T], columns: &mut [T], bound: T) -> f64 {
    const LANES: usize = 16;
    for (s, c) in s.iter_mut().zip(columns) {
        *s = (*s - bound).exp_nonpositive();
        *c += *s;
    }
    let mut lanes = [T::ZERO; LANES];
    let chunks = s.chunks_exact(LANES);
    for (lane, s) in lanes.iter_mut().zip(chunks.remainder()) {
        *lane = *s;
    }
    for s in chunks {
        for (lane, s) in lanes.iter_mut().zip(s) {
            *lane += *s;
        }
    }
    lanes.iter().map(|lane| lane.to_f64()).sum()
}

/// Σ exp(xᵢ) as sum · exp(max), and the positive's xᵢ.
#[derive(Clone, Copy)]
struct Sum {
    max: f64,
    sum: f64,
    positive: f64,
}

impl Sum {
    const EMPTY: Self = Self { max: f64::NEG_INFINITY, sum: 0.0, positive: 0.0 };

    /// Adds sum · exp(max).
    fn add(&mut self, max: f64, sum: f64) {
        if max > self.max {
            self.sum *= (self.max - max).exp();
            self.max = max;
        }
        self.sum += sum * (max - self.max).exp();
    }

    fn add_all<'a, T: Element>(&mut self, x: impl Iterator<Item = &'a T> + Clone) {
        let max = x.clone().fold(T::NEG_INFINITY, |m, x| if *x > m { *x } else { m });
        if max == T::NEG_INFINITY {
            // Nothing but rows that are left out, or no numbers.
            if x.clone().any(|x| x.to_f64().is_nan()) {
                self.sum = f64::NAN;
            }
            return;
        }
        self.add(max.to_f64(), x.map(|x| (*x - max).exp_nonpositive().to_f64()).sum());
    }

    fn ln(&self) -> f64 {
        if self.sum == 0.0 { f64::NEG_INFINITY } else { self.max + self.sum.ln() }
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().expect("no tile panics")
}
