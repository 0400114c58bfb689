//! The field's words as types: what an invoice is here, in the licensing database, and what it is
//! there, in BTCPay Server. No behaviour beyond reading and writing the words themselves.

use std::fmt;

use rust_decimal::Decimal;
use serde::Serialize;

use crate::shown;

/// The licensing service's own id of an invoice (`invoices.id`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct InvoiceId(pub Box<str>);

/// BTCPay Server's id of the same invoice (`invoices.btcpay_invoice_id`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct BtcpayInvoiceId(pub Box<str>);

impl BtcpayInvoiceId {
    const LONGEST: usize = 256;

    /// `text`, if it can stand as one segment of a URL's path and still mean this invoice alone;
    /// else why not.
    pub fn checked(text: Box<str>) -> Result<Self, &'static str> {
        match &*text {
            "" => Err("is empty"),
            "." | ".." => Err("is a way through folders"),
            long if long.len() > Self::LONGEST => Err("is longer than any id of BTCPay Server"),
            odd if odd.contains(char::is_control) => Err("has control characters in it"),
            _ => Ok(Self(text)),
        }
    }

    /// Whether the sale was free, so that BTCPay Server never had an invoice: its ids have no dash.
    pub fn is_of_a_free_sale(&self) -> bool {
        self.0.starts_with("free-")
    }
}

/// A license's id (`licenses.id`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct LicenseId(pub Box<str>);

impl fmt::Display for InvoiceId {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&shown::id(&self.0))
    }
}

impl fmt::Display for BtcpayInvoiceId {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&shown::id(&self.0))
    }
}

impl fmt::Display for LicenseId {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&shown::id(&self.0))
    }
}

/// `invoices.status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
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

    /// The status that the database's word stands for; none for a word that is not in the contract.
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Pending, Self::Settled, Self::Expired, Self::Invalid]
            .into_iter()
            .find(|status| status.word() == word)
    }
}

/// The status of an invoice in BTCPay Server. A word that is none of these never becomes an
/// [`Answer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

/// What BTCPay Server adds to a status. It never changes what the status means; it is told to the
/// merchant where it says that money came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedemptionStatus {
    Pending,
    Redeemed,
    Cancelled,
}

impl RedemptionStatus {
    pub fn from_word(word: &str) -> Option<Self> {
        match word {
            "pending" => Some(Self::Pending),
            "redeemed" => Some(Self::Redeemed),
            "cancelled" => Some(Self::Cancelled),
            _ => None,
        }
    }
}

/// The discount redemption that belongs to an invoice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redemption {
    pub status: RedemptionStatus,
    pub license_id: Option<LicenseId>,
}

/// Whether an invoice has its license.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum License {
    None,
    Issued(LicenseId),
    /// The invoice has none, but a license without an invoice was issued after the invoice was
    /// made, for the same product and buyer: somebody has probably mended the loss already. Looked
    /// for only where the invoice is settled.
    PerhapsByHand(LicenseId),
    /// The invoice has none, but since it was made a policy was deleted with its licenses: its own
    /// may have been one of them. Looked for only where the invoice is settled.
    PerhapsDeleted,
}

/// What an invoice is for, and so what it is owed when it is settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A license of its own.
    Purchase,
    /// Another policy for a license that is there, which the service alone gives.
    TierChange(ByService),
    /// A further cycle of a subscription, which the service alone goes on with.
    Renewal(ByService),
}

/// Whether the service has done what it alone can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByService {
    Done,
    NotDone,
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
    pub purpose: Purpose,
    pub license: License,
    pub redemption: Option<Redemption>,
}

/// Money that a license's policy promises to somebody when it is sold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tip {
    pub recipient: String,
    pub sats: i64,
}

/// What an invoice was for, as a person would like to see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sale {
    pub buyer_email: Option<String>,
    /// Its name, or else its id.
    pub product: String,
    pub amount_sats: i64,
    /// Unix seconds.
    pub created: i64,
}

/// An invoice as BTCPay Server has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: BtcpayStatus,
    pub additional: AdditionalStatus,
    pub money: Money,
}

impl Answer {
    /// What stands for BTCPay Server's word where it was never asked for money.
    pub fn of_a_free_sale() -> Self {
        Self {
            status: BtcpayStatus::Settled,
            additional: AdditionalStatus::None,
            money: Money {
                currency: "SATS".into(),
                amount: Some(Decimal::ZERO),
                paid: Some(Decimal::ZERO),
            },
        }
    }
}

/// The amounts of BTCPay Server's invoice, in `currency`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Money {
    pub currency: String,
    /// None for a top-up invoice, which has no amount of its own.
    pub amount: Option<Decimal>,
    /// None before BTCPay Server 2.1.2, which did not say.
    pub paid: Option<Decimal>,
}

impl Money {
    /// Whether the amount is this many sats, exactly; none where the currency is not bitcoin.
    pub fn is_sats(&self, sats: i64) -> Option<bool> {
        let scale = match self.currency.as_str() {
            "BTC" => 8,
            "SATS" => 0,
            _ => return None,
        };
        let expected = Decimal::try_from_i128_with_scale(i128::from(sats), scale).ok();
        Some(self.amount.is_some() && self.amount == expected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_compared_exactly_and_only_in_bitcoin() {
        for (currency, amount, sats, expected) in [
            ("BTC", "0.00021", 21_000, Some(true)),
            ("BTC", "0.000210000000", 21_000, Some(true)),
            ("BTC", "0.000210000001", 21_000, Some(false)),
            ("BTC", "21000000", 2_100_000_000_000_000, Some(true)),
            ("BTC", "0.00000001", 1, Some(true)),
            (
                "BTC",
                "79228162514264337593543950335",
                i64::MAX,
                Some(false),
            ),
            ("SATS", "21000.0", 21_000, Some(true)),
            ("SATS", "21000.5", 21_000, Some(false)),
            ("SATS", "0.00021", 21_000, Some(false)),
            ("BTC", "0", 0, Some(true)),
            ("BTC", "-0.00021", -21_000, Some(true)),
            ("USD", "19.99", 21_000, None),
            ("btc", "0.00021", 21_000, None),
        ] {
            let money = Money {
                currency: currency.into(),
                amount: Some(amount.parse().unwrap()),
                paid: None,
            };
            assert_eq!(
                money.is_sats(sats),
                expected,
                "{amount} {currency} = {sats} sats"
            );
        }
        let top_up = Money {
            currency: "BTC".into(),
            amount: None,
            paid: None,
        };
        assert_eq!(top_up.is_sats(0), Some(false));
    }
}
