//! Which hosts are near: so near that nobody on the way can read what is sent to them in clear.

use std::net::{IpAddr, Ipv4Addr};

use reqwest::Url;

/// Whether the host is this machine, on a private network, or reached through Tor.
pub fn is_near(url: &Url) -> bool {
    match host(url) {
        Host::Address(IpAddr::V4(address)) => is_near_v4(address),
        Host::Address(IpAddr::V6(address)) => match address.to_ipv4_mapped() {
            Some(address) => is_near_v4(address),
            None => {
                address.is_loopback()
                    || address.is_unique_local()
                    || address.is_unicast_link_local()
            }
        },
        Host::Name(name) => match name.rsplit_once('.') {
            Some((_, top)) => {
                matches!(
                    top,
                    "localhost" | "local" | "internal" | "startos" | "onion"
                )
            }
            // A name on a Docker network.
            None => true,
        },
    }
}

/// Whether the host is this machine itself.
pub fn is_this_machine(url: &Url) -> bool {
    match host(url) {
        Host::Address(address) => address.to_canonical().is_loopback(),
        Host::Name(name) => name == "localhost" || name.ends_with(".localhost"),
    }
}

enum Host<'url> {
    Address(IpAddr),
    Name(&'url str),
}

fn host(url: &Url) -> Host<'_> {
    let host = url.host_str().unwrap_or_default();
    match host.trim_matches(['[', ']']).parse() {
        Ok(address) => Host::Address(address),
        Err(_) => Host::Name(host.trim_end_matches('.')),
    }
}

fn is_near_v4(address: Ipv4Addr) -> bool {
    address.is_loopback() || address.is_private() || address.is_link_local()
}
