//! How a process that computes with candle is set up.

/// Sets up a process that evaluates. Call it first thing in `main`, before threads start. Results do not depend on it.
///
/// * candle splits element-wise operations over a pool of its own that waits by spinning: beside kernels that fill all cores by themselves it costs
///   more than it gives, and it does not know of rayon's limits. It gets one thread, unless `CANDLE_NUM_THREADS` says otherwise.
/// * Gradients are detached: evaluation differentiates once, and the graph of the gradients would only hold memory. A process that trains calls
///   [`crate::autograd::enable_second_derivatives`] instead.
#[allow(unsafe_code, reason = "std::env::set_var is unsafe in edition 2024")]
pub fn prepare_evaluation() {
    // SAFETY: documented to be called before threads start, so nobody reads the environment at the same time.
    unsafe {
        if std::env::var_os("CANDLE_NUM_THREADS").is_none() {
            std::env::set_var("CANDLE_NUM_THREADS", "1");
        }
        std::env::remove_var("CANDLE_GRAD_DO_NOT_DETACH");
    }
}
