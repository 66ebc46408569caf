//! Drawing a few labelled samples of each class.

use crate::error::setting;
use crate::{Error, Result};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// Draws `per_class` samples of every class without replacement; returns their indices, ascending.
///
/// A class's order of drawing depends on the seed, the class's index and its number of samples alone. So with
/// one seed the draw of 10 a class is contained in the draw of 20, and curves over the number of labels are
/// comparable.
///
/// # Errors
///
/// [`Error::TooFewLabels`] names the first class that has fewer; [`Error::Setting`] for 0 a class.
pub fn draw(labels: &[u32], classes: &[String], per_class: usize, seed: u64) -> Result<Vec<usize>> {
    if per_class == 0 {
        return Err(setting("labels per class", "at least 1", 0));
    }
    let mut drawn = Vec::new();
    for (class, name) in classes.iter().enumerate() {
        let mut members = members(labels, class);
        if members.len() < per_class {
            let available = members.len();
            return Err(Error::TooFewLabels { class: name.clone(), available, asked: per_class });
        }
        members.shuffle(&mut class_rng(seed, class, Purpose::Draw));
        drawn.extend_from_slice(&members[..per_class]);
    }
    drawn.sort_unstable();
    Ok(drawn)
}

/// Splits the samples into (fitted on, held out), stratified: of a class with m samples, share · m (rounded)
/// are held out, but at least one where m ≥ 2, and never all. Both lists ascend.
pub(crate) fn hold_out(labels: &[u32], classes: usize, share: f64, seed: u64) -> (Vec<usize>, Vec<usize>) {
    let (mut fit, mut held) = (Vec::new(), Vec::new());
    for class in 0..classes {
        let mut members = members(labels, class);
        members.shuffle(&mut class_rng(seed, class, Purpose::HoldOut));
        let most = members.len().saturating_sub(1);
        let count = ((share * members.len() as f64).round() as usize).max(1).min(most);
        held.extend_from_slice(&members[..count]);
        fit.extend_from_slice(&members[count..]);
    }
    fit.sort_unstable();
    held.sort_unstable();
    (fit, held)
}

#[derive(Clone, Copy)]
enum Purpose {
    Draw,
    HoldOut,
}

/// The generator of one class's order: its own stream for each purpose, so that neither disturbs the other.
fn class_rng(seed: u64, class: usize, purpose: Purpose) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(2 * class as u64 + purpose as u64);
    rng
}

fn members(labels: &[u32], class: usize) -> Vec<usize> {
    (0..labels.len()).filter(|&i| labels[i] as usize == class).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_out_a_share_of_each_class_and_never_all() {
        // 1, 2, 3, 10 and 24 samples of the classes 0, 1, 2, 3 and 5; none of class 4.
        let labels: Vec<u32> =
            [(0, 1), (1, 2), (2, 3), (3, 10), (5, 24)].iter().flat_map(|&(l, n)| vec![l; n]).collect();
        let (fit, held) = hold_out(&labels, 6, 0.2, 3);
        let count = |rows: &[usize], class| rows.iter().filter(|&&i| labels[i] == class).count();
        let held_counts: Vec<usize> = (0..6).map(|class| count(&held, class)).collect();
        assert_eq!(held_counts, [0, 1, 1, 2, 0, 5]);
        let mut all = [fit.clone(), held.clone()].concat();
        all.sort_unstable();
        assert_eq!(all, (0..labels.len()).collect::<Vec<_>>(), "each sample once");
        assert_ne!(hold_out(&labels, 6, 0.2, 4).1, held);
        let (fit, held) = hold_out(&labels, 6, 0.99, 3);
        assert_eq!((count(&fit, 3), count(&held, 3)), (1, 9));
    }
}
