//! One GET request: API key, TLS, proxy, time limits and retries.

use std::io::Read;
use std::mem::ManuallyDrop;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Error, anyhow};
use hyper_util::client::proxy::matcher::Matcher;
use jiff::Timestamp;
use log::{debug, warn};
use reqwest::blocking::Client;
use reqwest::header::{AUTHORIZATION, DATE, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{StatusCode, Url, redirect};

use super::near::{is_near, is_this_machine};
use crate::deadline::Deadline;
use crate::invoice::without_password;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// From the start of connecting to the end of the body.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
const BODY_LIMIT: u64 = 32 * 1024 * 1024;

const TRIES: u32 = 3;
/// Doubled for each further try, then stretched at random up to twofold.
const FIRST_BACKOFF: Duration = Duration::from_millis(200);
/// A server that asks for more is left alone until the next run.
const LONGEST_RETRY_AFTER: Duration = Duration::from_mins(1);

/// How many seconds the clocks may differ without a warning.
const CLOCK_SKEW: u64 = 300;

/// How much of an unexpected body is quoted, in characters.
const QUOTED: usize = 200;

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
    /// No response after every retry, or only a request to come back later.
    Unanswered(Error),
    /// Every other request would meet it too.
    Fatal(Error),
    /// The deadline was reached, after this error if there was one.
    Deadline(Option<Error>),
}

impl From<AskError> for Error {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Refused(error)
            | AskError::NotInStore(error)
            | AskError::Unanswered(error)
            | AskError::Fatal(error) => error,
            AskError::Deadline(None) => anyhow!("deadline reached before BTCPay Server was asked"),
            AskError::Deadline(Some(last)) => last.context("deadline reached"),
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
    pub status: StatusCode,
    location: Option<String>,
    retry_after: Option<Duration>,
    /// When the server, or a proxy in front of it, says that it answered.
    date: Option<Timestamp>,
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
            .redirect(redirect::Policy::none());
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

    /// Requests `url`, up to [`TRIES`] times while the error may pass. Each try takes at most a
    /// `share`th of the time that is left.
    ///
    /// # Errors
    ///
    /// See [`AskError`].
    pub fn get(&mut self, url: &Url, share: Option<u32>) -> Result<Response, AskError> {
        let limit = share.map_or(REQUEST_TIMEOUT, |share| {
            self.deadline.shrink(REQUEST_TIMEOUT * share) / share
        });
        let response = self.retry(url, limit)?;
        self.compare_clocks(&response);
        if response.body.len() as u64 > BODY_LIMIT {
            return Err(AskError::Refused(anyhow!(
                "the response is larger than {} MiB. {ANOTHER_SERVER}",
                BODY_LIMIT >> 20
            )));
        }
        Ok(response)
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
            return anyhow!(
                "BTCPay Server redirects to {} ({status}), which reconcile does not follow. Set \
                 --btcpay-url to the final address",
                self.without_key(to)
            );
        }
        let beginning = response.body.chunks(32 * QUOTED).next().unwrap_or_default();
        let beginning = self.without_key(&String::from_utf8_lossy(beginning));
        let quoted: String = beginning.trim().chars().take(QUOTED).collect();
        let colon = if quoted.is_empty() { "" } else { ": " };
        anyhow!("BTCPay Server, or a proxy in front of it, answered {status}{colon}{quoted}")
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

    fn retry(&mut self, url: &Url, limit: Duration) -> Result<Response, AskError> {
        let mut backoff = FIRST_BACKOFF;
        let mut tries = 1;
        loop {
            let (error, retry_after) = match self.try_once(url, limit) {
                Ok(response) if may_pass(response.status) => {
                    (self.unexpected(&response), response.retry_after)
                }
                Err(AskError::Unanswered(error)) => (error, None),
                other => return other,
            };
            if retry_after.is_some_and(|wait| wait > LONGEST_RETRY_AFTER) {
                return Err(AskError::Fatal(error.context(
                    "BTCPay Server asks for a longer pause than a run can wait; a later run tries again",
                )));
            }
            if tries == TRIES {
                return Err(AskError::Unanswered(error));
            }
            let wait = retry_after.unwrap_or_else(|| backoff.mul_f64(1.0 + fastrand::f64()));
            if self.deadline.shrink(wait) < wait {
                return Err(AskError::Deadline(Some(error)));
            }
            debug!("retrying in {} ms: {error:#}", wait.as_millis());
            thread::sleep(wait);
            tries += 1;
            backoff *= 2;
        }
    }

    fn try_once(&mut self, url: &Url, limit: Duration) -> Result<Response, AskError> {
        if self.deadline.has_passed() {
            return Err(AskError::Deadline(None));
        }
        self.requests += 1;
        debug!("GET {url}");
        let sent = self
            .client
            .get(url.clone())
            .header(AUTHORIZATION, self.key.0.clone())
            .timeout(self.deadline.shrink(limit))
            .send();
        let cannot_connect = sent.as_ref().is_err_and(reqwest::Error::is_connect);
        self.connected |= !cannot_connect;
        sent.map_err(|error| reason(&error))
            .and_then(read)
            .map_err(|reason| {
                // How rustls begins whatever it has against a certificate.
                if reason.contains("invalid peer certificate") {
                    return AskError::Fatal(anyhow!(
                        "the certificate of {} is not trusted: {reason}. If it is from your own \
                         authority, name that authority's certificate file in SSL_CERT_FILE; if it \
                         is not valid yet or has expired, check this machine's clock",
                        self.server
                    ));
                }
                let error = self.no_response(cannot_connect, &reason);
                if self.deadline.has_passed() {
                    AskError::Deadline(Some(error))
                } else {
                    AskError::Unanswered(error)
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
    let status = response.status();
    let header = |name| {
        let value: &HeaderValue = response.headers().get(name)?;
        Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let location = header(LOCATION);
    let retry_after = header(RETRY_AFTER).and_then(|text| waiting_time(&text));
    let date = header(DATE).and_then(|text| http_date(&text));
    let length = response.content_length().unwrap_or_default();
    let mut body =
        Vec::with_capacity(usize::try_from(length.min(BODY_LIMIT)).unwrap_or_default() + 1);
    response
        .by_ref()
        .take(BODY_LIMIT + 1)
        .read_to_end(&mut body)
        .map_err(|error| format!("the response broke off: {}", reason(&error)))?;
    Ok(Response {
        status,
        location,
        retry_after,
        date,
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

/// What a proxy, or a server that is starting up, says for a while.
fn may_pass(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    )
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
