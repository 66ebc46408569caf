//! Levels to floating point, for users without a device that does it.

use image::RgbImage;

/// (level/255 − mean)/std a channel, in the image's order: rows of pixels of three channels.
///
/// A training loop sends levels and normalises on its device (`selfsup_kernels::normalize_u8`): a quarter of
/// the bytes to move. A standard deviation of 0 gives infinities.
pub fn normalize(image: &RgbImage, mean: [f32; 3], std: [f32; 3]) -> Vec<f32> {
    let mut out = vec![0.0; image.as_raw().len()];
    for (values, levels) in out.as_chunks_mut::<3>().0.iter_mut().zip(image.as_raw().as_chunks::<3>().0) {
        for channel in 0..3 {
            values[channel] = (f32::from(levels[channel]) / 255.0 - mean[channel]) / std[channel];
        }
    }
    out
}
