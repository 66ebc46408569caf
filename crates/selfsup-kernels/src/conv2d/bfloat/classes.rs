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
    let mut classes: Vec<Class> = Vec::new();
    let mut last = None;
    for position in taps.positions().0 {
        let sources: Vec<_> =
            (0..taps.count()).map(|tap| taps.source(position, tap / taps.kw, tap % taps.kw)).collect();
        let first = sources.iter().flatten().next().copied().unwrap_or(0);
        // An input gradient's taps see a pixel by its place within the stride: so their distances are a class's too.
        let seen: Vec<_> = sources
            .iter()
            .enumerate()
            .filter_map(|(tap, source)| source.map(|s| (tap, s.wrapping_sub(first).cast_signed())))
            .collect();
        if last.as_ref() != Some(&seen) {
            classes.push(Class { positions: Vec::new(), taps: seen.clone() });
            last = Some(seen);
        }
        let position = Position { source: first, out: position.0 * taps.out_w + position.1 };
        classes.last_mut().expect("one was just pushed").positions.push(position);
    }
    classes
}
