//! `reconcile` brings a licensing service's SQLite database into agreement with BTCPay Server.
//!
//! Arguments in, exit code out. The story is in `run`; `invoice` has its words and `decide` its rules.
//! Which room may use which is checked by `tests/suite/rooms.rs`.

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

mod btcpay;
mod cli;
mod config;
mod database;
mod deadline;
mod decide;
mod invoice;
mod issue;
mod lookup;
mod report;
mod run;

use std::io::{self, BufWriter, IsTerminal, Write};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use jiff::Timestamp;
use log::error;

use cli::{Cli, Format};
use config::Config;
use report::{Exit, Reader, Report, stderr};

fn main() -> ExitCode {
    let cli = Cli::parse();
    stderr::start_log(&config::log_filter(cli.verbose, cli.quiet));
    ExitCode::from(exit(cli) as u8)
}

fn exit(cli: Cli) -> Exit {
    let is_verbose = cli.verbose > 0;
    let config = match Config::new(cli) {
        Ok(config) => config,
        Err(wrong) => {
            for line in format!("{wrong:#}").lines() {
                error!("{line}");
            }
            return Exit::Usage;
        }
    };
    let now = Timestamp::now().as_second();
    let report = match &config.issue {
        Some(id) => issue::issue(&config, id, now),
        None => run::run(&config, now),
    };
    // In text, a dry run's tables show it.
    if !report.dry_run || config.format == Format::Json {
        report.log_attention();
    }
    report.log_errors();
    match print(&report, &config, is_verbose) {
        Ok(()) => report.exit(),
        Err(error) => {
            error!("{error:#}");
            Exit::Stopped
        }
    }
}

fn print(report: &Report, config: &Config, is_verbose: bool) -> Result<()> {
    let now = Timestamp::from_second(Timestamp::now().as_second())?;
    let columns = terminal_columns();
    let looks_closely = report.dry_run || config.recheck;
    let reader = Reader {
        columns,
        wants_summary: columns.is_some() || is_verbose || looks_closely && report.not_in_store > 0,
    };
    let mut stdout = BufWriter::new(anstream::stdout().lock());
    let written = match config.format {
        Format::Json => report.write_json(&mut stdout),
        Format::Text => report.write_text(&mut stdout, now, reader),
    };
    match written.and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context(if report.dry_run {
                "cannot write the report to stdout"
            } else {
                "cannot write the report to stdout; the database's audit_log has what was changed"
            })
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The width of the terminal that stdout goes to, if it goes to one.
fn terminal_columns() -> Option<usize> {
    let stdout = io::stdout();
    stdout.is_terminal().then(|| {
        terminal_size::terminal_size_of(stdout).map_or(80, |(columns, _)| columns.0.into())
    })
}
