//! A BTCPay Server on loopback with the quirks of the real one (taken from the source of BTCPay
//! Server 2.4.1). Shared by the tests and the demo.

#![allow(dead_code, reason = "the demo uses only a part")]

mod greenfield;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use greenfield::{Key, Store, answer};
use serde_json::{Value, json};

/// An unrestricted key. It exists once a test adds it with [`Btcpay::gives`].
pub const OWNERS_KEY: &str = "1f2e3d4c5b6a79880a1b2c3d4e5f60718293a4b5";
pub const STORE: &str = "9CiNzKoANXxmk5ayZngSXrHTiVvvgCrwrpFQd4m2K776";
pub const KEY: &str = "6f3a1c9e5b7d2f4a8c0e1b3d5f7a9c2e4b6d8f0a";

pub struct Btcpay {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

/// How the server answers a request for an invoice that the store does not have.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// 404, `invoice-not-found`.
    UpTo2_3,
    /// 403, as if the permission were missing.
    From2_4,
}

/// What happens instead of a correct answer.
#[derive(Clone)]
pub enum Fault {
    /// An answer with this status, these header lines and this body.
    Answer(u16, &'static str, String),
    /// The connection closes before the first byte of the answer.
    Reset,
    /// The connection closes in the middle of the body.
    HalfABody,
    /// A body that never ends.
    EndlessBody,
    /// The server sends nothing for as long as the client waits.
    Hang,
    /// The correct answer after this time.
    Late(Duration),
    /// The correct answer with an error introduced by the function.
    Twisted(fn(&str) -> String),
}

#[derive(Clone)]
pub struct Invoice {
    pub id: String,
    pub store_id: String,
    pub status: String,
    pub additional: String,
    pub amount: Value,
    pub paid: Value,
    pub currency: String,
    /// Unix seconds.
    pub created: i64,
    /// Unix seconds; `None` for an invoice that never expires on its own.
    pub expires: Option<i64>,
    pub archived: bool,
    /// The merchant's own id of it; `None` if the service sets none.
    pub order_id: Option<String>,
}

impl Invoice {
    pub fn new(id: &str, status: &str, amount: &str) -> Self {
        Self {
            id: id.into(),
            store_id: STORE.into(),
            status: status.into(),
            additional: "None".into(),
            amount: amount.into(),
            paid: match status {
                "Settled" | "Processing" => amount.into(),
                _ => "0".into(),
            },
            currency: "BTC".into(),
            created: 1_795_000_000,
            expires: None,
            archived: false,
            order_id: id.strip_prefix("btc-").map(String::from),
        }
    }

    fn json(&self) -> Value {
        let mut json = json!({
            "id": self.id,
            "storeId": self.store_id,
            "amount": self.amount,
            "paidAmount": self.paid,
            "currency": self.currency,
            "type": "Standard",
            "checkoutLink": format!("http://btcpay.local/i/{}", self.id),
            "createdTime": self.created,
            "expirationTime": self.expires.unwrap_or(self.created + 900),
            "monitoringExpiration": self.created + 90_000,
            "status": self.status,
            "additionalStatus": self.additional,
            "availableStatusesForManualMarking": ["Settled", "Invalid"],
            "archived": self.archived,
            "metadata": {"orderId": self.order_id, "itemDesc": "a \u{1F511}", "posData": {"cart": [1, null]}},
            "checkout": {"speedPolicy": "MediumSpeed", "paymentMethods": ["BTC-CHAIN"]},
            "receipt": {"enabled": null},
        });
        // Servers before 2.1.2 do not report the paid amount.
        if self.paid.is_null() {
            json.as_object_mut().unwrap().remove("paidAmount");
        }
        json
    }
}

type Hook = Box<dyn FnOnce() + Send>;

struct State {
    version: Version,
    /// The path before `/api`, as behind a reverse proxy.
    prefix: String,
    invoices: Vec<Invoice>,
    stores: Vec<Store>,
    keys: Vec<Key>,
    /// The first user's email address and password, in the format of HTTP Basic.
    admin: Option<String>,
    /// How many seconds the server's clock is ahead, and how many each request adds.
    ahead: i64,
    hurry: i64,
    /// How many more health checks report that the server is not ready.
    starting: usize,
    /// By target, see [`asked_for`]: the fault, and how many more times it occurs.
    faults: HashMap<String, (Fault, usize)>,
    /// How many full pages of the list were requested.
    full_pages: usize,
    /// The faults that hit a third of the requests.
    bad_luck: Option<(fastrand::Rng, Vec<Fault>)>,
    hooks: HashMap<String, Hook>,
    /// How many more requests a proxy in front of the server lets through.
    allowed: usize,
    /// The server no longer listens.
    dead: bool,
    requests: Vec<String>,
    user_agents: Vec<String>,
}

impl Btcpay {
    /// Starts a server of version 2.3 with one store and one key, on a free port.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State {
            version: Version::UpTo2_3,
            prefix: String::new(),
            invoices: Vec::new(),
            stores: vec![Store {
                id: STORE.into(),
                has_wallet: true,
            }],
            keys: vec![Key {
                secret: KEY.into(),
                permissions: vec![format!("{}:{STORE}", greenfield::VIEW_INVOICES)],
            }],
            admin: None,
            ahead: 0,
            hurry: 0,
            starting: 0,
            faults: HashMap::new(),
            full_pages: 0,
            bad_luck: None,
            hooks: HashMap::new(),
            allowed: usize::MAX,
            dead: false,
            requests: Vec::new(),
            user_agents: Vec::new(),
        }));
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for connection in listener.incoming() {
                let shared = Arc::clone(&shared);
                if shared.lock().unwrap().dead {
                    return;
                }
                thread::spawn(move || connection.map(|stream| serve(stream, &shared)));
            }
        });
        Self { address, state }
    }

    pub fn url(&self) -> String {
        format!("http://{}{}", self.address, self.state().prefix)
    }

    pub fn lives_under(&self, prefix: &str) {
        self.state().prefix = prefix.into();
    }

    pub fn is_version(&self, version: Version) {
        self.state().version = version;
    }

    pub fn add(&self, invoice: Invoice) {
        self.state().invoices.push(invoice);
    }

    /// Marks the invoice as a merchant does manually. BTCPay Server must allow the change.
    pub fn mark(&self, id: &str, status: &str) {
        self.change(id, |invoice| {
            invoice.mark(status).unwrap();
        });
    }

    pub fn change(&self, id: &str, change: impl FnOnce(&mut Invoice)) {
        change(
            self.state()
                .invoices
                .iter_mut()
                .find(|invoice| invoice.id == id)
                .unwrap(),
        );
    }

    pub fn revoke(&self, key: &str) {
        self.state().keys.retain(|known| known.secret != key);
    }

    pub fn take_permission_from(&self, key: &str) {
        self.gives(key, &[]);
    }

    /// From now on `key` has only these permissions.
    pub fn gives(&self, key: &str, permissions: &[&str]) {
        self.revoke(key);
        self.state().keys.push(Key {
            secret: key.into(),
            permissions: permissions.iter().map(ToString::to_string).collect(),
        });
    }

    /// Makes the server a fresh one that is still starting and has no users, stores or keys.
    pub fn is_new(&self) {
        let mut state = self.state();
        state.stores.clear();
        state.keys.clear();
        state.starting = 2;
    }

    /// Each request advances the server's clock by a minute, so that invoices expire quickly.
    pub fn is_in_a_hurry(&self) {
        self.state().hurry = 60;
    }

    /// What the server holds, except archived invoices, which cannot be deleted.
    pub fn inventory(&self) -> String {
        let state = self.state();
        format!(
            "{} stores, {} keys, {} invoices",
            state.stores.len(),
            state.keys.len(),
            state
                .invoices
                .iter()
                .filter(|invoice| !invoice.archived)
                .count()
        )
    }

    /// From now on every request for `what` (see [`asked_for`]) fails with `fault`.
    pub fn fails(&self, what: &str, fault: Fault) {
        self.fails_times(usize::MAX, what, fault);
    }

    /// The next `times` requests for `what` fail with `fault`.
    pub fn fails_times(&self, times: usize, what: &str, fault: Fault) {
        self.state().faults.insert(what.into(), (fault, times));
    }

    /// A function that makes the server die, with all its connections.
    pub fn death(&self) -> impl FnOnce() + Send + 'static {
        let (state, address) = (Arc::clone(&self.state), self.address);
        move || {
            state.lock().unwrap().dead = true;
            // Wakes the listener so that it releases the port. Later connections are refused.
            let mut last = TcpStream::connect(address).unwrap();
            let _ = last.read(&mut [0]);
        }
    }

    /// A function that makes this change to the invoices when it is called.
    pub fn later(
        &self,
        change: impl FnOnce(&mut Vec<Invoice>) + Send + 'static,
    ) -> impl FnOnce() + Send + 'static {
        let state = Arc::clone(&self.state);
        move || change(&mut state.lock().unwrap().invoices)
    }

    /// From now on one of these faults hits a third of the requests, whatever their target.
    pub fn has_bad_luck(&self, seed: u64, faults: Vec<Fault>) {
        self.state().bad_luck = Some((fastrand::Rng::with_seed(seed), faults));
    }

    /// A proxy lets this many more requests through, and answers 429 to the rest.
    pub fn allows(&self, requests: usize) {
        self.state().allowed = requests;
    }

    pub fn works_again(&self) {
        let mut state = self.state();
        state.faults.clear();
        state.bad_luck = None;
    }

    /// Runs `hook` once, during the next request for `what`.
    pub fn when_asked_for(&self, what: &str, hook: impl FnOnce() + Send + 'static) {
        self.state().hooks.insert(what.into(), Box::new(hook));
    }

    /// The paths requested since the last call, with their query strings.
    pub fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.state().requests)
    }

    pub fn user_agents(&self) -> Vec<String> {
        self.state().user_agents.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

struct Request {
    method: String,
    path: String,
    authorization: String,
    user_agent: String,
    body: Vec<u8>,
}

fn serve(mut stream: TcpStream, state: &Mutex<State>) {
    while let Some(request) = read_request(&mut stream) {
        let (asked, hook) = {
            let mut state = state.lock().unwrap();
            let asked = state.asked_for(&request.path);
            state.requests.push(request.path.clone());
            state.user_agents.push(request.user_agent.clone());
            let hook = state.hooks.remove(&asked);
            (asked, hook)
        };
        if let Some(hook) = hook {
            hook();
        }
        if state.lock().unwrap().dead {
            return;
        }
        let fault = state.lock().unwrap().next_fault(&asked);
        let (status, headers, body) = match fault {
            None => {
                let (status, body) = answer(&mut state.lock().unwrap(), &request);
                (status, "", body)
            }
            Some(Fault::Answer(status, headers, body)) => (status, headers, body),
            Some(Fault::Late(time)) => {
                thread::sleep(time);
                let (status, body) = answer(&mut state.lock().unwrap(), &request);
                (status, "", body)
            }
            Some(Fault::Twisted(twist)) => {
                let (status, body) = answer(&mut state.lock().unwrap(), &request);
                (status, "", twist(&body))
            }
            Some(Fault::Reset) => return,
            Some(Fault::HalfABody) => {
                let (_, body) = answer(&mut state.lock().unwrap(), &request);
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                let half = &body.as_bytes()[..body.len() / 2];
                let _ = stream.write_all(&[head.as_bytes(), half].concat());
                return;
            }
            Some(Fault::Hang) => {
                let _ = stream.read(&mut [0]);
                return;
            }
            Some(Fault::EndlessBody) => {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n[");
                while stream.write_all(&[b' '; 4096]).is_ok() {}
                return;
            }
        };
        let head = format!(
            "HTTP/1.1 {status} Whatever\r\nContent-Length: {}\r\nContent-Type: application/json\r\n{headers}\r\n",
            body.len()
        );
        if stream.write_all((head + &body).as_bytes()).is_err() {
            return;
        }
    }
}

impl State {
    fn next_fault(&mut self, asked: &str) -> Option<Fault> {
        let Some(allowed) = self.allowed.checked_sub(1) else {
            return Some(Fault::Answer(429, "", "<html>Slow down</html>".into()));
        };
        self.allowed = allowed;
        if let Some((fault, times)) = self.faults.get_mut(asked) {
            *times = times.checked_sub(1)?;
            return Some(fault.clone());
        }
        let (chance, faults) = self.bad_luck.as_mut()?;
        (chance.u8(0..3) == 0).then(|| faults[chance.usize(0..faults.len())].clone())
    }
}

/// `None` if the client closed the connection.
fn read_request(stream: &mut TcpStream) -> Option<Request> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        bytes.extend(byte);
    }
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut request = httparse::Request::new(&mut headers);
    request.parse(&bytes).ok()?;
    let header = |name: &str| {
        request
            .headers
            .iter()
            .find(|header| header.name.eq_ignore_ascii_case(name))
            .map(|header| String::from_utf8_lossy(header.value).into_owned())
            .unwrap_or_default()
    };
    let mut body = vec![0; header("content-length").parse().unwrap_or(0)];
    stream.read_exact(&mut body).ok()?;
    Some(Request {
        method: request.method?.to_owned(),
        path: request.path?.to_owned(),
        authorization: header("authorization"),
        user_agent: header("user-agent"),
        body,
    })
}

impl State {
    /// The target of a request: the invoice's id as in the path, or `list`; or `later page` for a full
    /// page of the list after the first, if a fault or a hook waits for it.
    fn asked_for(&mut self, path: &str) -> String {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        if let Some((_, id)) = path.split_once("/invoices/") {
            return id.to_owned();
        }
        self.full_pages += usize::from(query.contains("take=500"));
        let later = "later page".to_owned();
        let is_awaited = self.hooks.contains_key(&later) || self.faults.contains_key(&later);
        if self.full_pages > 1 && is_awaited {
            later
        } else {
            "list".to_owned()
        }
    }
}
