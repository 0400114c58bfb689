//! The built program against a real SQLite file and a BTCPay Server on loopback.

#[path = "../btcpay/mod.rs"]
mod btcpay;
mod shop;

mod answers;
mod attention;
mod backlog;
mod candidates;
mod databases;
mod differences;
mod licenses;
mod options;
mod races;
mod reports;
mod trouble;
