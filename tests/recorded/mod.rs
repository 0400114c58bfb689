//! Compares the loopback BTCPay Server with what real ones answered. Recorded on regtest, with the ids of
//! stores, keys and users replaced by words. In `answers-VERSION.jsonl`, `by` says who asks, by the
//! permission of the key; `sends` is the body; a line without `status` only sets up. In the others, a
//! line is an invoice at some stage of its life.

use std::collections::HashMap;

use reqwest::blocking::{Client, Response};
use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, redirect};
use serde_json::{Map, Value, json};

use crate::btcpay::{Btcpay, Invoice, OWNERS_KEY, Payment, Version};

const RECORDED: [(Version, &str); 4] = [
    (Version::UpTo1_13, include_str!("answers-1.13.7.jsonl")),
    (Version::UpTo2_0, include_str!("answers-2.0.8.jsonl")),
    (Version::UpTo2_3, include_str!("answers-2.3.9.jsonl")),
    (Version::From2_4, include_str!("answers-2.4.1.jsonl")),
];

const SETTINGS: &str = "neither the program nor the smoke test reads a store's settings";
const USERS: &str = "neither the program nor the smoke test manages users";

/// What is not compared: request, status, and why.
const LEFT_OUT: [(&str, u16, &str); 17] = [
    ("POST /api/v1/stores", 200, SETTINGS),
    ("GET /api/v1/stores", 403, SETTINGS),
    ("GET /api/v1/stores/STORE", 200, SETTINGS),
    ("GET /api/v1/stores/STORE", 403, SETTINGS),
    ("PUT /api/v1/stores/STORE", 200, SETTINGS),
    ("GET /api/v1/stores/OTHERSTORE", 200, SETTINGS),
    ("PUT /api/v1/stores/OTHERSTORE", 200, SETTINGS),
    ("POST /api/v1/users", 201, USERS),
    ("POST /api/v1/stores/OTHERSTORE/users", 200, USERS),
    ("POST /api/v1/users/USER/lock", 200, USERS),
    ("DELETE /api/v1/stores/OTHERSTORE/users/USER", 200, USERS),
    ("GET /api/v1/users/me", 401, USERS),
    ("GET /api/v1/server/info", 200, "nobody asks for it"),
    ("GET /api/v1/server/info", 500, "nobody asks for it"),
    (
        "GET /api/v1/stores/STORE/invoices?textSearch=o-1",
        200,
        "the program does not search",
    ),
    (
        "POST /api/v1/stores/STORE/invoices",
        400,
        "the store could be paid by Lightning only, which takes no top-up",
    ),
    (
        "GET /api/v1/stores/THIRDSTORE/invoices/85tFgfoEPk3bEZrg55M5Sd",
        200,
        "the moment before an invoice of nothing is settled",
    ),
];

/// Compared by their values; all else by its type.
const WORDS: [&str; 20] = [
    "additionalStatus",
    "amount",
    "archived",
    "code",
    "currency",
    "expirationMinutes",
    "id",
    "label",
    "message",
    "missingPermission",
    "monitoringMinutes",
    "orderId",
    "paidAmount",
    "path",
    "permissions",
    "speedPolicy",
    "status",
    "storeId",
    "type",
    "availableStatusesForManualMarking",
];

#[test]
fn loopback_answers_as_real_servers_did() {
    let mut left_out: Vec<(&str, u16)> = Vec::new();
    for (version, recorded) in RECORDED {
        let mut replay = Replay::of(version);
        for line in lines(recorded) {
            let status = line["status"]
                .as_u64()
                .map(|status| u16::try_from(status).unwrap());
            let known = LEFT_OUT
                .iter()
                .find(|(request, of, _)| line["request"] == *request && status == Some(*of));
            match known {
                Some((request, of, _)) => left_out.push((request, *of)),
                None => replay.line(&line),
            }
        }
    }
    for (request, status, why) in LEFT_OUT {
        assert!(
            left_out.contains(&(request, status)),
            "{request} is left out because {why}, but nobody asked that"
        );
    }
}

/// A store, another and a third; the keys that were made; and what recorded ids stand for.
struct Replay {
    version: Version,
    btcpay: Btcpay,
    client: Client,
    /// By permission, with recorded ids.
    keys: HashMap<String, String>,
    ids: Vec<(String, String)>,
}

impl Replay {
    fn of(version: Version) -> Self {
        let btcpay = Btcpay::start();
        btcpay.is_version(version);
        btcpay.gives(OWNERS_KEY, &["unrestricted"]);
        let mut replay = Self {
            version,
            btcpay,
            client: client(),
            keys: HashMap::new(),
            ids: Vec::new(),
        };
        replay.keys.insert("owner".into(), OWNERS_KEY.into());
        replay.keys.insert("unknown".into(), "0".repeat(40));
        // The longer names first, since they contain the shorter.
        for name in ["OTHERSTORE", "THIRDSTORE", "STORE"] {
            let made = replay.asks("owner", "POST /api/v1/stores", r#"{"name":"shop"}"#);
            let id = text(&body(made), "id");
            let wallet = format!("POST /api/v1/stores/{id}/{}", version.wallet_path());
            assert_eq!(replay.asks("owner", &wallet, "{}").status(), 200);
            replay.ids.push((name.into(), id));
        }
        replay
    }

    fn line(&mut self, line: &Value) {
        for by in line["by"].as_array().unwrap() {
            let by = by.as_str().unwrap();
            let request = text(line, "request");
            let sends = self.with_ids(line["sends"].as_str().unwrap_or_default().into());
            let got = self.asks(by, &request, &sends);
            let place = format!("{:?}: {by}: {request}", self.version);
            if line["status"].is_null() {
                assert_eq!(got.status(), 200, "{place}");
                if let Some(id) = line["id"].as_str() {
                    self.ids.push((id.into(), text(&body(got), "id")));
                }
                continue;
            }
            assert_eq!(got.status().as_u16(), line["status"], "{place}");
            let content_type = got.headers().get(CONTENT_TYPE);
            let content_type = content_type.map(|value| value.to_str().unwrap());
            assert_eq!(json!(content_type), line["content_type"], "{place}");
            let got = body(got);
            if request.starts_with("POST") && request.ends_with("/invoices") {
                let recorded = text(&line["body"], "id");
                self.ids.push((recorded, text(&got, "id")));
            }
            if request == "POST /api/v1/api-keys" {
                let permission = text(&line["body"]["permissions"], 0);
                self.keys.insert(permission, text(&got, "apiKey"));
            }
            let expected: Value =
                serde_json::from_str(&self.with_ids(line["body"].to_string())).unwrap();
            let mut differences = Vec::new();
            match expected.get("first") {
                Some(first) => compare_list(&expected, first, &got, &mut differences),
                None => compare("", &expected, &got, &mut differences),
            }
            assert_eq!(differences, [""; 0], "{place}: {got}");
        }
    }

    /// Sends as `by`, whose key is made at its first request.
    fn asks(&mut self, by: &str, request: &str, sends: &str) -> Response {
        const VIEWER: &str = "btcpay.store.canviewinvoices:STORE";
        const LOCKED: &str = "btcpay.store.canviewinvoices:OTHERSTORE";
        let secret = match by {
            "nobody" => None,
            "locked out" => {
                let secret = self.key(LOCKED);
                self.btcpay.locks_out(&secret);
                Some(secret)
            }
            _ => Some(self.key(by)),
        };
        let (method, path) = request.split_once(' ').unwrap();
        let is_deleted = path.ends_with("/KEY");
        let path = if is_deleted {
            path.replace("KEY", &self.keys[VIEWER])
        } else {
            self.with_ids(path.into())
        };
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let url = format!("{}{path}", self.btcpay.url());
        let mut asked = self.client.request(method, url).body(sends.to_owned());
        if let Some(secret) = secret {
            asked = asked.header("Authorization", format!("token {secret}"));
        }
        let got = asked.send().unwrap();
        if is_deleted && got.status() == 400 {
            self.keys.remove(VIEWER);
        }
        got
    }

    fn key(&mut self, permission: &str) -> String {
        if let Some(secret) = self.keys.get(permission) {
            return secret.clone();
        }
        let secret = format!("key-{}", self.keys.len());
        self.btcpay
            .gives(&secret, &[&self.with_ids(permission.into())]);
        self.keys.insert(permission.into(), secret.clone());
        secret
    }

    fn with_ids(&self, text: String) -> String {
        let ids = self.ids.iter();
        ids.fold(text, |text, (recorded, id)| text.replace(recorded, id))
    }
}

fn client() -> Client {
    let client = Client::builder().no_proxy();
    client.redirect(redirect::Policy::none()).build().unwrap()
}

/// Null if it is empty.
fn body(response: Response) -> Value {
    let body = response.text().unwrap();
    if body.is_empty() {
        return Value::Null;
    }
    serde_json::from_str(&body).unwrap()
}

fn lines(recorded: &str) -> impl Iterator<Item = Value> {
    let lines = recorded.lines();
    lines.map(|line| serde_json::from_str(line).unwrap())
}

fn text(json: &Value, field: impl serde_json::value::Index) -> String {
    json[field].as_str().unwrap().into()
}

fn compare(place: &str, expected: &Value, got: &Value, differences: &mut Vec<String>) {
    let name = place.rsplit('.').next().unwrap();
    match (expected, got) {
        (Value::Object(expected), Value::Object(got)) => {
            compare_keys(place, expected, got, differences);
            for (name, value) in expected {
                let got = got.get(name).unwrap_or(value);
                compare(&format!("{place}.{name}"), value, got, differences);
            }
        }
        _ if WORDS.contains(&name) => {
            if expected != got {
                differences.push(format!("{place} is {got} instead of {expected}"));
            }
        }
        (Value::Array(expected), Value::Array(got)) if expected.len() == got.len() => {
            for (expected, got) in expected.iter().zip(got) {
                compare(place, expected, got, differences);
            }
        }
        (Value::Null, Value::Null)
        | (Value::Bool(_), Value::Bool(_))
        | (Value::String(_), Value::String(_)) => {}
        (Value::Number(expected), Value::Number(got)) if expected.is_i64() == got.is_i64() => {}
        _ => differences.push(format!("{place} is {got}, of another kind than {expected}")),
    }
}

fn compare_keys(
    place: &str,
    expected: &Map<String, Value>,
    got: &Map<String, Value>,
    differences: &mut Vec<String>,
) {
    let only = |these: &Map<String, Value>, those: &Map<String, Value>| {
        let mut names: Vec<&String> = these.keys().collect();
        names.retain(|name| !those.contains_key(*name));
        format!("{names:?}")
    };
    if !expected.keys().eq(got.keys()) {
        differences.push(format!(
            "{place} lacks {} and has {}",
            only(expected, got),
            only(got, expected)
        ));
    }
}

/// A list was recorded by its length, if that counts, and its first invoice. Which is first is chance
/// where several were made within one second; any other is compared by its keys.
fn compare_list(expected: &Value, first: &Value, got: &Value, differences: &mut Vec<String>) {
    let got = got.as_array().unwrap();
    if let Some(length) = expected["…list of"].as_u64()
        && length != got.len() as u64
    {
        differences.push(format!("{} invoices instead of {length}", got.len()));
    }
    match got.iter().find(|invoice| invoice["id"] == first["id"]) {
        Some(same) => compare("", first, same, differences),
        None => compare_keys(
            "",
            first.as_object().unwrap(),
            got[0].as_object().unwrap(),
            differences,
        ),
    }
}

/// An invoice with payments that come when those of the recorded one came, all in BTC: how many
/// minutes it can be paid, how it is made otherwise, and what is paid before and after it expires.
type Life = (
    &'static str,
    i64,
    fn(&mut Value),
    Option<&'static str>,
    Option<&'static str>,
);

const LIVES: [Life; 14] = [
    ("full", 60, |_| {}, Some("0.00021"), None),
    ("partial", 1, |_| {}, Some("0.0001"), None),
    ("over", 60, |_| {}, Some("0.0003"), None),
    ("late_full", 1, |_| {}, None, Some("0.00021")),
    ("late_less", 1, |_| {}, None, Some("0.00001")),
    ("late_more", 1, |_| {}, None, Some("0.0005")),
    (
        "part_then_late_rest",
        1,
        |_| {},
        Some("0.0001"),
        Some("0.00011"),
    ),
    ("unconfirmed", 1, |_| {}, Some("0.00021"), None),
    ("unpaid", 1, |_| {}, None, None),
    ("late_unconfirmed", 1, |_| {}, None, Some("0.00021")),
    (
        "topup",
        60,
        |wanted| drop(wanted.as_object_mut().unwrap().remove("amount")),
        Some("0.00033"),
        None,
    ),
    ("usd", 1, |_| {}, None, None),
    (
        "tolerance",
        1,
        |wanted| wanted["checkout"]["paymentTolerance"] = 10.into(),
        Some("0.00019"),
        None,
    ),
    (
        "zero_conf",
        60,
        |wanted| wanted["checkout"]["speedPolicy"] = "HighSpeed".into(),
        Some("0.00021"),
        None,
    ),
];

#[test]
fn invoices_of_loopback_live_as_real_ones_did() {
    for version in [Version::UpTo2_3, Version::From2_4] {
        let mut replay = Replay::of(version);
        let invoices = "/api/v1/stores/STORE/invoices";
        for (name, minutes, otherwise, ..) in LIVES {
            let mut wanted = json!({
                "amount": "0.00021",
                "currency": "BTC",
                "checkout": {"expirationMinutes": minutes, "monitoringMinutes": 1},
            });
            otherwise(&mut wanted);
            let made = replay.asks("owner", &format!("POST {invoices}"), &wanted.to_string());
            let id = text(&body(made), "id");
            replay.ids.push((format!("={name}="), id));
        }
        let mut stage = String::from("created");
        for line in lines(include_str!("invoice-lives.jsonl")) {
            let name = text(&line, "invoice");
            if line["stage"] != *stage {
                stage = text(&line, "stage");
                reach(&stage, &replay);
            }
            let address = format!("{invoices}/={name}=");
            if let Some(status) = stage.strip_prefix("marked ") {
                let sends = json!({"status": status}).to_string();
                replay.asks("owner", &format!("POST {address}/status"), &sends);
            }
            let got = body(replay.asks("owner", &format!("GET {address}"), ""));
            for (field, value) in line.as_object().unwrap() {
                if !["invoice", "stage"].contains(&field.as_str()) {
                    assert_eq!(got[field], *value, "{version:?}: {name}, {stage}: {field}");
                }
            }
        }
        for line in lines(include_str!("payments-2.4.1.jsonl")) {
            compare_payments(&line, &mut replay);
        }
    }
}

/// Lets happen what happened before this stage.
fn reach(stage: &str, replay: &Replay) {
    let pay = |amount: fn(&Life) -> Option<&'static str>| {
        for life in &LIVES {
            if let Some(amount) = amount(life) {
                let id = replay.with_ids(format!("={}=", life.0));
                replay.btcpay.is_paid(&id, amount);
            }
        }
    };
    match stage {
        "paid, unconfirmed" => pay(|life| life.3),
        "after expiry" | "after monitoring, nothing mined" => replay.btcpay.seconds_pass(61),
        "late payment, unconfirmed" => pay(|life| life.4),
        "1 block" => replay.btcpay.mines(),
        _ => assert!(stage.starts_with("marked "), "{stage}"),
    }
}

/// Exactly, but for what is the chain's: times, which must only be on the same side of the expiry;
/// transactions; addresses; the feerate's and the key's details.
fn compare_payments(line: &Value, replay: &mut Replay) {
    let name = text(line, "invoice");
    let address = format!("/api/v1/stores/STORE/invoices/={name}=");
    let invoice = body(replay.asks("owner", &format!("GET {address}"), ""));
    let got = body(replay.asks("owner", &format!("GET {address}/payment-methods"), ""));
    let place = format!("{:?}: {name}: {got}", replay.version);
    let expected = &line["payment_methods"];
    let mut differences = Vec::new();
    compare("", expected, &got, &mut differences);
    // The ids of payments are the chain's.
    differences.retain(|difference| !difference.starts_with(".payments.id "));
    assert_eq!(differences, [""; 0], "{place}");
    let (expected, got) = (&expected[0], &got[0]);
    for field in [
        "paymentMethodId",
        "currency",
        "rate",
        "amount",
        "due",
        "totalPaid",
        "paymentMethodPaid",
        "paymentMethodFee",
    ] {
        assert_eq!(got[field], expected[field], "{place}: {field}");
    }
    let asked = |of: &Value| text(of, "paymentLink").replace(&text(of, "destination"), "");
    assert_eq!(asked(got), asked(expected), "{place}");
    let payments = |of: &Value, expires: &Value| -> Vec<Value> {
        let payments = of["payments"].as_array().unwrap().iter();
        payments
            .map(|payment| {
                let is_late = payment["receivedDate"].as_i64() > expires.as_i64();
                json!([payment["value"], payment["fee"], payment["status"], is_late])
            })
            .collect()
    };
    assert_eq!(
        payments(got, &invoice["expirationTime"]),
        payments(expected, &line["expirationTime"]),
        "{place}"
    );
}

#[test]
fn payments_are_as_a_test_sets_them() {
    let mut replay = Replay::of(Version::From2_4);
    let mut invoice = Invoice::new("paid", "Invalid", "0.00021");
    invoice.store_id = replay.with_ids("STORE".into());
    let mut late = Payment::new("0.00011", invoice.created + 901);
    late.fee = "0.0001".parse().unwrap();
    late.status = "Settled".into();
    invoice.payments = vec![Payment::new("0.0001", invoice.created + 5), late];
    let created = invoice.created;
    replay.btcpay.add(invoice);
    let got = replay.asks(
        "owner",
        "GET /api/v1/stores/STORE/invoices/paid/payment-methods",
        "",
    );
    let got = body(got);
    let payment = |place: usize| {
        let payment = &got[0]["payments"][place];
        ["receivedDate", "value", "fee", "status"].map(|field| payment[field].clone())
    };
    assert_eq!(
        json!(payment(0)),
        json!([created + 5, "0.0001", "0", "Processing"])
    );
    assert_eq!(
        json!(payment(1)),
        json!([created + 901, "0.00011", "0.0001", "Settled"])
    );
}

#[test]
fn old_unpaid_invoices_vanish_since_2_3() {
    for version in Version::ALL {
        let mut replay = Replay::of(version);
        let store = replay.with_ids("STORE".into());
        for (id, status, additional, age) in [
            ("unpaid", "Expired", "None", 190),
            ("younger", "Expired", "None", 170),
            ("late", "Expired", "PaidLate", 190),
            ("part", "Expired", "PaidPartial", 190),
            ("invalid", "Invalid", "None", 190),
            ("settled", "Settled", "None", 190),
        ] {
            let mut invoice = Invoice::new(id, status, "0.00021");
            invoice.store_id.clone_from(&store);
            invoice.additional = additional.into();
            invoice.created -= age * 86_400;
            replay.btcpay.add(invoice);
        }
        let list = body(replay.asks("owner", "GET /api/v1/stores/STORE/invoices", ""));
        let is_gone = replay
            .asks("owner", "GET /api/v1/stores/STORE/invoices/unpaid", "")
            .status()
            != 200;
        assert_eq!(is_gone, version >= Version::UpTo2_3, "{version:?}");
        let kept = 6 - usize::from(is_gone);
        assert_eq!(list.as_array().unwrap().len(), kept, "{version:?}");
    }
}

#[test]
fn order_within_a_second_differs_from_request_to_request() {
    let mut replay = Replay::of(Version::From2_4);
    let store = replay.with_ids("STORE".into());
    let first = Invoice::new("", "New", "0.00021");
    for place in 0..60 {
        let mut invoice = first.clone();
        invoice.id = place.to_string();
        invoice.store_id.clone_from(&store);
        invoice.created += place / 20;
        replay.btcpay.add(invoice);
    }
    let mut shown: Vec<String> = Vec::new();
    for skip in (0..60).step_by(7) {
        let page = format!("GET /api/v1/stores/STORE/invoices?take=7&skip={skip}");
        let page = body(replay.asks("owner", &page, ""));
        let times = page.as_array().unwrap().iter();
        assert!(
            times
                .clone()
                .rev()
                .map(|of| of["createdTime"].as_i64())
                .is_sorted()
        );
        shown.extend(times.map(|of| text(of, "id")));
    }
    assert_eq!(shown.len(), 60);
    shown.sort();
    shown.dedup();
    assert!(
        shown.len() < 60,
        "a page's edge hides some and repeats others"
    );
}

#[test]
fn queries_and_words_are_read_as_seen() {
    for version in Version::ALL {
        let mut replay = Replay::of(version);
        let invoices = "/api/v1/stores/STORE/invoices";
        let wanted = r#"{"amount":"1","currency":"BTC","metadata":{"orderId":"A b"}}"#;
        let made = replay.asks("owner", &format!("POST {invoices}"), wanted);
        let created = body(made)["createdTime"].as_i64().unwrap();
        for (query, found) in [
            ("orderId=A%20b", 1),
            ("orderId=A+b&orderId=c", 1),
            ("orderId=a%20b", 0),
            ("orderId=A", 0),
            ("orderId=A%20b%20", 0),
            ("orderId=", 0),
            (&format!("startDate={created}&endDate={created}"), 1),
            (&format!("startDate={}", created + 1), 0),
            (&format!("endDate={}", created - 1), 0),
            ("status=nEw&status=Settled", 1),
            ("status=New&status=Foo", 1),
            ("status=Settled&status=Foo", 0),
            ("status=Foo", usize::from(version > Version::UpTo1_13)),
        ] {
            let list = replay.asks("owner", &format!("GET {invoices}?{query}"), "");
            let list = body(list);
            assert_eq!(
                list.as_array().unwrap().len(),
                found,
                "{version:?}: {query}"
            );
        }
        let broken = replay.asks("owner", &format!("GET {invoices}?status="), "");
        assert_eq!(broken.status(), 500);
    }
}

#[test]
fn archived_invoice_answers_by_its_id_as_ever() {
    for version in Version::ALL {
        let mut replay = Replay::of(version);
        let wanted = r#"{"amount":"1","currency":"BTC"}"#;
        let made = replay.asks("owner", "POST /api/v1/stores/STORE/invoices", wanted);
        let path = format!("/api/v1/stores/STORE/invoices/{}", text(&body(made), "id"));
        replay.asks("owner", &format!("DELETE {path}"), "");
        let got = body(replay.asks("owner", &format!("GET {path}"), ""));
        assert_eq!(
            (&got["archived"], &got["status"]),
            (&json!(true), &json!("New"))
        );
    }
}

#[test]
fn key_is_a_token_and_since_2_0_6_a_bearer() {
    for version in Version::ALL {
        let replay = Replay::of(version);
        let status = |scheme: &str| {
            let url = format!("{}/api/v1/api-keys/current", replay.btcpay.url());
            let request = replay.client.get(url);
            let request = request.header("Authorization", format!("{scheme} {OWNERS_KEY}"));
            request.send().unwrap().status().as_u16()
        };
        let bearer = if version > Version::UpTo1_13 {
            200
        } else {
            401
        };
        let expected = [200, bearer, 401];
        assert_eq!(
            ["token", "Bearer", "Basic"].map(status),
            expected,
            "{version:?}"
        );
    }
}

#[test]
fn deleted_store_answers_on_since_2_3() {
    for version in Version::ALL {
        let mut replay = Replay::of(version);
        replay.asks("owner", "DELETE /api/v1/stores/STORE", "");
        let viewer = "btcpay.store.canviewinvoices:STORE";
        let list = replay.asks(viewer, "GET /api/v1/stores/STORE/invoices", "");
        let expected = if version >= Version::UpTo2_3 {
            200
        } else {
            403
        };
        assert_eq!(list.status(), expected, "{version:?}");
    }
}
