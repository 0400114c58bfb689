//! Where the path of --btcpay-url may have gone wrong. Pure.

use reqwest::Url;

/// How the paths of BTCPay Server's API and pages begin.
const BTCPAYS_OWN: [&str; 10] = [
    "account", "api", "apps", "docs", "i", "invoices", "login", "register", "server", "stores",
];

/// The address that was probably meant by `server`, at which no API is: without `/api/v1` or a page's
/// path, else without any. None if it has no path.
pub fn likely(server: &Url) -> Option<Url> {
    let path: Vec<&str> = server
        .path_segments()?
        .filter(|one| !one.is_empty())
        .collect();
    if path.is_empty() {
        return None;
    }
    let before = path
        .iter()
        .position(|one| BTCPAYS_OWN.contains(&one.to_lowercase().as_str()));
    let mut likely = server.clone();
    likely
        .path_segments_mut()
        .ok()?
        .clear()
        .extend(path.iter().take(before.unwrap_or(0)));
    Some(likely)
}

/// Whether `location` leads from `asked`, a request to the API, to a page of the same server.
pub fn is_page(location: &str, asked: &Url) -> bool {
    let target = asked.join(location);
    target.is_ok_and(|target| {
        target.origin() == asked.origin() && !target.path().contains("/api/v1/")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn likely_address_is_named() {
        for (given, meant) in [
            ("https://host", None),
            ("https://host/", None),
            ("https://host//", None),
            ("https://host/api/v1", Some("https://host/")),
            ("https://host/api/v1/", Some("https://host/")),
            ("https://host/btcpay/api/v1", Some("https://host/btcpay")),
            ("https://host/stores/9Ci/invoices", Some("https://host/")),
            (
                "https://host:8443/btcpay/Stores/9Ci",
                Some("https://host:8443/btcpay"),
            ),
            ("https://host/login", Some("https://host/")),
            ("https://host/btcpay", Some("https://host/")),
        ] {
            let likely = likely(&Url::parse(given).unwrap());
            assert_eq!(likely.as_ref().map(Url::as_str), meant, "{given}");
        }
    }

    #[test]
    fn page_of_the_same_server_is_no_final_address() {
        let asked = Url::parse("https://host/api/v1/stores/9Ci/invoices?take=1").unwrap();
        for (location, is) in [
            ("/login?ReturnUrl=%2Fapi%2Fv1%2Fstores", true),
            ("https://host/login", true),
            ("https://host:443/", true),
            ("https://other/login", false),
            ("https://host:8443/login", false),
            ("http://host/login", false),
            ("/btcpay/api/v1/stores/9Ci/invoices", false),
            ("https://[", false),
        ] {
            assert_eq!(is_page(location, &asked), is, "{location}");
        }
    }
}
