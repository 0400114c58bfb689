//! BTCPay Server's Greenfield API; all HTTP of the program is in this module.
//!
//! Nothing that BTCPay Server or a proxy before it can say is taken for a status but the status of
//! the very invoice asked for.

mod answer;
pub mod proxy;

use std::io::Read;
use std::mem::ManuallyDrop;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Error, anyhow};
use jiff::Timestamp;
use log::{debug, warn};
use reqwest::blocking::Client;
use reqwest::header::{AUTHORIZATION, DATE, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{StatusCode, Url, redirect};

use crate::deadline::Deadline;
use crate::invoice::{Answer, BtcpayInvoiceId};
use crate::store::Store;

const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// From the start of connecting to the end of the body.
const REQUEST_LIMIT: Duration = Duration::from_secs(30);
const BODY_LIMIT: u64 = 32 * 1024 * 1024;

const TRIES: u32 = 3;
/// Doubled for each further try, and stretched by chance up to twofold.
const FIRST_BACKOFF: Duration = Duration::from_millis(200);
/// A server that asks for more is left alone until the next run.
const LONGEST_RETRY_AFTER: Duration = Duration::from_mins(1);

/// By how many seconds the clocks may differ unmentioned.
const CLOCKS_DIFFER: u64 = 300;

/// How much of an unexpected body is quoted, in characters.
const QUOTED: usize = 200;

/// What stands before the key in the header.
const SCHEME: &str = "token ";

/// A Greenfield API key. Cannot be printed.
#[derive(Clone)]
pub struct ApiKey(HeaderValue);

impl ApiKey {
    /// None where `key` has characters that no key has.
    pub fn new(key: &str) -> Option<Self> {
        let mut header = HeaderValue::from_str(&format!("{SCHEME}{key}")).ok()?;
        header.set_sensitive(true);
        Some(Self(header))
    }

    /// A server's text, as it may be quoted: some tell back what they were sent.
    fn hidden_in(&self, text: &str) -> String {
        let header = String::from_utf8_lossy(self.0.as_bytes());
        let key = header.strip_prefix(SCHEME).unwrap_or(&header);
        text.replace(key, "(the API key)")
    }
}

/// Why BTCPay Server gave no answer.
#[derive(Debug)]
pub enum AskError {
    /// What came is no answer to this question; others may be answered.
    Refused(Error),
    /// Nothing came however often it was tried, or only the word to try again.
    Unanswered(Error),
    /// Every other request would meet it too.
    Fatal(Error),
    /// The run's time is over.
    Deadline(Error),
}

impl From<AskError> for Error {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Refused(error)
            | AskError::Unanswered(error)
            | AskError::Fatal(error)
            | AskError::Deadline(error) => error,
        }
    }
}

/// One store of a BTCPay Server.
pub struct Btcpay {
    /// Never dropped, which would wait, beyond any deadline, for a host's name that is still being
    /// looked up.
    client: ManuallyDrop<Client>,
    store: Store,
    proxy: Option<Url>,
    key: ApiKey,
    deadline: Deadline,
    key_check: Option<KeyCheck>,
    requests: u64,
    connected: bool,
    clock_compared: bool,
}

/// What the store's list of invoices said of the key.
#[derive(Clone, Copy)]
enum KeyCheck {
    Good,
    Unclear,
}

struct Response {
    status: StatusCode,
    location: Option<String>,
    retry_after: Option<Duration>,
    /// When the server, or a proxy before it, says that it answered.
    date: Option<Timestamp>,
    body: Vec<u8>,
}

/// Which invoices a page of the store's list is to show.
#[derive(Debug, Clone, Copy)]
pub struct Page {
    /// Unix seconds, inclusive, of BTCPay Server's clock.
    pub created_from: i64,
    pub created_to: i64,
    pub skip: usize,
    pub take: usize,
}

/// What a page of the store's list showed.
pub struct Shown {
    /// How many invoices were on the page, readable or not.
    pub count: usize,
    pub answers: Vec<(BtcpayInvoiceId, Answer)>,
}

impl Btcpay {
    /// What asks about the invoices of `store`. Makes no request.
    ///
    /// # Errors
    ///
    /// TLS cannot be set up: the system trusts nobody.
    pub fn new(store: Store, key: ApiKey, deadline: Deadline) -> anyhow::Result<Self> {
        let mut client = Client::builder()
            .user_agent(concat!("reconcile/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_LIMIT)
            .timeout(None)
            .redirect(redirect::Policy::none());
        if store.url.scheme() == "http" {
            // Whom to trust is then of no use, and a small container may not have it.
            client = client.tls_certs_only([]);
        }
        let proxy = proxy::of(&store.url);
        if proxy.is_none() {
            client = client.no_proxy();
        }
        Ok(Self {
            client: ManuallyDrop::new(client.build().context(
                "could not set up TLS: install the system's certificates (Debian's package \
                 ca-certificates), or name a file of them in SSL_CERT_FILE",
            )?),
            store,
            proxy,
            key,
            deadline,
            key_check: None,
            requests: 0,
            connected: false,
            clock_compared: false,
        })
    }

    /// How many requests were made.
    pub fn requests(&self) -> u64 {
        self.requests
    }

    /// Whether there ever was a connection.
    pub fn connected(&self) -> bool {
        self.connected
    }

    /// Asks for one invoice.
    ///
    /// # Errors
    ///
    /// See [`AskError`].
    pub fn invoice(&mut self, id: &BtcpayInvoiceId) -> Result<Answer, AskError> {
        let response = self.get(&self.address(Some(id)), REQUEST_LIMIT)?;
        match response.status {
            StatusCode::OK if is_web_page(&response.body) => {
                self.check_key()?;
                Err(AskError::Refused(web_page()))
            }
            StatusCode::OK => answer::parse(&response.body, id, &self.store.id).map_err(|error| {
                AskError::Refused(anyhow!(self.key.hidden_in(&format!("{error:#}"))))
            }),
            StatusCode::UNAUTHORIZED => Err(key_refused()),
            StatusCode::NOT_FOUND if answer::says_invoice_not_found(&response.body) => {
                Err(not_to_be_had(response.status))
            }
            StatusCode::FORBIDDEN | StatusCode::NOT_FOUND => match self.check_key()? {
                KeyCheck::Good => Err(not_to_be_had(response.status)),
                KeyCheck::Unclear => Err(AskError::Refused(self.unexpected(&response).context(
                    "not to be had, and whether that is the key's fault could not be told",
                ))),
            },
            status => {
                if status.is_redirection() {
                    self.check_key()?;
                }
                Err(AskError::Refused(self.unexpected(&response)))
            }
        }
    }

    /// Asks for a page of the store's list, archived invoices included. What is on it is read one
    /// by one: an invoice that cannot be understood is only not shown.
    ///
    /// # Errors
    ///
    /// See [`AskError`].
    pub fn page(&mut self, page: Page) -> Result<Shown, AskError> {
        let query = [
            ("startDate", page.created_from.to_string()),
            ("endDate", page.created_to.to_string()),
            ("includeArchived", "true".into()),
            ("skip", page.skip.to_string()),
            ("take", page.take.to_string()),
        ];
        // A server too weak for its list must leave time to ask for single invoices.
        let limit = self.deadline.shrink(REQUEST_LIMIT * 5) / 5;
        let response = self.list(&query, limit)?;
        if response.status != StatusCode::OK {
            return Err(AskError::Refused(self.unexpected(&response)));
        }
        let (count, answers) =
            answer::parse_page(&response.body, &self.store.id).map_err(AskError::Refused)?;
        self.key_check = Some(KeyCheck::Good);
        Ok(Shown { count, answers })
    }

    /// Sees that the address, the store and the key open the store's invoices at all.
    ///
    /// # Errors
    ///
    /// See [`AskError`].
    pub fn see_the_store(&mut self) -> Result<(), AskError> {
        let response = self.list(&[("take", "1".into())], REQUEST_LIMIT)?;
        if response.status.is_redirection() {
            Err(AskError::Fatal(self.unexpected(&response)))
        } else if response.status != StatusCode::OK {
            Err(AskError::Refused(self.unexpected(&response)))
        } else if is_web_page(&response.body) {
            Err(AskError::Fatal(web_page()))
        } else if answer::is_list(&response.body) {
            Ok(())
        } else {
            Err(AskError::Refused(anyhow!(
                "got something else than a list of invoices: {ANOTHER_SERVER}"
            )))
        }
    }

    /// Whether it is the key's fault, or the address's, that an invoice is refused, which the
    /// refusal does not tell. Asks once.
    fn check_key(&mut self) -> Result<KeyCheck, AskError> {
        if let Some(known) = self.key_check {
            return Ok(known);
        }
        let check = match self.see_the_store() {
            Ok(()) => KeyCheck::Good,
            Err(AskError::Refused(_) | AskError::Unanswered(_)) => KeyCheck::Unclear,
            Err(other @ (AskError::Fatal(_) | AskError::Deadline(_))) => return Err(other),
        };
        self.key_check = Some(check);
        Ok(check)
    }

    /// Asks for the store's list. A refusal is the key's fault, the store id's or the address's.
    fn list(&mut self, query: &[(&str, String)], limit: Duration) -> Result<Response, AskError> {
        let mut url = self.address(None);
        url.query_pairs_mut().extend_pairs(query);
        let response = self.get(&url, limit)?;
        match response.status {
            StatusCode::UNAUTHORIZED => Err(key_refused()),
            StatusCode::FORBIDDEN => Err(AskError::Fatal(anyhow!(
                "BTCPay Server does not let this API key see the invoices of the store {} (403): \
                 correct --store-id, or give the key the permission 'View invoices' \
                 (btcpay.store.canviewinvoices) for this store",
                self.store.id
            ))),
            StatusCode::NOT_FOUND => Err(AskError::Fatal(anyhow!(
                "there is no store {} at {} (404): correct --store-id, or --btcpay-url if BTCPay \
                 Server lives under another path",
                self.store.id,
                self.store.url
            ))),
            _ => Ok(response),
        }
    }

    /// Of one invoice, or of the store's list.
    fn address(&self, invoice: Option<&BtcpayInvoiceId>) -> Url {
        let mut url = self.store.url.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty()
                .extend(["api", "v1", "stores", &self.store.id, "invoices"])
                .extend(invoice.map(|id| &id.0));
        }
        url
    }

    fn get(&mut self, url: &Url, limit: Duration) -> Result<Response, AskError> {
        let response = self.try_for_a_while(url, limit)?;
        self.compare_clocks(&response);
        if response.body.len() as u64 > BODY_LIMIT {
            return Err(AskError::Refused(anyhow!(
                "the answer is larger than {} MiB: {ANOTHER_SERVER}",
                BODY_LIMIT >> 20
            )));
        }
        Ok(response)
    }

    /// Which invoices are young enough to be asked about is decided by this machine's clock.
    fn compare_clocks(&mut self, response: &Response) {
        let Some(there) = response.date else { return };
        let ahead = Timestamp::now().duration_since(there).as_secs();
        if !self.clock_compared && ahead.unsigned_abs() > CLOCKS_DIFFER {
            warn!(
                "this machine's clock is {} minutes {} BTCPay Server's: set it right (timedatectl \
                 set-ntp true), or invoices are asked about too late, or no more",
                ahead.unsigned_abs() / 60,
                if ahead < 0 { "behind" } else { "ahead of" },
            );
        }
        self.clock_compared = true;
    }

    /// Tries up to [`TRIES`] times where another try may do better.
    fn try_for_a_while(&mut self, url: &Url, limit: Duration) -> Result<Response, AskError> {
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
                    "BTCPay Server wants to be left alone; a later run tries again",
                )));
            }
            if tries == TRIES {
                return Err(AskError::Unanswered(error));
            }
            let wait = retry_after.unwrap_or_else(|| backoff.mul_f64(1.0 + fastrand::f64()));
            if self.deadline.shrink(wait) < wait {
                return Err(AskError::Deadline(error));
            }
            debug!("trying again in {} ms: {error:#}", wait.as_millis());
            thread::sleep(wait);
            tries += 1;
            backoff *= 2;
        }
    }

    fn try_once(&mut self, url: &Url, limit: Duration) -> Result<Response, AskError> {
        if self.deadline.has_passed() {
            return Err(AskError::Deadline(anyhow!("there was no time left")));
        }
        self.requests += 1;
        debug!("asking {url}");
        let sent = self
            .client
            .get(url.clone())
            .header(AUTHORIZATION, self.key.0.clone())
            .timeout(self.deadline.shrink(limit))
            .send();
        self.connected |= !sent.as_ref().is_err_and(reqwest::Error::is_connect);
        let read = sent.map_err(|error| self.no_response(error)).and_then(read);
        read.map_err(|error| {
            // So rustls begins whatever it has against a certificate.
            if format!("{error:#}").contains("invalid peer certificate") {
                AskError::Fatal(error.context(format!(
                    "the certificate of BTCPay Server at {} is not trusted: if it comes from an \
                     authority of your own, name a file with that authority's certificate in \
                     SSL_CERT_FILE; if it is said to be expired or not valid yet, see that this \
                     machine's clock is right",
                    self.store.url
                )))
            } else if self.deadline.has_passed() {
                AskError::Deadline(error)
            } else {
                AskError::Unanswered(error)
            }
        })
    }

    fn unexpected(&self, response: &Response) -> Error {
        let status = response.status;
        if status.is_redirection() {
            let to = response.location.as_deref().unwrap_or("nowhere");
            return anyhow!(
                "the request was redirected to {} ({status}), which is not followed: give \
                 --btcpay-url the address that answers itself",
                self.key.hidden_in(to)
            );
        }
        let beginning = response.body.chunks(32 * QUOTED).next().unwrap_or_default();
        let beginning = self.key.hidden_in(&String::from_utf8_lossy(beginning));
        let quoted: String = beginning.trim().chars().take(QUOTED).collect();
        anyhow!("BTCPay Server, or a proxy before it, answered {status}: {quoted}")
    }

    fn no_response(&self, error: reqwest::Error) -> Error {
        let connecting = error.is_connect();
        let error = anyhow!(error.without_url());
        if connecting {
            let url = &self.store.url;
            error.context(match &self.proxy {
                None => format!(
                    "could not connect to BTCPay Server at {url}; see that it runs and that \
                     --btcpay-url is right"
                ),
                Some(proxy) => format!(
                    "could not connect to BTCPay Server at {url} through the proxy {proxy} that the \
                     environment names; see that both run and that --btcpay-url is right"
                ),
            })
        } else {
            error.context(format!(
                "BTCPay Server at {} gave no answer",
                self.store.url
            ))
        }
    }
}

fn read(mut response: reqwest::blocking::Response) -> anyhow::Result<Response> {
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
        .context("the answer broke off, or took too long")?;
    Ok(Response {
        status,
        location,
        retry_after,
        date,
        body,
    })
}

/// What a proxy, or a server that is just starting, says for a while.
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

/// Advice where an answer cannot be BTCPay Server's.
const ANOTHER_SERVER: &str = "see that --btcpay-url is BTCPay Server's own address, path included, and what proxy is before it";

fn key_refused() -> AskError {
    AskError::Fatal(anyhow!(
        "BTCPay Server refused the API key (401): make one under Account, API Keys, with the \
         permission 'View invoices' (btcpay.store.canviewinvoices) for the store, and put it into \
         the key file"
    ))
}

fn not_to_be_had(status: StatusCode) -> AskError {
    AskError::Refused(anyhow!(
        "this store of BTCPay Server has no such invoice ({}): if it was deleted there, or belongs \
         to another store, close it here by hand",
        status.as_u16()
    ))
}

fn web_page() -> Error {
    anyhow!("got a web page instead of an invoice: {ANOTHER_SERVER}")
}

fn is_web_page(body: &[u8]) -> bool {
    body.trim_ascii_start().first() == Some(&b'<')
}
