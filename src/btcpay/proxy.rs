//! The proxy that the environment puts between this machine and BTCPay Server.

use hyper_util::client::proxy::matcher::Matcher;
use reqwest::Url;

use crate::{nearby, shown};

/// The proxy through which `url` is asked, without its user and password. This machine itself is
/// asked directly, whatever the environment says.
pub fn of(url: &Url) -> Option<Url> {
    if nearby::is_this_machine(url) {
        return None;
    }
    let proxy = Matcher::from_system().intercept(&url.as_str().parse().ok()?)?;
    let proxy = proxy.uri().to_string().parse().ok()?;
    Some(shown::without_password(proxy))
}
