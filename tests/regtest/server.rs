//! A borrowed store of a BTCPay Server: the smoke test works in it through the Greenfield API, then
//! removes everything that it created.

use std::cell::{Cell, RefCell};
use std::thread;
use std::time::{Duration, Instant};

use reqwest::Method;
use reqwest::blocking::{Client, RequestBuilder};
use serde_json::{Value, json};

pub const VIEW_INVOICES: &str = "btcpay.store.canviewinvoices";

/// A real server checks for expired invoices only now and then.
const PATIENCE: Duration = Duration::from_mins(5);

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
            store.post(
                &store.path("payment-methods/BTC-CHAIN/wallet/generate"),
                &json!({"savePrivateKeys": false}),
            );
        }
        store
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
        self.delete(&format!("api-keys/{key}")).unwrap();
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
        let path = self.path(&format!("invoices/{}/status", invoice.id));
        let marked = self.post(&path, &json!({"status": status}));
        assert_eq!(marked["status"], status, "{marked}");
    }

    pub fn archive(&self, invoice: &Made) {
        self.archive_by_id(&invoice.id).unwrap();
    }

    pub fn wait_until(&self, invoice: &Made, status: &str) {
        let path = self.path(&format!("invoices/{}", invoice.id));
        let started = Instant::now();
        loop {
            let answer = sent(self.request(Method::GET, &path)).unwrap();
            if answer["status"] == status {
                return;
            }
            let waited = started.elapsed();
            assert!(waited < PATIENCE, "{} did not become {status}", invoice.id);
            thread::sleep(Duration::from_secs(2));
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
        let mut done: Vec<_> = keys
            .map(|key| self.delete(&format!("api-keys/{key}")))
            .collect();
        let invoices = self.invoices.take();
        if self.is_ours.take() {
            done.push(self.delete(&format!("stores/{}", self.id)));
        } else {
            done.extend(invoices.iter().map(|id| self.archive_by_id(id)));
        }
        let failed: Vec<String> = done.into_iter().filter_map(Result::err).collect();
        if failed.is_empty() {
            Ok(())
        } else {
            Err(failed.join("\n"))
        }
    }

    fn archive_by_id(&self, id: &str) -> Result<Value, String> {
        self.delete(&self.path(&format!("invoices/{id}")))
    }

    fn path(&self, of_the_store: &str) -> String {
        format!("stores/{}/{of_the_store}", self.id)
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        let request = self.request(Method::POST, path);
        let request = request
            .header("Content-Type", "application/json")
            .body(body.to_string());
        sent(request).unwrap()
    }

    fn delete(&self, path: &str) -> Result<Value, String> {
        sent(self.request(Method::DELETE, path))
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client
            .request(method, format!("{}/api/v1/{path}", self.url))
            .header("Authorization", format!("token {}", self.owners_key))
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

/// Sends the request and returns the JSON of the answer; null if it is empty.
fn sent(request: RequestBuilder) -> Result<Value, String> {
    let response = request.send().map_err(|error| error.to_string())?;
    let (status, url) = (response.status(), response.url().clone());
    let body = response.text().map_err(|error| error.to_string())?;
    if !status.is_success() {
        // The path of an API key contains the key itself.
        let path = url.path().split("/api-keys/").next().unwrap_or_default();
        return Err(format!("{path}: {status}: {body}"));
    }
    Ok(serde_json::from_str(&body).unwrap_or_default())
}

fn text(json: &Value, field: &str) -> String {
    json[field].as_str().unwrap().into()
}
