//! A borrowed store of a BTCPay Server: the smoke test works in it through the Greenfield API, then
//! removes everything that it created.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use reqwest::blocking::{Client, RequestBuilder};
use reqwest::{Method, Url};
use serde_json::{Value, json};

pub const VIEW_INVOICES: &str = "btcpay.store.canviewinvoices";

/// A real server checks for expired invoices only now and then.
const PATIENCE: Duration = Duration::from_mins(5);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(200);

pub struct LentStore {
    pub url: String,
    pub id: String,
    owners_key: String,
    client: Client,
    /// Whether the test created the store and has not deleted it yet.
    is_ours: Cell<bool>,
    keys: RefCell<Vec<String>>,
    invoices: RefCell<Vec<String>>,
}

/// An invoice that the test created.
pub struct Made {
    pub id: String,
    /// Unix seconds.
    pub created: i64,
}

impl LentStore {
    /// The store `id` of the server at `url`, or a new store without an id. The key is an owner's
    /// unrestricted key.
    pub fn of(url: &str, owners_key: &str, id: Option<&str>) -> Self {
        let mut store = Self {
            url: url.trim_end_matches('/').into(),
            id: id.unwrap_or_default().into(),
            owners_key: owners_key.into(),
            client: client(url),
            is_ours: Cell::new(false),
            keys: RefCell::default(),
            invoices: RefCell::default(),
        };
        if id.is_none() {
            let made = store.post(
                "stores",
                &json!({"name": "reconcile", "defaultCurrency": "BTC"}),
            );
            store.id = text(&made, "id");
            store.is_ours.set(true);
            store.make_wallet();
        }
        store
    }

    /// A new store of the same server.
    pub fn another(&self) -> Self {
        Self::of(&self.url, &self.owners_key, None)
    }

    /// By the path that it has had since 2.0, or by the one before.
    fn make_wallet(&self) {
        let wanted = json!({"savePrivateKeys": false});
        let since_2_0 = self.path("payment-methods/BTC-CHAIN/wallet/generate");
        match self.try_post(&since_2_0, &wanted) {
            Err(Refusal { status: 404, .. }) => {
                self.post(&self.path("payment-methods/onchain/BTC/generate"), &wanted);
            }
            made => drop(made.unwrap()),
        }
    }

    pub fn is_on_loopback(&self) -> bool {
        is_on_loopback(&self.url)
    }

    /// Creates a key with only these permissions.
    pub fn new_key(&self, permissions: &[&str]) -> String {
        let made = self.post(
            "api-keys",
            &json!({"label": "reconcile", "permissions": permissions}),
        );
        let key = text(&made, "apiKey");
        self.keys.borrow_mut().push(key.clone());
        key
    }

    pub fn revoke(&self, key: &str) {
        self.keys.borrow_mut().retain(|kept| kept != key);
        self.revoke_by_itself(key).unwrap();
    }

    /// Since 2.4.4 another key could do it only by an id that is shown nowhere else.
    fn revoke_by_itself(&self, key: &str) -> Result<Value, Refusal> {
        sent(self.request_by(key, Method::DELETE, "api-keys/current"))
    }

    /// As a service makes it, with its own id of the invoice for an order id.
    pub fn new_invoice(&self, order_id: &str, expires_in_minutes: u32) -> Made {
        let made = self.post(
            &self.path("invoices"),
            &json!({
                "amount": "0.00021",
                "currency": "BTC",
                "metadata": {"orderId": order_id},
                "checkout": {"expirationMinutes": expires_in_minutes},
            }),
        );
        let id = text(&made, "id");
        self.invoices.borrow_mut().push(id.clone());
        Made {
            id,
            created: made["createdTime"].as_i64().unwrap(),
        }
    }

    pub fn mark(&self, invoice: &Made, status: &str) {
        let path = self.path(&format!("invoices/{}", invoice.id));
        // Since 2.3.6 the answer is the invoice as it was before.
        self.post(&format!("{path}/status"), &json!({"status": status}));
        let marked = sent(self.request(Method::GET, &path)).unwrap();
        assert_eq!(marked["status"], status, "{marked}");
        assert_eq!(marked["additionalStatus"], "Marked", "{marked}");
    }

    pub fn archive(&self, invoice: &Made) {
        self.archive_by_id(&invoice.id).unwrap();
    }

    /// Whom to pay, on chain.
    pub fn address(&self, invoice: &Made) -> String {
        let path = self.path(&format!("invoices/{}/payment-methods", invoice.id));
        let methods = sent(self.request(Method::GET, &path)).unwrap();
        text(&methods[0], "destination")
    }

    /// The invoices with one of these order ids, created between the two, archived ones too, as
    /// `key` sees them.
    pub fn with_order_ids(
        &self,
        key: &str,
        order_ids: &[&str],
        from: &Made,
        to: &Made,
    ) -> Vec<String> {
        let query = Url::parse_with_params(
            "query:",
            order_ids
                .iter()
                .map(|id| ("orderId", id.to_string()))
                .chain([
                    ("startDate", from.created.to_string()),
                    ("endDate", to.created.to_string()),
                    ("includeArchived", true.to_string()),
                ]),
        );
        let query = query.unwrap().query().unwrap().to_owned();
        let path = self.path(&format!("invoices?{query}"));
        let found = sent(self.request_by(key, Method::GET, &path)).unwrap();
        let found = found.as_array().unwrap().iter();
        found.map(|invoice| text(invoice, "id")).collect()
    }

    /// Waits until the invoice has this status and additional status.
    pub fn wait_until(&self, invoice: &Made, status: &str, additional: &str) {
        let path = self.path(&format!("invoices/{}", invoice.id));
        let reached = self.waits(&path, |answer| {
            answer["status"] == status && answer["additionalStatus"] == additional
        });
        reached.unwrap_or_else(|last| panic!("no {status}, {additional}: {last}"));
    }

    /// Waits until the server has seen all blocks.
    pub fn wait_until_synchronized(&self) {
        let reached = self.waits("health", |answer| answer["synchronized"] == true);
        reached.unwrap_or_else(|last| panic!("not synchronized: {last}"));
    }

    /// The last answer is the error.
    fn waits(&self, path: &str, is_reached: impl Fn(&Value) -> bool) -> Result<(), Value> {
        let started = Instant::now();
        loop {
            let answer = sent(self.request(Method::GET, path)).unwrap();
            if is_reached(&answer) {
                return Ok(());
            }
            if started.elapsed() > PATIENCE {
                return Err(answer);
            }
            thread::sleep(PAUSE);
        }
    }

    /// Removes everything that the test created. BTCPay Server cannot delete single invoices, so in
    /// a store that stays they are archived.
    pub fn give_back(self) {
        self.clean_up().unwrap();
    }

    /// Removes as much as possible, and returns what failed.
    fn clean_up(&self) -> Result<(), String> {
        let keys = self.keys.take().into_iter();
        let mut done: Vec<_> = keys.map(|key| self.revoke_by_itself(&key)).collect();
        let invoices = self.invoices.take();
        if self.is_ours.take() {
            done.push(self.delete(&format!("stores/{}", self.id)));
        } else {
            done.extend(invoices.iter().map(|id| self.archive_by_id(id)));
        }
        let failed = done.into_iter().filter_map(Result::err);
        let failed: Vec<String> = failed.map(|refusal| refusal.to_string()).collect();
        if failed.is_empty() {
            Ok(())
        } else {
            Err(failed.join("\n"))
        }
    }

    fn archive_by_id(&self, id: &str) -> Result<Value, Refusal> {
        self.delete(&self.path(&format!("invoices/{id}")))
    }

    fn path(&self, of_the_store: &str) -> String {
        format!("stores/{}/{of_the_store}", self.id)
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        self.try_post(path, body).unwrap()
    }

    fn try_post(&self, path: &str, body: &Value) -> Result<Value, Refusal> {
        let request = self.request(Method::POST, path);
        let request = request.header("Content-Type", "application/json");
        sent(request.body(body.to_string()))
    }

    fn delete(&self, path: &str) -> Result<Value, Refusal> {
        sent(self.request(Method::DELETE, path))
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.request_by(&self.owners_key, method, path)
    }

    fn request_by(&self, key: &str, method: Method, path: &str) -> RequestBuilder {
        self.client
            .request(method, format!("{}/api/v1/{path}", self.url))
            .header("Authorization", format!("token {key}"))
    }
}

/// Cleans up even if the test fails halfway.
impl Drop for LentStore {
    fn drop(&mut self) {
        if let Err(why) = self.clean_up() {
            eprintln!("could not clean up everything: {why}");
        }
    }
}

fn client(url: &str) -> Client {
    let client = Client::builder();
    let client = if is_on_loopback(url) {
        client.no_proxy()
    } else {
        client
    };
    client.build().unwrap()
}

fn is_on_loopback(url: &str) -> bool {
    url.contains("//127.0.0.1:")
}

/// An answer other than success; status 0 for none.
#[derive(Debug)]
struct Refusal {
    status: u16,
    why: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, text: &mut fmt::Formatter) -> fmt::Result {
        text.write_str(&self.why)
    }
}

impl From<reqwest::Error> for Refusal {
    fn from(error: reqwest::Error) -> Self {
        Self {
            status: 0,
            why: error.to_string(),
        }
    }
}

/// Sends the request and returns the JSON of the answer; null if it is empty.
fn sent(request: RequestBuilder) -> Result<Value, Refusal> {
    let response = request.send()?;
    let (status, url) = (response.status(), response.url().clone());
    let body = response.text()?;
    if !status.is_success() {
        return Err(Refusal {
            status: status.as_u16(),
            why: format!("{}: {status}: {body}", url.path()),
        });
    }
    Ok(serde_json::from_str(&body).unwrap_or_default())
}

fn text(json: &Value, field: &str) -> String {
    json[field].as_str().unwrap().into()
}
