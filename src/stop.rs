//! When a run ends before its work does: at its deadline, or by a signal.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Once};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{flag, low_level};

/// How long one request may take if the run may take any time.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// A request gets this share of the deadline, but no less than [`LEAST_FOR_A_REQUEST`].
const SHARE: u32 = 5;
const LEAST_FOR_A_REQUEST: Duration = Duration::from_secs(3);

/// The longest wait that a server may ask for if the run may take any time.
const LONGEST_WAIT: Duration = Duration::from_mins(10);

/// Signals this soon after the first are taken for the same wish: a shell, `timeout` and a terminal
/// pass one on to a whole group.
const SAME_WISH: Duration = Duration::from_secs(1);

/// How often a wait looks for a signal.
const LOOK: Duration = Duration::from_millis(20);

/// Whether every deadline counts as reached.
static AT_ONCE: AtomicBool = AtomicBool::new(false);

static RECEIVED: LazyLock<Arc<AtomicUsize>> = LazyLock::new(Arc::default);

/// Whether the next signal ends the program at once.
static INSISTS: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

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

    /// Takes note of signals from now on. Once one was noticed for a second, another ends the program
    /// at once.
    ///
    /// # Errors
    ///
    /// The system does not allow it.
    pub fn watch() -> Result<()> {
        for signal in Self::ALL {
            let number = signal.number();
            let value = usize::try_from(number)?;
            flag::register_conditional_default(number, Arc::clone(&INSISTS))
                .and_then(|_| flag::register_usize(number, Arc::clone(&RECEIVED), value))
                .with_context(|| format!("cannot handle {}", signal.name()))?;
        }
        Ok(())
    }

    /// The one that was received, if one was.
    pub fn received() -> Option<Self> {
        let received = RECEIVED.load(Ordering::Relaxed);
        let same = |signal: &Self| usize::try_from(signal.number()) == Ok(received);
        let signal = Self::ALL.into_iter().find(same);
        if signal.is_some() {
            static NOTICED: Once = Once::new();
            NOTICED.call_once(|| {
                // Without it nothing insists.
                let _ = thread::Builder::new().spawn(|| {
                    thread::sleep(SAME_WISH);
                    INSISTS.store(true, Ordering::Relaxed);
                });
            });
        }
        signal
    }

    /// Ends the program as the signal would have, so that its parent sees that.
    pub fn die_of_it(self) {
        // Fails for no signal that is watched.
        let _ = low_level::emulate_default_handler(self.number());
    }
}

/// Does `what` while every deadline counts as reached.
pub fn at_once<T>(what: impl FnOnce() -> T) -> T {
    AT_ONCE.store(true, Ordering::Relaxed);
    let done = what();
    AT_ONCE.store(false, Ordering::Relaxed);
    done
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

    /// Whether less than a fifth of it is left.
    pub fn is_near(self) -> bool {
        self.total.is_some_and(|total| self.left() < total / 5) || self.is_reached()
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

    /// How long a server may ask to be left alone: as long as is left, ten minutes if that is any time.
    pub fn longest_wait(self) -> Duration {
        match self.at {
            Some(_) => self.left(),
            None => self.shrink(LONGEST_WAIT),
        }
    }

    /// Waits for `time`, or until it is reached.
    pub fn sleep(self, time: Duration) {
        let began = Instant::now();
        while !self.is_reached() && began.elapsed() < time {
            thread::sleep(LOOK.min(time.saturating_sub(began.elapsed())));
        }
    }

    fn left(self) -> Duration {
        if Signal::received().is_some() || AT_ONCE.load(Ordering::Relaxed) {
            return Duration::ZERO;
        }
        self.at.map_or(Duration::MAX, |at| {
            at.saturating_duration_since(Instant::now())
        })
    }
}

/// Why a run ends before its work does, and what that leaves.
#[derive(Debug)]
pub struct OutOfTime {
    why: Why,
    not_done: String,
    last_error: Option<Error>,
}

#[derive(Debug, Clone, Copy)]
enum Why {
    Signal(Signal),
    Deadline,
    LeftAlone(Duration),
}

impl OutOfTime {
    /// By the signal that was received, else by the deadline. `not_done` is what it leaves, for example
    /// "12 invoices were not checked".
    pub fn new(not_done: String) -> Self {
        Self {
            why: Signal::received().map_or(Why::Deadline, Why::Signal),
            not_done,
            last_error: None,
        }
    }

    /// Because a server asked to be left alone for `time`, which is longer than the run waits.
    pub fn left_alone(time: Duration, not_done: String) -> Self {
        Self {
            why: Signal::received().map_or(Why::LeftAlone(time), Why::Signal),
            not_done,
            last_error: None,
        }
    }

    /// While waiting for this, if it was for something.
    pub fn after(self, last_error: Option<Error>) -> Self {
        Self { last_error, ..self }
    }

    /// Whether `error` is this.
    pub fn is(error: &Error) -> bool {
        error.is::<Self>()
    }

    /// The signal, if `error` is about one.
    pub fn signal(error: &Error) -> Option<Signal> {
        match error.downcast_ref::<Self>()?.why {
            Why::Signal(signal) => Some(signal),
            Why::Deadline | Why::LeftAlone(_) => None,
        }
    }
}

impl std::error::Error for OutOfTime {}

impl fmt::Display for OutOfTime {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let not_done = &self.not_done;
        match self.why {
            Why::Signal(signal) => write!(f, "stopped by {}: {not_done}", signal.name()),
            Why::Deadline => write!(
                f,
                "deadline reached: {not_done}. The next run continues; raise --deadline if this \
                 repeats"
            ),
            Why::LeftAlone(time) => write!(
                f,
                "BTCPay Server, or a proxy in front of it, asked to be left alone for {} s, longer \
                 than this run waits: {not_done}. The next run continues",
                time.as_secs()
            ),
        }?;
        match &self.last_error {
            Some(last) => write!(f, ". Last error: {last:#}"),
            None => Ok(()),
        }
    }
}
