//! A BTCPay Server on loopback that answers as real ones were seen to (see tests/recorded). Shared by
//! the tests and the demo.

#![allow(dead_code, reason = "the demo uses only a part")]

mod bitcoind;
mod greenfield;
mod invoice;
mod list;
mod version;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use greenfield::{Key, Reply, Store, answer};

pub use invoice::{Invoice, Payment};
pub use version::Version;

/// An unrestricted key. It exists once a test adds it with [`Btcpay::gives`].
pub const OWNERS_KEY: &str = "1f2e3d4c5b6a79880a1b2c3d4e5f60718293a4b5";
pub const STORE: &str = "9CiNzKoANXxmk5ayZngSXrHTiVvvgCrwrpFQd4m2K776";
pub const KEY: &str = "6f3a1c9e5b7d2f4a8c0e1b3d5f7a9c2e4b6d8f0a";

pub struct Btcpay {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
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
    node: bitcoind::Node,
    /// What the order of invoices of the same second depends on.
    chance: fastrand::Rng,
    /// How many seconds the server's clock is ahead, and how many each look at an invoice adds.
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
                is_deleted: false,
            }],
            keys: vec![Key {
                secret: KEY.into(),
                label: "reconcile".into(),
                permissions: vec![format!("{}:{STORE}", greenfield::VIEW_INVOICES)],
                is_locked_out: false,
            }],
            admin: None,
            node: bitcoind::Node::default(),
            chance: fastrand::Rng::with_seed(0),
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
        self.change(id, |invoice| assert!(invoice.mark(status)));
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
            label: "reconcile".into(),
            permissions: permissions.iter().map(ToString::to_string).collect(),
            is_locked_out: false,
        });
    }

    /// The user of the key may no longer sign in.
    pub fn locks_out(&self, key: &str) {
        let mut state = self.state();
        let mut keys = state.keys.iter_mut();
        keys.find(|known| known.secret == key)
            .unwrap()
            .is_locked_out = true;
    }

    /// Starts its node, to be paid by bitcoind's JSON-RPC. Returns the address of that.
    pub fn bitcoind(&self) -> String {
        bitcoind::start(&self.state)
    }

    /// The invoice is paid this, in BTC, by a transaction that waits for a block.
    pub fn is_paid(&self, id: &str, amount: &str) {
        let mut state = self.state();
        let mut invoices = state.invoices.iter();
        let invoice = invoices.find(|invoice| invoice.id == id).unwrap();
        let address = invoice.destination();
        state.pay(&address, amount).unwrap();
    }

    /// A block confirms all payments.
    pub fn mines(&self) {
        self.state().confirm_payments();
    }

    /// Sets the server's clock on.
    pub fn seconds_pass(&self, seconds: i64) {
        self.state().ahead += seconds;
    }

    /// Makes the server a fresh one that is still starting and has no users, stores or keys.
    pub fn is_new(&self) {
        let mut state = self.state();
        state.stores.clear();
        state.keys.clear();
        state.starting = 2;
    }

    /// Each look at an invoice sets the server's clock on by a minute, so that who waits for it to
    /// expire does not wait long.
    pub fn is_in_a_hurry(&self) {
        self.state().hurry = 60;
    }

    /// What the server holds, except archived invoices, which cannot be deleted.
    pub fn inventory(&self) -> String {
        let state = self.state();
        format!(
            "{} stores, {} keys, {} invoices",
            state
                .stores
                .iter()
                .filter(|store| !store.is_deleted)
                .count(),
            state.keys.len(),
            state
                .invoices
                .iter()
                .filter(|invoice| {
                    let mut stores = state.stores.iter();
                    let is_here =
                        stores.any(|store| store.id == invoice.store_id && !store.is_deleted);
                    is_here && !invoice.archived
                })
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

impl Drop for Btcpay {
    /// Closes the port: a test process starts hundreds of servers.
    fn drop(&mut self) {
        if let Ok(mut state) = self.state.lock() {
            state.dead = true;
        }
        // Wakes the listener.
        let _ = TcpStream::connect(self.address);
    }
}

struct Request {
    method: String,
    path: String,
    authorization: String,
    user_agent: String,
    body: Vec<u8>,
}

fn serve(stream: TcpStream, state: &Mutex<State>) {
    let mut incoming = BufReader::new(stream);
    while let Some(request) = read_request(&mut incoming) {
        let stream = incoming.get_mut();
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
        let correct = || answer(&mut state.lock().unwrap(), &request);
        let reply = match fault {
            None => correct(),
            Some(Fault::Answer(status, headers, body)) => Reply {
                status,
                headers,
                body,
            },
            Some(Fault::Late(time)) => {
                thread::sleep(time);
                correct()
            }
            Some(Fault::Twisted(twist)) => {
                let reply = correct();
                Reply {
                    body: twist(&reply.body),
                    ..reply
                }
            }
            Some(Fault::Reset) => return,
            Some(Fault::HalfABody) => {
                let body = correct().body;
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
        let Reply {
            status,
            headers,
            body,
        } = reply;
        let head = format!(
            "HTTP/1.1 {status} Whatever\r\nContent-Length: {}\r\n{headers}\r\n",
            body.len()
        );
        if stream.write_all((head + &body).as_bytes()).is_err() {
            return;
        }
    }
}

fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(now.as_secs()).unwrap()
}

impl State {
    fn now(&self) -> i64 {
        now() + self.ahead
    }

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
fn read_request(stream: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        if stream.read_until(b'\n', &mut bytes).ok()? == 0 {
            return None;
        }
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
    /// The target of a request: the invoice's id as in the path, with what follows it; `key` for the
    /// key itself; or `list`; or `later page` for a full page of the list after the first, if a fault
    /// or a hook waits for it.
    fn asked_for(&mut self, path: &str) -> String {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        if let Some((_, id)) = path.split_once("/invoices/") {
            return id.to_owned();
        }
        if path.ends_with("/api-keys/current") {
            return "key".to_owned();
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
