//! What can be typed. No behaviour: environment variables and rules are in `config`.

// The comments are the help that a terminal shows, where backticks are noise.
#![allow(clippy::doc_markdown)]

use std::ffi::OsString;

use clap::{ArgAction, Parser, ValueEnum};

const AFTER: &str = "\
An option wins over its variable; an empty one counts as unset. The API key
itself can be in BTCPAY_API_KEY.

Exit codes:
  0  every invoice in question was asked about, and what differed is written
  1  the run could not be done, or not to its end
  2  usage or configuration
  3  done, but at least one invoice could not be reconciled

Examples:
  reconcile -n -d FILE --btcpay-url URL --store-id ID --api-key-file FILE
  reconcile --recheck >> reconcile.log     with the rest in the environment";

const WHERE: &str = "Where";
const WHAT: &str = "What";
const SAID: &str = "What is said";

/// Brings a licensing database into agreement with BTCPay Server
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
    /// The service's database [env: RECONCILE_DATABASE]
    #[arg(short, long, value_name = "FILE", help_heading = WHERE)]
    pub database: Option<OsString>,

    /// BTCPay Server, path included [env: BTCPAY_URL]
    #[arg(long, value_name = "URL", help_heading = WHERE)]
    pub btcpay_url: Option<OsString>,

    /// The store's id [env: BTCPAY_STORE_ID]
    #[arg(long, value_name = "ID", help_heading = WHERE)]
    pub store_id: Option<OsString>,

    /// A file with the API key [env: BTCPAY_API_KEY_FILE]
    #[arg(long, value_name = "FILE", help_heading = WHERE)]
    pub api_key_file: Option<OsString>,

    /// Show what a run would do, and write nothing
    #[arg(short = 'n', long, help_heading = WHAT)]
    pub dry_run: bool,

    /// Also ask about invoices that are closed here
    #[arg(long, help_heading = WHAT)]
    pub recheck: bool,

    /// Ask about the last N hours
    #[arg(long, value_name = "N", default_value_t = 72, value_parser = clap::value_parser!(u32).range(1..), help_heading = WHAT)]
    pub max_age_hours: u32,

    /// End the run after so long; 0: never
    #[arg(long, value_name = "SECONDS", default_value_t = 50, help_heading = WHAT)]
    pub deadline: u32,

    /// The report: text, or json
    #[arg(long, value_enum, default_value_t = Format::Text, hide_possible_values = true, help_heading = SAID)]
    pub format: Format,

    /// Say more on stderr; -vv: still more [env: RUST_LOG]
    #[arg(short, long, action = ArgAction::Count, conflicts_with = "quiet", help_heading = SAID)]
    pub verbose: u8,

    /// Only errors on stderr
    #[arg(short, long, help_heading = SAID)]
    pub quiet: bool,

    /// Print help
    #[arg(short, long, action = ArgAction::Help, help_heading = SAID)]
    help: (),

    /// Print version
    #[arg(short = 'V', long, action = ArgAction::Version, help_heading = SAID)]
    version: (),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Text,
    Json,
}
