//! How far a run is, for somebody who watches it in a terminal.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// What takes less is over before it can be read.
const A_MOMENT: Duration = Duration::from_millis(500);

/// Whether a line of progress stands on stderr.
static SHOWN: AtomicBool = AtomicBool::new(false);

/// A line on stderr, if that is a terminal and there is more than a moment's work.
pub struct Progress {
    bar: ProgressBar,
    started: Instant,
}

impl Progress {
    pub fn new(invoices: usize) -> Self {
        let bar =
            ProgressBar::with_draw_target(Some(invoices as u64), ProgressDrawTarget::hidden());
        if let Ok(style) =
            ProgressStyle::with_template("{pos} of {len} invoices, {per_sec}, {eta} left")
        {
            bar.set_style(style);
        }
        Self {
            bar,
            started: Instant::now(),
        }
    }

    /// So many invoices more are done.
    pub fn advance(&self, invoices: usize) {
        if self.bar.is_hidden() && self.started.elapsed() > A_MOMENT {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
            SHOWN.store(!self.bar.is_hidden(), Ordering::Relaxed);
        }
        self.bar.inc(invoices as u64);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
        SHOWN.store(false, Ordering::Relaxed);
    }
}

/// Takes the progress away before another line goes to stderr; it is drawn again below that.
pub fn make_room() {
    if SHOWN.load(Ordering::Relaxed) {
        eprint!("\r\x1b[2K");
    }
}
