//! Which hosts are near enough for plain http: what is sent to them crosses no public network in clear.

use std::net::{IpAddr, Ipv4Addr};

use reqwest::Url;

/// Domains that no public server is in. `localhost` (RFC 6761), `local` (RFC 6762), `home.arpa` (RFC 8375)
/// and `onion` (RFC 7686) are reserved, `internal` (2024) and `home` (2018) are set aside by ICANN; `lan`
/// is in use at home (RFC 6762, appendix G), as are `startos` (Start9) and `fritz.box` (AVM's routers,
/// whose maker owns the name).
const NEAR: [&str; 9] = [
    "localhost",
    "local",
    "home.arpa",
    "onion",
    "internal",
    "home",
    "lan",
    "startos",
    "fritz.box",
];

/// Whether the host is this machine, on a private network, or reached through Tor.
pub fn is_near(url: &Url) -> bool {
    match host(url) {
        Some(Host::Address(IpAddr::V4(address))) => is_near_v4(address),
        Some(Host::Address(IpAddr::V6(address))) => match address.to_ipv4_mapped() {
            Some(address) => is_near_v4(address),
            None => {
                address.is_loopback()
                    || address.is_unique_local()
                    || address.is_unicast_link_local()
            }
        },
        // Without a dot, a name on a Docker network.
        Some(Host::Name(name)) => {
            !name.contains('.') || NEAR.iter().any(|domain| is_in(&name, domain))
        }
        None => false,
    }
}

/// Whether the host is this machine itself.
pub fn is_this_machine(url: &Url) -> bool {
    match host(url) {
        Some(Host::Address(address)) => address.to_canonical().is_loopback(),
        Some(Host::Name(name)) => is_in(&name, "localhost"),
        None => false,
    }
}

/// Whether the host is reached through Tor only.
pub fn is_onion(url: &Url) -> bool {
    matches!(host(url), Some(Host::Name(name)) if is_in(&name, "onion"))
}

enum Host {
    Address(IpAddr),
    /// In lower case.
    Name(String),
}

/// Parsed as in an http URL, which is how it will be resolved: `0x7f.1` is an address. The URLs of
/// SOCKS proxies keep it as it was written.
fn host(url: &Url) -> Option<Host> {
    let url = Url::parse(&format!("http://{}/", url.host_str()?)).ok()?;
    let host = url.host_str()?;
    Some(match host.trim_matches(['[', ']']).parse() {
        Ok(address) => Host::Address(address),
        Err(_) => Host::Name(host.trim_end_matches('.').into()),
    })
}

/// Whether `name` is the domain or in it.
fn is_in(name: &str, domain: &str) -> bool {
    let before = name.strip_suffix(domain);
    before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

fn is_near_v4(address: Ipv4Addr) -> bool {
    address.is_loopback() || address.is_private() || address.is_link_local()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_hosts_are_recognized_in_every_spelling() {
        for (url, near, this_machine) in [
            ("http://127.0.0.1", true, true),
            ("http://127.1:3000", true, true),
            ("http://LocalHost.", true, true),
            ("http://shop.localhost", true, true),
            ("http://[::1]", true, true),
            ("http://[::ffff:127.0.0.1]", true, true),
            ("socks5h://TOR.LOCALHOST:9050", true, true),
            ("socks5h://0x7f000001:9050", true, true),
            ("http://192.168.1.2", true, false),
            ("http://[fd00::1]", true, false),
            ("http://[fe80::1]", true, false),
            ("http://[::ffff:10.0.0.1]", true, false),
            ("http://btcpayserver:23000", true, false),
            ("http://Umbrel.LOCAL", true, false),
            ("http://a.onion", true, false),
            ("http://btcpay.home.arpa", true, false),
            ("http://btcpay.lan", true, false),
            ("http://shop.btcpay.home.", true, false),
            ("http://fritz.box", true, false),
            ("http://btcpay.Fritz.Box", true, false),
            ("http://btcpay.box", false, false),
            ("http://notfritz.box", false, false),
            ("http://btcpay.arpa", false, false),
            ("http://lan.example.com", false, false),
            ("socks5h://tor:9050", true, false),
            ("socks5h://10.0.0.1:9050", true, false),
            ("http://btcpay.example.com", false, false),
            ("http://localhost.example.com", false, false),
            ("http://8.8.8.8", false, false),
            ("http://134744072", false, false),
            ("http://100.64.0.1", false, false),
            ("http://[2001:db8::1]", false, false),
            ("socks5h://134744072:1080", false, false),
            ("socks5h://0x08080808:1080", false, false),
            ("socks5h://proxy.example.com:1080", false, false),
        ] {
            let parsed = Url::parse(url).unwrap();
            assert_eq!(is_near(&parsed), near, "{url}");
            assert_eq!(is_this_machine(&parsed), this_machine, "{url}");
        }
    }
}
