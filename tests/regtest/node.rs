//! A bitcoind on regtest, by its JSON-RPC: pays invoices and mines blocks.

use reqwest::blocking::Client;
use serde_json::{Value, json};

/// The reward of a block can be spent a hundred blocks later.
const UNTIL_FUNDED: u32 = 101;

/// A wallet of its own, with money in it.
pub struct Node {
    url: String,
    wallet: String,
    address: String,
    client: Client,
}

impl Node {
    /// `url` holds the user and the password.
    pub fn at(url: &str) -> Self {
        let mut node = Self {
            url: url.trim_end_matches('/').into(),
            wallet: format!("reconcile-{:016x}", fastrand::u64(..)),
            address: String::new(),
            client: Client::builder().no_proxy().build().unwrap(),
        };
        node.call("", "createwallet", &json!([node.wallet]));
        let address = node.call_wallet("getnewaddress", &json!([]));
        node.address = address.as_str().unwrap().into();
        node.mine(UNTIL_FUNDED);
        node
    }

    /// `amount` is in BTC.
    pub fn pay(&self, address: &str, amount: &str) {
        self.call_wallet("sendtoaddress", &json!([address, amount]));
    }

    pub fn mine(&self, blocks: u32) {
        self.call("", "generatetoaddress", &json!([blocks, self.address]));
    }

    fn call_wallet(&self, method: &str, params: &Value) -> Value {
        self.call(&format!("/wallet/{}", self.wallet), method, params)
    }

    fn call(&self, path: &str, method: &str, params: &Value) -> Value {
        let call = json!({"jsonrpc": "1.0", "id": "reconcile", "method": method, "params": params});
        let request = self.client.post(format!("{}{path}", self.url));
        let response = request
            .header("Content-Type", "application/json")
            .body(call.to_string())
            .send()
            .map_err(reqwest::Error::without_url)
            .unwrap();
        let status = response.status();
        let body: Value = serde_json::from_str(&response.text().unwrap()).unwrap_or_default();
        assert!(status.is_success(), "{method}: {status}: {}", body["error"]);
        body["result"].clone()
    }
}

/// Also if the test fails halfway.
impl Drop for Node {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.call_wallet("unloadwallet", &json!([]));
        }
    }
}
