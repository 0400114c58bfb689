//! Tests of the built program with a real SQLite file and a BTCPay Server on loopback.

#[path = "../btcpay/mod.rs"]
mod btcpay;
#[path = "../demo/shop.rs"]
mod demo_shop;
mod mixed;
mod person;
mod program;
mod shop;

mod acknowledged;
mod advice;
mod answers;
mod attention;
mod backlog;
// Waits longer than any other, so that it is good that it begins early: tests run in this order.
mod bad_luck;
mod candidates;
mod completions;
mod daemon;
mod databases;
mod differences;
mod disks;
mod docs;
mod every_answer;
mod exact;
mod first_contact;
mod first_minutes;
mod histories;
mod issue;
mod keysat;
mod kills;
mod licenses;
mod month;
mod named;
mod network;
mod noted;
mod options;
mod properties;
mod races;
mod reports;
mod rooms;
mod stops;
mod terminal;
mod trouble;
mod units;
mod webhooks;
