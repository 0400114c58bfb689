//! The proxy that the environment sets, and what would be sent in clear.

use std::env;

use hyper_util::client::proxy::matcher::Matcher;
use reqwest::Url;

use super::near::{is_near, is_this_machine};
use crate::invoice::without_password;

const QUOTES: [char; 2] = ['"', '\''];

/// Where one listens that is named without a port.
const SOCKS_PORT: u16 = 1080;

/// Why the key must not be sent over plain http.
pub enum Cleartext {
    /// Anyone on the way to this host could read it.
    ToHost(String),
    /// Anyone on the way to this proxy could read it.
    ToProxy(Url),
}

impl Cleartext {
    /// None if `url` is https, or plain http that stays on this machine, a private network or Tor.
    pub fn risk(url: &Url) -> Option<Self> {
        if url.scheme() != "http" {
            None
        } else if !is_near(url) {
            Some(Self::ToHost(url.host_str().unwrap_or_default().into()))
        } else {
            proxy_for(url)
                .filter(|proxy| !is_near(proxy))
                .map(Self::ToProxy)
        }
    }
}

/// The proxy that the environment sets for `url`, without user and password. None for this machine,
/// whatever the environment says.
pub fn proxy_for(url: &Url) -> Option<Url> {
    if is_this_machine(url) {
        return None;
    }
    intercepted(&Matcher::from_system(), url)
}

fn intercepted(matcher: &Matcher, url: &Url) -> Option<Url> {
    let proxy = matcher.intercept(&url.as_str().parse().ok()?)?;
    let proxy = proxy.uri().to_string().parse().ok()?;
    Some(without_password(proxy))
}

/// Where a proxy listens.
pub fn host_and_port(proxy: &Url) -> String {
    let host = proxy.host_str().unwrap_or_default();
    let port = proxy.port_or_known_default().unwrap_or(SOCKS_PORT);
    format!("{host}:{port}")
}

/// A variable that would be passed over in silence, since its value cannot be understood.
pub struct UnusableProxy {
    pub variable: &'static str,
}

impl UnusableProxy {
    /// None if all that count for `url` can be understood.
    pub fn of(url: &Url) -> Option<Self> {
        if is_this_machine(url) {
            return None;
        }
        let of_scheme = match url.scheme() {
            "http" => ["HTTP_PROXY", "http_proxy"],
            _ => ["HTTPS_PROXY", "https_proxy"],
        };
        let no_proxy = first_set(["NO_PROXY", "no_proxy"]);
        let exceptions = no_proxy.as_ref().map_or("", |(_, value)| value);
        let settings = [first_set(of_scheme), first_set(["ALL_PROXY", "all_proxy"])];
        // The second counts only without the first.
        let (variable, value) = settings
            .into_iter()
            .flatten()
            .find(|set| !set.1.is_empty())?;
        if !is_list(exceptions) {
            return no_proxy.map(|(variable, _)| Self { variable });
        }
        let everywhere = Matcher::builder().all(value.as_str()).build();
        let is_understood = !value.starts_with(QUOTES) && intercepted(&everywhere, url).is_some();
        (!is_understood && !is_excepted(exceptions, url)).then_some(Self { variable })
    }
}

/// The first that is set counts, even if it is empty.
fn first_set(names: [&'static str; 2]) -> Option<(&'static str, String)> {
    let mut names = names.into_iter();
    names.find_map(|name| Some((name, env::var(name).ok()?)))
}

fn is_excepted(exceptions: &str, url: &Url) -> bool {
    let any = Matcher::builder().all("http://proxy");
    let matcher = any.no(exceptions.to_owned()).build();
    intercepted(&matcher, url).is_none()
}

/// Whether it is names with commas between them.
fn is_list(exceptions: &str) -> bool {
    let mut names = exceptions.split(',').map(str::trim);
    !names.any(|name| name.contains(QUOTES) || name.contains([' ', '\t', '#']))
}
