//! Pure self-supervised losses: tensors in, tensor out.
