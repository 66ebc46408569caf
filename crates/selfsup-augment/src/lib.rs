//! Image augmentations on 8-bit RGB pixels, composable and reproducible.
