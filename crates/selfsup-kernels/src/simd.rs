//! Vectors of the width that the processor has, chosen at run time: loops that the compiler vectorises, and
//! arithmetic on the vectors themselves.

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

/// Runs `f`, compiled for the instruction set of `simd`, as a function of its own.
///
/// A loop that needs nearly all registers must not share them with the loops around it: the compiler would keep
/// its sums in memory.
#[inline(never)]
pub(crate) fn isolated<S: Simd>(simd: S, f: impl FnMut()) {
    struct Nullary<F>(F);
    impl<F: FnMut()> pulp::NullaryFnOnce for Nullary<F> {
        type Output = ();
        #[inline(always)]
        fn call(mut self) {
            (self.0)();
        }
    }
    simd.vectorize(Nullary(f));
}

struct Loop<F>(F);

impl<F: FnMut()> WithSimd for Loop<F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, _: S) {
        (self.0)();
    }
}

/// A number type's vectors under an instruction set.
pub(crate) trait Lanes: Copy + Send + Sync + 'static {
    /// A vector.
    type Vector<S: Simd>: Copy;
    /// Numbers in a vector.
    fn lanes<S: Simd>() -> usize {
        size_of::<Self::Vector<S>>() / size_of::<Self>()
    }
    /// The number in every lane.
    fn splat<S: Simd>(simd: S, x: Self) -> Self::Vector<S>;
    /// a·b + c, rounded once where the processor has such an instruction.
    fn mul_add<S: Simd>(
        simd: S,
        a: Self::Vector<S>,
        b: Self::Vector<S>,
        c: Self::Vector<S>,
    ) -> Self::Vector<S>;
    /// a + b.
    fn sum<S: Simd>(simd: S, a: Self::Vector<S>, b: Self::Vector<S>) -> Self::Vector<S>;
    /// x where it is above 0 or NaN, else 0.
    fn relu<S: Simd>(simd: S, x: Self::Vector<S>) -> Self::Vector<S>;
    /// The sum of the lanes.
    fn total<S: Simd>(simd: S, x: Self::Vector<S>) -> Self;
    /// As many numbers as the slice has, at most a vector, and zeros behind them.
    fn load_part<S: Simd>(simd: S, from: &[Self]) -> Self::Vector<S>;
    /// As many numbers as fit the slice, which is at most a vector long.
    fn store_part<S: Simd>(simd: S, to: &mut [Self], x: Self::Vector<S>);
}

macro_rules! lanes {
    ($T:ident, $vector:ident, $splat:ident, $mul_add:ident, $add:ident, $less:ident, $select:ident, $total:ident, $load:ident, $store:ident) => {
        impl Lanes for $T {
            type Vector<S: Simd> = S::$vector;
            #[inline(always)]
            fn splat<S: Simd>(simd: S, x: Self) -> S::$vector {
                simd.$splat(x)
            }
            #[inline(always)]
            fn mul_add<S: Simd>(simd: S, a: S::$vector, b: S::$vector, c: S::$vector) -> S::$vector {
                simd.$mul_add(a, b, c)
            }
            #[inline(always)]
            fn sum<S: Simd>(simd: S, a: S::$vector, b: S::$vector) -> S::$vector {
                simd.$add(a, b)
            }
            #[inline(always)]
            fn relu<S: Simd>(simd: S, x: S::$vector) -> S::$vector {
                let zero = simd.$splat(0.0);
                simd.$select(simd.$less(x, zero), zero, x)
            }
            #[inline(always)]
            fn total<S: Simd>(simd: S, x: S::$vector) -> Self {
                simd.$total(x)
            }
            #[inline(always)]
            fn load_part<S: Simd>(simd: S, from: &[Self]) -> S::$vector {
                simd.$load(from)
            }
            #[inline(always)]
            fn store_part<S: Simd>(simd: S, to: &mut [Self], x: S::$vector) {
                simd.$store(to, x)
            }
        }
    };
}
lanes!(
    f32,
    f32s,
    splat_f32s,
    mul_add_e_f32s,
    add_f32s,
    less_than_or_equal_f32s,
    select_f32s,
    reduce_sum_f32s,
    partial_load_f32s,
    partial_store_f32s
);
lanes!(
    f64,
    f64s,
    splat_f64s,
    mul_add_e_f64s,
    add_f64s,
    less_than_or_equal_f64s,
    select_f64s,
    reduce_sum_f64s,
    partial_load_f64s,
    partial_store_f64s
);
