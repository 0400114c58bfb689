//! The questions: one invoice, a page of the store's list, and whether the key opens the store.

use anyhow::{Error, anyhow};
use reqwest::{StatusCode, Url};

use super::answer;
use super::transport::{ANOTHER_SERVER, ApiKey, AskError, Response, Transport};
use crate::deadline::Deadline;
use crate::invoice::{Answer, BtcpayInvoiceId, Store};

/// One store of a BTCPay Server.
pub struct Btcpay {
    transport: Transport,
    store: Store,
    key_check: Option<KeyCheck>,
}

/// What the store's list said about the key.
#[derive(Clone, Copy)]
enum KeyCheck {
    Good,
    Unclear,
}

/// A page of the store's list.
#[derive(Debug, Clone, Copy)]
pub struct Page {
    /// Unix seconds, inclusive, by BTCPay Server's clock.
    pub created_from: i64,
    pub created_to: i64,
    pub skip: usize,
    pub take: usize,
}

/// What a page of the store's list showed.
pub struct Shown {
    /// Invoices on the page, readable or not.
    pub count: usize,
    pub answers: Vec<(BtcpayInvoiceId, Answer)>,
}

impl Btcpay {
    /// A client for `store`. Makes no request.
    ///
    /// # Errors
    ///
    /// TLS cannot be set up: the system has no trusted certificates.
    pub fn new(store: Store, key: ApiKey, deadline: Deadline) -> anyhow::Result<Self> {
        Ok(Self {
            transport: Transport::new(&store.url, key, deadline)?,
            store,
            key_check: None,
        })
    }

    /// How many requests were made.
    pub fn requests(&self) -> u64 {
        self.transport.requests
    }

    /// Whether any connection succeeded.
    pub fn connected(&self) -> bool {
        self.transport.connected
    }

    /// Looks up one invoice.
    ///
    /// # Errors
    ///
    /// See [`AskError`].
    pub fn invoice(&mut self, id: &BtcpayInvoiceId) -> Result<Answer, AskError> {
        let response = self.transport.get(&self.address(Some(id)), None)?;
        match response.status {
            StatusCode::OK if response.is_web_page() => {
                self.check_key()?;
                Err(AskError::Refused(web_page()))
            }
            StatusCode::OK => answer::parse(&response.body, id, &self.store.id).map_err(|error| {
                let error = format!("{error:#}");
                AskError::Refused(Error::msg(self.transport.without_key(&error)))
            }),
            StatusCode::UNAUTHORIZED => Err(key_refused()),
            StatusCode::NOT_FOUND if answer::says_invoice_not_found(&response.body) => {
                Err(not_in_store(response.status))
            }
            StatusCode::FORBIDDEN | StatusCode::NOT_FOUND => match self.check_key()? {
                KeyCheck::Good => Err(not_in_store(response.status)),
                KeyCheck::Unclear => Err(AskError::Refused(
                    self.transport.unexpected(&response).context(
                        "BTCPay Server did not return the invoice, perhaps because of the API key",
                    ),
                )),
            },
            status => {
                if status.is_redirection() {
                    self.check_key()?;
                }
                Err(AskError::Refused(self.transport.unexpected(&response)))
            }
        }
    }

    /// Reads a page of the store's list, archived invoices included. Each invoice on it is read by
    /// itself; one that cannot be understood is left out.
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
        // A server too weak for its list must leave time to look up single invoices.
        let response = self.list(&query, Some(5))?;
        if response.status != StatusCode::OK {
            return Err(AskError::Refused(self.transport.unexpected(&response)));
        }
        let (count, answers) =
            answer::parse_page(&response.body, &self.store.id).map_err(AskError::Refused)?;
        self.key_check = Some(KeyCheck::Good);
        Ok(Shown { count, answers })
    }

    /// Checks that the address, the store and the key give access to the store's invoices.
    ///
    /// # Errors
    ///
    /// See [`AskError`].
    pub fn check_access(&mut self) -> Result<(), AskError> {
        let response = self.list(&[("take", "1".into())], None)?;
        if response.status.is_redirection() {
            Err(AskError::Fatal(self.transport.unexpected(&response)))
        } else if response.status != StatusCode::OK {
            Err(AskError::Refused(self.transport.unexpected(&response)))
        } else if response.is_web_page() {
            Err(AskError::Fatal(web_page()))
        } else if answer::is_list(&response.body) {
            Ok(())
        } else {
            Err(AskError::Refused(anyhow!(
                "got something other than a list of invoices. {ANOTHER_SERVER}"
            )))
        }
    }

    /// Whether the key or the address is to blame for a refusal, which does not say. Asks once.
    fn check_key(&mut self) -> Result<KeyCheck, AskError> {
        if let Some(known) = self.key_check {
            return Ok(known);
        }
        let check = match self.check_access() {
            Ok(()) => KeyCheck::Good,
            Err(AskError::Refused(_) | AskError::NotInStore(_) | AskError::Unanswered(_)) => {
                KeyCheck::Unclear
            }
            Err(other @ (AskError::Fatal(_) | AskError::Deadline(_))) => return Err(other),
        };
        self.key_check = Some(check);
        Ok(check)
    }

    /// Requests the store's list, within a share of the time that is left. A refusal is about the
    /// key, the store id or the address.
    fn list(&mut self, query: &[(&str, String)], share: Option<u32>) -> Result<Response, AskError> {
        let mut url = self.address(None);
        url.query_pairs_mut().extend_pairs(query);
        let response = self.transport.get(&url, share)?;
        let Store { url, id } = &self.store;
        match response.status {
            StatusCode::UNAUTHORIZED => Err(key_refused()),
            StatusCode::FORBIDDEN => Err(AskError::Fatal(anyhow!(
                "this API key may not see the invoices of store {id} (403). Correct --store-id, or \
                 give the key the permission 'View invoices' (btcpay.store.canviewinvoices) for \
                 this store"
            ))),
            StatusCode::NOT_FOUND => Err(AskError::Fatal(anyhow!(
                "no store {id} at {url} (404). Correct --store-id, or --btcpay-url if BTCPay Server \
                 has another path"
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
}

fn key_refused() -> AskError {
    AskError::Fatal(anyhow!(
        "BTCPay Server refused the API key (401). Create one under Account, API Keys, with the \
         permission 'View invoices' (btcpay.store.canviewinvoices) for the store, and put it into \
         the key file"
    ))
}

fn not_in_store(status: StatusCode) -> AskError {
    AskError::NotInStore(anyhow!(
        "BTCPay's store has no such invoice ({}). If it was deleted there or belongs to another \
         store, set its status to invalid in the database",
        status.as_u16()
    ))
}

fn web_page() -> Error {
    anyhow!("got a web page instead of an invoice. {ANOTHER_SERVER}")
}
