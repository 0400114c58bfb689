//! What can be typed. No behaviour: environment variables and rules are in `config`.

// The comments are the help that a terminal shows, where backticks are noise.
#![allow(clippy::doc_markdown)]

use std::ffi::OsString;

use clap::{ArgAction, Parser, ValueEnum};

const EXIT_CODES: &str = "\
Exit codes:
  0  every invoice was asked about, and every difference is in the database (dry: was shown)
  1  the run could not be done, or not to its end
  2  usage or configuration
  3  the run went to its end, and at least one invoice could not be reconciled";

/// Brings a licensing database into agreement with BTCPay Server
#[derive(Debug, Parser)]
#[command(version, max_term_width = 98, args_override_self = true, after_help = EXIT_CODES)]
pub struct Cli {
    /// The licensing service's SQLite database [env: RECONCILE_DATABASE]
    #[arg(short, long, value_name = "FILE")]
    pub database: Option<OsString>,

    /// BTCPay Server's address, path included [env: BTCPAY_URL]
    #[arg(long, value_name = "URL")]
    pub btcpay_url: Option<OsString>,

    /// The store's id [env: BTCPAY_STORE_ID]
    #[arg(long, value_name = "ID")]
    pub store_id: Option<OsString>,

    /// A file with the API key [env: BTCPAY_API_KEY_FILE, or the key itself: BTCPAY_API_KEY]
    #[arg(long, value_name = "FILE")]
    pub api_key_file: Option<OsString>,

    /// Show what a run would do, and write nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,

    /// Also ask about invoices that are closed here as expired or invalid
    #[arg(long)]
    pub recheck: bool,

    /// Ask about invoices created within the last N hours
    #[arg(long, value_name = "N", default_value_t = 72, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_age_hours: u32,

    /// End the run after so many seconds, whatever is left to ask; 0: never
    #[arg(long, value_name = "SECONDS", default_value_t = 50)]
    pub deadline: u32,

    /// The report's form
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,

    /// Say more on stderr; repeat for still more [env: RUST_LOG]
    #[arg(short, long, action = ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,

    /// Only errors on stderr
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Text,
    /// One object on one line
    Json,
}
