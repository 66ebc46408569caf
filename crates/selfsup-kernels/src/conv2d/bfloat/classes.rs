//! Output pixels by the taps that they see: those of a class see the same ones, each as far from the first one as in any
//! other pixel, so that a pixel needs no more than an address.

use crate::conv2d::taps::Taps;

/// A position of an output image.
#[derive(Debug, Clone, Copy)]
pub(super) struct Position {
    /// Where the first tap that it sees begins to read in an input image.
    pub source: usize,
    /// Its number in an output image.
    pub out: usize,
}

/// Positions that see the same taps.
#[derive(Debug)]
pub(super) struct Class {
    /// In the order of memory.
    pub positions: Vec<Position>,
    /// Taps, and how far behind the first one they read.
    pub taps: Vec<(usize, isize)>,
}

/// The classes of all positions.
pub(super) fn classes(taps: &Taps) -> Vec<Class> {
    let class = |class: crate::conv2d::taps::Class| {
        let columns = &class.columns;
        let positions = class.rows.iter().flat_map(|row| {
            columns.iter().map(|column| Position {
                source: row.source + column.source,
                out: row.at * taps.out_w + column.at,
            })
        });
        Class { positions: positions.collect(), taps: class.taps }
    };
    taps.classes().into_iter().map(class).collect()
}
