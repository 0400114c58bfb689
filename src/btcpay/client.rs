//! The questions: one invoice, a page of the store's list, and whether the key opens the store.

use anyhow::{Error, anyhow};
use reqwest::{StatusCode, Url};

use super::answer::{self, Listed, Page};
use super::transport::{ANOTHER_SERVER, ApiKey, AskError, Response, Transport};
use crate::invoice::{BtcpayInvoiceId, InvoiceId, Payment, Store};
use crate::stop::Deadline;

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

/// Creation times in BTCPay Server, in Unix seconds, inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    pub from: i64,
    pub to: i64,
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

    pub fn store_id(&self) -> &str {
        &self.store.id
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
    pub fn invoice(&mut self, id: &BtcpayInvoiceId) -> Result<Listed, AskError> {
        let response = self.transport.get(&self.address(Some(id)))?;
        match response.status {
            StatusCode::OK if response.is_web_page() => {
                self.check_key()?;
                Err(AskError::Refused(web_page(&response)))
            }
            StatusCode::OK => answer::parse(&response.body, id, &self.store.id)
                .map_err(|error| self.not_understood(&error, &response)),
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

    /// What was paid for an invoice, payment by payment, oldest first.
    ///
    /// # Errors
    ///
    /// See [`AskError`].
    pub fn payments(&mut self, id: &BtcpayInvoiceId) -> Result<Vec<Payment>, AskError> {
        let mut url = self.address(Some(id));
        if let Ok(mut path) = url.path_segments_mut() {
            path.push("payment-methods");
        }
        let response = self.transport.get(&url)?;
        if response.status != StatusCode::OK {
            return Err(AskError::Refused(self.transport.unexpected(&response)));
        }
        answer::parse_payments(&response.body)
            .map_err(|error| self.not_understood(&error, &response))
    }

    /// The newest `take` invoices of `window`, archived ones included. An invoice that cannot be
    /// understood is only counted.
    ///
    /// # Errors
    ///
    /// See [`AskError`].
    pub fn page(&mut self, window: Window, take: usize) -> Result<Page, AskError> {
        self.filtered(window, [("take", take.to_string())])
    }

    /// The invoices of `window` whose `metadata.orderId` is one of these, which is how services name
    /// their invoices in BTCPay Server.
    ///
    /// # Errors
    ///
    /// See [`AskError`].
    pub fn by_order_id(&mut self, window: Window, ids: &[&InvoiceId]) -> Result<Page, AskError> {
        self.filtered(window, ids.iter().map(|id| ("orderId", id.0.to_string())))
    }

    fn filtered(
        &mut self,
        window: Window,
        filter: impl IntoIterator<Item = (&'static str, String)>,
    ) -> Result<Page, AskError> {
        let always = [
            ("startDate", window.from.to_string()),
            ("endDate", window.to.to_string()),
            ("includeArchived", "true".into()),
        ];
        let query: Vec<_> = always.into_iter().chain(filter).collect();
        let response = self.list(&query)?;
        if response.status == StatusCode::URI_TOO_LONG {
            return Err(AskError::TooLong(self.transport.unexpected(&response)));
        }
        if response.status != StatusCode::OK {
            return Err(AskError::Refused(self.transport.unexpected(&response)));
        }
        let page = answer::parse_page(&response.body, &self.store.id)
            .map_err(|error| self.not_understood(&error, &response))?;
        self.key_check = Some(KeyCheck::Good);
        Ok(page)
    }

    fn not_understood(&self, error: &Error, response: &Response) -> AskError {
        let what = format!("{error:#}. What came: {}", response.what_came());
        AskError::Refused(Error::msg(self.transport.without_key(&what)))
    }

    /// Checks that the address, the store and the key give access to the store's invoices.
    ///
    /// # Errors
    ///
    /// See [`AskError`].
    pub fn check_access(&mut self) -> Result<(), AskError> {
        let response = self.list(&[("take", "1".into())])?;
        if response.status.is_redirection() {
            Err(AskError::Fatal(self.transport.unexpected(&response)))
        } else if response.status != StatusCode::OK {
            Err(AskError::Refused(self.transport.unexpected(&response)))
        } else if response.is_web_page() {
            Err(AskError::Fatal(web_page(&response)))
        } else if answer::is_list(&response.body) {
            Ok(())
        } else {
            Err(AskError::Refused(anyhow!(
                "got {} instead of a list of invoices. {ANOTHER_SERVER}",
                self.transport.without_key(&response.what_came())
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
            Err(
                AskError::Refused(_)
                | AskError::NotInStore(_)
                | AskError::TooLong(_)
                | AskError::Unanswered { .. },
            ) => KeyCheck::Unclear,
            Err(other @ (AskError::Fatal(_) | AskError::Stopped(_))) => return Err(other),
        };
        self.key_check = Some(check);
        Ok(check)
    }

    /// Requests the store's list. A refusal is about the key, the store id or the address.
    fn list(&mut self, query: &[(&str, String)]) -> Result<Response, AskError> {
        let mut url = self.address(None);
        url.query_pairs_mut().extend_pairs(query);
        let response = self.transport.get(&url)?;
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

fn web_page(response: &Response) -> Error {
    anyhow!(
        "got {} instead of an invoice. {ANOTHER_SERVER}",
        response.what_came()
    )
}
