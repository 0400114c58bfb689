//! BTCPay Server's JSON: which fields count, and what is refused.

use std::borrow::Cow;
use std::fmt;

use anyhow::{Context, Result, bail, ensure};
use reqwest::StatusCode;
use rust_decimal::Decimal;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::invoice::{AdditionalStatus, Answer, BtcpayInvoiceId, BtcpayStatus, Money, Payment};

/// The fields that count; every release adds others. An amount may be a string or a number.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct InvoiceJson<'body> {
    #[serde(borrow)]
    id: Cow<'body, str>,
    #[serde(borrow, default)]
    store_id: Option<Cow<'body, str>>,
    #[serde(borrow)]
    status: Cow<'body, str>,
    #[serde(borrow, default)]
    additional_status: Option<Cow<'body, str>>,
    #[serde(borrow)]
    currency: Cow<'body, str>,
    #[serde(borrow, default, rename = "type")]
    kind: Option<Cow<'body, str>>,
    #[serde(borrow, default)]
    amount: Option<&'body RawValue>,
    #[serde(borrow, default)]
    paid_amount: Option<&'body RawValue>,
    #[serde(borrow, default)]
    created_time: Option<&'body RawValue>,
    #[serde(borrow, default)]
    expiration_time: Option<&'body RawValue>,
    #[serde(borrow, default)]
    metadata: Option<&'body RawValue>,
}

/// The merchant's part of an invoice, which may hold anything.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MetadataJson<'body> {
    #[serde(borrow)]
    order_id: Cow<'body, str>,
}

/// An invoice that BTCPay Server showed.
pub struct Listed {
    pub id: BtcpayInvoiceId,
    /// Unix seconds, by BTCPay Server's clock.
    pub created: Option<i64>,
    /// The merchant's own id of it.
    pub order_id: Option<String>,
    pub answer: Answer,
}

/// Invoices that BTCPay Server showed, newest first.
pub struct Page {
    /// How many there were, understood or not.
    pub count: usize,
    /// When the last of them was created, in Unix seconds by BTCPay Server's clock.
    pub oldest: Option<i64>,
    pub invoices: Vec<Listed>,
}

/// Nothing that this server says of an invoice can be trusted to be about the store.
#[derive(Debug)]
pub struct TooOld;

impl std::error::Error for TooOld {}

impl fmt::Display for TooOld {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(
            "BTCPay Server does not say which store an invoice belongs to (storeId), so it is older than \
             1.2.0. Update it to 1.2.0 or newer",
        )
    }
}

/// The invoice in `body`.
///
/// # Errors
///
/// It is about another invoice or store, or a field that counts cannot be understood.
pub fn parse(body: &[u8], id: &BtcpayInvoiceId, store_id: &str) -> Result<Listed> {
    let json: InvoiceJson =
        serde_json::from_slice(body).context("BTCPay Server's response is not an invoice")?;
    ensure!(
        *json.id == *id.0,
        "BTCPay Server answered about another invoice: {}",
        json.id
    );
    json.listed(store_id)
}

/// # Errors
///
/// It is not a list.
pub fn parse_page(body: &[u8], store_id: &str) -> Result<Page> {
    let rows: Vec<&RawValue> =
        serde_json::from_slice(body).context("BTCPay Server's response is not a list")?;
    let mut page = Page {
        count: rows.len(),
        oldest: None,
        invoices: Vec::with_capacity(rows.len()),
    };
    for row in rows {
        let Ok(json) = serde_json::from_str::<InvoiceJson>(row.get()) else {
            continue;
        };
        page.oldest = json.created().or(page.oldest);
        page.invoices.extend(json.listed(store_id));
    }
    Ok(page)
}

impl InvoiceJson<'_> {
    fn created(&self) -> Option<i64> {
        serde_json::from_str(self.created_time?.get()).ok()
    }

    fn listed(self, store_id: &str) -> Result<Listed> {
        let metadata = self.metadata.map(RawValue::get);
        let metadata = metadata.and_then(|json| serde_json::from_str::<MetadataJson>(json).ok());
        Ok(Listed {
            id: BtcpayInvoiceId(self.id.as_ref().into()),
            created: self.created(),
            order_id: metadata.map(|metadata| metadata.order_id.into_owned()),
            answer: self.answer(store_id)?,
        })
    }

    fn answer(self, store_id: &str) -> Result<Answer> {
        let of_store = self.store_id.ok_or(TooOld)?;
        ensure!(
            of_store == store_id,
            "BTCPay Server answered about an invoice of another store: {of_store}"
        );
        let read = |json: Option<&RawValue>| json.map(decimal).transpose();
        let amount = read(self.amount).context("amount")?;
        let paid = read(self.paid_amount).context("paidAmount")?;
        // Made without an amount: BTCPay Server then calls so what was paid.
        let (amount, paid) = match self.kind.as_deref() {
            Some("TopUp") => (None, paid.or(amount)),
            Some(_) | None => (amount, paid),
        };
        Ok(Answer {
            status: status(&self.status)?,
            additional: additional(self.additional_status.as_deref()),
            money: Money {
                amount,
                paid,
                currency: self.currency.into_owned(),
            },
            expires: self
                .expiration_time
                .and_then(|json| serde_json::from_str(json.get()).ok()),
        })
    }
}

/// A way in which an invoice can be paid.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MethodJson<'body> {
    #[serde(borrow)]
    currency: Cow<'body, str>,
    #[serde(borrow)]
    rate: &'body RawValue,
    #[serde(borrow, default)]
    payments: Vec<PaymentJson<'body>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PaymentJson<'body> {
    received_date: i64,
    #[serde(borrow)]
    value: &'body RawValue,
    #[serde(borrow)]
    fee: &'body RawValue,
    #[serde(borrow)]
    status: Cow<'body, str>,
}

/// The payments in the answer about an invoice's payment methods, oldest first.
///
/// # Errors
///
/// A field that counts cannot be understood.
pub fn parse_payments(body: &[u8]) -> Result<Vec<Payment>> {
    let methods: Vec<MethodJson> = serde_json::from_slice(body)
        .context("BTCPay Server's response is not a list of payment methods")?;
    let mut payments = Vec::new();
    for method in methods {
        for payment in method.payments {
            let confirmed = match &*payment.status {
                "Settled" => true,
                "Processing" => false,
                // Taken back.
                "Invalid" => continue,
                unknown => bail!(
                    "BTCPay Server calls a payment '{unknown}', which this version of reconcile does \
                     not know"
                ),
            };
            payments.push(Payment {
                received: payment.received_date,
                amount: decimal(payment.value).context("value")?,
                fee: decimal(payment.fee).context("fee")?,
                currency: method.currency.to_string(),
                rate: decimal(method.rate).context("rate")?,
                confirmed,
            });
        }
    }
    payments.sort_by_key(|payment| payment.received);
    Ok(payments)
}

/// `Complete` is what old servers call Settled.
fn status(word: &str) -> Result<BtcpayStatus> {
    Ok(match word {
        "New" => BtcpayStatus::New,
        "Processing" => BtcpayStatus::Processing,
        "Settled" | "Complete" => BtcpayStatus::Settled,
        "Expired" => BtcpayStatus::Expired,
        "Invalid" => BtcpayStatus::Invalid,
        unknown => bail!(
            "BTCPay Server says '{unknown}', a status that this version of reconcile does not know. \
             Update reconcile"
        ),
    })
}

fn additional(word: Option<&str>) -> AdditionalStatus {
    match word {
        None | Some("None") => AdditionalStatus::None,
        Some("PaidLate") => AdditionalStatus::PaidLate,
        Some("PaidPartial") => AdditionalStatus::PaidPartial,
        Some("PaidOver") => AdditionalStatus::PaidOver,
        Some("Marked") => AdditionalStatus::Marked,
        Some("Invalid") => AdditionalStatus::Invalid,
        Some(_) => AdditionalStatus::Unknown,
    }
}

/// A decimal from 0 on, given as a JSON string or number, exactly as written.
fn decimal(json: &RawValue) -> Result<Decimal> {
    let text = match json.get().strip_prefix('"') {
        Some(_) => serde_json::from_str::<Cow<str>>(json.get())?,
        None => Cow::Borrowed(json.get()),
    };
    let (digits, exponent) = text.split_once(['e', 'E']).unwrap_or((&text, "0"));
    let exact = Decimal::from_str_exact(digits)
        .and_then(|_| Decimal::from_scientific(&format!("{digits}e{exponent}")));
    let exact = exact
        .with_context(|| format!("'{text}' is not a decimal number that can be read exactly"))?;
    ensure!(exact >= Decimal::ZERO, "'{text}' is negative");
    Ok(exact)
}

/// What BTCPay Server itself says when it refuses. What stands in front of it says other things.
pub enum Refusal {
    /// Of the key, and why.
    Unauthenticated(String),
    /// Of the key; since 2.4 also of any invoice or store that is not there.
    MissingPermission,
    InvoiceNotFound,
}

/// None if `body` is not BTCPay Server's.
pub fn refusal(status: StatusCode, body: &[u8]) -> Option<Refusal> {
    #[derive(Deserialize)]
    struct ErrorJson<'body> {
        #[serde(borrow)]
        code: Cow<'body, str>,
        #[serde(borrow, default)]
        message: Cow<'body, str>,
    }
    let json: ErrorJson = serde_json::from_slice(body).ok()?;
    match (status, &*json.code) {
        (StatusCode::UNAUTHORIZED, "unauthenticated") => {
            Some(Refusal::Unauthenticated(json.message.into_owned()))
        }
        (StatusCode::FORBIDDEN, "missing-permission") => Some(Refusal::MissingPermission),
        (StatusCode::NOT_FOUND, "invoice-not-found") => Some(Refusal::InvoiceNotFound),
        _ => None,
    }
}

/// Whether `body` is a list, whatever is on it.
pub fn is_list(body: &[u8]) -> bool {
    serde_json::from_slice::<Vec<IgnoredAny>>(body).is_ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn asked() -> BtcpayInvoiceId {
        BtcpayInvoiceId("there".into())
    }

    fn answer(fields: &str) -> Result<Answer> {
        let body = format!(
            r#"{{"id":"there","storeId":"shop","currency":"BTC","status":"Settled",{fields}}}"#
        );
        parse(body.as_bytes(), &asked(), "shop").map(|listed| listed.answer)
    }

    fn amount(json: &str) -> Option<Decimal> {
        answer(&format!(r#""amount":{json}"#)).unwrap().money.amount
    }

    #[test]
    fn amounts_are_exact_as_string_and_number() {
        let sats = |text: &str| Some(text.parse::<Decimal>().unwrap());
        for json in [
            r#""0.00021""#,
            r#""0.000210000""#,
            "0.00021",
            "2.1e-4",
            r#""2.1E-4""#,
            "21E-5",
        ] {
            assert_eq!(amount(json), sats("0.00021"), "{json}");
        }
        assert_eq!(amount("1e3"), sats("1000"));
        assert_eq!(
            amount(r#""0.1000000000000000000000000001""#),
            sats("0.1000000000000000000000000001")
        );
        assert_eq!(amount("null"), None);
    }

    #[test]
    fn top_up_has_no_amount_but_what_was_paid() {
        let read = |fields: &str| {
            let money = answer(fields).unwrap().money;
            (money.amount, money.paid)
        };
        let some = |text: &str| Some(text.parse::<Decimal>().unwrap());
        let top_up = r#""type":"TopUp","amount":"0.000330""#;
        assert_eq!(read(top_up), (None, some("0.00033")));
        let with_paid = format!(r#"{top_up},"paidAmount":"0.0002""#);
        assert_eq!(read(&with_paid), (None, some("0.0002")));
        for kind in [r#""type":"Standard","#, r#""type":null,"#, ""] {
            let standard = format!(r#"{kind}"amount":"0.00033""#);
            assert_eq!(read(&standard), (some("0.00033"), None));
        }
    }

    #[test]
    fn inexact_amount_is_refused() {
        for json in [
            r#""""#,
            r#""abc""#,
            r#""1,5""#,
            r#""NaN""#,
            "true",
            "[1]",
            "{}",
            r#""0.00021000000000000000000000000001""#,
            "1e99",
            "1e-99",
            r#""1e""#,
            r#""1e1e1""#,
            r#""\ud800""#,
            r#""-0.00021""#,
            "-1",
            "-1e-8",
        ] {
            assert!(answer(&format!(r#""amount":{json}"#)).is_err(), "{json}");
        }
    }

    #[test]
    fn only_known_status_words_are_accepted() {
        let status_of = |word: &str| {
            let body =
                format!(r#"{{"id":"there","storeId":"shop","currency":"BTC","status":"{word}"}}"#);
            parse(body.as_bytes(), &asked(), "shop").map(|listed| listed.answer.status)
        };
        for (word, status) in [
            ("New", BtcpayStatus::New),
            ("Processing", BtcpayStatus::Processing),
            ("Settled", BtcpayStatus::Settled),
            ("Complete", BtcpayStatus::Settled),
            ("Expired", BtcpayStatus::Expired),
            ("Invalid", BtcpayStatus::Invalid),
        ] {
            assert_eq!(status_of(word).unwrap(), status);
        }
        for word in [
            "",
            "settled",
            "SETTLED",
            " Settled",
            "Paid",
            "Confirmed",
            "complete",
        ] {
            assert!(status_of(word).is_err(), "{word}");
        }
    }

    #[test]
    fn answers_about_other_invoices_are_refused() {
        for body in [
            "",
            "null",
            "[]",
            "{}",
            "<html></html>",
            r#"{"id":"other","storeId":"shop","currency":"BTC","status":"Settled"}"#,
            r#"{"id":"there","storeId":"other","currency":"BTC","status":"Settled"}"#,
            r#"{"storeId":"shop","currency":"BTC","status":"Settled"}"#,
            r#"{"id":"there","currency":"BTC","status":"Settled"}"#,
            r#"{"id":"there","storeId":"shop","currency":"BTC"}"#,
            r#"{"id":"there","storeId":"shop","currency":"BTC","status":null}"#,
            r#"{"id":"there","storeId":"shop","currency":"BTC","status":5}"#,
            r#"{"id":"there","storeId":"shop","currency":"BTC","status":"New","status":"Settled"}"#,
            r#"{"id":"there","storeId":"shop","currency":"BTC","status":"Settled"} trailing"#,
        ] {
            assert!(parse(body.as_bytes(), &asked(), "shop").is_err(), "{body}");
        }
    }

    fn any_json() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("null".to_string()),
            any::<bool>().prop_map(|b| b.to_string()),
            any::<f64>().prop_map(|n| n.to_string()),
            any::<i64>().prop_map(|n| n.to_string()),
            "-?[0-9]{0,40}(\\.[0-9]{0,40})?([eE][+-]?[0-9]{0,12})?",
            any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap()),
            r#""(\\\\u[0-9a-f]{4}|[0-9.eE+-]){0,9}""#,
            r#""(New|Settled|Complete|PaidLate|there|shop|BTC)""#,
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            let key =
                r#""(id|storeId|status|additionalStatus|currency|amount|paidAmount|metadata)""#;
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6)
                    .prop_map(|items| format!("[{}]", items.join(","))),
                prop::collection::vec((key, inner), 0..9).prop_map(|fields| {
                    let fields: Vec<_> = fields
                        .into_iter()
                        .map(|(key, value)| format!("{key}:{value}"))
                        .collect();
                    format!("{{{}}}", fields.join(","))
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_json_causes_a_panic(json in any_json()) {
            for body in [json.clone(), format!("[{json}]")] {
                let _ = parse(body.as_bytes(), &asked(), "shop");
                let _ = parse_page(body.as_bytes(), "shop");
                let _ = is_list(body.as_bytes());
                let _ = refusal(StatusCode::FORBIDDEN, body.as_bytes());
            }
        }

        #[test]
        fn no_bytes_cause_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(parse(&bytes, &asked(), "shop").is_err());
            let _ = parse_page(&bytes, "shop");
        }

        #[test]
        fn any_json_amount_is_read_or_refused(json in any_json()) {
            let amount = answer(&format!(r#""amount":{json}"#));
            if let Ok(read) = amount {
                prop_assert_eq!(read.status, BtcpayStatus::Settled);
            }
        }
    }

    #[test]
    fn unused_fields_may_hold_anything() {
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        for fields in [
            r#""metadata":null"#,
            r#""metadata":{"orderId":"\ud800","buyer":["\u0000"]}"#,
            &format!(r#""metadata":{deep}"#),
            r#""additionalStatus":null"#,
            r#""additionalStatus":"OfALaterRelease","checkout":{"a":1}"#,
        ] {
            assert_eq!(
                answer(fields).unwrap().status,
                BtcpayStatus::Settled,
                "{fields}"
            );
        }
    }
}
