//! What a run uses: options, environment and files, checked once. Every environment variable of the
//! program's own is read here.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use log::{LevelFilter, warn};
use reqwest::Url;

use crate::btcpay::{ApiKey, Cleartext};
use crate::cli::{self, Cli};
use crate::database::Access;
use crate::invoice::Store;
use crate::report::Format;

pub struct Config {
    pub database: PathBuf,
    pub access: Access,
    pub store: Store,
    pub api_key: ApiKey,
    /// Where a person opens BTCPay Server.
    pub public_url: Url,
    pub task: Task,
    pub max_age_seconds: i64,
    /// How long the run may take; 0 means any time.
    pub deadline_seconds: u32,
    pub format: Format,
}

/// What a run is for. Invoices are named by either id.
#[derive(Debug)]
pub enum Task {
    /// All invoices that may be out of date.
    Reconcile { recheck: bool },
    /// A person decides that the license of this one is issued.
    Issue(String),
    /// A person accepts these as they are.
    Acknowledge(Vec<String>),
    /// A person wants to know all about these.
    Named(Vec<String>),
}

impl Task {
    /// The options are known not to contradict each other.
    fn of(cli: &Cli) -> Self {
        if let Some(id) = cli.issue.first() {
            Self::Issue(id.clone())
        } else if !cli.acknowledge.is_empty() {
            Self::Acknowledge(cli.acknowledge.clone())
        } else if !cli.invoices.is_empty() {
            Self::Named(cli.invoices.clone())
        } else {
            Self::Reconcile {
                recheck: cli.recheck,
            }
        }
    }
}

/// For someone who has set up nothing yet.
const FIRST_CONTACT: &str = "\
no database and no server given. Set --database (RECONCILE_DATABASE),
--btcpay-url (BTCPAY_URL), --store-id (BTCPAY_STORE_ID) and --api-key-file
(BTCPAY_API_KEY_FILE). README.md explains them under 'Set it up'";

impl Config {
    /// # Errors
    ///
    /// A setting is missing or cannot be used; the message names the option and its variable.
    pub fn new(cli: Cli) -> Result<Self> {
        ensure!(
            cli.issue.len() <= 1,
            "--issue takes one invoice. Run it once for each"
        );
        let task = Task::of(&cli);
        let database = setting(cli.database, "RECONCILE_DATABASE");
        let url = setting(cli.btcpay_url, "BTCPAY_URL");
        let store_id = setting(cli.store_id, "BTCPAY_STORE_ID");
        ensure!(
            database.is_some() || url.is_some() || store_id.is_some(),
            FIRST_CONTACT
        );
        let database =
            database.context("no database given. Set --database FILE or RECONCILE_DATABASE")?;
        let url = url.context("no BTCPay Server given. Set --btcpay-url URL or BTCPAY_URL")?;
        let store_id = store_id.context(
            "no store given. Set --store-id ID or BTCPAY_STORE_ID; BTCPay Server shows the id under \
             Settings, General",
        )?;
        let url = checked_url(&text(url, "the URL of BTCPay Server")?)?;
        let public_url = match setting(cli.public_url, "BTCPAY_PUBLIC_URL") {
            Some(public) => public_url(&text(public, "the public URL of BTCPay Server")?)?,
            None => url.clone(),
        };
        Ok(Self {
            database: database.into(),
            access: if cli.dry_run {
                Access::Read
            } else {
                Access::Write
            },
            store: Store {
                url,
                id: checked_store_id(text(store_id, "the store id")?)?,
            },
            api_key: api_key(cli.api_key_file)?,
            public_url,
            task,
            max_age_seconds: i64::from(cli.max_age_hours) * 3600,
            deadline_seconds: cli.deadline,
            format: match cli.format {
                cli::Format::Text => Format::Text,
                cli::Format::Json => Format::Json,
            },
        })
    }
}

/// What this library logs about certificates is in our error message.
const LOGGED_BY_US: &str = "rustls_platform_verifier=off";

/// The log's filter, from -v and -q; without them, warnings and errors as modified by `RUST_LOG`. One
/// that is meant for another program has no effect.
pub fn log_filter(verbose: u8, quiet: bool) -> String {
    let level = match (quiet, verbose) {
        (true, _) => LevelFilter::Error,
        (false, 0) => LevelFilter::Warn,
        (false, 1) => LevelFilter::Info,
        (false, 2) => LevelFilter::Debug,
        (false, 3..) => LevelFilter::Trace,
    };
    let mut filter = format!("{level},{LOGGED_BY_US}");
    if verbose == 0 && !quiet {
        let changes = variable("RUST_LOG").and_then(|changes| changes.into_string().ok());
        // What follows a slash would apply to everything.
        let changes = changes
            .as_ref()
            .and_then(|changes| changes.split('/').next());
        filter.extend(changes.map(|changes| format!(",{changes}")));
    }
    filter
}

/// The option, else the variable. Either counts as unset if it is empty.
fn setting(option: Option<OsString>, name: &str) -> Option<OsString> {
    option
        .filter(|value| !value.is_empty())
        .or_else(|| variable(name))
}

fn variable(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

fn text(value: OsString, what: &str) -> Result<String> {
    match value.into_string() {
        Ok(text) => Ok(text),
        Err(_) => bail!("{what} is not valid UTF-8"),
    }
}

/// The address of BTCPay Server in `text`, or one for a person, by whatever protocol.
fn parsed_url(text: &str, option: &str) -> Result<Url> {
    let example = format!("Set {option} to an address like https://btcpay.example.com");
    // No message repeats the text: it may hold a password.
    let url = Url::parse(text)
        .map_err(|why| anyhow!("the URL of BTCPay Server cannot be parsed: {why}. {example}"))?;
    ensure!(
        matches!(url.scheme(), "http" | "https") && url.has_host(),
        "the URL of BTCPay Server is neither http nor https. {example}"
    );
    ensure!(
        url.username().is_empty() && url.password().is_none(),
        "the URL of BTCPay Server contains a user or password, which would end up in logs. Remove \
         it: the API key is all that reconcile needs"
    );
    ensure!(
        url.query().is_none() && url.fragment().is_none(),
        "the URL of BTCPay Server contains a '?' or '#'. {example}"
    );
    Ok(url)
}

fn public_url(text: &str) -> Result<Url> {
    parsed_url(text, "--public-url (BTCPAY_PUBLIC_URL)")
}

fn checked_url(text: &str) -> Result<Url> {
    let url = parsed_url(text, "--btcpay-url (BTCPAY_URL)")?;
    match Cleartext::risk(&url) {
        None => Ok(url),
        Some(Cleartext::ToHost(host)) => bail!(
            "plain http would send the API key unencrypted to {host}. Set --btcpay-url (BTCPAY_URL) \
             to an https:// address; http is only for this machine, private networks and .onion"
        ),
        Some(Cleartext::ToProxy(proxy)) => bail!(
            "plain http would send the API key unencrypted to {proxy}, the environment's proxy. Set \
             --btcpay-url (BTCPAY_URL) to an https:// address, or bypass the proxy \
             (NO_PROXY), or use one on this machine or a private network (ALL_PROXY)"
        ),
    }
}

fn checked_store_id(id: String) -> Result<String> {
    ensure!(
        !matches!(id.as_str(), "." | "..") && !id.contains(|c: char| c.is_control() || c == '/'),
        "the store id is not a BTCPay Server store id. Copy it from the store's Settings, General"
    );
    Ok(id)
}

/// From the file that an option or a variable names, else from the variable that holds the key.
fn api_key(option: Option<OsString>) -> Result<ApiKey> {
    let (key, source) = match setting(option, "BTCPAY_API_KEY_FILE") {
        Some(path) => {
            let path = Path::new(&path);
            let key = fs::read_to_string(path).map_err(|why| {
                anyhow!(
                    "cannot read the API key file {}: {}. Correct --api-key-file \
                     (BTCPAY_API_KEY_FILE) or the file's permissions",
                    path.display(),
                    why.kind()
                )
            })?;
            warn_if_others_read(path)?;
            (key, format!("the API key file {}", path.display()))
        }
        None => match variable("BTCPAY_API_KEY") {
            Some(key) => (
                text(key, "the API key in BTCPAY_API_KEY")?,
                "BTCPAY_API_KEY".into(),
            ),
            None => bail!(
                "no API key given. Put it into a file and set --api-key-file FILE or \
                 BTCPAY_API_KEY_FILE; or set BTCPAY_API_KEY to the key itself"
            ),
        },
    };
    let key = key.trim_end_matches(['\r', '\n']);
    ensure!(
        !key.is_empty(),
        "{source} is empty. Put BTCPay Server's API key into it"
    );
    ensure!(
        key.chars().all(|c| c.is_ascii_graphic()),
        "{source} does not hold one API key. Put only the key into it, on one line"
    );
    ApiKey::new(key).with_context(|| format!("{source} does not hold an API key"))
}

/// Who can read the key can read the store's invoices.
fn warn_if_others_read(path: &Path) -> Result<()> {
    let shown = path.display();
    let metadata = path
        .metadata()
        .with_context(|| format!("cannot access the API key file {shown}"))?;
    if metadata.is_file() && metadata.permissions().mode() & 0o077 != 0 {
        warn!("other users can read the API key file {shown}. Run: chmod 600 '{shown}'");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_only_for_near_hosts() {
        for near in [
            "localhost:23000",
            "127.0.0.1",
            "127.9.9.9:49392",
            "10.0.0.5",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.10",
            "169.254.7.7",
            "[::1]",
            "[fd12:3456::1]",
            "[fe80::1]",
            "[::ffff:192.168.1.10]",
            "btcpayserver:23000",
            "umbrel.local",
            "UMBREL.LOCAL.",
            "btcpay.internal",
            "btcpayserver.startos",
            "btcpay.localhost",
            "zqktlwiuavvvqqt4ybvgvi7tyo4hjl5xgfuvpdf6otjiycgwqbym2qad.onion/btcpay",
        ] {
            assert!(checked_url(&format!("http://{near}")).is_ok(), "{near}");
        }
        for far in [
            "btcpay.example.com",
            "8.8.8.8",
            "172.15.0.1",
            "172.32.0.1",
            "192.169.0.1",
            "11.0.0.1",
            "0.0.0.0",
            "[2001:db8::1]",
            "[::ffff:8.8.8.8]",
            "local.example.com",
            "onion.example.com",
            "evil.com/.onion",
            "mylocal.com",
            "a.notonion",
            // 8.8.8.8, spelled without a dot.
            "134744072",
        ] {
            let error = checked_url(&format!("http://{far}")).unwrap_err();
            assert!(error.to_string().contains("unencrypted"), "{far}: {error}");
            assert!(checked_url(&format!("https://{far}")).is_ok(), "{far}");
        }
    }
}
