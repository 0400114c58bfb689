//! Which hosts are near enough for plain http: what is sent to them crosses no public network in clear.

use std::net::{IpAddr, Ipv4Addr};

use reqwest::Url;

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
        Some(Host::Name(name)) => match name.rsplit_once('.') {
            Some((_, top)) => {
                matches!(
                    top,
                    "localhost" | "local" | "internal" | "startos" | "onion"
                )
            }
            // A name on a Docker network.
            None => true,
        },
        None => false,
    }
}

/// Whether the host is this machine itself.
pub fn is_this_machine(url: &Url) -> bool {
    match host(url) {
        Some(Host::Address(address)) => address.to_canonical().is_loopback(),
        Some(Host::Name(name)) => name == "localhost" || name.ends_with(".localhost"),
        None => false,
    }
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
