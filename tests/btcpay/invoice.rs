//! An invoice of the loopback BTCPay Server: its life as payments come and time passes, and its JSON.

use rust_decimal::Decimal;
use serde_json::{Value, json};

use super::{STORE, Version, now};

#[derive(Clone)]
pub struct Invoice {
    pub id: String,
    pub store_id: String,
    pub status: String,
    pub additional: String,
    /// `Standard`, or `TopUp` for one that takes any amount.
    pub kind: String,
    pub amount: Value,
    /// Net of fees. Null where a server reports none.
    pub paid: Value,
    pub currency: String,
    /// Unix seconds.
    pub created: i64,
    /// Unix seconds; `None` for an invoice whose status only the test changes.
    pub expires: Option<i64>,
    pub archived: bool,
    /// The merchant's own id of it; `None` if the service sets none.
    pub order_id: Option<String>,
    /// The rest of the merchant's part.
    pub metadata: Value,
    /// What its maker wanted other than the store's settings.
    pub checkout: Value,
    /// Whoever adds to them by hand sets the status and the paid amount, too.
    pub payments: Vec<Payment>,
}

#[derive(Clone)]
pub struct Payment {
    /// The transaction and its output.
    pub id: String,
    /// Unix seconds.
    pub received: i64,
    pub value: Decimal,
    /// What BTCPay takes off.
    pub fee: Decimal,
    /// `Processing` until it is in a block, then `Settled`.
    pub status: String,
}

impl Payment {
    /// Unconfirmed, and without a fee.
    pub fn new(value: &str, received: i64) -> Self {
        Self {
            id: format!("{:064x}-0", fastrand::u128(..)),
            received,
            value: value.parse().unwrap(),
            fee: Decimal::ZERO,
            status: "Processing".into(),
        }
    }
}

impl Invoice {
    /// Created an hour ago.
    pub fn new(id: &str, status: &str, amount: &str) -> Self {
        Self {
            id: id.into(),
            store_id: STORE.into(),
            status: status.into(),
            additional: "None".into(),
            kind: "Standard".into(),
            amount: amount.into(),
            paid: match status {
                "Settled" | "Processing" => amount.into(),
                _ => "0".into(),
            },
            currency: "BTC".into(),
            created: now() - 3600,
            expires: None,
            archived: false,
            order_id: id.strip_prefix("btc-").map(String::from),
            metadata: json!({"itemDesc": "a \u{1F511}", "posData": {"cart": [1, null]}}),
            checkout: json!({}),
            payments: Vec::new(),
        }
    }

    /// Adds a payment to its address. Fees as the store's default has them.
    pub fn receives(&mut self, mut payment: Payment, version: Version) {
        if !self.payments.is_empty() {
            payment.fee = version.network_fee();
        }
        self.payments.push(payment);
        // The rate of the currency to itself is 1.0: hence the zero at the end.
        let paid = (self.counted() * Decimal::new(10, 1)).to_string();
        if self.kind == "TopUp" {
            self.amount = paid.as_str().into();
        }
        self.paid = paid.into();
    }

    /// What BTCPay Server makes of the payments and the time. One confirmation is enough.
    pub fn lives_on(&mut self, now: i64, version: Version) {
        let Some(expires) = self.expires else {
            return;
        };
        if self.additional == "Marked" {
            return;
        }
        if self.status == "New" && self.is_paid() {
            self.status = "Processing".into();
            let is_over = self.kind == "Standard" && self.counted() > self.wanted();
            self.additional = if is_over { "PaidOver" } else { "None" }.into();
        } else if self.status == "New" && expires <= now {
            self.status = "Expired".into();
        }
        let is_confirmed = self.payments.iter().all(|paid| paid.status == "Settled");
        match self.status.as_str() {
            "New" | "Expired" if !self.payments.is_empty() => {
                let is_enough = self.is_paid();
                self.additional = if is_enough { "PaidLate" } else { "PaidPartial" }.into();
            }
            "Processing" if is_confirmed => self.status = "Settled".into(),
            "Processing" if self.monitored_until(version) <= now => self.status = "Invalid".into(),
            _ => {}
        }
    }

    /// Marks it, if that is allowed.
    pub fn mark(&mut self, status: &str) -> bool {
        let is_allowed = self.can_be_marked().contains(&status);
        if is_allowed {
            self.status = status.into();
            self.additional = "Marked".into();
        }
        is_allowed
    }

    fn can_be_marked(&self) -> &'static [&'static str] {
        match (self.status.as_str(), self.additional.as_str()) {
            ("Settled", "Marked") => &["Invalid"],
            ("Settled", _) => &[],
            ("Invalid", _) => &["Settled"],
            _ => &["Settled", "Invalid"],
        }
    }

    /// What an old one loses nothing by.
    pub fn is_expired_unpaid(&self) -> bool {
        (self.status.as_str(), self.additional.as_str()) == ("Expired", "None")
            && self.payments.is_empty()
    }

    /// Where to pay.
    pub fn destination(&self) -> String {
        format!("bcrt1q{}", self.id.to_lowercase())
    }

    fn wanted(&self) -> Decimal {
        let amount = self.amount.as_str().and_then(|text| text.parse().ok());
        amount.unwrap_or_default()
    }

    /// What was paid, net of fees.
    fn counted(&self) -> Decimal {
        let payments = self.payments.iter();
        payments.map(|payment| payment.value - payment.fee).sum()
    }

    fn is_paid(&self) -> bool {
        if self.kind == "TopUp" {
            return !self.payments.is_empty();
        }
        let percent = 100 - self.checkout["paymentTolerance"].as_i64().unwrap_or(0);
        self.counted() >= self.wanted() * Decimal::new(percent, 2)
    }

    fn expiration(&self) -> i64 {
        self.expires.unwrap_or(self.created + 900)
    }

    fn monitored_until(&self, version: Version) -> i64 {
        let minutes = self.checkout["monitoringMinutes"].as_i64();
        self.expiration() + minutes.unwrap_or(version.monitoring_minutes()) * 60
    }

    pub fn json(&self, version: Version) -> Value {
        let mut metadata = self.metadata.clone();
        if let Some(order_id) = &self.order_id {
            metadata["orderId"] = order_id.as_str().into();
        }
        let method = version.payment_method();
        let mut checkout = json!({
            "speedPolicy": version.speed_policy(),
            "paymentMethods": if self.is_free() { vec![] } else { vec![method] },
            "defaultPaymentMethod": null,
            "expirationMinutes": (self.expiration() - self.created) / 60,
            "monitoringMinutes": version.monitoring_minutes(),
            "paymentTolerance": 0.0,
            "redirectURL": null,
            "redirectAutomatically": false,
            "defaultLanguage": null,
            "lazyPaymentMethods": null,
        });
        let switch = if version == Version::UpTo1_13 {
            checkout["requiresRefundEmail"] = Value::Null;
            checkout["checkoutType"] = Value::Null;
            checkout["defaultPaymentMethod"] = method.into();
            Value::Null
        } else {
            true.into()
        };
        for (name, wanted) in self.checkout.as_object().unwrap() {
            checkout[name] = wanted.clone();
        }
        let mut json = json!({
            "id": self.id,
            "storeId": self.store_id,
            "amount": self.amount,
            "checkoutLink": format!("http://btcpay.local/i/{}", self.id),
            "status": self.status,
            "additionalStatus": self.additional,
            "monitoringExpiration": self.monitored_until(version),
            "expirationTime": self.expiration(),
            "createdTime": self.created,
            "availableStatusesForManualMarking": self.can_be_marked(),
            "archived": self.archived,
            "type": self.kind,
            "currency": self.currency,
            "metadata": metadata,
            "checkout": checkout,
            "receipt": {"enabled": switch, "showQR": switch, "showPayments": switch},
        });
        if version >= Version::UpTo2_3 {
            json["paymentMethods"] = json!([]);
            if !self.paid.is_null() {
                json["paidAmount"] = self.paid.clone();
            }
        }
        json
    }

    fn is_free(&self) -> bool {
        self.kind == "Standard" && self.wanted().is_zero()
    }

    /// What was paid, payment by payment.
    pub fn payment_methods(&self, version: Version) -> Value {
        if self.is_free() {
            return json!([]);
        }
        let plain = |amount: Decimal| amount.normalize().to_string();
        let paid: Decimal = self.payments.iter().map(|payment| payment.value).sum();
        let mut fees: Decimal = self.payments.iter().map(|payment| payment.fee).sum();
        // Who has paid a part owes the fee of another payment.
        if !self.payments.is_empty() && !self.is_paid() {
            fees += version.network_fee();
        }
        let due = self.wanted() + fees - paid;
        let destination = self.destination();
        let payments = self.payments.iter().map(|payment| {
            json!({
                "id": payment.id,
                "receivedDate": payment.received,
                "value": plain(payment.value),
                "fee": plain(payment.fee),
                "status": payment.status,
                "destination": destination,
            })
        });
        let asked = if due > Decimal::ZERO {
            format!("?amount={}", plain(due))
        } else {
            String::new()
        };
        json!([{
            "activated": true,
            "destination": destination,
            "paymentLink": format!("bitcoin:{destination}{asked}"),
            "rate": "1.0",
            "paymentMethodPaid": plain(paid),
            "totalPaid": plain(paid),
            "due": plain(due),
            "amount": plain(self.wanted() + fees),
            "paymentMethodFee": plain(fees),
            "payments": payments.collect::<Value>(),
            "paymentMethodId": version.payment_method(),
            "additionalData": {
                "feeMode": version.fee_mode(),
                "paymentMethodFeeRate": 100.0,
                "payjoinEnabled": false,
                "recommendedFeeRate": 100.0,
                "keyPath": "0/0",
                "keyIndex": 0,
            },
            "currency": "BTC",
        }])
    }
}
