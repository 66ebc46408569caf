//! Which numbers of its input each tap of a convolution, or of its input gradient, reads for each output position.
//!
//! Both are sums over taps of a run of input channels times a block of weights; they differ in the arithmetic
//! of the source's place alone, which is separable: a row's part and a column's part, tabulated once.

use super::geometry::Geometry;

/// A place outside the image.
const OUTSIDE: isize = isize::MIN / 2;

/// The sources of every output position's taps within an image.
#[derive(Debug, Clone)]
pub(super) struct Taps {
    /// Taps along a column and along a row.
    pub kh: usize,
    pub kw: usize,
    /// Numbers that each tap reads.
    pub depth: usize,
    /// Numbers in an input image.
    pub image: usize,
    /// Runs of `depth` numbers in a pixel, one for each group.
    pub groups: usize,
    /// Output positions of an image.
    pub out_h: usize,
    pub out_w: usize,
    /// `[out_h, kh]` and `[out_w, kw]`: their sum is the source's place.
    rows: Vec<isize>,
    columns: Vec<isize>,
}

impl Taps {
    /// Those of the convolution: (i·s + a·d − p, j·s + b·d − p).
    pub(super) fn forward(g: &Geometry) -> Self {
        Self {
            kh: g.kh,
            kw: g.kw,
            depth: g.group_c(),
            image: g.h * g.w * g.c,
            groups: g.groups,
            out_h: g.out_h,
            out_w: g.out_w,
            rows: table(g.out_h, g.kh, g.w * g.c, |i, a| place(i * g.stride + a * g.dilation, g.pad_h, g.h)),
            columns: table(g.out_w, g.kw, g.c, |j, b| place(j * g.stride + b * g.dilation, g.pad_w, g.w)),
        }
    }

    /// Those of the convolution over images that already carry their padding: the taps of a kernel row are
    /// neighbours in memory and are read as one.
    pub(super) fn padded(g: &Geometry) -> Self {
        let (h, w) = (g.h + 2 * g.pad_h, g.w + 2 * g.pad_w);
        Self {
            kh: g.kh,
            kw: 1,
            depth: g.kw * g.c,
            image: h * w * g.c,
            groups: 1,
            out_h: g.out_h,
            out_w: g.out_w,
            rows: table(g.out_h, g.kh, w * g.c, |i, a| Some(i * g.stride + a * g.dilation)),
            columns: table(g.out_w, 1, g.c, |j, _| Some(j * g.stride)),
        }
    }

    /// Those of the input gradient, which reads dy: the output pixels ((y + p − a·d)/s, (x + p − b·d)/s) that saw
    /// the input pixel (y, x) by their tap, where that is a whole number.
    pub(super) fn backward(g: &Geometry) -> Self {
        let seen = |at: usize, tap: usize, padding: usize, out: usize| {
            let reach = (at + padding).checked_sub(tap * g.dilation)?;
            (reach % g.stride == 0 && reach / g.stride < out).then_some(reach / g.stride)
        };
        Self {
            kh: g.kh,
            kw: g.kw,
            depth: g.group_k(),
            image: g.out_h * g.out_w * g.k,
            groups: g.groups,
            out_h: g.h,
            out_w: g.w,
            rows: table(g.h, g.kh, g.out_w * g.k, |y, a| seen(y, a, g.pad_h, g.out_h)),
            columns: table(g.w, g.kw, g.k, |x, b| seen(x, b, g.pad_w, g.out_w)),
        }
    }

    /// Taps of the kernel.
    pub(super) fn count(&self) -> usize {
        self.kh * self.kw
    }

    /// Where in its image the tap (a, b) of the output position (i, j) begins to read, if it is in the image.
    #[inline(always)]
    pub(super) fn source(&self, (i, j): (usize, usize), a: usize, b: usize) -> Option<usize> {
        let at = self.rows[i * self.kh + a] + self.columns[j * self.kw + b];
        (at >= 0).then_some(at as usize)
    }

    /// How far on from the first tap each one reads, if every position sees them all.
    pub(super) fn offsets(&self) -> Option<Vec<usize>> {
        match &self.classes()[..] {
            [class] if class.taps.len() == self.count() => {
                class.taps.iter().map(|&(_, offset)| usize::try_from(offset).ok()).collect()
            }
            _ => None,
        }
    }

    /// The output positions of an image, parted by the taps that they see.
    ///
    /// # Panics
    /// If a tap left its image, which is a fault in this crate: what reads through a class does not check again.
    pub(super) fn classes(&self) -> Vec<Class> {
        let rows = classes(&self.rows, self.kh);
        let columns = classes(&self.columns, self.kw);
        let mut classes = Vec::with_capacity(rows.len() * columns.len());
        for rows in &rows {
            classes.extend(columns.iter().map(|columns| self.class(rows, columns)));
        }
        classes
    }

    /// The positions of some rows and columns whose taps are the same.
    fn class(&self, rows: &[usize], columns: &[usize]) -> Class {
        let (row_table, column_table) =
            (&self.rows[rows[0] * self.kh..], &self.columns[columns[0] * self.kw..]);
        let inside =
            |table: &[isize], taps: usize| (0..taps).filter(|&tap| table[tap] >= 0).collect::<Vec<_>>();
        let (a, b) = (inside(row_table, self.kh), inside(column_table, self.kw));
        let (Some(&first_a), Some(&first_b)) = (a.first(), b.first()) else {
            let unseen = |at: &usize| Line { source: 0, at: *at };
            let (rows, columns) = (rows.iter().map(unseen).collect(), columns.iter().map(unseen).collect());
            return Class { taps: Vec::new(), rows, columns };
        };
        let mut taps = Vec::with_capacity(a.len() * b.len());
        for &a in &a {
            for &b in &b {
                let offset = row_table[a] - row_table[first_a] + column_table[b] - column_table[first_b];
                taps.push((a * self.kw + b, offset));
            }
        }
        let line = |table: &[isize], at: usize, tap: usize| Line { source: table[at + tap] as usize, at: 0 };
        let rows: Vec<Line> =
            rows.iter().map(|&i| Line { at: i, ..line(&self.rows, i * self.kh, first_a) }).collect();
        let columns: Vec<Line> =
            columns.iter().map(|&j| Line { at: j, ..line(&self.columns, j * self.kw, first_b) }).collect();
        let ends = |lines: &[Line]| {
            let sources = || lines.iter().map(|line| line.source as isize);
            (sources().min().unwrap_or(0), sources().max().unwrap_or(0))
        };
        let (row, column) = (ends(&rows), ends(&columns));
        let pixel = (self.depth * self.groups) as isize;
        for (_, offset) in &taps {
            let (first, last) = (row.0 + column.0 + offset, row.1 + column.1 + offset);
            assert!(first >= 0 && last + pixel <= self.image as isize, "a tap leaves its image");
        }
        Class { taps, rows, columns }
    }
}

/// Output positions that see the same taps: some rows by some columns. From tap to tap all of them read equally far on,
/// so that a position needs but one place.
#[derive(Debug, Clone)]
pub(super) struct Class {
    /// The taps, and where each reads, from where the first does.
    pub taps: Vec<(usize, isize)>,
    pub rows: Vec<Line>,
    pub columns: Vec<Line>,
}

/// A row or a column of output positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Line {
    /// Its part of the place where the first tap reads.
    pub source: usize,
    /// Which one it is.
    pub at: usize,
}

impl Class {
    /// Positions in an image.
    pub(super) fn len(&self) -> usize {
        self.rows.len() * self.columns.len()
    }
}

/// `[size, taps]` places in steps of `stride` numbers.
fn table(
    size: usize,
    taps: usize,
    stride: usize,
    place: impl Fn(usize, usize) -> Option<usize>,
) -> Vec<isize> {
    let entry = |i: usize| place(i / taps, i % taps).map_or(OUTSIDE, |at| (at * stride) as isize);
    (0..size * taps).map(entry).collect()
}

fn place(reach: usize, padding: usize, size: usize) -> Option<usize> {
    reach.checked_sub(padding).filter(|&at| at < size)
}

/// The indices of a table's lines, parted by which of their taps are in the image.
fn classes(table: &[isize], taps: usize) -> Vec<Vec<usize>> {
    let mut classes: Vec<(Vec<bool>, Vec<usize>)> = Vec::new();
    for (index, line) in table.chunks_exact(taps).enumerate() {
        let inside: Vec<bool> = line.iter().map(|&at| at >= 0).collect();
        match classes.iter_mut().find(|(class, _)| *class == inside) {
            Some((_, members)) => members.push(index),
            None => classes.push((inside, vec![index])),
        }
    }
    classes.into_iter().map(|(_, members)| members).collect()
}
