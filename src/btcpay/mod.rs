//! BTCPay Server's Greenfield API; all HTTP of the program is in this module.
//!
//! Nothing that BTCPay Server or a proxy before it can say is taken for a status but the status of
//! the very invoice asked for.

mod answer;

use std::io::Read;
use std::time::Duration;

use anyhow::{Context, Error, anyhow};
use reqwest::blocking::Client;
use reqwest::header::{AUTHORIZATION, HeaderValue, LOCATION};
use reqwest::{StatusCode, Url, redirect};

use crate::invoice::{Answer, BtcpayInvoiceId};

const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// From the start of connecting to the end of the body.
const REQUEST_LIMIT: Duration = Duration::from_secs(30);
const BODY_LIMIT: u64 = 32 * 1024 * 1024;

/// How much of an unexpected body is quoted, in characters.
const QUOTED: usize = 200;

/// A Greenfield API key. Cannot be printed.
#[derive(Clone)]
pub struct ApiKey(HeaderValue);

impl ApiKey {
    /// None where `key` has characters that no key has.
    pub fn new(key: &str) -> Option<Self> {
        let mut header = HeaderValue::from_str(&format!("token {key}")).ok()?;
        header.set_sensitive(true);
        Some(Self(header))
    }
}

/// Why BTCPay Server gave no answer on an invoice.
#[derive(Debug)]
pub enum AskError {
    /// This invoice's trouble; others may be answered.
    Invoice(Error),
    /// No connection was to be had.
    Unreachable(Error),
    /// Every other invoice would meet it too.
    Run(Error),
}

/// One store of a BTCPay Server.
pub struct Btcpay {
    client: Client,
    base: Url,
    store_id: String,
    key: ApiKey,
    key_check: Option<KeyCheck>,
    requests: u64,
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
    body: Vec<u8>,
}

impl Btcpay {
    /// The store `store_id` of the BTCPay Server at `base`, which may have a path. Makes no
    /// request.
    ///
    /// # Errors
    ///
    /// TLS cannot be set up: the system trusts nobody.
    pub fn new(base: Url, store_id: String, key: ApiKey) -> anyhow::Result<Self> {
        let client = Client::builder()
            .user_agent(concat!("reconcile/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_LIMIT)
            .timeout(None)
            .redirect(redirect::Policy::none())
            .build()
            .context(
                "could not set up TLS: install the system's certificates (Debian's package \
                 ca-certificates), or name a file of them in SSL_CERT_FILE",
            )?;
        Ok(Self {
            client,
            base,
            store_id,
            key,
            key_check: None,
            requests: 0,
        })
    }

    /// How many requests were made.
    pub fn requests(&self) -> u64 {
        self.requests
    }

    /// Asks for one invoice.
    ///
    /// # Errors
    ///
    /// See [`AskError`].
    pub fn invoice(&mut self, id: &BtcpayInvoiceId) -> Result<Answer, AskError> {
        let response = self.get(self.address(Some(id)))?;
        match response.status {
            StatusCode::OK => answer::parse(&response.body, id, &self.store_id).map_err(|error| {
                AskError::Invoice(if is_web_page(&response.body) {
                    anyhow!("got a web page instead of an invoice: {ANOTHER_SERVER}")
                } else {
                    error
                })
            }),
            StatusCode::UNAUTHORIZED => Err(AskError::Run(key_refused())),
            StatusCode::NOT_FOUND if answer::says_invoice_not_found(&response.body) => {
                Err(AskError::Invoice(not_to_be_had(response.status)))
            }
            StatusCode::FORBIDDEN | StatusCode::NOT_FOUND => match self.check_key()? {
                KeyCheck::Good => Err(AskError::Invoice(not_to_be_had(response.status))),
                KeyCheck::Unclear => Err(AskError::Invoice(unexpected(&response).context(
                    "not to be had, and whether that is the key's fault could not be told",
                ))),
            },
            _ => Err(AskError::Invoice(unexpected(&response))),
        }
    }

    /// Whether the key opens the store's invoices at all, which a refused invoice does not tell.
    /// Asks once.
    fn check_key(&mut self) -> Result<KeyCheck, AskError> {
        if let Some(known) = self.key_check {
            return Ok(known);
        }
        let mut list = self.address(None);
        list.set_query(Some("take=1"));
        let check = match self.get(list) {
            Ok(response) => match response.status {
                StatusCode::OK if answer::is_list(&response.body) => KeyCheck::Good,
                StatusCode::UNAUTHORIZED => return Err(AskError::Run(key_refused())),
                StatusCode::FORBIDDEN => {
                    return Err(AskError::Run(anyhow!(
                        "BTCPay Server does not let this API key see the invoices of the store \
                         {} (403): correct --store-id, or give the key the permission 'View \
                         invoices' (btcpay.store.canviewinvoices) for this store",
                        self.store_id
                    )));
                }
                StatusCode::NOT_FOUND => {
                    return Err(AskError::Run(anyhow!(
                        "there is no store {} at {} (404): correct --store-id, or --btcpay-url if \
                         BTCPay Server lives under another path",
                        self.store_id,
                        self.base
                    )));
                }
                _ => KeyCheck::Unclear,
            },
            Err(AskError::Invoice(_)) => KeyCheck::Unclear,
            Err(other) => return Err(other),
        };
        self.key_check = Some(check);
        Ok(check)
    }

    /// Of one invoice, or of the store's list.
    fn address(&self, invoice: Option<&BtcpayInvoiceId>) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty()
                .extend(["api", "v1", "stores", &self.store_id, "invoices"])
                .extend(invoice.map(|id| &id.0));
        }
        url
    }

    fn get(&mut self, url: Url) -> Result<Response, AskError> {
        self.requests += 1;
        let mut response = self
            .client
            .get(url)
            .header(AUTHORIZATION, self.key.0.clone())
            .timeout(REQUEST_LIMIT)
            .send()
            .map_err(|error| self.no_response(error))?;
        let status = response.status();
        let location = response
            .headers()
            .get(LOCATION)
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let mut body = Vec::new();
        response
            .by_ref()
            .take(BODY_LIMIT + 1)
            .read_to_end(&mut body)
            .map_err(|error| {
                AskError::Invoice(anyhow!(error).context("the answer broke off, or took too long"))
            })?;
        if body.len() as u64 > BODY_LIMIT {
            return Err(AskError::Invoice(anyhow!(
                "the answer is larger than {} MiB: {ANOTHER_SERVER}",
                BODY_LIMIT >> 20
            )));
        }
        Ok(Response {
            status,
            location,
            body,
        })
    }

    fn no_response(&self, error: reqwest::Error) -> AskError {
        let connecting = error.is_connect();
        let error = anyhow!(error.without_url());
        if connecting {
            AskError::Unreachable(error.context(format!(
                "could not connect to BTCPay Server at {}; see that it runs and that --btcpay-url \
                 is right",
                self.base
            )))
        } else {
            AskError::Invoice(error.context("BTCPay Server gave no answer"))
        }
    }
}

/// Advice where an answer cannot be BTCPay Server's.
const ANOTHER_SERVER: &str = "see that --btcpay-url is BTCPay Server's own address, path included, and what proxy is before it";

fn key_refused() -> Error {
    anyhow!(
        "BTCPay Server refused the API key (401): make one under Account, API Keys, with the \
         permission 'View invoices' (btcpay.store.canviewinvoices) for the store, and put it into \
         the key file"
    )
}

fn not_to_be_had(status: StatusCode) -> Error {
    anyhow!(
        "this store of BTCPay Server has no such invoice ({}): if it was deleted there, or belongs \
         to another store, close it here by hand",
        status.as_u16()
    )
}

fn unexpected(response: &Response) -> Error {
    let status = response.status;
    if status.is_redirection() {
        let to = response.location.as_deref().unwrap_or("nowhere");
        return anyhow!(
            "the request was redirected to {to} ({status}), which is not followed: give \
             --btcpay-url the address that answers itself"
        );
    }
    let body = String::from_utf8_lossy(&response.body);
    let quoted: String = body.trim().chars().take(QUOTED).collect();
    anyhow!("BTCPay Server, or a proxy before it, answered {status}: {quoted}")
}

fn is_web_page(body: &[u8]) -> bool {
    body.trim_ascii_start().first() == Some(&b'<')
}
