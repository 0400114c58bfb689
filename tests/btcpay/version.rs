//! What differs between the releases of BTCPay Server, as far as the tests can see it.

use rust_decimal::Decimal;

/// Named after the releases that answer like it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// As 1.13.7.
    UpTo1_13,
    /// As 2.0.8.
    UpTo2_0,
    /// As 2.3.9. An invoice that the store does not have is a 404, `invoice-not-found`.
    UpTo2_3,
    /// As 2.4.1. It is a 403, as if the permission were missing.
    From2_4,
}

impl Version {
    pub const ALL: [Self; 4] = [Self::UpTo1_13, Self::UpTo2_0, Self::UpTo2_3, Self::From2_4];

    /// The store's way to be paid on chain.
    pub fn payment_method(self) -> &'static str {
        match self {
            Self::UpTo1_13 => "BTC",
            Self::UpTo2_0 | Self::UpTo2_3 | Self::From2_4 => "BTC-CHAIN",
        }
    }

    /// The path of the wallet's making, below the store's.
    pub fn wallet_path(self) -> &'static str {
        match self {
            Self::UpTo1_13 => "payment-methods/onchain/BTC/generate",
            Self::UpTo2_0 | Self::UpTo2_3 | Self::From2_4 => {
                "payment-methods/BTC-CHAIN/wallet/generate"
            }
        }
    }

    // What a new store has:

    pub fn speed_policy(self) -> &'static str {
        match self {
            Self::UpTo1_13 | Self::UpTo2_0 => "HighSpeed",
            Self::UpTo2_3 | Self::From2_4 => "MediumSpeed",
        }
    }

    pub fn monitoring_minutes(self) -> i64 {
        match self {
            Self::UpTo1_13 | Self::UpTo2_0 => 60,
            Self::UpTo2_3 | Self::From2_4 => 1440,
        }
    }

    pub fn fee_mode(self) -> &'static str {
        match self {
            Self::UpTo1_13 | Self::UpTo2_0 => "Never",
            Self::UpTo2_3 | Self::From2_4 => "MultiplePaymentsOnly",
        }
    }

    /// Taken off each payment after the first.
    pub fn network_fee(self) -> Decimal {
        match self {
            Self::UpTo1_13 | Self::UpTo2_0 => Decimal::ZERO,
            Self::UpTo2_3 | Self::From2_4 => Decimal::new(1, 4),
        }
    }
}
