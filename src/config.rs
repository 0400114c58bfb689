//! What a run uses: options, environment and files, checked once. Every environment variable of the
//! program's own is read here.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use log::{LevelFilter, warn};
use reqwest::Url;

use crate::btcpay::{ApiKey, Cleartext, UnusableProxy, without_page};
use crate::cli::{self, Cli};
use crate::database::Access;
use crate::invoice::Store;
use crate::report::{Format, is_hidden};
use crate::secret;

pub struct Config {
    pub database: PathBuf,
    pub access: Access,
    pub store: Store,
    pub api_key: ApiKey,
    /// Where a person opens BTCPay Server.
    pub public_url: Url,
    pub task: Task,
    /// Whether nothing but errors is said.
    pub quiet: bool,
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
    /// A person wants to know all about these, or about those of buyers with these addresses.
    Named(Vec<String>),
}

impl Task {
    /// Whether `text` was given to name an invoice.
    fn names(&self, text: &str) -> bool {
        match self {
            Self::Reconcile { .. } => false,
            Self::Issue(id) => id == text,
            Self::Acknowledge(ids) | Self::Named(ids) => ids.iter().any(|id| id == text),
        }
    }

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
        let database = DATABASE.path(cli.database)?;
        let url = URL.text(cli.btcpay_url)?;
        let store_id = STORE_ID.text(cli.store_id)?;
        let key_file = KEY_FILE.path(cli.api_key_file)?;
        let public_url = PUBLIC_URL.text(cli.public_url)?;
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
        let url = checked_url(&url, cli.allow_http)?;
        let public_url = match public_url {
            Some(public) => parsed_url(&public, &PUBLIC_URL)?,
            None => url.clone(),
        };
        let store_id = checked_store_id(store_id)?;
        let (key, api_key) = api_key(key_file.as_deref())?;
        ensure!(
            !task.names(&key),
            "the API key was given as INVOICE. Give the invoice's id, the service's or BTCPay's"
        );
        Ok(Self {
            database: database.into(),
            access: if cli.dry_run {
                Access::Read
            } else {
                Access::Write
            },
            store: Store { url, id: store_id },
            api_key,
            public_url,
            task,
            quiet: cli.quiet,
            max_age_seconds: i64::from(cli.max_age_hours) * 3600,
            deadline_seconds: cli.deadline,
            format: match cli.format {
                cli::Format::Text => Format::Text,
                cli::Format::Json => Format::Json,
            },
        })
    }
}

/// Where the API key belongs, for someone who typed it.
pub const KEY_ON_COMMAND_LINE: &str = "\
This looks like an API key, which belongs in a file that only this user can
read. Name that file in --api-key-file (BTCPAY_API_KEY_FILE).";

/// The key must not be printed in what is wrong with the options either.
pub fn keep_key_of_environment() {
    if let Some(key) = variable("BTCPAY_API_KEY").and_then(|key| key.into_string().ok()) {
        secret::keep(key.trim());
    }
}

/// An option, and the variable that holds while it is not given.
struct Setting {
    what: &'static str,
    option: &'static str,
    variable: &'static str,
    example: &'static str,
}

const DATABASE: Setting = Setting {
    what: "the database's name",
    option: "--database",
    variable: "RECONCILE_DATABASE",
    example: "/var/lib/licensing/licenses.db",
};
const URL: Setting = Setting {
    what: "the URL of BTCPay Server",
    option: "--btcpay-url",
    variable: "BTCPAY_URL",
    example: "https://btcpay.example.com",
};
const PUBLIC_URL: Setting = Setting {
    what: "the public URL of BTCPay Server",
    option: "--public-url",
    variable: "BTCPAY_PUBLIC_URL",
    example: URL.example,
};
const STORE_ID: Setting = Setting {
    what: "the store id",
    option: "--store-id",
    variable: "BTCPAY_STORE_ID",
    example: "9CiNzKoANXxmk5ayZngSXrHTiVvvgCrwrpFQd4m2K776",
};
const KEY_FILE: Setting = Setting {
    what: "the name of the API key file",
    option: "--api-key-file",
    variable: "BTCPAY_API_KEY_FILE",
    example: "/var/lib/licensing/btcpay.key",
};

impl Setting {
    /// The option's value, else the variable's, if that is not empty.
    ///
    /// # Errors
    ///
    /// It has a key in it, or quotes around it.
    fn path(&self, option: Option<OsString>) -> Result<Option<OsString>> {
        let given = option.filter(|value| !value.is_empty());
        let Some(value) = given.or_else(|| variable(self.variable)) else {
            return Ok(None);
        };
        let Self {
            what,
            option,
            variable,
            example,
        } = self;
        let shown = value.to_string_lossy();
        // A folder may be named by a commit.
        let name = Path::new(&value).file_name().unwrap_or_default();
        ensure!(
            !secret::is_in(&name.to_string_lossy()),
            "{what} looks like an API key. Put the key into a file of its own, named in \
             --api-key-file (BTCPAY_API_KEY_FILE), and set {option} ({variable}) to something like \
             {example}"
        );
        ensure!(
            !is_quoted(&shown),
            "{what} has quotes around it. Set {option} or {variable} without, as in \
             {variable}={example}"
        );
        Ok(Some(value))
    }

    /// The same as text, without the blanks around it.
    ///
    /// # Errors
    ///
    /// There is something in it that has no place in an address or an id, too.
    fn text(&self, option: Option<OsString>) -> Result<Option<String>> {
        let trimmed = |value: &OsStr| value.to_str().is_none_or(|text| !text.trim().is_empty());
        let option = option.filter(|value| trimmed(value));
        let Some(value) = self.path(option)? else {
            return Ok(None);
        };
        let Self {
            what,
            option,
            variable,
            example,
        } = self;
        let text = text(value, what)?;
        let text = text.trim();
        let wrong = if is_quoted(text) {
            "quotes around it"
        } else if text.contains(is_hidden) {
            "a character in it that cannot be seen"
        } else if text.contains(char::is_whitespace) {
            "a blank in it, or a comment behind it"
        } else {
            return Ok(Some(text.into()).filter(|text: &String| !text.is_empty()));
        };
        bail!("{what} has {wrong}. Set {option} or {variable} without, as in {variable}={example}")
    }
}

/// Whether a text begins or ends with a quote, of a keyboard or of a word processor.
fn is_quoted(text: &str) -> bool {
    let quotes = [
        '"', '\'', '`', '´', '“', '”', '„', '‟', '‘', '’', '‚', '‛', '«', '»', '‹', '›',
    ];
    text.trim().starts_with(quotes) || text.trim().ends_with(quotes)
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
        // What is wrong with it is printed.
        let changes = changes.filter(|changes| !secret::is_in(changes));
        // What follows a slash would apply to everything.
        let changes = changes
            .as_ref()
            .and_then(|changes| changes.split('/').next());
        filter.extend(changes.map(|changes| format!(",{changes}")));
    }
    filter
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
fn parsed_url(text: &str, setting: &Setting) -> Result<Url> {
    let Setting {
        what,
        option,
        variable,
        example,
    } = setting;
    let advice = format!("Set {option} ({variable}) to an address like {example}");
    // No message repeats the text: it may hold a password.
    let scheme = text
        .split_once(':')
        .map(|(scheme, _)| scheme.to_ascii_lowercase());
    ensure!(
        matches!(scheme.as_deref(), Some("http" | "https")),
        "{what} lacks http:// or https://. {advice}"
    );
    let url =
        Url::parse(text).map_err(|why| anyhow!("{what} cannot be parsed: {why}. {advice}"))?;
    ensure!(
        url.username().is_empty() && url.password().is_none(),
        "{what} contains a user or password, which would end up in logs. Remove it: the API key is \
         all that reconcile needs"
    );
    ensure!(
        url.query().is_none() && url.fragment().is_none(),
        "{what} contains a '?' or '#'. {advice}"
    );
    if let Some(base) = without_page(&url) {
        bail!(
            "{what} ends with the path of BTCPay's API or of one of its pages. Set {option} \
             ({variable}) to {base}"
        );
    }
    Ok(url)
}

fn checked_url(text: &str, allow_http: bool) -> Result<Url> {
    let url = parsed_url(text, &URL)?;
    if let Some(UnusableProxy { variable }) = UnusableProxy::of(&url) {
        bail!(
            "{variable} is set, but reconcile cannot use it. {}",
            if variable.eq_ignore_ascii_case("NO_PROXY") {
                "Set it to names with commas between them, without quotes or a comment: \
                 localhost,btcpay.example.com"
            } else {
                "Set it to an address like socks5h://127.0.0.1:9050 or http://proxy.example.com:3128, \
                 in small letters, without quotes or a comment behind it, or leave it out"
            }
        );
    }
    match Cleartext::risk(&url).filter(|_| !allow_http) {
        None => Ok(url),
        Some(Cleartext::ToHost(host)) => bail!(
            "plain http would send the API key unencrypted to {host}. Set --btcpay-url (BTCPAY_URL) \
             to an https:// address, or if nobody else can listen on the way, add --allow-http"
        ),
        Some(Cleartext::ToProxy(proxy)) => bail!(
            "plain http would send the API key unencrypted to {proxy}, the environment's proxy. Set \
             --btcpay-url to an https:// address, bypass the proxy (NO_PROXY), or if nobody else can \
             listen on the way, add --allow-http"
        ),
    }
}

fn checked_store_id(id: String) -> Result<String> {
    ensure!(
        !matches!(id.as_str(), "." | "..") && id.chars().all(|c| c.is_ascii_graphic() && c != '/'),
        "the store id is not a BTCPay Server store id. Copy it from the store's Settings, General"
    );
    Ok(id)
}

/// From the file that was named, else from the variable that holds the key.
fn api_key(file: Option<&OsStr>) -> Result<(String, ApiKey)> {
    let (key, source) = match file {
        Some(path) => {
            let path = Path::new(path);
            let key = fs::read_to_string(path).map_err(|error| unreadable_key(path, &error))?;
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
    let key = key.trim_start_matches('\u{feff}').trim();
    ensure!(
        !key.is_empty(),
        "{source} is empty. Put BTCPay Server's API key into it"
    );
    ensure!(
        !is_quoted(key),
        "{source} has quotes around the key. Remove them"
    );
    ensure!(
        key.chars().all(|c| c.is_ascii_graphic()),
        "{source} does not hold one API key. Put only the key into it, on one line"
    );
    secret::keep(key);
    let header = ApiKey::new(key).with_context(|| format!("{source} does not hold an API key"))?;
    Ok((key.into(), header))
}

fn unreadable_key(path: &Path, error: &io::Error) -> anyhow::Error {
    let why = match error.kind() {
        io::ErrorKind::NotFound => "no such file".into(),
        io::ErrorKind::InvalidData => "it is not a text file".into(),
        other => other.to_string(),
    };
    let advice = match (error.kind(), path.metadata()) {
        (io::ErrorKind::PermissionDenied, Ok(metadata)) => for_this_user_only(path, &metadata),
        (io::ErrorKind::PermissionDenied, Err(_)) => "Let this user into its folder".into(),
        _ => "Correct --api-key-file (BTCPAY_API_KEY_FILE)".into(),
    };
    anyhow!(
        "cannot read the API key file {}: {why}. {advice}",
        path.display()
    )
}

/// Who can read the key can read the store's invoices.
fn warn_if_others_read(path: &Path) -> Result<()> {
    let shown = path.display();
    let metadata = path
        .metadata()
        .with_context(|| format!("cannot access the API key file {shown}"))?;
    let is_open = metadata.is_file() && metadata.permissions().mode() & 0o077 != 0;
    if is_open && !is_guarded(path, variable("CREDENTIALS_DIRECTORY").as_deref()) {
        let close = for_this_user_only(path, &metadata);
        warn!("other users can read the API key file {shown}. {close}");
    }
    Ok(())
}

/// How a file with this `metadata` becomes one that only this user can read. root reads it whoever has
/// it, and need not take it from the service's user.
fn for_this_user_only(path: &Path, metadata: &fs::Metadata) -> String {
    let shown = path.display();
    let this_user = fs::metadata("/proc/self").map(|process| process.uid());
    match this_user {
        Ok(user) if user != 0 && user != metadata.uid() => {
            format!("As root: chown {user} '{shown}' && chmod 600 '{shown}'")
        }
        Ok(_) | Err(_) => format!("Run: chmod 600 '{shown}'"),
    }
}

/// Whether a container engine or systemd, which put the file there, decides who reads it.
fn is_guarded(path: &Path, credentials: Option<&OsStr>) -> bool {
    let folders = ["/run/secrets", "/var/run/secrets"].map(OsStr::new);
    let mut folders = folders.into_iter().chain(credentials);
    folders.any(|folder| path.starts_with(folder))
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
            "btcpay.home.arpa",
            "btcpay.lan",
            "btcpay.home",
            "fritz.box",
            "btcpay.fritz.box",
            "UMBREL.LOCAL.",
            "btcpay.internal",
            "btcpayserver.startos",
            "btcpay.localhost",
            "zqktlwiuavvvqqt4ybvgvi7tyo4hjl5xgfuvpdf6otjiycgwqbym2qad.onion/btcpay",
        ] {
            assert!(
                checked_url(&format!("http://{near}"), false).is_ok(),
                "{near}"
            );
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
            "btcpay.arpa",
            "btcpay.box",
            "notfritz.box",
            "home.arpa.example.com",
            "a.notonion",
            // 8.8.8.8, spelled without a dot.
            "134744072",
        ] {
            let http = format!("http://{far}");
            let error = checked_url(&http, false).unwrap_err();
            assert!(error.to_string().contains("unencrypted"), "{far}: {error}");
            assert!(checked_url(&http, true).is_ok(), "{far}");
            assert!(
                checked_url(&format!("https://{far}"), false).is_ok(),
                "{far}"
            );
        }
    }

    #[test]
    fn secrets_of_containers_and_systemd_are_guarded() {
        let credentials = Some(OsStr::new("/run/credentials/reconcile.service"));
        for (path, credentials, guarded) in [
            ("/run/secrets/btcpay", None, true),
            ("/var/run/secrets/btcpay/key", None, true),
            ("/run/secrets.d/key", None, false),
            ("/home/run/secrets/key", None, false),
            ("/run/credentials/reconcile.service/key", credentials, true),
            ("/run/credentials/other.service/key", credentials, false),
            ("/run/credentials/reconcile.service/key", None, false),
        ] {
            assert_eq!(is_guarded(Path::new(path), credentials), guarded, "{path}");
        }
    }
}
