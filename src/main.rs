//! `reconcile` brings a licensing service's SQLite database into agreement with BTCPay Server.
//!
//! Arguments in, exit code out. The story is in `run`; `invoice` has its words and `decide` its rules.
//! `tests/suite/rooms.rs` checks which module may use which.

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

mod acknowledge;
mod attention;
mod btcpay;
mod candidates;
mod cli;
mod config;
mod database;
mod decide;
mod invoice;
mod issue;
mod lookup;
mod named;
mod proof;
mod reconcile;
mod report;
mod run;
mod secret;
mod stop;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use clap::error::{ContextKind, ErrorKind};
use jiff::Timestamp;
use log::error;

use cli::Cli;
use config::{Config, Task};
use report::{Exit, Format, Reader, Report, stderr};
use stop::Signal;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return answer(error),
    };
    stderr::start_log(&config::log_filter(cli.verbose, cli.quiet));
    let exit = match Signal::watch() {
        Ok(()) => run_to_the_end(cli),
        Err(error) => {
            error!("{error:#}");
            Exit::Stopped
        }
    };
    if let Some(signal) = Signal::received() {
        signal.die_of_it();
    }
    ExitCode::from(exit as u8)
}

/// Prints the help that was asked for, or what is wrong with the options.
fn answer(mut error: clap::Error) -> ExitCode {
    if !error.use_stderr() {
        error.exit();
    }
    // It would make an INVOICE of what begins with a dash.
    error.remove(ContextKind::Suggested);
    if error.kind() == ErrorKind::ArgumentConflict {
        // It would show the very combination that is refused.
        error.remove(ContextKind::Usage);
    }
    config::keep_key_of_environment();
    let text = error.render().ansi().to_string();
    let shown = secret::without_any(&text);
    let hint = if shown == text {
        String::new()
    } else {
        format!("\n{}\n", config::KEY_ON_COMMAND_LINE)
    };
    // Where it cannot be written, the exit code still tells.
    let _ = write!(anstream::stderr(), "{shown}{hint}");
    ExitCode::from(Exit::Usage as u8)
}

fn run_to_the_end(cli: Cli) -> Exit {
    let is_verbose = cli.verbose > 0;
    let config = match Config::new(cli) {
        Ok(config) => config,
        Err(wrong) => {
            for line in secret::without_any(&format!("{wrong:#}")).lines() {
                error!("{line}");
            }
            return Exit::Usage;
        }
    };
    let now = Timestamp::now().as_second();
    let mut report = match &config.task {
        Task::Reconcile { recheck } => run::run(&config, *recheck, now),
        Task::Issue(id) => issue::issue(&config, id, now),
        Task::Acknowledge(ids) => acknowledge::acknowledge(&config, ids, now),
        Task::Named(wanted) => named::look_into(&config, wanted, now),
    };
    report.sort();
    let says_it_itself = match &config.task {
        Task::Reconcile { .. } => true,
        // In text, the invoices that are named show it.
        Task::Named(_) => config.format == Format::Text,
        Task::Issue(_) | Task::Acknowledge(_) => report.dry_run && config.format == Format::Text,
    };
    if !says_it_itself {
        report.log_attention(now, stderr::columns());
    }
    report.log_errors();
    let exit = report.exit();
    if let Err(error) = report.print(
        config.format,
        Timestamp::now(),
        reader(&report, &config, is_verbose),
    ) {
        error!(
            "cannot write the report to stdout: {error}{}",
            if report.dry_run {
                ""
            } else {
                ". The database's audit_log has what was changed"
            }
        );
        return Exit::Stopped;
    }
    if stderr::is_lost() {
        Exit::Stopped
    } else {
        exit
    }
}

fn reader(report: &Report, config: &Config, is_verbose: bool) -> Reader {
    let columns = stderr::columns_of(io::stdout());
    let rechecks = matches!(config.task, Task::Reconcile { recheck: true });
    let looks_closely = report.dry_run || rechecks;
    Reader {
        columns,
        wants_summary: columns.is_some() || is_verbose || looks_closely && report.not_in_store > 0,
    }
}
