//! The node behind the loopback BTCPay Server: as much of bitcoind's JSON-RPC as it takes to pay an
//! invoice on regtest.

use std::io::{BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};

use super::{Payment, Request, State, read_request};

/// Serves until the process ends. Returns the address, with the user and the password.
pub fn start(state: &Arc<Mutex<State>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let state = Arc::clone(state);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let state = Arc::clone(&state);
            thread::spawn(move || stream.map(|stream| serve(stream, &state)));
        }
    });
    format!("http://regtest:regtest@{address}/")
}

fn serve(stream: TcpStream, state: &Mutex<State>) {
    let mut incoming = BufReader::new(stream);
    while let Some(request) = read_request(&mut incoming) {
        let (status, body) = answer(&mut state.lock().unwrap(), &request);
        let head = format!(
            "HTTP/1.1 {status} Whatever\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        if incoming
            .get_mut()
            .write_all((head + &body).as_bytes())
            .is_err()
        {
            return;
        }
    }
}

fn answer(state: &mut State, request: &Request) -> (u16, String) {
    // regtest:regtest
    if request.authorization != "Basic cmVndGVzdDpyZWd0ZXN0" {
        return (401, String::new());
    }
    let call: Value = serde_json::from_slice(&request.body).unwrap();
    let done = state
        .node
        .call(&request.path, &call)
        .and_then(|done| match done {
            Done::Answer(answer) => Ok(answer),
            Done::Sent(address, amount) => state.pay(&address, &amount),
            Done::Mined(blocks) => {
                state.confirm_payments();
                Ok((0..blocks).map(|_| hash()).collect())
            }
        });
    let (status, result, error) = match done {
        Ok(result) => (200, result, Value::Null),
        Err((code, message)) => (500, Value::Null, json!({"code": code, "message": message})),
    };
    (
        status,
        json!({"result": result, "error": error, "id": call["id"]}).to_string(),
    )
}

/// Its code and what it says.
type Failure = (i64, String);

enum Done {
    Answer(Value),
    Sent(String, String),
    Mined(u64),
}

#[derive(Default)]
pub struct Node {
    wallets: Vec<String>,
    blocks: u64,
}

impl Node {
    fn call(&mut self, path: &str, call: &Value) -> Result<Done, Failure> {
        let text = |place: usize| {
            call["params"][place]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        };
        let method = call["method"].as_str().unwrap_or_default();
        if method == "createwallet" {
            self.wallets.push(text(0));
            return Ok(Done::Answer(json!({"name": text(0)})));
        }
        let wallet = path.strip_prefix("/wallet/").unwrap_or_default();
        if method != "generatetoaddress" && !self.wallets.iter().any(|known| known == wallet) {
            let why = "Requested wallet does not exist or is not loaded";
            return Err((-18, why.into()));
        }
        match method {
            "getnewaddress" => Ok(Done::Answer("bcrt1qwallet".into())),
            "generatetoaddress" => {
                let blocks = call["params"][0].as_u64().unwrap();
                self.blocks += blocks;
                Ok(Done::Mined(blocks))
            }
            // A block's reward can be spent a hundred blocks later.
            "sendtoaddress" if self.blocks <= 100 => Err((-6, "Insufficient funds".into())),
            "sendtoaddress" => Ok(Done::Sent(text(0), text(1))),
            "unloadwallet" => {
                self.wallets.retain(|known| known != wallet);
                Ok(Done::Answer(json!({})))
            }
            _ => Err((-32601, "Method not found".into())),
        }
    }
}

impl State {
    /// The transaction, which waits for a block.
    pub fn pay(&mut self, address: &str, amount: &str) -> Result<Value, Failure> {
        let (now, version) = (self.now(), self.version);
        let mut invoices = self.invoices.iter_mut();
        let invoice = invoices
            .find(|invoice| invoice.destination() == address)
            .ok_or_else(|| (-5, format!("Invalid address: {address}")))?;
        invoice.lives_on(now, version);
        let payment = Payment::new(amount, now);
        let transaction = payment.id.trim_end_matches("-0").into();
        invoice.receives(payment, version);
        invoice.lives_on(now, version);
        Ok(transaction)
    }

    /// By a block.
    pub fn confirm_payments(&mut self) {
        let (now, version) = (self.now(), self.version);
        for invoice in &mut self.invoices {
            invoice.lives_on(now, version);
            for payment in &mut invoice.payments {
                payment.status = "Settled".into();
            }
            invoice.lives_on(now, version);
        }
    }
}

fn hash() -> String {
    format!("{:064x}", fastrand::u128(..))
}
