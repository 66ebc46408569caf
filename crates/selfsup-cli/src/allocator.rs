//! The allocator: mimalloc, told to keep what is freed.
//!
//! Training allocates and frees hundreds of megabytes at each step. The system's allocator gives large buffers back
//! to the kernel at once, mimalloc after a moment; either way each page is cleared and faulted in again at the
//! next step, which takes 15 % of a ResNet's. The price is that memory once used stays the process's.

use libmimalloc_sys::{mi_option_set, mi_option_t};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` of mimalloc.h, for which the bindings have no name.
const PURGE_DELAY: mi_option_t = 15;

/// To be called before anything large is allocated. `MIMALLOC_PURGE_DELAY` in the environment has the last word.
pub fn keep_freed_memory() {
    if std::env::var_os("MIMALLOC_PURGE_DELAY").is_none() {
        // SAFETY: it stores a number in a table that mimalloc reads; −1 is the documented value for never.
        unsafe { mi_option_set(PURGE_DELAY, -1) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use libmimalloc_sys::mi_option_get;

    #[test]
    fn the_option_is_the_delay() {
        // SAFETY: it reads the number.
        let delay = || unsafe { mi_option_get(PURGE_DELAY) };
        // The default that mimalloc's options.c gives this option, and no other one.
        assert_eq!(delay(), 1000);
        keep_freed_memory();
        assert_eq!(delay(), -1);
    }
}
