//! BTCPay Server over HTTP: the Greenfield API, read-only. All of the program's HTTP is in this module,
//! which knows nothing of the database.
//!
//! The only thing that counts as a status is the status of the very invoice that was asked for.
//! Whatever else BTCPay Server, or a proxy in front of it, may say is an error.

mod answer;
mod client;
mod key;
mod near;
mod path;
mod proxy;
mod tls;
mod transport;

pub use answer::{Listed, Page};
pub use client::{Btcpay, Window};
pub use path::without_page;
pub use proxy::{Cleartext, UnusableProxy};
pub use transport::{ApiKey, AskError};
