//! One GET request: API key, TLS, proxy, time limits and retries.

use std::io::{ErrorKind, Read};
use std::mem::ManuallyDrop;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Error, anyhow};
use jiff::Timestamp;
use log::{debug, warn};
use reqwest::blocking::Client;
use reqwest::header::{
    AGE, AUTHORIZATION, DATE, HeaderName, HeaderValue, LOCATION, RETRY_AFTER, SERVER, VIA,
};
use reqwest::{StatusCode, Url, redirect};

use super::near::is_onion;
use super::path;
use super::proxy::{host_and_port, proxy_for};
use super::tls;
use crate::secret;
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

/// How std begins why a name has no address.
const LOOKUP_FAILED: &str = "failed to lookup address information: ";

/// What is said of a SOCKS proxy to which there is no connection, for whatever reason.
const NO_SOCKS: &str = "SOCKS error: failed to create underlying connection";

/// How hyper begins whatever it has against the form of a response.
const NO_HTTP: &str = "invalid HTTP";

/// How web servers say that plain http came to their https port: nginx and Apache, Go and Caddy.
const EXPECT_TLS: [&str; 3] = [
    "HTTP request was sent to HTTPS port",
    "speaking plain HTTP to an SSL-enabled server port",
    "HTTP request to an HTTPS server",
];

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
        let mut header = HeaderValue::from_str(&format!("token {key}")).ok()?;
        header.set_sensitive(true);
        Some(Self(header))
    }
}

pub struct Response {
    asked: Url,
    pub status: StatusCode,
    location: Option<String>,
    retry_after: Option<Duration>,
    /// When the server, or a proxy in front of it, says that it answered; None if a cache says so.
    date: Option<Timestamp>,
    /// What stands in between, as far as its headers say: `Server: nginx`.
    between: Option<String>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn is_web_page(&self) -> bool {
        self.body.trim_ascii_start().first() == Some(&b'<')
    }

    fn expects_tls(&self) -> bool {
        let body = String::from_utf8_lossy(&self.body);
        let mut words = EXPECT_TLS.iter();
        self.status == StatusCode::BAD_REQUEST && words.any(|words| body.contains(words))
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
        client = match server.scheme() {
            // Needs no trusted certificates, and a small container may have none.
            "http" => client.tls_certs_only([]),
            _ => client.tls_backend_preconfigured(tls::config()?),
        };
        let proxy = proxy_for(server);
        // Otherwise reqwest uses the same one by itself.
        if proxy.is_none() {
            client = client.no_proxy();
        }
        Ok(Self {
            client: ManuallyDrop::new(client.build().context("cannot set up the connection")?),
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
        if response.expects_tls() {
            let came = Self::what_came(&response);
            return Err(AskError::Fatal(anyhow!(
                "{} is an https port, but was asked over plain http ({}: {came}). {}",
                self.server,
                response.status.as_u16(),
                self.right_scheme()
            )));
        }
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
    pub fn what_came(response: &Response) -> String {
        let body = &response.body;
        let came = if body.trim_ascii().is_empty() {
            "nothing".into()
        } else if response.is_web_page() {
            "a web page".into()
        } else if body.starts_with(&[0x1f, 0x8b]) {
            "gzip data that was not asked for".into()
        } else {
            // Some echo what they were sent. Cut last, or a part of the key is not recognized.
            let text = String::from_utf8_lossy(body);
            let text = secret::without_any(&text);
            let quoted: String = text.trim().chars().take(QUOTED).collect();
            format!("'{quoted}'")
        };
        match &response.between {
            Some(header) => format!("{came} ({})", secret::without_any(header)),
            None => came,
        }
    }

    pub fn unexpected(&self, response: &Response) -> Error {
        let status = response.status;
        if status.is_redirection() {
            let Some(to) = response.location.as_deref() else {
                return anyhow!("BTCPay Server sent a redirect without a target ({status})");
            };
            let shown = secret::without_any(to);
            if path::is_page(to, &response.asked) {
                return anyhow!(
                    "BTCPay Server redirects to {shown} ({status}), a web page. {}",
                    self.right_address()
                );
            }
            let target = response.asked.join(to).ok();
            let base = target.map(|target| path::base(&target).to_string());
            return anyhow!(
                "BTCPay Server redirects to {shown} ({status}), which reconcile does not follow. Set \
                 --btcpay-url to {}",
                base.as_deref()
                    .map_or("the final address".into(), secret::without_any)
            );
        }
        let came = Self::what_came(response);
        anyhow!("BTCPay Server, or a proxy in front of it, answered {status}: {came}")
    }

    /// Advice if there is no API.
    pub fn right_address(&self) -> String {
        match path::likely(&self.server) {
            Some(likely) => format!("Should --btcpay-url be {likely}?"),
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
            let read = match sent {
                Ok(response) => read(response).map_err(Failure::Broken),
                Err(error) => Err(Failure::of(error)),
            };
            // Nobody listens any more if the run has ended.
            let _ = sender.send(read);
        });
        let read = loop {
            match receiver.recv_timeout(LOOK) {
                Ok(outcome) => break outcome,
                Err(RecvTimeoutError::Timeout) if self.deadline.is_reached() => {
                    let waited = self.no_response(&Failure::Broken("no answer yet".into()));
                    return Err(AskError::Stopped(Some(waited)));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    break Err(Failure::Broken("the request broke off".into()));
                }
            }
        };
        self.connected |= !matches!(read, Err(Failure::NoConnection { .. }));
        read.map_err(|failure| {
            if let Failure::NoConnection { error, .. } = &failure
                && let Some(explained) = tls::explain(error, &self.server)
            {
                return AskError::Fatal(explained);
            }
            let error = self.no_response(&failure);
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

    fn no_response(&self, failure: &Failure) -> Error {
        let server = &self.server;
        match (failure, &self.proxy) {
            (Failure::Broken(reason), _) => {
                anyhow!("no response from BTCPay Server at {server}: {reason}")
            }
            (Failure::NotHttp(reason), _) => anyhow!(
                "what answers at {server} does not speak plain http ({reason}). {}",
                self.right_scheme()
            ),
            (Failure::NoConnection { error, reason }, None) if error.is_dns() => {
                let host = server.host_str().unwrap_or_default();
                if is_onion(server) {
                    anyhow!(
                        "cannot reach BTCPay Server at {server} without Tor. Set \
                         ALL_PROXY=socks5h://127.0.0.1:9050, where Tor listens on this machine"
                    )
                } else {
                    anyhow!(
                        "cannot reach BTCPay Server at {server}: lookup of {host} failed ({}). Is \
                         --btcpay-url right? 'getent hosts {host}' shows what this machine finds",
                        reason.strip_prefix(LOOKUP_FAILED).unwrap_or(reason)
                    )
                }
            }
            (Failure::NoConnection { reason, .. }, None) => anyhow!(
                "cannot reach BTCPay Server at {server}: {reason}. Is it running, and is \
                 --btcpay-url right?"
            ),
            (Failure::NoConnection { reason, .. }, Some(proxy)) if is_away(reason) => anyhow!(
                "cannot reach BTCPay Server at {server}: nothing listens at {}, the environment's \
                 proxy. Is it running, and is its address right?",
                host_and_port(proxy)
            ),
            (Failure::NoConnection { reason, .. }, Some(proxy)) => anyhow!(
                "cannot reach BTCPay Server at {server} through {proxy}, the environment's proxy: \
                 {reason}. Are both running, and is --btcpay-url right?"
            ),
        }
    }

    /// Advice if plain http meets a server that expects TLS.
    fn right_scheme(&self) -> String {
        match tls::with_scheme(&self.server, "https") {
            Some(https) => format!("Should --btcpay-url be {https}?"),
            None => ANOTHER_SERVER.into(),
        }
    }
}

/// Why no response came.
enum Failure {
    NoConnection {
        error: reqwest::Error,
        reason: String,
    },
    /// What came is no HTTP.
    NotHttp(String),
    Broken(String),
}

impl Failure {
    fn of(error: reqwest::Error) -> Self {
        let reason = reason(&error);
        if error.is_connect() {
            Self::NoConnection { error, reason }
        } else if reason.starts_with(NO_HTTP) {
            Self::NotHttp(reason)
        } else {
            Self::Broken(reason)
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
    let is_cached = response.headers().contains_key(AGE);
    let date = header(DATE).filter(|_| !is_cached);
    let date = date.and_then(|text| http_date(&text));
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

/// Whether nothing listens at the proxy: a connection to a proxy is one to nothing else.
fn is_away(reason: &str) -> bool {
    reason == NO_SOCKS || reason == ErrorKind::ConnectionRefused.to_string()
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
