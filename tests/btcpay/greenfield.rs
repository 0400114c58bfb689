//! The Greenfield API of the loopback BTCPay Server: users, keys, stores and invoices.

use std::iter;

use base64::prelude::{BASE64_STANDARD, Engine};
use serde_json::{Value, json};

use super::{Invoice, Request, State, Version};

pub const VIEW_INVOICES: &str = "btcpay.store.canviewinvoices";
const CREATE_INVOICE: &str = "btcpay.store.cancreateinvoice";
const MODIFY_INVOICES: &str = "btcpay.store.canmodifyinvoices";
const VIEW_STORES: &str = "btcpay.store.canviewstoresettings";
const MODIFY_STORES: &str = "btcpay.store.canmodifystoresettings";
const UNRESTRICTED: &str = "unrestricted";

pub struct Key {
    pub secret: String,
    pub label: String,
    /// As requested; `:` and a store's id limit a permission to that store.
    pub permissions: Vec<String>,
    /// Its user may no longer sign in.
    pub is_locked_out: bool,
}

pub struct Store {
    pub id: String,
    pub has_wallet: bool,
    /// Deleted by its owner, which since 2.3 hides it from nobody who knows its id.
    pub is_deleted: bool,
}

pub struct Reply {
    pub status: u16,
    /// Header lines.
    pub headers: &'static str,
    pub body: String,
}

impl Reply {
    pub fn json(status: u16, body: &Value) -> Self {
        Self {
            status,
            headers: "Content-Type: application/json; charset=utf-8\r\n",
            body: body.to_string(),
        }
    }

    pub fn empty(status: u16) -> Self {
        Self {
            status,
            headers: "",
            body: String::new(),
        }
    }

    /// What is refused before the question is read.
    fn refused(status: u16, body: &Value) -> Self {
        Self {
            headers: "Content-Type: application/json\r\n",
            ..Self::json(status, body)
        }
    }

    fn to_the_login() -> Self {
        Self {
            headers: "Location: /login\r\n",
            ..Self::empty(302)
        }
    }
}

enum Route<'path> {
    AddKey,
    Key,
    RevokeOwnKey,
    RevokeKey(&'path str),
    AddStore,
    RemoveStore(&'path str),
    MakeWallet(&'path str),
    List(&'path str),
    AddInvoice(&'path str),
    /// Of whichever store.
    InvoiceById(&'path str),
    Invoice(&'path str, &'path str),
    PaymentMethods(&'path str, &'path str),
    Archive(&'path str, &'path str),
    Mark(&'path str, &'path str),
}

/// `path` comes after `/api/v1/`.
fn route<'path>(version: Version, method: &str, path: &'path str) -> Option<Route<'path>> {
    let segments: Vec<&str> = path.split('/').collect();
    Some(match (method, segments.as_slice()) {
        ("POST", ["api-keys"]) => Route::AddKey,
        ("GET", ["api-keys", "current"]) => Route::Key,
        ("DELETE", ["api-keys", "current"]) => Route::RevokeOwnKey,
        ("DELETE", ["api-keys", secret]) => Route::RevokeKey(secret),
        ("POST", ["stores"]) => Route::AddStore,
        ("GET", ["invoices", id]) if version >= Version::From2_4 => Route::InvoiceById(id),
        (_, ["stores", "", ..]) => return None,
        ("DELETE", ["stores", store]) => Route::RemoveStore(store),
        ("GET", ["stores", store, "invoices"]) => Route::List(store),
        ("POST", ["stores", store, "invoices"]) => Route::AddInvoice(store),
        ("GET", ["stores", store, "invoices", id]) => Route::Invoice(store, id),
        ("GET", ["stores", store, "invoices", id, "payment-methods"]) => {
            Route::PaymentMethods(store, id)
        }
        ("DELETE", ["stores", store, "invoices", id]) => Route::Archive(store, id),
        ("POST", ["stores", store, "invoices", id, "status"]) => Route::Mark(store, id),
        ("POST", ["stores", store, rest @ ..]) if rest.join("/") == version.wallet_path() => {
            Route::MakeWallet(store)
        }
        _ => return None,
    })
}

pub fn answer(state: &mut State, request: &Request) -> Reply {
    state.let_time_pass();
    answer_or_refuse(state, request).unwrap_or_else(|refused| refused)
}

fn answer_or_refuse(state: &mut State, request: &Request) -> Result<Reply, Reply> {
    let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
    let Some(path) = path.strip_prefix(&state.prefix) else {
        return Ok(Reply::empty(404));
    };
    let Some(path) = path.strip_prefix("/api/v1/") else {
        let is_page = path == "/" || path.starts_with("/stores/") || path.starts_with("/invoices/");
        return Ok(if is_page {
            Reply::to_the_login()
        } else {
            Reply::empty(404)
        });
    };
    let path = path.strip_suffix('/').unwrap_or(path);
    match (request.method.as_str(), path) {
        ("GET", "health") => return Ok(state.health()),
        ("POST", "users") => return state.add_user(&request.json()),
        _ => {}
    }
    let routed = |method: &str| route(state.version, method, path);
    let Some(route) = routed(&request.method) else {
        let is_known = ["GET", "POST", "DELETE"]
            .into_iter()
            .any(|method| routed(method).is_some());
        return Ok(Reply::empty(if is_known { 405 } else { 404 }));
    };
    let caller = state.caller(&request.authorization)?;
    match route {
        Route::AddKey => {
            caller.needs_everything()?;
            Ok(state.add_key(&request.json()))
        }
        Route::Key => state.own_key(&caller).map(Key::json),
        Route::RevokeOwnKey => {
            let secret = state.own_key(&caller)?.secret.clone();
            Ok(state.revoke(&secret))
        }
        Route::RevokeKey(secret) => {
            caller.needs_everything()?;
            Ok(state.revoke(secret))
        }
        Route::AddStore => {
            caller.needs_everything()?;
            Ok(state.add_store(&request.json()))
        }
        Route::RemoveStore(store) => {
            state.permits(&caller, MODIFY_STORES, store)?;
            state.remove_store(store);
            Ok(Reply::empty(200))
        }
        Route::MakeWallet(store) => {
            state.permits(&caller, MODIFY_STORES, store)?;
            let kept = state.stores.iter_mut().find(|kept| kept.id == *store);
            kept.unwrap().has_wallet = true;
            Ok(Reply::json(200, &json!({"mnemonic": "abandon …"})))
        }
        Route::List(store) => {
            state.permits(&caller, VIEW_INVOICES, store)?;
            state.list(store, query)
        }
        Route::AddInvoice(store) => {
            state.permits(&caller, CREATE_INVOICE, store)?;
            state.add_invoice(store, &request.json())
        }
        Route::InvoiceById(id) => {
            let found = state
                .invoices
                .iter()
                .find(|invoice| invoice.id == decoded(id));
            let found = found.ok_or_else(|| forbidden(VIEW_INVOICES))?;
            state.permits(&caller, VIEW_INVOICES, &found.store_id)?;
            Ok(Reply::json(200, &found.json(state.version)))
        }
        Route::Invoice(store, id) => {
            state.permits(&caller, VIEW_INVOICES, store)?;
            let version = state.version;
            let reply = state.invoice(store, id)?.json(version);
            // Whoever waits for a change asks again and again.
            state.ahead += state.hurry;
            Ok(Reply::json(200, &reply))
        }
        Route::PaymentMethods(store, id) => {
            state.permits(&caller, VIEW_INVOICES, store)?;
            let version = state.version;
            let invoice = state.invoice(store, id)?;
            Ok(Reply::json(200, &invoice.payment_methods(version)))
        }
        Route::Archive(store, id) => {
            state.permits(&caller, MODIFY_INVOICES, store)?;
            state.invoice(store, id)?.archived = true;
            Ok(Reply::empty(200))
        }
        Route::Mark(store, id) => {
            state.permits(&caller, MODIFY_INVOICES, store)?;
            state.mark(store, id, request)
        }
    }
}

fn error(status: u16, code: &str, message: &str) -> Reply {
    Reply::json(status, &json!({"code": code, "message": message}))
}

/// The errors of a request as an array, each with the path of the bad field.
pub fn unprocessable(path: &str, message: &str) -> Reply {
    Reply::json(422, &json!([{"path": path, "message": message}]))
}

fn forbidden(permission: &str) -> Reply {
    let message = format!(
        "Insufficient API Permissions. Please use an API key with permission \"{permission}\". \
         You can create an API key in your account's settings / Api Keys."
    );
    Reply::refused(
        403,
        &json!({"missingPermission": permission, "code": "missing-permission", "message": message}),
    )
}

fn unauthenticated(message: &str) -> Reply {
    Reply::refused(401, &json!({"code": "unauthenticated", "message": message}))
}

const NO_KEY: &str = "Authentication is required for accessing this endpoint";

fn text(json: &Value, field: &str) -> String {
    json[field].as_str().unwrap_or_default().to_owned()
}

/// A random base58 string of this length, like the ids of stores and invoices.
fn random_id(length: usize) -> String {
    const BASE58: &[u8] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
    iter::repeat_with(|| char::from(BASE58[fastrand::usize(..BASE58.len())]))
        .take(length)
        .collect()
}

/// The permissions of the caller of a request.
struct Caller {
    /// `None` for a user with a password.
    secret: Option<String>,
    permissions: Vec<String>,
}

impl Caller {
    fn needs_everything(&self) -> Result<(), Reply> {
        let has_it = self.permissions.iter().any(|has| has == UNRESTRICTED);
        has_it.then_some(()).ok_or_else(|| forbidden(UNRESTRICTED))
    }

    fn may(&self, permission: &str, store: &str) -> bool {
        self.permissions.iter().any(|has| {
            let (has, only) = has.split_once(':').unwrap_or((has, store));
            only == store && includes(has, permission)
        })
    }
}

/// Whether who has one permission has the other by it.
fn includes(has: &str, permission: &str) -> bool {
    has == permission
        || match has {
            UNRESTRICTED => true,
            MODIFY_STORES => {
                [VIEW_STORES, MODIFY_INVOICES, VIEW_INVOICES, CREATE_INVOICE].contains(&permission)
            }
            VIEW_STORES => permission == VIEW_INVOICES,
            MODIFY_INVOICES => [VIEW_INVOICES, CREATE_INVOICE].contains(&permission),
            _ => false,
        }
}

impl Key {
    fn json(&self) -> Reply {
        Reply::json(
            200,
            &json!({"apiKey": self.secret, "label": self.label, "permissions": self.permissions}),
        )
    }
}

impl Request {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

impl State {
    fn let_time_pass(&mut self) {
        let (now, version) = (self.now(), self.version);
        for invoice in &mut self.invoices {
            invoice.lives_on(now, version);
        }
        if version >= Version::UpTo2_3 {
            let six_months_ago = now - 183 * 86_400;
            self.invoices.retain(|invoice| {
                !(invoice.is_expired_unpaid() && invoice.created < six_months_ago)
            });
        }
    }

    fn health(&mut self) -> Reply {
        let ready = self.starting == 0;
        self.starting = self.starting.saturating_sub(1);
        Reply::json(200, &json!({"synchronized": ready}))
    }

    /// Without authentication, only the first administrator can be created.
    fn add_user(&mut self, user: &Value) -> Result<Reply, Reply> {
        if self.admin.is_some() {
            return Err(unauthenticated(NO_KEY));
        }
        let (email, password) = (text(user, "email"), text(user, "password"));
        if !email.contains('@') {
            return Err(unprocessable("email", "Invalid email"));
        }
        if password.len() < 6 {
            return Err(unprocessable("password", "Password too short"));
        }
        self.admin = Some(format!("{email}:{password}"));
        Ok(Reply::json(201, &json!({"email": email})))
    }

    fn caller(&self, authorization: &str) -> Result<Caller, Reply> {
        let is_admin = authorization
            .strip_prefix("Basic ")
            .and_then(|sent| BASE64_STANDARD.decode(sent).ok())
            .is_some_and(|sent| self.admin.as_deref().map(str::as_bytes) == Some(&sent));
        if is_admin {
            return Ok(Caller {
                secret: None,
                permissions: vec![UNRESTRICTED.into()],
            });
        }
        let bearer = authorization
            .strip_prefix("Bearer ")
            .filter(|_| self.version > Version::UpTo1_13);
        let sent = authorization.strip_prefix("token ").or(bearer);
        let sent = sent.ok_or_else(|| unauthenticated(NO_KEY))?;
        let failed = |why: &str| {
            if self.version >= Version::UpTo2_3 {
                unauthenticated(&format!("ApiKey authentication failed: {why}"))
            } else {
                unauthenticated(NO_KEY)
            }
        };
        let key = self.keys.iter().find(|key| key.secret == sent);
        let key = key.ok_or_else(|| failed("Unknown API Key"))?;
        if key.is_locked_out {
            return Err(failed("Your user account is currently disabled."));
        }
        Ok(Caller {
            secret: Some(key.secret.clone()),
            permissions: key.permissions.clone(),
        })
    }

    fn own_key(&self, caller: &Caller) -> Result<&Key, Reply> {
        let mut keys = self.keys.iter();
        keys.find(|key| Some(&key.secret) == caller.secret.as_ref())
            .ok_or_else(|| unauthenticated(NO_KEY))
    }

    fn add_key(&mut self, wanted: &Value) -> Reply {
        let permissions = wanted["permissions"].as_array().into_iter().flatten();
        let key = Key {
            secret: iter::repeat_with(|| format!("{:x}", fastrand::u8(..16)))
                .take(40)
                .collect(),
            label: text(wanted, "label"),
            permissions: permissions
                .filter_map(|permission| permission.as_str().map(str::to_owned))
                .collect(),
            is_locked_out: false,
        };
        let reply = key.json();
        self.keys.push(key);
        reply
    }

    fn revoke(&mut self, secret: &str) -> Reply {
        let known = self.keys.len();
        self.keys.retain(|key| key.secret != secret);
        if self.keys.len() < known {
            Reply::empty(200)
        } else {
            error(400, "apikey-not-found", "This apikey does not exists")
        }
    }

    fn add_store(&mut self, wanted: &Value) -> Reply {
        let id = random_id(44);
        self.stores.push(Store {
            id: id.clone(),
            has_wallet: false,
            is_deleted: false,
        });
        Reply::json(
            200,
            &json!({"id": id, "name": wanted["name"], "defaultCurrency": wanted["defaultCurrency"]}),
        )
    }

    fn remove_store(&mut self, id: &str) {
        if self.version >= Version::UpTo2_3 {
            let mut stores = self.stores.iter_mut();
            stores.find(|store| store.id == id).unwrap().is_deleted = true;
        } else {
            self.stores.retain(|kept| kept.id != id);
        }
    }

    /// A store that does not exist is answered as if the permission were missing.
    fn permits(&self, caller: &Caller, permission: &str, store: &str) -> Result<(), Reply> {
        let mut stores = self.stores.iter();
        let is_there = stores
            .any(|known| known.id == store && (!known.is_deleted || permission == VIEW_INVOICES));
        (is_there && caller.may(permission, store))
            .then_some(())
            .ok_or_else(|| forbidden(permission))
    }

    fn invoice(&mut self, store: &str, id: &str) -> Result<&mut Invoice, Reply> {
        let version = self.version;
        self.invoices
            .iter_mut()
            .find(|invoice| invoice.id == decoded(id) && invoice.store_id == store)
            .ok_or_else(|| match version {
                Version::From2_4 => forbidden(VIEW_INVOICES),
                Version::UpTo1_13 | Version::UpTo2_0 | Version::UpTo2_3 => {
                    error(404, "invoice-not-found", "The invoice was not found")
                }
            })
    }

    fn add_invoice(&mut self, store: &str, wanted: &Value) -> Result<Reply, Reply> {
        let has_wallet = self
            .stores
            .iter()
            .any(|kept| kept.id == store && kept.has_wallet);
        let amount = text(wanted, "amount");
        let is_free = amount.parse::<f64>() == Ok(0.0);
        if !has_wallet && !is_free {
            return Err(error(
                400,
                "generic-error",
                "Warning: No wallet has been linked to your BTCPay Store.",
            ));
        }
        let minutes = match &wanted["checkout"]["expirationMinutes"] {
            Value::Null => 15,
            number => number
                .as_i64()
                .filter(|minutes| *minutes >= 1)
                .ok_or_else(|| {
                    unprocessable("checkout.expirationMinutes", "Not a whole number from 1 on")
                })?,
        };
        let mut invoice = Invoice::new(&random_id(22), "New", &amount);
        if amount.is_empty() {
            invoice.kind = "TopUp".into();
            invoice.amount = "0.0".into();
        }
        invoice.store_id = store.into();
        invoice.currency = text(wanted, "currency");
        invoice.order_id = wanted["metadata"]["orderId"].as_str().map(String::from);
        let or_empty = |json: &Value| {
            let object = json.as_object().cloned();
            Value::Object(object.unwrap_or_default())
        };
        invoice.metadata = or_empty(&wanted["metadata"]);
        invoice.checkout = or_empty(&wanted["checkout"]);
        invoice.created = self.now();
        invoice.expires = Some(invoice.created + minutes * 60);
        let reply = Reply::json(200, &invoice.json(self.version));
        self.invoices.push(invoice);
        Ok(reply)
    }

    /// Since 2.3.6 the answer is the invoice as it was before.
    fn mark(&mut self, store: &str, id: &str, request: &Request) -> Result<Reply, Reply> {
        let version = self.version;
        let sent = text(&request.json(), "status");
        let statuses = ["New", "Processing", "Expired", "Invalid", "Settled"];
        let known = statuses
            .into_iter()
            .find(|status| status.eq_ignore_ascii_case(&sent));
        let Some(status) = known else {
            let body = String::from_utf8_lossy(&request.body);
            let quoted = format!("\"{sent}\"");
            let position = body.find(&quoted).unwrap_or_default() + quoted.len();
            let message = format!(
                "Error converting value {quoted} to type 'BTCPayServer.Client.Models.InvoiceStatus'. \
                 Path 'status', line 1, position {position}."
            );
            return Err(Reply::json(
                422,
                &json!([
                    {"path": "status", "message": message},
                    {"path": "request", "message": "The request field is required."},
                ]),
            ));
        };
        let invoice = self.invoice(store, id)?;
        let before = invoice.json(version);
        if !invoice.mark(status) {
            return Err(unprocessable(
                "Status",
                "Status can only be marked to invalid or settled within certain conditions.",
            ));
        }
        Ok(Reply::json(
            200,
            &if version >= Version::UpTo2_3 {
                before
            } else {
                invoice.json(version)
            },
        ))
    }
}

/// Decodes the percent-encoding of a path segment.
pub fn decoded(segment: &str) -> String {
    let mut parts = segment.split('%');
    let mut bytes = parts.next().unwrap().as_bytes().to_vec();
    for part in parts {
        let (hex, rest) = part.split_at(2);
        bytes.push(u8::from_str_radix(hex, 16).unwrap());
        bytes.extend(rest.as_bytes());
    }
    String::from_utf8(bytes).unwrap()
}
