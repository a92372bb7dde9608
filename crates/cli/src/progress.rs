//! Progress bars on standard error: only on a terminal, only for work that takes a while.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Work shorter than this shows no bar.
const PATIENCE: Duration = Duration::from_millis(400);

static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);
static QUIET: AtomicBool = AtomicBool::new(false);

/// No bars from now on.
pub(crate) fn set_quiet(quiet: bool) {
    QUIET.store(quiet, Ordering::Relaxed);
}

/// True if a bar could be seen.
pub(crate) fn is_visible() -> bool {
    use std::io::IsTerminal;
    !QUIET.load(Ordering::Relaxed) && std::io::stderr().is_terminal()
}

/// Does something that prints to the terminal without a bar in between.
pub(crate) fn suspend<T>(print: impl FnOnce() -> T) -> T {
    if is_visible() { BARS.suspend(print) } else { print() }
}

/// What a bar counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    Atoms,
    Bytes,
    Checks,
    Displacements,
    Frames,
    Steps,
}

/// A bar that appears when the work turns out to take a while, and disappears when it is dropped.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    start: Instant,
    shown: bool,
}

impl Progress {
    /// A bar of `total` units; without a total it only counts.
    pub(crate) fn new(label: impl Into<String>, unit: Unit, total: Option<u64>) -> Self {
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::hidden());
        let counts = match (unit, total) {
            (Unit::Bytes, Some(_)) => "{bytes}/{total_bytes}  {bytes_per_sec}  eta {eta}",
            (Unit::Bytes, None) => "{bytes}  {bytes_per_sec}",
            (Unit::Atoms, Some(_)) => "{human_pos}/{human_len} atoms  {per_sec}  eta {eta}",
            (Unit::Atoms, None) => "{human_pos} atoms  {per_sec}",
            (Unit::Checks, _) => "{pos}/{len}  eta {eta}",
            (Unit::Displacements, _) => "{pos}/{len} displacements  eta {eta}",
            (Unit::Frames, _) => "{human_pos}/{human_len} frames  {per_sec}  eta {eta}  {msg}",
            (Unit::Steps, _) => "{human_pos}/{human_len} steps  {per_sec}  eta {eta}",
        };
        let gauge = if total.is_some() { "{bar:30}" } else { "{spinner}" };
        if let Ok(style) = ProgressStyle::with_template(&format!("{{prefix}} {gauge} {counts}")) {
            bar.set_style(style.progress_chars("━╸─"));
        }
        bar.set_prefix(label.into());
        Self { bar, start: Instant::now(), shown: false }
    }

    pub(crate) fn advance(&mut self, units: u64) {
        self.set(self.bar.position() + units);
    }

    /// Says something at the end of the bar.
    pub(crate) fn say(&self, message: String) {
        self.bar.set_message(message);
    }

    pub(crate) fn set_total(&self, total: u64) {
        self.bar.set_length(total);
    }

    /// Counts from here: what was done before says nothing of the speed.
    pub(crate) fn begin_at(&mut self, position: u64) {
        self.bar.set_position(position);
        self.bar.reset_eta();
    }

    pub(crate) fn set(&mut self, position: u64) {
        self.bar.set_position(position);
        if !self.shown && self.start.elapsed() > PATIENCE && is_visible() {
            self.shown = true;
            BARS.add(self.bar.clone());
            self.bar.enable_steady_tick(Duration::from_millis(200));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
        BARS.remove(&self.bar);
    }
}
