//! One loop, compiled for each width of vectors, the widest that the processor has chosen at run time.

use pulp::{Arch, Simd, WithSimd};

/// Runs `f` with its loops compiled for this processor's vectors.
///
/// Give `#[inline(always)]` to `f` and to every closure and function in it: one that stays a function of its own is
/// compiled for the oldest processor. `f` is `FnMut` for the same reason, as calling such a closure by
/// `FnOnce` goes through a shim that is not inlined.
#[inline(always)]
pub(crate) fn vectorized(f: impl FnMut()) {
    Arch::new().dispatch(Loop(f));
}

struct Loop<F>(F);

impl<F: FnMut()> WithSimd for Loop<F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, _: S) {
        (self.0)();
    }
}
