//! One GET request: API key, TLS, proxy, time limits and retries.

use std::io::Read;
use std::mem::ManuallyDrop;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Error, anyhow};
use hyper_util::client::proxy::matcher::Matcher;
use jiff::Timestamp;
use log::{debug, warn};
use reqwest::blocking::Client;
use reqwest::header::{
    AUTHORIZATION, DATE, HeaderName, HeaderValue, LOCATION, RETRY_AFTER, SERVER, VIA,
};
use reqwest::{StatusCode, Url, redirect};

use super::near::{is_near, is_this_machine};
use super::path;
use crate::invoice::without_password;
use crate::stop::{Deadline, OutOfTime};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const BODY_LIMIT: u64 = 32 * 1024 * 1024;
/// Some proxies add many.
const MOST_HEADERS: usize = 1_000;

/// How often a waiting request looks for a signal.
const LOOK: Duration = Duration::from_millis(50);

/// How many seconds the clocks may differ without a warning.
const CLOCK_SKEW: u64 = 300;

/// How much of an unexpected body is quoted, in characters.
const QUOTED: usize = 200;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The web server that BTCPay Server comes with.
const BTCPAYS_OWN: &str = "Kestrel";

/// Precedes the key in the header.
const SCHEME: &str = "token ";

/// Advice for a response that cannot be BTCPay Server's.
pub const ANOTHER_SERVER: &str =
    "Is --btcpay-url the address of BTCPay Server itself, path included?";

/// Why BTCPay Server gave no answer.
#[derive(Debug)]
pub enum AskError {
    /// The response answers no question about this invoice; others may be answered.
    Refused(Error),
    /// The store has no such invoice.
    NotInStore(Error),
    /// The request was longer than something on the way allows.
    TooLong(Error),
    /// No response, or only a request to come back later.
    Unanswered {
        error: Error,
        retry_after: Option<Duration>,
    },
    /// Every other request would meet it too.
    Fatal(Error),
    /// The deadline was reached, or a signal came, while waiting for this if it was for something.
    Stopped(Option<Error>),
}

impl From<AskError> for Error {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Refused(error)
            | AskError::NotInStore(error)
            | AskError::TooLong(error)
            | AskError::Unanswered { error, .. }
            | AskError::Fatal(error) => error,
            AskError::Stopped(last) => {
                let not_done = "BTCPay Server did not answer in time".into();
                OutOfTime::new(not_done).after(last).into()
            }
        }
    }
}

/// A Greenfield API key. Cannot be printed.
#[derive(Clone)]
pub struct ApiKey(HeaderValue);

impl ApiKey {
    /// None if `key` has characters that no key has.
    pub fn new(key: &str) -> Option<Self> {
        let mut header = HeaderValue::from_str(&format!("{SCHEME}{key}")).ok()?;
        header.set_sensitive(true);
        Some(Self(header))
    }
}

/// Why the key must not be sent over plain http.
pub enum Cleartext {
    /// Anyone on the way to this host could read it.
    ToHost(String),
    /// Anyone on the way to this proxy could read it.
    ToProxy(Url),
}

impl Cleartext {
    /// None if `url` is https, or plain http that stays on this machine, a private network or Tor.
    pub fn risk(url: &Url) -> Option<Self> {
        if url.scheme() != "http" {
            None
        } else if !is_near(url) {
            Some(Self::ToHost(url.host_str().unwrap_or_default().into()))
        } else {
            proxy_for(url)
                .filter(|proxy| !is_near(proxy))
                .map(Self::ToProxy)
        }
    }
}

/// The proxy that the environment sets for `url`, without user and password. None for this machine,
/// whatever the environment says.
pub fn proxy_for(url: &Url) -> Option<Url> {
    if is_this_machine(url) {
        return None;
    }
    let proxy = Matcher::from_system().intercept(&url.as_str().parse().ok()?)?;
    let proxy = proxy.uri().to_string().parse().ok()?;
    Some(without_password(proxy))
}

pub struct Response {
    asked: Url,
    pub status: StatusCode,
    location: Option<String>,
    retry_after: Option<Duration>,
    /// When the server, or a proxy in front of it, says that it answered.
    date: Option<Timestamp>,
    /// What stands in between, as far as its headers say: `Server: nginx`.
    between: Option<String>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn is_web_page(&self) -> bool {
        self.body.trim_ascii_start().first() == Some(&b'<')
    }
}

pub struct Transport {
    /// Never dropped: that would wait, past any deadline, for a DNS lookup that still runs.
    client: ManuallyDrop<Client>,
    server: Url,
    proxy: Option<Url>,
    key: ApiKey,
    deadline: Deadline,
    pub requests: u64,
    /// Whether any connection succeeded.
    pub connected: bool,
    clocks_compared: bool,
}

impl Transport {
    /// # Errors
    ///
    /// TLS cannot be set up: the system has no trusted certificates.
    pub fn new(server: &Url, key: ApiKey, deadline: Deadline) -> anyhow::Result<Self> {
        let mut client = Client::builder()
            .user_agent(concat!("reconcile/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(None)
            .redirect(redirect::Policy::none())
            .http1_max_headers(MOST_HEADERS);
        if server.scheme() == "http" {
            // Needs no trusted certificates, and a small container may have none.
            client = client.tls_certs_only([]);
        }
        let proxy = proxy_for(server);
        // Otherwise reqwest uses the same one by itself.
        if proxy.is_none() {
            client = client.no_proxy();
        }
        Ok(Self {
            client: ManuallyDrop::new(client.build().context(
                "cannot set up TLS. Install the system's certificates (ca-certificates on Debian), \
                 or name a certificate file in SSL_CERT_FILE",
            )?),
            server: server.clone(),
            proxy,
            key,
            deadline,
            requests: 0,
            connected: false,
            clocks_compared: false,
        })
    }

    /// Requests `url` once.
    ///
    /// # Errors
    ///
    /// See [`AskError`].
    pub fn get(&mut self, url: &Url) -> Result<Response, AskError> {
        let response = self.send(url)?;
        self.compare_clocks(&response);
        if may_pass(response.status) {
            return Err(AskError::Unanswered {
                error: self.unexpected(&response),
                retry_after: response.retry_after,
            });
        }
        if response.body.len() as u64 > BODY_LIMIT {
            return Err(AskError::Refused(anyhow!(
                "the response is larger than {} MiB. {ANOTHER_SERVER}",
                BODY_LIMIT >> 20
            )));
        }
        Ok(response)
    }

    /// What came, in words or as it begins.
    pub fn what_came(&self, response: &Response) -> String {
        let body = &response.body;
        let came = if body.trim_ascii().is_empty() {
            "nothing".into()
        } else if response.is_web_page() {
            "a web page".into()
        } else if body.starts_with(&[0x1f, 0x8b]) {
            "gzip data that was not asked for".into()
        } else {
            // Cut last, or a part of the key is not recognized.
            let text = self.without_key(&String::from_utf8_lossy(body));
            let quoted: String = text.trim().chars().take(QUOTED).collect();
            format!("'{quoted}'")
        };
        match &response.between {
            Some(header) => format!("{came} ({})", self.without_key(header)),
            None => came,
        }
    }

    /// What a server says, as it may be quoted: some echo what they were sent.
    pub fn without_key(&self, text: &str) -> String {
        let header = String::from_utf8_lossy(self.key.0.as_bytes());
        let key = header.strip_prefix(SCHEME).unwrap_or(&header);
        text.replace(key, "(the API key)")
    }

    pub fn unexpected(&self, response: &Response) -> Error {
        let status = response.status;
        if status.is_redirection() {
            let Some(to) = response.location.as_deref() else {
                return anyhow!("BTCPay Server sent a redirect without a target ({status})");
            };
            let shown = self.without_key(to);
            if path::is_page(to, &response.asked) {
                return anyhow!(
                    "BTCPay Server redirects to {shown} ({status}), a page for people. {}",
                    self.right_address()
                );
            }
            return anyhow!(
                "BTCPay Server redirects to {shown} ({status}), which reconcile does not follow. Set \
                 --btcpay-url to the final address"
            );
        }
        let came = self.what_came(response);
        anyhow!("BTCPay Server, or a proxy in front of it, answered {status}: {came}")
    }

    /// Advice if there is no API.
    pub fn right_address(&self) -> String {
        match path::likely(&self.server) {
            Some(likely) => format!("Is --btcpay-url rather {likely}?"),
            None => ANOTHER_SERVER.into(),
        }
    }

    /// This machine's clock decides which invoices are recent enough to be checked.
    fn compare_clocks(&mut self, response: &Response) {
        let Some(there) = response.date else { return };
        let ahead = Timestamp::now().duration_since(there).as_secs();
        if !self.clocks_compared && ahead.unsigned_abs() > CLOCK_SKEW {
            warn!(
                "this machine's clock is {} minutes {} BTCPay Server's. Correct it (timedatectl \
                 set-ntp true), or invoices are checked too late or not at all",
                ahead.unsigned_abs() / 60,
                if ahead < 0 { "behind" } else { "ahead of" },
            );
        }
        self.clocks_compared = true;
    }

    /// In a thread of its own, which is left behind if the run has to end.
    fn send(&mut self, url: &Url) -> Result<Response, AskError> {
        if self.deadline.is_reached() {
            return Err(AskError::Stopped(None));
        }
        self.requests += 1;
        debug!("GET {url}");
        let request = self
            .client
            .get(url.clone())
            .header(AUTHORIZATION, self.key.0.clone())
            .timeout(self.deadline.of_a_request());
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            let sent = request.send();
            let connected = !sent.as_ref().is_err_and(reqwest::Error::is_connect);
            let read = sent.map_err(|error| reason(&error)).and_then(read);
            // Nobody listens any more if the run has ended.
            let _ = sender.send((connected, read));
        });
        let (connected, read) = loop {
            match receiver.recv_timeout(LOOK) {
                Ok(outcome) => break outcome,
                Err(RecvTimeoutError::Timeout) if self.deadline.is_reached() => {
                    let waited = self.no_response(false, "no answer yet");
                    return Err(AskError::Stopped(Some(waited)));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    break (false, Err("the request broke off".into()));
                }
            }
        };
        self.connected |= connected;
        read.map_err(|reason| {
            // How rustls begins whatever it has against a certificate.
            if reason.contains("invalid peer certificate") {
                return AskError::Fatal(anyhow!(
                    "the certificate of {} is not trusted: {reason}. If it is from your own \
                     authority, name that authority's certificate file in SSL_CERT_FILE; if it is \
                     not valid yet or has expired, check this machine's clock",
                    self.server
                ));
            }
            let error = self.no_response(!connected, &reason);
            if self.deadline.is_reached() {
                AskError::Stopped(Some(error))
            } else {
                AskError::Unanswered {
                    error,
                    retry_after: None,
                }
            }
        })
    }

    fn no_response(&self, cannot_connect: bool, reason: &str) -> Error {
        let server = &self.server;
        match (&self.proxy, cannot_connect) {
            (_, false) => anyhow!("no response from BTCPay Server at {server}: {reason}"),
            (None, true) => anyhow!(
                "cannot reach BTCPay Server at {server}: {reason}. Is it running, and is \
                 --btcpay-url right?"
            ),
            (Some(proxy), true) => anyhow!(
                "cannot reach BTCPay Server at {server} through {proxy}, the environment's proxy: \
                 {reason}. Are both running, and is --btcpay-url right?"
            ),
        }
    }
}

/// The whole response, or why it could not be read.
fn read(mut response: reqwest::blocking::Response) -> Result<Response, String> {
    let asked = response.url().clone();
    let status = response.status();
    let header = |name: HeaderName| {
        let value: &HeaderValue = response.headers().get(name)?;
        Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let location = header(LOCATION);
    let retry_after = header(RETRY_AFTER).and_then(|text| waiting_time(&text));
    let date = header(DATE).and_then(|text| http_date(&text));
    let between = [VIA, SERVER]
        .into_iter()
        .find_map(|name| header(name.clone()).map(|value| format!("{name}: {value}")))
        .filter(|header| !header.contains(BTCPAYS_OWN));
    let length = response.content_length().unwrap_or_default();
    let mut body =
        Vec::with_capacity(usize::try_from(length.min(BODY_LIMIT)).unwrap_or_default() + 1);
    response
        .by_ref()
        .take(BODY_LIMIT + 1)
        .read_to_end(&mut body)
        .map_err(|error| format!("the response broke off: {}", reason(&error)))?;
    if body.starts_with(BYTE_ORDER_MARK) {
        body.drain(..BYTE_ORDER_MARK.len());
    }
    Ok(Response {
        asked,
        status,
        location,
        retry_after,
        date,
        between,
        body,
    })
}

/// The innermost cause, which is what a person can act on.
fn reason(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    match cause.downcast_ref::<std::io::Error>() {
        // Without "(os error 111)".
        Some(error) if error.raw_os_error().is_some() => error.kind().to_string(),
        _ => cause.to_string(),
    }
}

/// What a server in trouble, or a proxy in front of it, says for a while. 520 to 527 are Cloudflare's.
fn may_pass(status: StatusCode) -> bool {
    matches!(status.as_u16(), 429 | 500 | 502..=504 | 520..=527)
}

/// The header `Retry-After`: seconds, or a date.
fn waiting_time(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = http_date(text)?.duration_since(Timestamp::now());
    Some(Duration::try_from(until).unwrap_or_default())
}

fn http_date(text: &str) -> Option<Timestamp> {
    jiff::fmt::rfc2822::DateTimeParser::new()
        .parse_timestamp(text)
        .ok()
}
