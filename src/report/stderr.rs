//! stderr: the log's lines and, in a terminal, how far a longer run is. The two share the screen.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use env_logger::{Target, WriteStyle};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use log::{Level, warn};

use super::escape;
use crate::secret;

/// Shorter runs are over before a bar can be read.
const SHOW_AFTER: Duration = Duration::from_millis(500);

static BAR: LazyLock<ProgressBar> =
    LazyLock::new(|| ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden()));

/// Logs to stderr what passes `filter`, in `env_logger`'s syntax.
pub fn start_log(filter: &str) {
    let style = match anstream::AutoStream::choice(&io::stderr()) {
        anstream::ColorChoice::Never => WriteStyle::Never,
        anstream::ColorChoice::Auto
        | anstream::ColorChoice::Always
        | anstream::ColorChoice::AlwaysAnsi => WriteStyle::Always,
    };
    env_logger::Builder::new()
        .parse_filters(filter)
        .write_style(style)
        .target(Target::Pipe(Box::new(AboveTheBar)))
        .format(|out, record| {
            if record.target() == PLAIN {
                return writeln!(out, "{}", record.args());
            }
            let text = record.args().to_string();
            // Our own lines have ids, which may look like a key; what they quote is clean.
            let is_ours = record.target().starts_with(env!("CARGO_CRATE_NAME"));
            let line = if is_ours {
                escape::line(&text)
            } else {
                escape::line(&secret::without_any(&text))
            };
            let level = match record.level() {
                Level::Error => "error",
                Level::Warn => "warning",
                Level::Info => "info",
                Level::Debug => "debug",
                Level::Trace => "trace",
            };
            let style = out.default_level_style(record.level());
            writeln!(out, "{style}{level}:{style:#} {line}")
        })
        .init();
}

/// The target of what is written as it is.
const PLAIN: &str = "reconcile::plain";

/// Writes lines that were made safe to print, unless warnings are silenced.
pub fn say(lines: &str) {
    warn!(target: PLAIN, "{lines}");
}

/// The width of stderr, if it is a terminal.
pub fn columns() -> Option<usize> {
    columns_of(io::stderr())
}

/// The width of a stream, if it is a terminal; 80 if that does not say.
pub fn columns_of(stream: impl IsTerminal + AsFd) -> Option<usize> {
    stream.is_terminal().then(|| {
        terminal_size::terminal_size_of(stream).map_or(80, |(columns, _)| columns.0.into())
    })
}

/// Whether a line could not be written.
static LOST: AtomicBool = AtomicBool::new(false);

/// Whether something that was logged reached nobody.
pub fn is_lost() -> bool {
    LOST.load(Ordering::Relaxed)
}

struct AboveTheBar;

impl Write for AboveTheBar {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let written = BAR.suspend(|| io::stderr().write_all(line));
        if written.is_err() {
            LOST.store(true, Ordering::Relaxed);
        }
        written.map(|()| line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// How many of the run's invoices are done, while it lives.
pub struct Progress {
    started: Instant,
}

impl Progress {
    pub fn of(invoices: usize) -> Self {
        BAR.set_length(invoices as u64);
        let style = ProgressStyle::with_template("{pos} of {len} invoices, {eta} left");
        if let Ok(style) = style {
            BAR.set_style(style);
        }
        Self {
            started: Instant::now(),
        }
    }

    pub fn advance(&self, invoices: usize) {
        if BAR.is_hidden() && self.started.elapsed() > SHOW_AFTER {
            BAR.set_draw_target(ProgressDrawTarget::stderr());
        }
        BAR.inc(invoices as u64);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        BAR.finish_and_clear();
    }
}
