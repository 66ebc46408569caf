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

    /// The output positions of an image, those that see the same taps together, else in the order of memory; and how many
    /// classes of positions there are.
    pub(super) fn positions(&self) -> (Vec<(usize, usize)>, usize) {
        let rows = classes(&self.rows, self.kh);
        let columns = classes(&self.columns, self.kw);
        let mut positions = Vec::with_capacity(self.out_h * self.out_w);
        for rows in &rows {
            for columns in &columns {
                positions.extend(rows.iter().flat_map(|&i| columns.iter().map(move |&j| (i, j))));
            }
        }
        (positions, rows.len() * columns.len())
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
