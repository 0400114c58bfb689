//! What can be typed, and its help. No behavior: environment variables and rules are in `config`.

// The comments are the help text, where backticks are noise.
#![allow(clippy::doc_markdown)]

use std::ffi::OsString;

use clap::{ArgAction, Parser, ValueEnum};

const AFTER: &str = "\
Options override variables. The API key itself can be in BTCPAY_API_KEY.

Exit codes:
  0  every candidate was checked, and every difference is written (or shown)
  1  the run failed or stopped early
  2  usage or configuration error
  3  the run finished, but at least one invoice could not be reconciled

Examples:
  reconcile -n -d FILE --btcpay-url URL --store-id ID --api-key-file FILE
  reconcile --recheck >> reconcile.log     (settings in the environment)
  reconcile -n INVOICE                     (\"I paid and have no license\")";

const WHERE: &str = "Database and server";
const WHAT: &str = "Run";
const SAID: &str = "Output";

/// Bring a licensing database into agreement with BTCPay Server
#[expect(clippy::struct_excessive_bools, reason = "flags of the command line")]
#[derive(Debug, Parser)]
#[command(
    version,
    max_term_width = 98,
    args_override_self = true,
    disable_help_flag = true,
    disable_version_flag = true,
    after_help = AFTER
)]
pub struct Cli {
    /// Only these, by either id or the buyer's address, in full detail
    #[arg(value_name = "INVOICE", conflicts_with = "recheck")]
    pub invoices: Vec<String>,

    /// The service's database [env: RECONCILE_DATABASE]
    #[arg(short, long, value_name = "FILE", help_heading = WHERE)]
    pub database: Option<OsString>,

    /// BTCPay Server's address [env: BTCPAY_URL]
    #[arg(long, value_name = "URL", help_heading = WHERE)]
    pub btcpay_url: Option<OsString>,

    /// Its address in links [env: BTCPAY_PUBLIC_URL]
    #[arg(long, value_name = "URL", help_heading = WHERE)]
    pub public_url: Option<OsString>,

    /// The store in BTCPay Server [env: BTCPAY_STORE_ID]
    #[arg(long, value_name = "ID", help_heading = WHERE)]
    pub store_id: Option<OsString>,

    /// File with the API key [env: BTCPAY_API_KEY_FILE]
    #[arg(long, value_name = "FILE", help_heading = WHERE)]
    pub api_key_file: Option<OsString>,

    /// Take plain http to any host or proxy
    #[arg(long, help_heading = WHERE)]
    pub allow_http: bool,

    /// Show what a run would do; write nothing
    #[arg(short = 'n', long, help_heading = WHAT)]
    pub dry_run: bool,

    /// Also check invoices already closed in the database
    #[arg(long, help_heading = WHAT)]
    pub recheck: bool,

    /// Issue this invoice's license despite a doubt
    #[arg(long, value_name = "INVOICE", conflicts_with_all = ["recheck", "invoices"], help_heading = WHAT)]
    pub issue: Vec<String>,

    /// Accept these as they are, until they differ
    #[arg(
        long,
        value_name = "ID",
        num_args = 1..,
        conflicts_with_all = ["dry_run", "recheck", "issue", "invoices"],
        help_heading = WHAT
    )]
    pub acknowledge: Vec<String>,

    /// Check invoices of the last N hours
    #[arg(long, value_name = "N", default_value_t = 72, value_parser = hours, allow_negative_numbers = true, help_heading = WHAT)]
    pub max_age_hours: u32,

    /// Stop after this time; 0 means never
    #[arg(long, value_name = "SECONDS", default_value_t = 50, value_parser = seconds, allow_negative_numbers = true, help_heading = WHAT)]
    pub deadline: u32,

    /// Report format: text or json
    #[arg(long, value_enum, default_value_t = Format::Text, hide_possible_values = true, help_heading = SAID)]
    pub format: Format,

    /// Log more to stderr; repeat for more [env: RUST_LOG]
    #[arg(short, long, action = ArgAction::Count, conflicts_with = "quiet", help_heading = SAID)]
    pub verbose: u8,

    /// Log only errors to stderr
    #[arg(short, long, help_heading = SAID)]
    pub quiet: bool,

    /// Print help
    #[arg(short, long, action = ArgAction::Help, help_heading = SAID)]
    help: (),

    /// Print version
    #[arg(short = 'V', long, action = ArgAction::Version, help_heading = SAID)]
    version: (),
}

fn hours(text: &str) -> Result<u32, &'static str> {
    let hours = text.parse().ok().filter(|hours| *hours > 0);
    hours.ok_or("it takes whole hours, from 1 to 4294967295")
}

fn seconds(text: &str) -> Result<u32, &'static str> {
    let why = "it takes whole seconds, from 0 (no limit) to 4294967295";
    text.parse().map_err(|_| why)
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Format {
    Text,
    Json,
}
