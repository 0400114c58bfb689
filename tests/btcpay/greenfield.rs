//! The Greenfield API of the loopback BTCPay Server: users, keys, stores and invoices.

use std::iter;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::prelude::{BASE64_STANDARD, Engine};
use serde_json::{Value, json};

use super::{Invoice, Request, State, Version};

pub const VIEW_INVOICES: &str = "btcpay.store.canviewinvoices";
const CREATE_INVOICE: &str = "btcpay.store.cancreateinvoice";
const MODIFY_INVOICES: &str = "btcpay.store.canmodifyinvoices";
const MODIFY_STORES: &str = "btcpay.store.canmodifystoresettings";
const UNRESTRICTED: &str = "unrestricted";

pub struct Key {
    pub secret: String,
    /// As requested; `:` and a store's id limit a permission to that store.
    pub permissions: Vec<String>,
}

pub struct Store {
    pub id: String,
    pub has_wallet: bool,
}

type Reply = (u16, String);

pub fn answer(state: &mut State, request: &Request) -> Reply {
    state.let_time_pass();
    answer_or_refuse(state, request).unwrap_or_else(|refused| refused)
}

fn answer_or_refuse(state: &mut State, request: &Request) -> Result<Reply, Reply> {
    let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
    let Some(path) = path.strip_prefix(&format!("{}/api/v1/", state.prefix)) else {
        return Ok((404, "<html>404 Not Found</html>".into()));
    };
    let segments: Vec<&str> = path.split('/').collect();
    let method = request.method.as_str();
    match (method, segments.as_slice()) {
        ("GET", ["health"]) => return Ok(state.health()),
        ("POST", ["users"]) => return state.add_user(&request.json()),
        _ => {}
    }
    let caller = state.caller(&request.authorization)?;
    match (method, segments.as_slice()) {
        ("POST", ["api-keys"]) => {
            caller.needs(UNRESTRICTED, None)?;
            Ok(state.add_key(&request.json()))
        }
        ("DELETE", ["api-keys", secret]) => {
            caller.needs(UNRESTRICTED, None)?;
            let known = state.keys.len();
            state.keys.retain(|key| key.secret != *secret);
            Ok(if state.keys.len() < known {
                (200, String::new())
            } else {
                error(404, "apikey-not-found", "This apikey does not exists")
            })
        }
        ("POST", ["stores"]) => {
            caller.needs(MODIFY_STORES, None)?;
            Ok(state.add_store(&request.json()))
        }
        ("DELETE", ["stores", store]) => {
            caller.needs(MODIFY_STORES, Some(state.store(store)?))?;
            state.stores.retain(|kept| kept.id != *store);
            state.invoices.retain(|kept| kept.store_id != *store);
            Ok((200, String::new()))
        }
        (
            "POST",
            [
                "stores",
                store,
                "payment-methods",
                "BTC-CHAIN",
                "wallet",
                "generate",
            ],
        ) => {
            caller.needs(MODIFY_STORES, Some(state.store(store)?))?;
            let kept = state.stores.iter_mut().find(|kept| kept.id == *store);
            kept.unwrap().has_wallet = true;
            Ok((200, json!({"mnemonic": "abandon …"}).to_string()))
        }
        ("GET", ["stores", store, "invoices"]) => {
            caller.needs(VIEW_INVOICES, Some(state.store(store)?))?;
            state.list(store, query)
        }
        ("POST", ["stores", store, "invoices"]) => {
            let store = state.store(store)?;
            caller.needs(CREATE_INVOICE, Some(store))?;
            if !store.has_wallet {
                return Err(error(
                    400,
                    "generic-error",
                    "Warning: No wallet has been linked to your BTCPay Store.",
                ));
            }
            let id = store.id.clone();
            state.add_invoice(id, &request.json())
        }
        ("GET", ["stores", store, "invoices", id]) => {
            caller.needs(VIEW_INVOICES, Some(state.store(store)?))?;
            let invoice = state.invoice(store, id)?;
            Ok((200, invoice.json().to_string()))
        }
        ("DELETE", ["stores", store, "invoices", id]) => {
            caller.needs(MODIFY_INVOICES, Some(state.store(store)?))?;
            state.invoice(store, id)?.archived = true;
            Ok((200, String::new()))
        }
        ("POST", ["stores", store, "invoices", id, "status"]) => {
            caller.needs(MODIFY_INVOICES, Some(state.store(store)?))?;
            let status = text(&request.json(), "status");
            state.invoice(store, id)?.mark(&status)
        }
        _ => Ok((404, String::new())),
    }
}

fn error(status: u16, code: &str, message: &str) -> Reply {
    (
        status,
        json!({"code": code, "message": message}).to_string(),
    )
}

/// The errors of a request as an array, each with the path of the bad field.
fn unprocessable(path: &str, message: &str) -> Reply {
    (422, json!([{"path": path, "message": message}]).to_string())
}

fn forbidden(permission: &str) -> Reply {
    (
        403,
        json!({
            "code": "missing-permission",
            "message": format!("Insufficient API Permissions. Please use an API key with permission: {permission}"),
            "missingPermission": permission,
        })
        .to_string(),
    )
}

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
    permissions: Vec<String>,
}

impl Caller {
    /// Requires a permission, on one store or on the whole server.
    fn needs(&self, permission: &str, store: Option<&Store>) -> Result<(), Reply> {
        let narrowed = store.map(|store| format!("{permission}:{}", store.id));
        self.permissions
            .iter()
            .any(|has| has == UNRESTRICTED || has == permission || Some(has) == narrowed.as_ref())
            .then_some(())
            .ok_or_else(|| forbidden(permission))
    }
}

impl Request {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

impl Invoice {
    /// Marks the invoice, manually or through the API, if the transition is allowed.
    pub fn mark(&mut self, status: &str) -> Result<Reply, Reply> {
        let allowed = matches!(
            (status, self.additional.as_str(), self.status.as_str()),
            ("Settled" | "Invalid", "Marked", _)
                | ("Settled", _, "New" | "Processing" | "Expired" | "Invalid")
                | ("Invalid", _, "New" | "Processing" | "Expired")
        );
        if !allowed {
            return Err(unprocessable(
                "status",
                "Status can only be marked to invalid or settled within certain conditions.",
            ));
        }
        self.status = status.into();
        self.additional = "Marked".into();
        Ok((200, self.json().to_string()))
    }
}

impl State {
    fn now(&self) -> i64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        i64::try_from(now.as_secs()).unwrap() + self.ahead
    }

    fn let_time_pass(&mut self) {
        self.ahead += self.hurry;
        let now = self.now();
        for invoice in &mut self.invoices {
            if invoice.status == "New" && invoice.expires.is_some_and(|expires| expires <= now) {
                invoice.status = "Expired".into();
            }
        }
    }

    fn health(&mut self) -> Reply {
        let ready = self.starting == 0;
        self.starting = self.starting.saturating_sub(1);
        if self.starting == 1 {
            return (503, String::new());
        }
        (200, json!({"synchronized": ready}).to_string())
    }

    /// Without authentication, only the first administrator can be created.
    fn add_user(&mut self, user: &Value) -> Result<Reply, Reply> {
        if self.admin.is_some() {
            return Err((401, String::new()));
        }
        let (email, password) = (text(user, "email"), text(user, "password"));
        if !email.contains('@') {
            return Err(unprocessable("email", "Invalid email"));
        }
        if password.len() < 6 {
            return Err(unprocessable("password", "Password too short"));
        }
        self.admin = Some(format!("{email}:{password}"));
        Ok((201, json!({"email": email}).to_string()))
    }

    fn caller(&self, authorization: &str) -> Result<Caller, Reply> {
        let key = authorization
            .strip_prefix("token ")
            .and_then(|secret| self.keys.iter().find(|key| key.secret == secret));
        let admin = authorization
            .strip_prefix("Basic ")
            .and_then(|sent| BASE64_STANDARD.decode(sent).ok())
            .is_some_and(|sent| self.admin.as_deref().map(str::as_bytes) == Some(&sent));
        match key {
            Some(key) => Ok(Caller {
                permissions: key.permissions.clone(),
            }),
            None if admin => Ok(Caller {
                permissions: vec![UNRESTRICTED.into()],
            }),
            None => Err(error(
                401,
                "unauthenticated",
                "Authentication is required for accessing this endpoint",
            )),
        }
    }

    fn add_key(&mut self, wanted: &Value) -> Reply {
        let secret: String = iter::repeat_with(|| format!("{:x}", fastrand::u8(..16)))
            .take(40)
            .collect();
        let permissions = wanted["permissions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        self.keys.push(Key {
            secret: secret.clone(),
            permissions: permissions
                .iter()
                .filter_map(|permission| permission.as_str().map(str::to_owned))
                .collect(),
        });
        (
            200,
            json!({"apiKey": secret, "label": wanted["label"], "permissions": permissions})
                .to_string(),
        )
    }

    fn add_store(&mut self, wanted: &Value) -> Reply {
        let id = random_id(44);
        self.stores.push(Store {
            id: id.clone(),
            has_wallet: false,
        });
        (
            200,
            json!({"id": id, "name": wanted["name"], "defaultCurrency": wanted["defaultCurrency"]})
                .to_string(),
        )
    }

    /// A request for a store that does not exist is answered as if the permission were missing.
    fn store(&self, id: &str) -> Result<&Store, Reply> {
        self.stores
            .iter()
            .find(|store| store.id == id)
            .ok_or_else(|| forbidden(VIEW_INVOICES))
    }

    fn invoice(&mut self, store: &str, id: &str) -> Result<&mut Invoice, Reply> {
        let version = self.version;
        self.invoices
            .iter_mut()
            .find(|invoice| invoice.id == decoded(id) && invoice.store_id == store)
            .ok_or_else(|| match version {
                Version::From2_4 => forbidden(VIEW_INVOICES),
                Version::UpTo2_3 => error(404, "invoice-not-found", "The invoice was not found"),
            })
    }

    fn add_invoice(&mut self, store_id: String, wanted: &Value) -> Result<Reply, Reply> {
        let minutes = match &wanted["checkout"]["expirationMinutes"] {
            Value::Null => 15,
            number => number
                .as_i64()
                .filter(|minutes| *minutes >= 1)
                .ok_or_else(|| {
                    unprocessable("checkout.expirationMinutes", "Not a whole number from 1 on")
                })?,
        };
        let amount = text(wanted, "amount");
        let mut invoice = Invoice::new(&random_id(22), "New", &amount);
        invoice.store_id = store_id;
        invoice.currency = text(wanted, "currency");
        invoice.order_id = wanted["metadata"]["orderId"].as_str().map(String::from);
        invoice.created = self.now();
        invoice.expires = Some(invoice.created + minutes * 60);
        let reply = invoice.json().to_string();
        self.invoices.push(invoice);
        Ok((200, reply))
    }

    /// Newest first, without a tie-breaker: invoices with equal times come in another order each
    /// time. Archived ones are included only if the undocumented parameter asks for them.
    fn list(&self, store: &str, query: &str) -> Result<Reply, Reply> {
        let values = |name: &str| -> Vec<&str> {
            query
                .split('&')
                .filter_map(|pair| pair.split_once('='))
                .filter(|(found, _)| *found == name)
                .map(|(_, value)| value)
                .collect()
        };
        let number = |name: &str| -> Result<Option<i64>, Reply> {
            let parsed = values(name).first().map(|value| value.parse());
            parsed
                .transpose()
                .map_err(|_| unprocessable(name, "not a number"))
        };
        let (start, end) = (number("startDate")?, number("endDate")?);
        let (skip, take) = (number("skip")?, number("take")?);
        let statuses = values("status");
        let order_ids: Vec<String> = values("orderId")
            .into_iter()
            .map(|id| decoded(&id.replace('+', "%20")))
            .collect();
        let archived_too = values("includeArchived") == ["true"];
        let mut found: Vec<&Invoice> = self
            .invoices
            .iter()
            .filter(|invoice| invoice.store_id == store)
            .filter(|invoice| !invoice.archived || archived_too)
            .filter(|invoice| {
                let order_id = invoice.order_id.as_ref();
                order_ids.is_empty() || order_id.is_some_and(|id| order_ids.contains(id))
            })
            .filter(|invoice| statuses.is_empty() || statuses.contains(&invoice.status.as_str()))
            .filter(|invoice| start.is_none_or(|start| invoice.created >= start))
            .filter(|invoice| end.is_none_or(|end| invoice.created <= end))
            .collect();
        if self.requests.len().is_multiple_of(2) {
            found.reverse();
        }
        found.sort_by_key(|invoice| std::cmp::Reverse(invoice.created));
        let count = |number: Option<i64>, default| {
            number.map_or(default, |number| usize::try_from(number).unwrap_or(0))
        };
        let page: Value = found
            .into_iter()
            .skip(count(skip, 0))
            .take(count(take, usize::MAX))
            .map(Invoice::json)
            .collect();
        Ok((200, page.to_string()))
    }
}

/// Decodes the percent-encoding of a path segment.
fn decoded(segment: &str) -> String {
    let mut parts = segment.split('%');
    let mut bytes = parts.next().unwrap().as_bytes().to_vec();
    for part in parts {
        let (hex, rest) = part.split_at(2);
        bytes.push(u8::from_str_radix(hex, 16).unwrap());
        bytes.extend(rest.as_bytes());
    }
    String::from_utf8(bytes).unwrap()
}
