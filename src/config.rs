//! What was typed and what the environment says, checked. Every environment variable is read here.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use log::{LevelFilter, warn};
use reqwest::Url;

use crate::btcpay::{ApiKey, proxy};
use crate::cli::{Cli, Format};
use crate::database::Access;
use crate::nearby;
use crate::store::Store;

/// Everything a run needs to know.
pub struct Config {
    pub database: PathBuf,
    pub access: Access,
    pub store: Store,
    pub api_key: ApiKey,
    pub recheck: bool,
    pub max_age_seconds: i64,
    /// How long the run may take; 0 for any time.
    pub deadline_seconds: u32,
    pub format: Format,
    /// Of the terminal that the report goes to; none where it goes elsewhere.
    pub columns: Option<usize>,
    pub verbose: bool,
}

/// For somebody who has set nothing up yet.
const FIRST_CONTACT: &str = "\
nothing is set up: give the licensing service's database (--database FILE or RECONCILE_DATABASE),
BTCPay Server and the store in it (--btcpay-url URL or BTCPAY_URL, --store-id ID or BTCPAY_STORE_ID),
and an API key (--api-key-file FILE or BTCPAY_API_KEY_FILE). README.md leads through it: Set it up";

impl Config {
    /// The checked configuration. `columns` are those of the terminal that the report goes to, if
    /// it goes to one.
    ///
    /// # Errors
    ///
    /// A setting is missing or cannot be used; each names the option and its variable.
    pub fn new(cli: Cli, columns: Option<usize>) -> Result<Self> {
        let database = setting(cli.database, "RECONCILE_DATABASE");
        let url = setting(cli.btcpay_url, "BTCPAY_URL");
        let store_id = setting(cli.store_id, "BTCPAY_STORE_ID");
        ensure!(
            database.is_some() || url.is_some() || store_id.is_some(),
            FIRST_CONTACT
        );
        let database =
            database.context("which database? Give --database FILE or RECONCILE_DATABASE")?;
        let url = url.context("which BTCPay Server? Give --btcpay-url URL or BTCPAY_URL")?;
        let store_id = store_id.context(
            "which store? Give --store-id ID or BTCPAY_STORE_ID; the id is in BTCPay Server under \
             Settings, General",
        )?;
        Ok(Self {
            database: database.into(),
            access: if cli.dry_run {
                Access::Read
            } else {
                Access::Write
            },
            store: Store {
                url: checked_url(&text(url, "the URL of BTCPay Server")?)?,
                id: checked_store_id(text(store_id, "the store id")?)?,
            },
            api_key: api_key(cli.api_key_file)?,
            recheck: cli.recheck,
            max_age_seconds: i64::from(cli.max_age_hours) * 3600,
            deadline_seconds: cli.deadline,
            format: cli.format,
            columns,
            verbose: cli.verbose > 0,
        })
    }

    /// Whether a run that has nothing to say says so.
    pub fn tell_nothing(&self) -> bool {
        self.columns.is_some() || self.verbose
    }

    /// Whether somebody looks at what would be done: then the report has all of it in one place.
    pub fn is_for_eyes(&self) -> bool {
        self.access == Access::Read && self.format == Format::Text
    }
}

/// What this library says of certificates is in the error that stops the run.
const TOLD_BY_US: &str = "rustls_platform_verifier=off";

/// The log's filter: the options if there are any, else warnings and errors, which `RUST_LOG` can
/// change. One that is meant for another program alone changes nothing.
pub fn log_filter(verbose: u8, quiet: bool) -> String {
    let level = match (quiet, verbose) {
        (true, _) => LevelFilter::Error,
        (false, 0) => LevelFilter::Warn,
        (false, 1) => LevelFilter::Info,
        (false, 2) => LevelFilter::Debug,
        (false, 3..) => LevelFilter::Trace,
    };
    let mut filter = format!("{level},{TOLD_BY_US}");
    if verbose == 0 && !quiet {
        let changes = variable("RUST_LOG").and_then(|changes| changes.into_string().ok());
        // What comes after a slash would be for all of it.
        let changes = changes
            .as_ref()
            .and_then(|changes| changes.split('/').next());
        filter.extend(changes.map(|changes| format!(",{changes}")));
    }
    filter
}

/// The option, else the variable; either counts as unset when empty.
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
        Err(_) => bail!("{what} is not UTF-8 text"),
    }
}

fn checked_url(text: &str) -> Result<Url> {
    const EXAMPLE: &str = "give --btcpay-url (BTCPAY_URL) like https://btcpay.example.com";
    // The text may hold a password, so no message repeats it.
    let url = Url::parse(text)
        .with_context(|| format!("the URL of BTCPay Server cannot be read: {EXAMPLE}"))?;
    ensure!(
        matches!(url.scheme(), "http" | "https") && url.has_host(),
        "the URL of BTCPay Server is neither http nor https: {EXAMPLE}"
    );
    ensure!(
        url.username().is_empty() && url.password().is_none(),
        "the URL of BTCPay Server has a user or password in it, which would end in logs: take it \
         out; the API key is all that reconcile needs"
    );
    ensure!(
        url.query().is_none() && url.fragment().is_none(),
        "the URL of BTCPay Server has a '?' or '#' in it: {EXAMPLE}"
    );
    if url.scheme() == "http" {
        ensure!(
            nearby::is_near(&url),
            "plain http would send the API key in clear to {}: give --btcpay-url (BTCPAY_URL) an \
             https:// address; http is for this machine, a private network and .onion alone",
            url.host_str().unwrap_or_default()
        );
        if let Some(proxy) = proxy::of(&url).filter(|proxy| !nearby::is_near(proxy)) {
            bail!(
                "plain http would send the API key in clear to the proxy {proxy}, which the \
                 environment names: give --btcpay-url (BTCPAY_URL) an https:// address, or see that \
                 BTCPay Server is asked through no proxy or a near one (NO_PROXY, ALL_PROXY)"
            );
        }
    }
    Ok(url)
}

fn checked_store_id(id: String) -> Result<String> {
    ensure!(
        !matches!(id.as_str(), "." | "..") && !id.contains(|c: char| c.is_control() || c == '/'),
        "the store id cannot be one of BTCPay Server's: copy it from Settings, General"
    );
    Ok(id)
}

/// From the file that an option or a variable names, else from the variable that holds the key.
fn api_key(option: Option<OsString>) -> Result<ApiKey> {
    let (key, source) = match setting(option, "BTCPAY_API_KEY_FILE") {
        Some(path) => {
            let path = Path::new(&path);
            let key = fs::read_to_string(path).with_context(|| {
                format!(
                    "could not read the API key file {}: correct --api-key-file or its permissions",
                    path.display()
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
                "which API key? Put it into a file and give --api-key-file FILE or \
                 BTCPAY_API_KEY_FILE; or give the key itself in BTCPAY_API_KEY"
            ),
        },
    };
    let key = key.trim_end_matches(['\r', '\n']);
    ensure!(
        !key.is_empty(),
        "{source} is empty: put BTCPay Server's API key into it"
    );
    ensure!(
        key.chars().all(|c| c.is_ascii_graphic()),
        "{source} holds something else than one API key: put the key alone into it, on one line"
    );
    ApiKey::new(key).with_context(|| format!("{source} holds no API key"))
}

/// Whoever reads the key can read the store's invoices.
fn warn_if_others_read(path: &Path) -> Result<()> {
    let shown = path.display();
    let metadata = path
        .metadata()
        .with_context(|| format!("could not look at the API key file {shown}"))?;
    if metadata.is_file() && metadata.permissions().mode() & 0o077 != 0 {
        warn!("the API key file {shown} can be read by others: chmod 600 '{shown}'");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_hosts_that_are_near() {
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
            // Another way to write 8.8.8.8, which has no dot in it.
            "134744072",
        ] {
            let error = checked_url(&format!("http://{far}")).unwrap_err();
            assert!(error.to_string().contains("in clear"), "{far}: {error}");
            assert!(checked_url(&format!("https://{far}")).is_ok(), "{far}");
        }
    }
}
