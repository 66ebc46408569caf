//! One training loop for every self-supervised method.
