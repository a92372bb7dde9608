//! How a process that computes with candle is set up.

/// Keeps candle's own thread pool out of the way, unless `CANDLE_NUM_THREADS` says otherwise.
///
/// candle splits element-wise operations over a pool that waits by spinning: beside kernels that fill all cores by themselves it costs more than
/// it gives, and it does not know of rayon's limits. Call it first thing in `main`, before threads start. Results do not depend on it.
#[allow(unsafe_code, reason = "std::env::set_var is unsafe in edition 2024")]
pub fn prepare_process() {
    if std::env::var_os("CANDLE_NUM_THREADS").is_none() {
        // SAFETY: documented to be called before threads start, so nobody reads the environment at the same time.
        unsafe { std::env::set_var("CANDLE_NUM_THREADS", "1") };
    }
}
