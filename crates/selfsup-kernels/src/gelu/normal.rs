//! The standard normal distribution's function Φ, to a few units in the last place also where it is near 0, in
//! operations that vectorise.
//!
//! For u = |x|, Φ(−u) = exp(−u²/2)·Q(u) with Q(u) = ½·erfcx(u/√2), which falls slowly from ½ as 1/u. Q(u)·(1 + 13u/16)
//! is a polynomial in t = (u − k)/(u + k), interpolated at Chebyshev's nodes up to where exp(−u²/2) is 0 (the transformation:
//! Shepherd & Laframboise 1981, Math. Comp. 36(153), eq. 3; the coefficients are our own).

use crate::element::Element;

/// A number type with its polynomial.
pub(crate) trait Normal: Element {
    /// Φ(x), exp(−x²/2), and x within the bound from which on the exponential is 0.
    fn normal(self) -> (Self, Self, Self);
}

/// ((c₀·t + c₁)·t + c₂)… as straight code: a loop over so many coefficients does not vectorise.
macro_rules! horner {
    ($t:expr; $first:expr $(, $next:expr)*) => {{
        let mut sum = $first;
        $(sum = $t.mul_add(sum, $next);)*
        sum
    }};
}

macro_rules! normal {
    ($T:ident, $bits:literal, $bound:literal, $k:literal, [$($coefficient:expr),* $(,)?]) => {
        impl Normal for $T {
            #[inline(always)]
            #[allow(clippy::excessive_precision)]
            fn normal(self) -> (Self, Self, Self) {
                let u = self.abs();
                let u = if u > $bound { $bound } else { u };
                // exp takes the relative error of a square times the square: it is split into the square of a short
                // number, which is exact, and a rest below 0.05.
                let short = $T::from_bits((u.to_bits() + (1 << ($bits - 1))) & !((1 << $bits) - 1));
                let rest = (short - u) * (short + u) * 0.5;
                let exp = (short * short * -0.5).exp_fused(rest);
                // One division for 1/(u + k) and 1/(1 + 13u/16).
                let (sum, slope) = (u + $k, u.mul_add(0.8125, 1.0));
                let inverse = 1.0 / (sum * slope);
                let t = (u - $k) * slope * inverse;
                let q = horner!(t; $($coefficient),*);
                let tail = exp * q * sum * inverse;
                (if self < 0.0 { tail } else { 1.0 - tail }, exp, if self < 0.0 { -u } else { u })
            }
        }
    };
}

// Errors of the fits, relative: 1.3·10⁻⁸ and 6·10⁻¹⁷.
normal!(
    f32,
    12,
    13.5,
    3.5,
    [
        1.190796777e-4,
        1.048756233e-4,
        -1.062159177e-3,
        -2.422487896e-5,
        8.1360675e-3,
        -2.101263743e-2,
        1.935686824e-2,
        2.423747702e-2,
        -1.144801788e-1,
        4.087641808e-1,
    ]
);
normal!(
    f64,
    27,
    39.0,
    5.0,
    [
        1.75971969759720961e-9,
        1.52279173823237227e-9,
        -2.06430487986258492e-8,
        -1.94543862455292723e-8,
        1.48547806887124107e-7,
        1.13784275873746032e-7,
        -1.01447797338260215e-6,
        -1.80617537917163074e-7,
        7.12213500001007583e-6,
        -6.79607439798696194e-6,
        -4.33757160242069703e-5,
        1.36816694641830681e-4,
        3.15075513726859758e-5,
        -1.32064307524213951e-3,
        4.85309222842999533e-3,
        -1.06400805307024126e-2,
        1.55461762938931878e-2,
        -1.24779688571172065e-2,
        -7.03881567402020571e-3,
        4.69750765747263154e-2,
        -1.01284520602134642e-1,
        3.89403981435969355e-1,
    ]
);

#[cfg(test)]
mod tests {
    use super::*;

    /// Φ(x) = ½ + φ(x)·(x + x³/3 + x⁵/(3·5) + …) near 0 and, farther, φ(x)/|x| times the continued fraction
    /// 1/(1 + 1/x²/(1 + 2/x²/(1 + …))) (Abramowitz & Stegun 1964, 26.2.11 and 26.2.14).
    fn oracle(x: f64) -> f64 {
        let density = |u: f64| {
            // u² as a sum of two numbers, by a fused multiplication.
            let square = u * u;
            let rest = u.mul_add(u, -square);
            (-0.5 * square).exp() * (1.0 - 0.5 * rest) / (2.0 * std::f64::consts::PI).sqrt()
        };
        if x.abs() < 1.2 {
            let (mut term, mut sum, mut i) = (x, 0.0, 1.0);
            while term.abs() > 1e-20 * (1.0 + f64::abs(sum)) && i < 400.0 {
                sum += term;
                i += 2.0;
                term *= x * x / i;
            }
            return 0.5 + density(x) * sum;
        }
        let u = x.abs();
        let mut fraction = u;
        for i in (1..1000).rev() {
            fraction = u + f64::from(i) / fraction;
        }
        let tail = density(u) / fraction;
        if x < 0.0 { tail } else { 1.0 - tail }
    }

    #[test]
    fn the_oracle_knows_tabulated_values() {
        // Mathematical constants, 16 digits: Φ(−1), Φ(−2), Φ(−5), Φ(−10).
        for (x, expected) in [
            (-1.0, 0.158_655_253_931_457_05),
            (-2.0, 0.022_750_131_948_179_21),
            (-5.0, 2.866_515_718_791_939e-7),
            (-10.0, 7.619_853_024_160_526e-24),
        ] {
            assert!((oracle(x) / expected - 1.0).abs() < 2e-14, "{x}: {}", oracle(x));
        }
    }

    #[test]
    fn f32_is_right_to_a_few_units_in_the_last_place() {
        let mut worst = (0.0, 0.0);
        for i in -130_000..=130_000 {
            let x = i as f32 * 1e-4;
            let expected = oracle(f64::from(x));
            let (cdf, exp, _) = x.normal();
            let error = (f64::from(cdf) / expected - 1.0).abs() / f64::from(f32::EPSILON);
            worst = if error > worst.0 { (error, x) } else { worst };
            let expected = (-0.5 * f64::from(x).powi(2)).exp();
            assert!((f64::from(exp) / expected - 1.0).abs() < 3.0 * f64::from(f32::EPSILON), "exp at {x}");
        }
        assert!(worst.0 < 4.0, "{} units at {}", worst.0, worst.1);
    }

    #[test]
    fn f64_is_right_to_a_few_units_in_the_last_place() {
        let mut worst = (0.0, 0.0);
        for i in -37_000..=37_000 {
            let x = f64::from(i) * 1e-3 + 1e-4;
            let error = (x.normal().0 / oracle(x) - 1.0).abs() / f64::EPSILON;
            worst = if error > worst.0 { (error, x) } else { worst };
        }
        // Of which the oracle has some itself.
        assert!(worst.0 < 8.0, "{} units at {}", worst.0, worst.1);
    }

    #[test]
    fn the_ends() {
        assert_eq!((0f32.normal().0, (-0f32).normal().0), (0.5, 0.5));
        for x in [20f32, 1e30, f32::MAX, f32::INFINITY] {
            assert_eq!((x.normal().0, (-x).normal().0, x.normal().1), (1.0, 0.0, 0.0));
        }
        for x in [40f64, 1e300, f64::INFINITY] {
            assert_eq!((x.normal().0, (-x).normal().0, x.normal().1), (1.0, 0.0, 0.0));
        }
        assert!(f32::NAN.normal().0.is_nan() && f64::NAN.normal().0.is_nan());
    }
}
