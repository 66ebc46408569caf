//! Image sources, decoding and the parallel loader.
