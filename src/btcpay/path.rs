//! Where the path of --btcpay-url may have gone wrong. Pure.

use reqwest::Url;

/// How the paths of BTCPay Server's API and pages begin.
const BTCPAYS_OWN: [&str; 10] = [
    "account", "api", "apps", "docs", "i", "invoices", "login", "register", "server", "stores",
];

/// Those that are no base path, which is the server's owner's to choose, even if nothing was asked yet.
const CERTAINLY: [&str; 4] = ["invoices", "login", "register", "stores"];

/// `server` without the path of the API or of a page at its end; None if there is none for certain.
pub fn without_page(server: &Url) -> Option<Url> {
    let path: Vec<String> = server.path_segments()?.map(str::to_lowercase).collect();
    let is_certain = path.iter().any(|one| CERTAINLY.contains(&one.as_str()))
        || path.windows(2).any(|two| two == ["api", "v1"]);
    is_certain.then(|| likely(server)).flatten()
}

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

/// The address of the server in `target`, at which a request to its API, or another page, would be.
pub fn base(target: &Url) -> Url {
    let mut base = without_page(target).unwrap_or_else(|| target.clone());
    base.set_query(None);
    base.set_fragment(None);
    base
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
    fn page_or_api_at_the_end_is_recognized() {
        for (given, meant) in [
            ("https://host", None),
            ("https://host/btcpay", None),
            ("https://host/api", None),
            ("https://host/apps/btcpay", None),
            ("https://host/v1/api", None),
            ("https://host/api/v1", Some("https://host/")),
            ("https://host/btcpay/API/V1/", Some("https://host/btcpay")),
            ("https://host/stores/9Ci/invoices", Some("https://host/")),
            ("https://host/invoices/9Ci", Some("https://host/")),
            ("https://host/btcpay/login", Some("https://host/btcpay")),
        ] {
            let found = without_page(&Url::parse(given).unwrap());
            assert_eq!(found.as_ref().map(Url::as_str), meant, "{given}");
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
