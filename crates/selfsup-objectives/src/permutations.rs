//! Permutations that are far from each other: the classes of the jigsaw task.
//!
//! Noroozi & Favaro 2016, "Unsupervised Learning of Visual Representations by Solving Jigsaw Puzzles", arXiv:1603.09246, §3.3 and
//! algorithm 1: a set is built one by one, each time by the permutation that is farthest from those chosen so far. Farthest is
//! here the largest minimum of the Hamming distances, and of equal ones the largest sum (the algorithm as printed takes the sum
//! alone, the text asks for distances as large as possible).

use crate::{Error, Result};
use std::sync::{Mutex, PoisonError};

/// Tiles of the 3×3 grid.
pub const TILES: usize = 9;
/// 9!
const ALL: usize = 362_880;
/// A tile's place takes four bits.
const BITS: u32 = 4;
const LOW_BITS: u64 = 0x1_1111_1111;

/// An order of the nine tiles: place i shows tile `order[i]`, both counted row by row.
pub type Permutation = [u8; TILES];

/// `count` permutations, far from each other. The first is the order in which the tiles stand, the rest follows from it: the same
/// on every machine, and a smaller set is the beginning of a larger one. A thousand take about a second, once in a process.
///
/// # Errors
/// A count outside 2…362,880.
pub fn distant_permutations(count: usize) -> Result<Vec<Permutation>> {
    if !(2..=ALL).contains(&count) {
        return Err(Error::Value {
            name: "the number of permutations",
            expected: "2 to 362880",
            got: count as f64,
        });
    }
    static KNOWN: Mutex<Vec<Permutation>> = Mutex::new(Vec::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if known.len() < count {
        *known = farthest(count);
    }
    Ok(known[..count].to_vec())
}

fn farthest(count: usize) -> Vec<Permutation> {
    let mut left: Vec<Candidate> = all().into_iter().map(Candidate::new).collect();
    let mut chosen = vec![left.remove(0).order];
    while chosen.len() < count {
        let newest = pack(&chosen[chosen.len() - 1]);
        let mut best = 0;
        for i in 0..left.len() {
            left[i].meet(newest);
            if left[i].rank() > left[best].rank() {
                best = i;
            }
        }
        // In place: candidates stay in lexicographic order, which decides between equals.
        chosen.push(left.remove(best).order);
    }
    chosen
}

/// At how many places two orders differ.
pub fn hamming_distance(a: &Permutation, b: &Permutation) -> u32 {
    packed_distance(pack(a), pack(b))
}

struct Candidate {
    order: Permutation,
    packed: u64,
    least: u32,
    sum: u32,
}

impl Candidate {
    fn new(order: Permutation) -> Self {
        Self { order, packed: pack(&order), least: u32::MAX, sum: 0 }
    }

    fn meet(&mut self, chosen: u64) {
        let distance = packed_distance(self.packed, chosen);
        self.least = self.least.min(distance);
        self.sum += distance;
    }

    fn rank(&self) -> (u32, u32) {
        (self.least, self.sum)
    }
}

fn pack(order: &Permutation) -> u64 {
    order.iter().fold(0, |packed, &tile| packed << BITS | u64::from(tile))
}

fn packed_distance(a: u64, b: u64) -> u32 {
    let differ = a ^ b;
    // Each group of four bits down to its lowest.
    let any = (differ | differ >> 1 | differ >> 2 | differ >> 3) & LOW_BITS;
    any.count_ones()
}

/// Every order, in lexicographic order.
fn all() -> Vec<Permutation> {
    let mut all = Vec::with_capacity(ALL);
    let mut order: Permutation = std::array::from_fn(|i| i as u8);
    loop {
        all.push(order);
        // The next in lexicographic order (Knuth 7.2.1.2, algorithm L).
        let Some(i) = (0..TILES - 1).rev().find(|&i| order[i] < order[i + 1]) else { return all };
        let j = (i + 1..TILES).rev().find(|&j| order[j] > order[i]).expect("the next one is larger");
        order.swap(i, j);
        order[i + 1..].reverse();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// What was worked out for a smaller set is not taken for a larger one.
    #[test]
    fn sets_of_any_size_begin_alike_in_whatever_order_they_are_asked_for() {
        let few = distant_permutations(12).unwrap();
        let many = distant_permutations(1010).unwrap();
        assert_eq!((few.len(), many.len()), (12, 1010));
        assert_eq!(few, many[..12]);
        assert_eq!(many, farthest(1010));
    }

    fn distance(a: &Permutation, b: &Permutation) -> u32 {
        a.iter().zip(b).filter(|(a, b)| a != b).count() as u32
    }

    #[test]
    fn all_of_them_are_there_in_order() {
        let all = all();
        assert_eq!(all.len(), ALL);
        assert!(all.is_sorted());
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), ALL);
    }

    #[test]
    fn the_packed_distance_is_the_plain_one() {
        let all = all();
        for (a, b) in all.iter().step_by(3571).zip(all.iter().rev().step_by(1009)) {
            assert_eq!(hamming_distance(a, b), distance(a, b));
        }
        assert_eq!(hamming_distance(&all[0], &all[0]), 0);
    }

    /// Each member is the farthest of all that there were: by plain loops over all 9!.
    #[test]
    fn each_step_takes_the_farthest() {
        let set = distant_permutations(12).unwrap();
        let all = all();
        for n in 1..set.len() {
            let rank = |p: &Permutation| {
                let distances = || set[..n].iter().map(|q| distance(p, q));
                (distances().min().unwrap(), distances().sum::<u32>())
            };
            let best = all.iter().map(rank).max().unwrap();
            assert_eq!(rank(&set[n]), best);
            assert_eq!(all.iter().find(|p| rank(p) == best), Some(&set[n]), "of equals the first");
        }
        // Nine orders can differ everywhere, a tenth cannot (a Latin square has nine rows).
        assert!(set[..9].iter().enumerate().all(|(i, p)| set[..i].iter().all(|q| distance(p, q) == 9)));
    }

    #[test]
    fn a_count_that_cannot_be_had_is_an_error() {
        for count in [0, 1, ALL + 1] {
            assert!(distant_permutations(count).unwrap_err().to_string().contains("2 to 362880"));
        }
    }
}
