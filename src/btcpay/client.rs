//! The questions: one invoice, a page of the store's list, whether the key opens the store, and what
//! else it opens.

use anyhow::{Error, anyhow};
use log::warn;
use reqwest::{StatusCode, Url};

use super::answer::{self, Listed, Page, Refusal, TooOld};
use super::key::Permissions;
use super::transport::{ANOTHER_SERVER, ApiKey, AskError, Response, Transport};
use crate::invoice::{BtcpayInvoiceId, InvoiceId, Payment, Store};
use crate::secret;
use crate::stop::Deadline;

/// What BTCPay Server begins a refusal of the key with.
const BEFORE_THE_REASON: &str = "ApiKey authentication failed: ";

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
        let response = self.transport.get(&self.invoices(Some(id)))?;
        let status = response.status;
        match answer::refusal(status, &response.body) {
            Some(Refusal::Unauthenticated(reason)) => Err(Self::key_refused(&reason)),
            Some(Refusal::InvoiceNotFound) => Err(self.not_in_store(status)),
            Some(Refusal::MissingPermission) => match self.check_key()? {
                KeyCheck::Good => Err(self.not_in_store(status)),
                KeyCheck::Unclear => Err(AskError::Refused(
                    self.transport.unexpected(&response).context(
                        "BTCPay Server did not return the invoice, perhaps because of the API key",
                    ),
                )),
            },
            None if status == StatusCode::OK && !response.is_web_page() => {
                answer::parse(&response.body, id, &self.store.id)
                    .map_err(|error| not_understood(error, &response))
            }
            None => {
                // Does it stand in the way of everything?
                if status == StatusCode::OK || status.is_redirection() || is_refusal(status) {
                    self.check_key()?;
                }
                Err(AskError::Refused(if status == StatusCode::OK {
                    Self::web_page(&response)
                } else {
                    self.transport.unexpected(&response)
                }))
            }
        }
    }

    /// What was paid for an invoice, payment by payment, oldest first.
    ///
    /// # Errors
    ///
    /// See [`AskError`].
    pub fn payments(&mut self, id: &BtcpayInvoiceId) -> Result<Vec<Payment>, AskError> {
        let mut url = self.invoices(Some(id));
        if let Ok(mut path) = url.path_segments_mut() {
            path.push("payment-methods");
        }
        let response = self.transport.get(&url)?;
        if response.status != StatusCode::OK {
            return Err(AskError::Refused(self.transport.unexpected(&response)));
        }
        answer::parse_payments(&response.body).map_err(|error| not_understood(error, &response))
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
    pub fn by_order_id(&mut self, window: Window, ids: &[InvoiceId]) -> Result<Page, AskError> {
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
            .map_err(|error| not_understood(error, &response))?;
        self.key_check = Some(KeyCheck::Good);
        Ok(page)
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
            Err(AskError::Fatal(Self::web_page(&response)))
        } else if answer::is_list(&response.body) {
            Ok(())
        } else {
            Err(AskError::Refused(anyhow!(
                "got {} instead of a list of invoices. {ANOTHER_SERVER}",
                Transport::what_came(&response)
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
        let mut url = self.invoices(None);
        url.query_pairs_mut().extend_pairs(query);
        let response = self.transport.get(&url)?;
        if !is_refusal(response.status) {
            return Ok(response);
        }
        let status = response.status.as_u16();
        let came = Transport::what_came(&response);
        let url = &self.store.url;
        Err(match answer::refusal(response.status, &response.body) {
            Some(Refusal::Unauthenticated(reason)) => Self::key_refused(&reason),
            Some(Refusal::MissingPermission) => AskError::Fatal(self.store_refused()),
            Some(Refusal::InvoiceNotFound) => AskError::Fatal(self.transport.unexpected(&response)),
            None if response.status == StatusCode::NOT_FOUND => AskError::Fatal(anyhow!(
                "no BTCPay Server API at {url} ({status}: {came}). {}",
                self.transport.right_address()
            )),
            None => AskError::Fatal(anyhow!(
                "a proxy in front of BTCPay Server at {url} refused the request ({status}: {came}). \
                 Let it pass requests to /api/v1, or set --btcpay-url to BTCPay Server itself"
            )),
        })
    }

    /// Why the store is refused, as far as BTCPay Server says what the key may do.
    fn store_refused(&mut self) -> Error {
        let Some(permissions) = self.permissions() else {
            return anyhow!(
                "this API key may not see the invoices of store {} (403). Correct --store-id, or \
                 create a key with the permission 'View invoices' (btcpay.store.canviewinvoices) for \
                 this store",
                self.store.id
            );
        };
        let why = permissions.why_not(&self.store.id);
        Error::msg(secret::without_any(&why).into_owned())
    }

    /// Warns of a key that can do more than this program needs. Says nothing if BTCPay Server does not
    /// say what it can.
    pub fn warn_of_powers(&mut self) {
        let permissions = self.permissions();
        if let Some(more) = permissions.and_then(|permissions| permissions.more_than_look()) {
            warn!(
                "the API key can do more than look: {}. Create one with only 'View invoices' \
                 (btcpay.store.canviewinvoices) for this store, and remove this one",
                secret::without_any(&more)
            );
        }
    }

    /// What the key may do; None if BTCPay Server does not say. The answer holds the key: nothing of it
    /// is quoted.
    fn permissions(&mut self) -> Option<Permissions> {
        let response = self
            .transport
            .get(&self.api(&["api-keys", "current"]))
            .ok()?;
        (response.status == StatusCode::OK)
            .then(|| Permissions::parse(&response.body))
            .flatten()
    }

    fn key_refused(reason: &str) -> AskError {
        let reason = reason.strip_prefix(BEFORE_THE_REASON).unwrap_or(reason);
        let reason = secret::without_any(reason.trim_end_matches('.'));
        // The only reason for which another key of the same user is of no use.
        let first = if reason.contains("disabled") {
            "Enable the account, or create a key with another one"
        } else {
            "Create one under Account, API Keys"
        };
        AskError::Fatal(anyhow!(
            "BTCPay Server refused the API key (401): {reason}. {first}, with the permission 'View \
             invoices' (btcpay.store.canviewinvoices) for the store, and put it into the key file"
        ))
    }

    fn not_in_store(&self, status: StatusCode) -> AskError {
        AskError::NotInStore(anyhow!(
            "store {} in BTCPay Server has no such invoice ({}). Is --store-id right? BTCPay deletes \
             expired unpaid invoices after six months",
            self.store.id,
            status.as_u16()
        ))
    }

    fn web_page(response: &Response) -> Error {
        anyhow!(
            "got {} instead of an invoice. {ANOTHER_SERVER}",
            Transport::what_came(response)
        )
    }

    /// Of one invoice, or of the store's list.
    fn invoices(&self, invoice: Option<&BtcpayInvoiceId>) -> Url {
        let mut path = vec!["stores", &*self.store.id, "invoices"];
        path.extend(invoice.map(|id| &*id.0));
        self.api(&path)
    }

    fn api(&self, path: &[&str]) -> Url {
        let mut url = self.store.url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(["api", "v1"]).extend(path);
        }
        url
    }
}

/// Whether the store, its key or its address may be to blame.
fn is_refusal(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND
    )
}

fn not_understood(error: Error, response: &Response) -> AskError {
    if error.is::<TooOld>() {
        return AskError::Fatal(error);
    }
    let error = format!("{error:#}");
    let came = Transport::what_came(response);
    AskError::Refused(anyhow!(
        "{}. What came: {came}",
        secret::without_any(&error)
    ))
}
