//! Counted randomness: every draw comes from a generator keyed by (seed, epoch, sample, view).
//!
//! There is no shared generator whose state would depend on who draws first, so any number of workers, and a
//! run resumed in mid-epoch, draw the same bits.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// The generator of one view of one sample in one epoch.
///
/// ChaCha with 8 rounds; its 256-bit key *is* the four numbers, little-endian, one after another. The map
/// from numbers to keys is one to one, so no two views share a stream. `sample` = `u64::MAX` is kept for the
/// epoch's order ([`shuffled`](crate::shuffled)).
///
/// ```
/// use rand::RngCore;
/// let mut a = selfsup_data::sample_rng(0, 3, 41, 0);
/// let mut b = selfsup_data::sample_rng(0, 3, 41, 1);
/// assert_ne!(a.next_u64(), b.next_u64());
/// ```
pub fn sample_rng(seed: u64, epoch: u64, sample: u64, view: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    for (bytes, number) in key.chunks_exact_mut(8).zip([seed, epoch, sample, view]) {
        bytes.copy_from_slice(&number.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}

/// What keys the draws of one sample in one epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SampleKey {
    /// The run's seed.
    pub seed: u64,
    /// The epoch, from 0.
    pub epoch: u64,
    /// The sample's place in its source.
    pub index: usize,
}

impl SampleKey {
    /// The generator of a view: see [`sample_rng`].
    pub fn rng(&self, view: u64) -> ChaCha8Rng {
        sample_rng(self.seed, self.epoch, self.index as u64, view)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::RngCore;
    use std::collections::HashSet;

    /// Written out by hand from the definition of the key; a change of the draws would change every run.
    #[test]
    fn the_key_is_the_four_numbers() {
        let mut key = [0; 32];
        key[0] = 7;
        key[9] = 1; // epoch 256
        key[16..24].fill(0xff);
        key[24] = 2;
        let mut expected = ChaCha8Rng::from_seed(key);
        let mut got = sample_rng(7, 256, u64::MAX, 2);
        assert_eq!(expected.next_u64(), got.next_u64());
        // ChaCha8 of the zero key: the keystream's first words (Strombergson's test vectors, TC1, 256-bit
        // key).
        assert_eq!(
            sample_rng(0, 0, 0, 0).next_u64().to_le_bytes(),
            [0x3e, 0x00, 0xef, 0x2f, 0x89, 0x5f, 0x40, 0xd6]
        );
    }

    #[test]
    fn each_number_changes_the_stream() {
        let mut seen = HashSet::new();
        for i in 0..4 {
            for value in 1..50 {
                let mut n = [0; 4];
                n[i] = value;
                assert!(seen.insert(sample_rng(n[0], n[1], n[2], n[3]).next_u64()), "{n:?} repeats a stream");
            }
        }
        let key = SampleKey { seed: 1, epoch: 2, index: 3 };
        assert_eq!(key.rng(4).next_u64(), sample_rng(1, 2, 3, 4).next_u64());
    }
}
