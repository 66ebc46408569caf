//! Weights as the sums of products read them, kept where they do not change.

use crate::scratch::Aligned;
use std::sync::OnceLock;

/// Packed weights by the way that reads them; each is packed when it is first wanted.
pub(crate) struct Packed<T> {
    direct: OnceLock<Aligned<T>>,
    winograd: OnceLock<Aligned<T>>,
}

/// Which way weights are packed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Direct,
    Winograd,
}

/// Packed weights, kept or not.
pub(super) enum Weights<'a, T> {
    Kept(&'a Aligned<T>),
    Own(Aligned<T>),
}

impl<T> Default for Packed<T> {
    fn default() -> Self {
        Self { direct: OnceLock::new(), winograd: OnceLock::new() }
    }
}

impl<T: Copy + Default> Packed<T> {
    /// The weights of `kept`, packed by `pack` where they are not yet. How they are packed follows from the weight's shape and the
    /// convolution's parameters, not from the images' size.
    pub(super) fn get<'a>(
        kept: Option<&'a Self>,
        way: Way,
        pack: impl FnOnce() -> Aligned<T>,
    ) -> Weights<'a, T> {
        let Some(kept) = kept else { return Weights::Own(pack()) };
        let place = match way {
            Way::Direct => &kept.direct,
            Way::Winograd => &kept.winograd,
        };
        // Not `get_or_init`: packing lets the thread take up other work meanwhile, which may want the same weights.
        if place.get().is_none() {
            let _ = place.set(pack());
        }
        Weights::Kept(place.get().expect("set above, here or by another thread"))
    }
}

impl<T: Copy + Default> Weights<'_, T> {
    pub(super) fn as_slice(&self) -> &[T] {
        match self {
            Weights::Kept(weights) => weights.as_slice(),
            Weights::Own(weights) => weights.as_slice(),
        }
    }
}
