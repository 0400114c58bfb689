//! When a run ends before its work does: at its deadline, or by a signal.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{flag, low_level};

/// How long one request may take if the run may take any time.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// A request gets this share of the deadline, but no less than [`LEAST_FOR_A_REQUEST`].
const SHARE: u32 = 5;
const LEAST_FOR_A_REQUEST: Duration = Duration::from_secs(3);

const A_DAY: Duration = Duration::from_hours(24);

/// How often a wait looks for a signal.
const LOOK: Duration = Duration::from_millis(20);

static RECEIVED: LazyLock<Arc<AtomicUsize>> = LazyLock::new(Arc::default);

/// A signal that asks the program to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    Interrupt,
    Terminate,
}

impl Signal {
    const ALL: [Self; 2] = [Self::Interrupt, Self::Terminate];

    const fn number(self) -> i32 {
        match self {
            Self::Interrupt => SIGINT,
            Self::Terminate => SIGTERM,
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
        }
    }

    /// Takes note of signals from now on. A second one ends the program at once.
    ///
    /// # Errors
    ///
    /// The system does not allow it.
    pub fn watch() -> Result<()> {
        let again = Arc::new(std::sync::atomic::AtomicBool::new(false));
        for signal in Self::ALL {
            let number = signal.number();
            let value = usize::try_from(number)?;
            flag::register_conditional_default(number, Arc::clone(&again))
                .and_then(|_| flag::register(number, Arc::clone(&again)))
                .and_then(|_| flag::register_usize(number, Arc::clone(&RECEIVED), value))
                .with_context(|| format!("cannot handle {}", signal.name()))?;
        }
        Ok(())
    }

    /// The one that was received, if one was.
    pub fn received() -> Option<Self> {
        let received = RECEIVED.load(Ordering::Relaxed);
        let same = |signal: &Self| usize::try_from(signal.number()) == Ok(received);
        Self::ALL.into_iter().find(same)
    }

    /// Ends the program as the signal would have, so that its parent sees that.
    pub fn die_of_it(self) {
        // Fails for no signal that is watched.
        let _ = low_level::emulate_default_handler(self.number());
    }
}

/// Reached when its time has come, or a signal.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    total: Option<Duration>,
    at: Option<Instant>,
}

impl Deadline {
    /// `seconds` from now; never for 0.
    pub fn after(seconds: u32) -> Self {
        let total = (seconds > 0).then(|| Duration::from_secs(seconds.into()));
        Self {
            total,
            at: total.and_then(|total| Instant::now().checked_add(total)),
        }
    }

    pub fn is_reached(self) -> bool {
        self.left().is_zero()
    }

    /// `limit`, or what is left if that is less.
    pub fn shrink(self, limit: Duration) -> Duration {
        limit.min(self.left())
    }

    /// How long one request may take, from connecting to the end of the body.
    pub fn of_a_request(self) -> Duration {
        let limit = self.total.map_or(REQUEST_LIMIT, |total| {
            (total / SHARE).max(LEAST_FOR_A_REQUEST)
        });
        self.shrink(limit)
    }

    /// Waits for `time`, a day at most, or until it is reached.
    pub fn sleep(self, time: Duration) {
        let until = Instant::now() + self.shrink(time.min(A_DAY));
        while !self.is_reached() && Instant::now() < until {
            thread::sleep(LOOK.min(until.saturating_duration_since(Instant::now())));
        }
    }

    fn left(self) -> Duration {
        if Signal::received().is_some() {
            return Duration::ZERO;
        }
        self.at.map_or(Duration::MAX, |at| {
            at.saturating_duration_since(Instant::now())
        })
    }

    /// Why the run ends early, with what it leaves: `not_done`, for example "12 invoices were not
    /// checked".
    pub fn message(not_done: &str) -> String {
        match Signal::received() {
            Some(signal) => format!("stopped by {}: {not_done}", signal.name()),
            None => format!(
                "deadline reached: {not_done}. The next run continues; raise --deadline if this \
                 repeats"
            ),
        }
    }
}
