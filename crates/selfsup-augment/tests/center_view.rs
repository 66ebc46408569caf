//! The view that evaluation takes.

use image::{Rgb, RgbImage};
use selfsup_augment::{CenterView, Interpolation, Region, center_view, resize_region};

/// Every pixel another colour.
fn picture(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let mixed = (x * 7919 + y * 104_729 + 13).wrapping_mul(2_654_435_761);
        Rgb([
            (mixed >> 24) as u8,
            (x * 255 / width.max(2)) as u8,
            ((mixed >> 8) & 0xff) as u8 / 2 + (y % 100) as u8,
        ])
    })
}

#[test]
fn a_centre_view_cuts_the_square_out_of_what_was_resized() {
    // Nothing to resize: the middle of the image itself, to the pixel.
    let image = picture(40, 50);
    let view = CenterView { resize: 40, ..CenterView::new(24) }.apply(&image).unwrap();
    assert_eq!(view, image::imageops::crop_imm(&image, 8, 13, 24, 24).to_image());
    // A square is as much of the image as of what it was resized to.
    let view = CenterView { resize: 20, ..CenterView::new(12) }.apply(&image).unwrap();
    let whole = center_view(&image, 20).unwrap();
    assert_eq!(view, image::imageops::crop_imm(&whole, 4, 4, 12, 12).to_image());
}

#[test]
fn a_squashed_view_sees_the_whole_image() {
    let squashed = |image: &RgbImage, size, resize| {
        CenterView { resize, squash: true, ..CenterView::new(size) }.apply(image).unwrap()
    };
    let image = picture(40, 50);
    let whole = resize_region(&image, Region::whole(40, 50), 24, 24, Interpolation::Bilinear, false).unwrap();
    assert_eq!(squashed(&image, 24, 24), whole);
    assert_eq!(squashed(&image, 12, 24), image::imageops::crop_imm(&whole, 6, 6, 12, 12).to_image());
    // Of a square there is nothing to squash.
    let square = picture(40, 40);
    assert_eq!(
        squashed(&square, 20, 24),
        CenterView { resize: 24, ..CenterView::new(20) }.apply(&square).unwrap()
    );
    // However long the image.
    assert_eq!(squashed(&picture(1, 40_000), 8, 8).dimensions(), (8, 8));
}

/// The ends of a very long image would fill the memory, and are not in the square.
#[test]
fn the_centre_view_of_a_very_long_image_is_that_of_its_middle() {
    let view = CenterView { resize: 256, ..CenterView::new(224) };
    let image = picture(3, 40_000);
    let middle = image::imageops::crop_imm(&image, 0, 19_976, 3, 48).to_image();
    assert_eq!(view.apply(&image).unwrap(), view.apply(&middle).unwrap());
    let image = image::imageops::rotate90(&image);
    let middle = image::imageops::crop_imm(&image, 19_976, 0, 48, 3).to_image();
    assert_eq!(view.apply(&image).unwrap(), view.apply(&middle).unwrap());
}
