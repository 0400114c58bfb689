//! `reconcile` brings a licensing service's SQLite database into agreement with BTCPay Server.

#![forbid(unsafe_code)]
// No input may end in a panic.
#![cfg_attr(
    not(test),
    warn(
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::unwrap_used
    )
)]

mod advice;
mod ask;
mod btcpay;
mod cli;
mod config;
mod database;
mod deadline;
mod decide;
mod invoice;
mod nearby;
mod preview;
mod progress;
mod reconcile;
mod report;
mod run;
mod shown;
mod store;
mod sweep;
mod turns;

use std::io::{self, BufWriter, IsTerminal, Write};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use log::{Level, error};

use cli::{Cli, Format};
use config::Config;
use report::{Exit, Report};

fn main() -> ExitCode {
    let cli = Cli::parse();
    log_to_stderr(&config::log_filter(cli.verbose, cli.quiet));
    ExitCode::from(run_to_the_end(cli) as u8)
}

fn run_to_the_end(cli: Cli) -> Exit {
    let config = match Config::new(cli, terminal_columns()) {
        Ok(config) => config,
        Err(wrong) => {
            for line in format!("{wrong:#}").lines() {
                error!("{line}");
            }
            return Exit::Usage;
        }
    };
    let report = run::run(&config, jiff::Timestamp::now().as_second());
    if !config.is_for_eyes() {
        report.warn();
    }
    report.log_errors();
    match print(&report, &config) {
        Ok(()) => report.exit(),
        Err(unsaid) => {
            error!("{unsaid:#}");
            Exit::Stopped
        }
    }
}

fn print(report: &Report, config: &Config) -> Result<()> {
    let now = jiff::Timestamp::from_second(jiff::Timestamp::now().as_second())?;
    let mut stdout = BufWriter::new(anstream::stdout().lock());
    let written = match config.format {
        Format::Json => report.write_json(&mut stdout),
        Format::Text => report.write_text(&mut stdout, now, config.columns, config.tell_nothing()),
    };
    match written.and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context(if report.dry_run {
                "could not write the report to stdout"
            } else {
                "could not write the report to stdout; what it would have said is in the \
                 database's audit_log"
            })
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Of the terminal that the report goes to, if it goes to one.
fn terminal_columns() -> Option<usize> {
    let stdout = io::stdout();
    stdout.is_terminal().then(|| {
        terminal_size::terminal_size_of(stdout).map_or(80, |(columns, _)| columns.0.into())
    })
}

fn log_to_stderr(filter: &str) {
    env_logger::Builder::new()
        .parse_filters(filter)
        .format(|out, record| {
            let level = match record.level() {
                Level::Error => "error",
                Level::Warn => "warning",
                Level::Info => "info",
                Level::Debug => "debug",
                Level::Trace => "trace",
            };
            let style = out.default_level_style(record.level());
            let line = shown::line(&record.args().to_string());
            progress::make_room();
            writeln!(out, "{style}{level}:{style:#} {line}")
        })
        .init();
}
