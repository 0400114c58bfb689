//! What an API key may do. Pure.

use std::borrow::Cow;

use serde::Deserialize;

/// The permission that this program needs, and those that include it.
const VIEW_INVOICES: &str = "btcpay.store.canviewinvoices";
const ALSO_VIEW_INVOICES: [&str; 4] = [
    "btcpay.store.canmodifyinvoices",
    "btcpay.store.canviewstoresettings",
    "btcpay.store.canmodifystoresettings",
    "unrestricted",
];

/// How the last part of a permission that changes nothing begins.
const ONLY_LOOKS: &str = "canview";

/// How many of the key's permissions or stores a message names.
const NAMED: usize = 4;

/// The permissions of a key, as BTCPay Server names them: `btcpay.store.canviewinvoices`, or with a store
/// behind a colon for that one only.
pub struct Permissions(Vec<String>);

impl Permissions {
    /// From the answer to `api-keys/current`; None if it is none.
    pub fn parse(body: &[u8]) -> Option<Self> {
        /// The key is in it as well.
        #[derive(Deserialize)]
        struct KeyJson<'body> {
            #[serde(borrow)]
            permissions: Vec<Cow<'body, str>>,
        }
        let json: KeyJson = serde_json::from_slice(body).ok()?;
        let permissions = json.permissions.into_iter().map(Cow::into_owned);
        Some(Self(permissions.collect()))
    }

    /// Why a key with these may not see the invoices of `store`, and what to do.
    pub fn why_not(&self, store: &str) -> String {
        let views = |name: &str| name == VIEW_INVOICES || ALSO_VIEW_INVOICES.contains(&name);
        let viewing: Vec<_> = self.parts().filter(|(name, _)| views(name)).collect();
        let covers = |of: Option<&str>| of.is_none_or(|of| of == store);
        if viewing.is_empty() {
            let has = self.parts().map(|(name, _)| name);
            format!(
                "the API key lacks {VIEW_INVOICES}; it has {} (403). Create one with the permission \
                 'View invoices' for store {store}",
                listed(has)
            )
        } else if viewing.iter().any(|(_, of)| covers(*of)) {
            format!(
                "the API key may see invoices, but BTCPay Server shows it no store {store} (403). \
                 Correct --store-id, or add the key's user to the store again"
            )
        } else {
            format!(
                "the API key may see the invoices of store {}, not of {store} (403). Correct \
                 --store-id, or create a key for this store",
                listed(viewing.iter().filter_map(|(_, of)| *of))
            )
        }
    }

    /// The names of those that do more than look; None if all of them only look.
    pub fn more_than_look(&self) -> Option<String> {
        let only_looks = |name: &str| {
            let last = name.rsplit('.').next();
            last.is_some_and(|last| last.starts_with(ONLY_LOOKS))
        };
        let names = || self.parts().map(|(name, _)| name);
        names()
            .any(|name| !only_looks(name))
            .then(|| listed(names().filter(|name| !only_looks(name))))
    }

    /// Name and store of each.
    fn parts(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.0.iter().map(|one| match one.split_once(':') {
            Some((name, store)) => (name, Some(store)),
            None => (one.as_str(), None),
        })
    }
}

/// Each once, the first few of them.
fn listed<'a>(words: impl Iterator<Item = &'a str>) -> String {
    let mut once: Vec<&str> = Vec::new();
    for word in words {
        if !once.contains(&word) {
            once.push(word);
        }
    }
    match once.get(..NAMED) {
        _ if once.is_empty() => "none".into(),
        Some(few) if few.len() < once.len() => {
            format!("{} and {} more", few.join(", "), once.len() - few.len())
        }
        _ => once.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permissions(names: &[&str]) -> Permissions {
        Permissions(names.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn refusal_of_each_key_says_what_to_do() {
        const VIEW: &str = VIEW_INVOICES;
        let of = |store: &str| format!("{VIEW}:{store}");
        for (names, expected) in [
            (vec![], format!("lacks {VIEW}; it has none")),
            (
                vec!["btcpay.store.cancreateinvoice:ours".into()],
                format!("lacks {VIEW}; it has btcpay.store.cancreateinvoice"),
            ),
            (
                vec![of("a"), of("b"), of("a")],
                "of store a, b, not of ours".into(),
            ),
            (
                ["a", "b", "c", "d", "e", "f"].map(of).to_vec(),
                "of store a, b, c, d and 2 more, not of ours".into(),
            ),
            (vec![of("a"), of("ours")], "no store ours".into()),
            (vec![VIEW.into()], "no store ours".into()),
            (vec!["unrestricted".into()], "no store ours".into()),
            (
                vec!["btcpay.store.canmodifyinvoices:a".into()],
                "of store a, not of ours".into(),
            ),
        ] {
            let why = Permissions(names).why_not("ours");
            assert!(why.contains(&expected), "{why}");
            assert!(why.contains("(403). C"), "{why}");
        }
    }

    #[test]
    fn only_viewing_permissions_only_look() {
        for harmless in [
            vec![],
            vec!["btcpay.store.canviewinvoices:a"],
            vec![
                "btcpay.store.canviewstoresettings",
                "btcpay.user.canviewprofile",
            ],
        ] {
            assert_eq!(permissions(&harmless).more_than_look(), None);
        }
        for (names, expected) in [
            (vec!["unrestricted"], "unrestricted"),
            (
                vec![
                    "btcpay.store.canviewinvoices",
                    "btcpay.store.canmodifyinvoices:a",
                    "btcpay.store.canmodifyinvoices:b",
                    "btcpay.store.webhooks.canmodifywebhooks",
                ],
                "btcpay.store.canmodifyinvoices, btcpay.store.webhooks.canmodifywebhooks",
            ),
            (
                vec!["btcpay.store.cancreateinvoice"],
                "btcpay.store.cancreateinvoice",
            ),
        ] {
            let more = permissions(&names).more_than_look();
            assert_eq!(more.as_deref(), Some(expected));
        }
    }

    #[test]
    fn what_is_no_key_has_no_permissions() {
        for body in [
            "",
            "[]",
            "{}",
            "<html>",
            r#"{"permissions":"unrestricted"}"#,
        ] {
            assert!(Permissions::parse(body.as_bytes()).is_none(), "{body}");
        }
        let recorded =
            br#"{"apiKey":"KEY","label":"k","permissions":["btcpay.store.canviewinvoices:STORE"]}"#;
        assert!(Permissions::parse(recorded).is_some());
    }
}
