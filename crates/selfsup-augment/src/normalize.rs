//! Levels to floating point, for users without a device that does it.

use crate::pixel_op::arch;
use image::RgbImage;
use pulp::NullaryFnOnce;

/// Values that are worked on together: a multiple of the channels and of the registers' lanes.
const LANES: usize = 48;

/// (level/255 − mean)/std a channel, in the image's order: rows of pixels of three channels.
///
/// Computed as level·1/(255·std) − mean/std, within 10⁻⁶ of it for usual means and deviations. A training loop
/// sends levels and normalises on its device (`selfsup_kernels::normalize_u8`): a quarter of the bytes to move.
/// A standard deviation of 0 gives infinities.
pub fn normalize(image: &RgbImage, mean: [f32; 3], std: [f32; 3]) -> Vec<f32> {
    let mut out = vec![0.0; image.as_raw().len()];
    let (mut scales, mut shifts) = ([0.0; LANES], [0.0; LANES]);
    for i in 0..LANES {
        let (mean, std) = (f64::from(mean[i % 3]), f64::from(std[i % 3]));
        scales[i] = (1.0 / (255.0 * std)) as f32;
        shifts[i] = (mean / std) as f32;
    }
    arch().dispatch(Normalize { levels: image.as_raw(), out: &mut out, scales, shifts });
    out
}

struct Normalize<'a> {
    levels: &'a [u8],
    out: &'a mut [f32],
    scales: [f32; LANES],
    shifts: [f32; LANES],
}

impl NullaryFnOnce for Normalize<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { levels, out, scales, shifts } = self;
        let (groups, rest) = levels.as_chunks::<LANES>();
        let (out_groups, out_rest) = out.as_chunks_mut::<LANES>();
        for (out, levels) in out_groups.iter_mut().zip(groups) {
            for i in 0..LANES {
                out[i] = f32::from(levels[i]) * scales[i] - shifts[i];
            }
        }
        for (i, (out, &level)) in out_rest.iter_mut().zip(rest).enumerate() {
            *out = f32::from(level) * scales[i] - shifts[i];
        }
    }
}
