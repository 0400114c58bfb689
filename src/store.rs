//! Which store of which BTCPay Server.

use reqwest::Url;

#[derive(Debug, Clone)]
pub struct Store {
    /// Of BTCPay Server; it may have a path.
    pub url: Url,
    pub id: String,
}

impl Store {
    /// Whether somebody else's address and store id are of this store. Addresses are compared as
    /// what they mean: a port that goes without saying, a slash at the end and capitals in the
    /// host make no difference.
    pub fn is_at(&self, url: &str, store_id: &str) -> bool {
        let same_url = Url::parse(url.trim()).is_ok_and(|url| {
            let path = |url: &Url| url.path().trim_end_matches('/').to_owned();
            url.scheme() == self.url.scheme()
                && url.host() == self.url.host()
                && url.port_or_known_default() == self.url.port_or_known_default()
                && path(&url) == path(&self.url)
        });
        same_url && store_id == self.id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_compared_as_what_they_mean() {
        let store = Store {
            url: Url::parse("https://btcpay.example.com/shop/").unwrap(),
            id: "store".into(),
        };
        for same in [
            "https://btcpay.example.com/shop",
            "https://btcpay.example.com/shop/",
            "HTTPS://BTCPay.Example.com:443/shop",
            " https://btcpay.example.com/shop\n",
        ] {
            assert!(store.is_at(same, "store"), "{same}");
            assert!(!store.is_at(same, "Store"), "{same}");
        }
        for other in [
            "",
            "btcpay.example.com/shop",
            "http://btcpay.example.com/shop",
            "https://btcpay.example.com",
            "https://btcpay.example.com/Shop",
            "https://btcpay.example.com:8443/shop",
            "https://btcpay.example.com.evil.com/shop",
        ] {
            assert!(!store.is_at(other, "store"), "{other}");
        }
    }
}
