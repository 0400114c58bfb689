//! The vocabulary: what an invoice is in the licensing database, and what it is in BTCPay Server.
//! Imports nothing of the program; its only behavior is to read, compare and write these words.

use std::fmt;
use std::rc::Rc;

use jiff::Timestamp;
use reqwest::Url;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

/// An id, shown as it is.
macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Box<str>);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id! {
    /// The licensing service's id of an invoice (`invoices.id`).
    InvoiceId
}
id! {
    /// BTCPay Server's id of the same invoice (`invoices.btcpay_invoice_id`).
    BtcpayInvoiceId
}
id! {
    /// A license's id (`licenses.id`).
    LicenseId
}

impl BtcpayInvoiceId {
    const LONGEST: usize = 256;

    /// `text`, if it can be one segment of a URL's path and still name this invoice only.
    ///
    /// # Errors
    ///
    /// Why it cannot, to follow the column's name.
    pub fn checked(text: Box<str>) -> Result<Self, &'static str> {
        match &*text {
            "" => Err("is empty"),
            "." | ".." => Err("is a relative path"),
            long if long.len() > Self::LONGEST => Err("is longer than any id of BTCPay Server"),
            odd if odd.contains(char::is_control) => Err("contains control characters"),
            _ => Ok(Self(text)),
        }
    }

    /// Whether the sale was free, so that BTCPay Server never had an invoice for it. BTCPay's own
    /// ids contain no dash.
    pub fn is_free(&self) -> bool {
        self.0.starts_with("free-")
    }
}

/// A store of a BTCPay Server.
#[derive(Debug, Clone)]
pub struct Store {
    /// The server's; may have a path.
    pub url: Url,
    pub id: String,
}

impl Store {
    /// Whether the service's record of a store, an address and a store id, names this store. A
    /// default port, a trailing slash and the case of the host make no difference.
    pub fn is_at(&self, url: &str, store_id: &str) -> bool {
        let same_url = Url::parse(url.trim()).is_ok_and(|url| {
            let path = |url: &Url| url.path().trim_end_matches('/').to_owned();
            url.scheme() == self.url.scheme()
                && url.host() == self.url.host()
                && url.port_or_known_default() == self.url.port_or_known_default()
                && path(&url) == path(&self.url)
        });
        same_url && store_id == self.id
    }
}

/// An address without the user and password that it may hold.
pub fn without_password(mut url: Url) -> Url {
    // Fails only for an address that cannot have them.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url
}

/// `invoices.status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LocalStatus {
    Pending,
    Settled,
    Expired,
    Invalid,
}

impl LocalStatus {
    pub const fn word(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Settled => "settled",
            Self::Expired => "expired",
            Self::Invalid => "invalid",
        }
    }

    /// The database's status for an invoice that BTCPay Server says is `there`.
    pub const fn of(there: BtcpayStatus) -> Self {
        match there {
            BtcpayStatus::New | BtcpayStatus::Processing => Self::Pending,
            BtcpayStatus::Settled => Self::Settled,
            BtcpayStatus::Expired => Self::Expired,
            BtcpayStatus::Invalid => Self::Invalid,
        }
    }

    /// The status of the database's word; None for a word outside the contract.
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Pending, Self::Settled, Self::Expired, Self::Invalid]
            .into_iter()
            .find(|status| status.word() == word)
    }
}

/// An invoice's status in BTCPay Server. Any other word never becomes an [`Answer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BtcpayStatus {
    New,
    Processing,
    Settled,
    Expired,
    Invalid,
}

impl BtcpayStatus {
    pub const fn word(self) -> &'static str {
        match self {
            Self::New => "New",
            Self::Processing => "Processing",
            Self::Settled => "Settled",
            Self::Expired => "Expired",
            Self::Invalid => "Invalid",
        }
    }
}

/// What BTCPay Server adds to a status. It never changes what the status means; it decides whether
/// the merchant hears of money that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AdditionalStatus {
    None,
    PaidLate,
    PaidPartial,
    PaidOver,
    Marked,
    Invalid,
    /// A word of a later BTCPay Server.
    Unknown,
}

/// `discount_redemptions.status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RedemptionStatus {
    Pending,
    Redeemed,
    Cancelled,
}

impl RedemptionStatus {
    pub const fn word(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Redeemed => "redeemed",
            Self::Cancelled => "cancelled",
        }
    }

    /// The status of the database's word; None for a word outside the contract.
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Pending, Self::Redeemed, Self::Cancelled]
            .into_iter()
            .find(|status| status.word() == word)
    }
}

/// The discount redemption that belongs to an invoice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redemption {
    pub status: RedemptionStatus,
    pub license_id: Option<LicenseId>,
}

/// An invoice's license.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum License {
    None,
    Issued {
        id: LicenseId,
        /// Neither revoked nor suspended.
        is_active: bool,
    },
}

/// What belongs to a license and is not there: the service died before it got to it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Missing {
    pub subscription: bool,
    /// The subscription's first.
    pub cycle: bool,
    /// Of the news that it was issued.
    pub delivery: bool,
}

impl Missing {
    pub const NOTHING: Self = Self {
        subscription: false,
        cycle: false,
        delivery: false,
    };

    /// Its words in reports, for scripts as well.
    pub fn words(self) -> Vec<&'static str> {
        [
            (self.subscription, "subscription"),
            (self.cycle, "cycle"),
            (self.delivery, "delivery"),
        ]
        .into_iter()
        .filter_map(|(is_missing, word)| is_missing.then_some(word))
        .collect()
    }
}

/// Whose an invoice is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provider {
    OurStore,
    /// It names none of the service's several BTCPay stores, so it may be of any.
    Unnamed,
}

/// What an invoice is for, and so what the buyer is owed once it is settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A license of its own.
    Purchase,
    /// Another policy for an existing license. Only the service applies it.
    TierChange { applied: bool },
    /// Another cycle of a subscription. Only the service applies it.
    Renewal { applied: bool },
}

/// An invoice as the licensing database has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invoice {
    pub id: InvoiceId,
    pub btcpay_id: BtcpayInvoiceId,
    pub status: LocalStatus,
    pub amount_sats: i64,
    /// Unix seconds.
    pub created: i64,
    pub provider: Provider,
    pub purpose: Purpose,
    pub license: License,
    pub missing: Missing,
    pub redemption: Option<Redemption>,
}

impl Invoice {
    /// The same, paid for something else.
    pub fn with(&self, purpose: Purpose) -> Self {
        Self {
            purpose,
            ..self.clone()
        }
    }
}

/// What a person recognizes a sale by; None where the database does not say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sale {
    pub buyer_email: Option<Box<str>>,
    /// The product's name, else its id.
    pub product: Option<Rc<str>>,
    pub amount_sats: i64,
    pub created_at: Option<Timestamp>,
}

impl Sale {
    /// What the invoice alone says.
    pub fn of(invoice: &Invoice) -> Self {
        Self {
            buyer_email: None,
            product: None,
            amount_sats: invoice.amount_sats,
            created_at: Timestamp::from_second(invoice.created).ok(),
        }
    }
}

/// Money that a license's policy promises a third party for each sale.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tip {
    pub recipient: String,
    pub sats: i64,
}

/// A discount code's uses, with the latest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodeUses {
    pub code: String,
    pub used_count: i64,
    pub max_uses: i64,
}

/// All that the database says of an invoice, in its own words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Here {
    pub status: Option<String>,
    pub buyer_email: Option<String>,
    pub product: Option<String>,
    pub amount_sats: Option<i64>,
    pub created_at: Option<String>,
    pub updated_at: Option<String>,
    pub license_id: Option<String>,
    pub license_status: Option<String>,
    pub license_issued_at: Option<String>,
    pub license_expires_at: Option<String>,
    pub discount_code: Option<String>,
    pub redemption_status: Option<String>,
    pub subscription_status: Option<String>,
    pub next_renewal_at: Option<String>,
}

/// A row of the log that is about an invoice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Event {
    /// As it was written.
    pub occurred_at: String,
    pub actor_kind: String,
    pub action: String,
    pub details: serde_json::Value,
}

/// A discount code whose count is not what its redemptions hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CountDrift {
    pub code_id: String,
    /// What the buyer types, or the id.
    pub code: String,
    pub used_count: i64,
    /// Pending and redeemed redemptions.
    pub held: i64,
}

/// A deletion that may have taken an invoice's license with it, as the service noted it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deletion {
    /// For example `policy.delete`.
    pub action: String,
    /// The id of what was deleted.
    pub target: String,
    /// As the service wrote the time.
    pub at: String,
}

/// An invoice as BTCPay Server has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: BtcpayStatus,
    pub additional: AdditionalStatus,
    pub money: Money,
    /// When its checkout ends or ended, in Unix seconds.
    pub expires: Option<i64>,
}

impl Answer {
    /// Stands in for BTCPay Server's word on an invoice that was free.
    pub fn of_a_free_sale() -> Self {
        Self {
            status: BtcpayStatus::Settled,
            additional: AdditionalStatus::None,
            money: Money {
                currency: "SATS".into(),
                amount: Some(Decimal::ZERO),
                paid: Some(Decimal::ZERO),
            },
            expires: None,
        }
    }
}

/// A payment of an invoice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payment {
    /// Unix seconds.
    pub received: i64,
    /// In `currency`.
    pub amount: Decimal,
    /// What BTCPay Server takes off when it counts the payment, in `currency`.
    pub fee: Decimal,
    pub currency: String,
    /// The invoice's currency for one of `currency`.
    pub rate: Decimal,
    pub confirmed: bool,
}

/// The amounts of BTCPay Server's invoice, in `currency`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Money {
    pub currency: String,
    /// None for a top-up invoice, which has no fixed amount.
    pub amount: Option<Decimal>,
    /// None before BTCPay Server 2.1.2.
    pub paid: Option<Decimal>,
}

impl Money {
    pub fn is_bitcoin(&self) -> bool {
        self.of_sats(0).is_some()
    }

    /// This many sats in the currency; None if that is not bitcoin.
    pub fn of_sats(&self, sats: i64) -> Option<Decimal> {
        match self.currency.as_str() {
            "BTC" => Some(Decimal::new(sats, 8)),
            "SATS" => Some(Decimal::new(sats, 0)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sats_become_exact_amounts() {
        for (currency, sats, amount) in [
            ("BTC", 21_000, Some("0.000210000000")),
            ("BTC", 2_100_000_000_000_000, Some("21000000")),
            ("BTC", 1, Some("0.00000001")),
            ("BTC", i64::MAX, Some("92233720368.54775807")),
            ("BTC", 0, Some("0")),
            ("SATS", 21_000, Some("21000.0")),
            ("SATS", i64::MIN, Some("-9223372036854775808")),
            ("USD", 21_000, None),
            ("btc", 21_000, None),
        ] {
            let money = Money {
                currency: currency.into(),
                amount: None,
                paid: None,
            };
            let expected = amount.map(|amount| amount.parse().unwrap());
            assert_eq!(money.of_sats(sats), expected, "{sats} sats in {currency}");
        }
    }

    #[test]
    fn equivalent_addresses_name_the_same_store() {
        let store = Store {
            url: Url::parse("https://btcpay.example.com/shop/").unwrap(),
            id: "store".into(),
        };
        for same in [
            "https://btcpay.example.com/shop",
            "https://btcpay.example.com/shop/",
            "HTTPS://BTCPay.Example.com:443/shop",
            " https://btcpay.example.com/shop\n",
        ] {
            assert!(store.is_at(same, "store"), "{same}");
            assert!(!store.is_at(same, "Store"), "{same}");
        }
        for other in [
            "",
            "btcpay.example.com/shop",
            "http://btcpay.example.com/shop",
            "https://btcpay.example.com",
            "https://btcpay.example.com/Shop",
            "https://btcpay.example.com:8443/shop",
            "https://btcpay.example.com.evil.com/shop",
        ] {
            assert!(!store.is_at(other, "store"), "{other}");
        }
    }
}
