//! candle's own threads, told to wait without turning.
//!
//! candle works large elementwise operations out on threads of its own, beside rayon's. Each turns in a loop 25,000 times
//! after its work, in case that more comes, and so takes a core from what comes really. On two cores a convolution of one pixel,
//! forward and backward, took 1.5 times as long by that (`compare --ours-only --only conv2d/1x1x1x512`, with the variable at 25000 and at 1).

/// Turns before a thread sleeps.
const SPIN_LIMIT: &str = "CANDLE_BARRIER_POOL_SPIN_LIMIT";

/// To be called first of all: candle reads the variable when it starts its threads. What the environment says has the last word.
pub fn let_threads_sleep() {
    if std::env::var_os(SPIN_LIMIT).is_none() {
        // SAFETY: no other thread runs yet that could read the environment meanwhile.
        unsafe { std::env::set_var(SPIN_LIMIT, "1") };
    }
}
