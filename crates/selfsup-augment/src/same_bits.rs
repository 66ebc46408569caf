//! Whatever vector instructions run the inner loops, the bits are the same: the build's baseline, AVX2, and the
//! widest that this machine has.

use crate::gaussian_blur::{Blur, half_weights};
use crate::pixel_op::{Pass, Step};
use crate::resample::{Resample, Scratch};
use crate::{Interpolation, Region};
use pulp::{Arch, NullaryFnOnce};

const WIDTH: usize = 61;
const HEIGHT: usize = 43;

fn picture() -> Vec<u8> {
    (0..3 * WIDTH * HEIGHT).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// Runs `op` with the vector instructions named.
fn run<Op: NullaryFnOnce>(machine: &str, op: Op) -> Op::Output {
    match machine {
        "baseline" => op.call(),
        #[cfg(target_arch = "x86_64")]
        "avx2" => match pulp::x86::V3::try_new() {
            Some(avx2) => avx2.vectorize(op),
            None => op.call(),
        },
        _ => Arch::new().dispatch(op),
    }
}

/// Fails unless the operation returns, and makes of the picture, the same on all machines.
macro_rules! assert_same {
    (|$pixels:ident| $op:expr) => {
        let [baseline, avx2, widest] = ["baseline", "avx2", "widest"].map(|machine| {
            let mut picture = picture();
            let $pixels: &mut [u8] = &mut picture;
            (run(machine, $op), picture)
        });
        assert_eq!(avx2, baseline);
        assert_eq!(widest, baseline);
        assert_ne!(baseline, (Default::default(), picture()));
    };
}

#[test]
fn pixel_operations() {
    let steps = [
        Step::Hue(0.123),
        Step::Contrast { factor: 1.37, mean: 99.0 },
        Step::Saturation(1.61),
        Step::Brightness(0.77),
        Step::Hue(-0.4),
        Step::Solarize(128.0),
    ];
    assert_same!(|pixels| Pass { pixels, steps: &steps, gray_sum: true });
}

#[test]
fn blur() {
    let (weights, radius) = half_weights(23, 1.7);
    let weights = &weights[..=radius];
    assert_same!(|pixels| Blur {
        pixels,
        width: WIDTH,
        height: HEIGHT,
        weights,
        scratch: &mut Default::default()
    });
}

#[test]
fn resize() {
    let region = Region { left: 3, top: 1, width: 50, height: 41 };
    for (width, height) in [(17, 90), (90, 5), (50, 20)] {
        assert_same!(|pixels| Resample {
            source: pixels,
            source_width: WIDTH,
            region,
            width,
            height,
            interpolation: Interpolation::Bicubic,
            flip: true,
            scratch: &mut Scratch::default(),
        });
    }
}
