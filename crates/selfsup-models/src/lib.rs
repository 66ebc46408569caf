//! Encoders and projection heads, initialised from a seed, saved under torchvision's names.
