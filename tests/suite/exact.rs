//! Values are read exactly: what is not clear fails its invoice, and SQLite says what it cannot write.

use serde_json::{Value, json};

use crate::shop::{SHOPS, Shop};

/// Spellings of yes and no in SQL, of every type.
const YES: [&str; 14] = [
    "1",
    "1.0",
    "'1'",
    "x'31'",
    "'t'",
    "'T'",
    "'true'",
    "'TRUE'",
    "'True'",
    "x'74727565'",
    "'yes'",
    "'YES'",
    "'yEs'",
    "x'796573'",
];
const NO: [&str; 14] = [
    "0",
    "0.0",
    "'0'",
    "x'30'",
    "'f'",
    "'F'",
    "'false'",
    "'FALSE'",
    "'False'",
    "x'66616c7365'",
    "'no'",
    "'NO'",
    "'nO'",
    "x'6e6f'",
];
/// Values in SQL that are neither, with the text by which a person recognizes them.
const NEITHER: [(&str, &str); 14] = [
    ("NULL", "NULL"),
    ("''", "''"),
    ("x''", "''"),
    ("2", "2"),
    ("-1", "-1"),
    ("0.5", "0.5"),
    ("10", "10"),
    ("'y'", "y"),
    ("'n'", "n"),
    ("'on'", "on"),
    ("'off'", "off"),
    ("'maybe'", "maybe"),
    ("' 1'", " 1"),
    ("'true '", "true "),
];
/// Values in SQL that are no whole number.
const NO_NUMBERS: [(&str, &str); 7] = [
    ("NULL", "NULL"),
    ("''", "''"),
    ("'soon'", "soon"),
    ("'30 days'", "30 days"),
    ("30.5", "30.5"),
    ("0.5", "0.5"),
    ("x'3330'", "30"),
];

impl Shop {
    /// Gives `column` no type, so that each value keeps its own.
    fn takes_any_value_in(&self, table: &str, column: &str) {
        self.sql(&format!(
            "ALTER TABLE {table} DROP COLUMN {column};
             ALTER TABLE {table} ADD COLUMN {column}"
        ));
    }

    /// Adds the sale `id` of a product of the same name, whose only policy, of the same name too,
    /// lasts a year and is changed as `columns` say.
    fn sells_for_a_year(&self, id: &str, columns: &str) {
        self.sale(id).made();
        self.sql(&format!(
            "PRAGMA ignore_check_constraints = 1;
             INSERT INTO products (id, slug, name, price_sats, created_at, updated_at)
             VALUES ('{id}', '{id}', '{id}', 21000, datetime(), datetime());
             INSERT INTO policies (id, product_id, name, slug, duration_seconds, created_at, updated_at)
             VALUES ('{id}', '{id}', 'Year', 'year', 31536000, datetime(), datetime());
             UPDATE policies SET active = coalesce(active, 1), is_trial = coalesce(is_trial, 0) WHERE id = '{id}';
             UPDATE policies SET {columns} WHERE id = '{id}';
             UPDATE invoices SET product_id = '{id}' WHERE id = '{id}'"
        ));
    }

    /// Checks, in a dry run, a real one and once more, that each of `bad` fails with both texts and
    /// changes nothing, and that every other sale is licensed.
    #[track_caller]
    fn fails_alone(&self, bad: &[(String, [&str; 2])]) {
        let listed = bad.iter().map(|(id, _)| format!("'{id}'"));
        let listed = listed.collect::<Vec<_>>().join(", ");
        let before = self.everything();
        for dry in [true, false, false] {
            let run = self.reconcile();
            let run = if dry { run.flag("-n") } else { run };
            let report = run.json(if bad.is_empty() { 0 } else { 3 });
            let failures = report["failures"].as_array().unwrap();
            assert_eq!(failures.len(), bad.len(), "{report}");
            for (id, named) in bad {
                let failure = failures
                    .iter()
                    .find(|failure| failure["invoice_id"] == **id);
                let error = failure.unwrap_or_else(|| panic!("{id} did not fail: {report}"));
                let error = error["error"].as_str().unwrap();
                for text in named {
                    assert!(error.contains(text), "{id}: {text} is not in: {error}");
                }
            }
            if dry {
                assert_eq!(self.everything(), before);
            }
        }
        assert_eq!(
            self.query(&format!(
                "SELECT id FROM invoices WHERE (status = 'pending') <> (id IN ({listed}))"
            )),
            ""
        );
        assert_eq!(
            self.query(&format!(
                "SELECT (SELECT count(*) FROM licenses WHERE invoice_id IN ({listed})),
                        (SELECT count(*) FROM licenses) = (SELECT count(*) FROM invoices WHERE status = 'settled')"
            )),
            "0|1"
        );
    }

    /// `columns` of each license, a line per sale.
    fn licenses(&self, columns: &str) -> Vec<String> {
        let rows = self.query(&format!(
            "SELECT invoice_id, {columns} FROM licenses ORDER BY invoice_id"
        ));
        rows.lines().map(String::from).collect()
    }
}

/// Adds sales in whose policy `column` is yes, no and neither in every spelling. Those of neither are
/// to fail.
fn sells_in_every_spelling(shop: &Shop, column: &'static str) -> Vec<(String, [&'static str; 2])> {
    let (table, name) = column.split_once('.').unwrap();
    shop.takes_any_value_in(table, name);
    for (word, values) in [("yes", YES), ("no", NO)] {
        for (place, value) in values.iter().enumerate() {
            shop.sells_for_a_year(&format!("{word}-{place:02}"), &format!("{name} = {value}"));
        }
    }
    let bad = NEITHER.iter().enumerate().map(|(place, (value, shown))| {
        let id = format!("neither-{place:02}");
        shop.sells_for_a_year(&id, &format!("{name} = {value}"));
        (id, [column, *shown])
    });
    bad.collect()
}

/// The licenses of [`sells_in_every_spelling`] if those of yes and of no have these columns.
fn licenses_of(yes: &str, no: &str) -> Vec<String> {
    let of = |word: &'static str, count, columns: String| {
        (0..count).map(move |place| format!("{word}-{place:02}|{columns}"))
    };
    of("no", NO.len(), no.into())
        .chain(of("yes", YES.len(), yes.into()))
        .collect()
}

#[test]
fn active_policy_is_recognized_in_every_spelling() {
    for open in SHOPS {
        let shop = open();
        let bad = sells_in_every_spelling(&shop, "policies.active");
        shop.fails_alone(&bad);
        assert_eq!(
            shop.licenses("policy_id IS NOT NULL, unixepoch(expires_at) - unixepoch(issued_at)"),
            licenses_of("1|31536000", "0|NULL")
        );
    }
}

#[test]
fn trial_policy_is_recognized_in_every_spelling() {
    for open in SHOPS {
        let shop = open();
        let bad = sells_in_every_spelling(&shop, "policies.is_trial");
        shop.fails_alone(&bad);
        assert_eq!(shop.licenses("is_trial"), licenses_of("1", "0"));
    }
}

#[test]
fn recurring_policy_is_recognized_in_every_spelling() {
    let shop = Shop::of_keysat();
    let bad = sells_in_every_spelling(&shop, "policies.is_recurring");
    shop.sql("UPDATE policies SET renewal_period_days = 30, trial_days = 14");
    shop.fails_alone(&bad);
    let columns = "is_trial, unixepoch(expires_at) - unixepoch(issued_at),
                   (SELECT count(*) FROM subscriptions WHERE license_id = licenses.id)";
    let expected = licenses_of("1|1209600|1", "0|31536000|0");
    assert_eq!(shop.licenses(columns), expected);

    // What is missing later is found in every spelling too.
    shop.sql(
        "DELETE FROM subscription_invoices; DELETE FROM subscriptions;
         UPDATE invoices SET updated_at = created_at",
    );
    shop.reconcile().exits(3);
    assert_eq!(shop.licenses(columns), expected);
}

#[test]
fn unclear_policy_is_not_passed_over() {
    for open in SHOPS {
        let shop = open();
        shop.takes_any_value_in("policies", "active");
        // An unclear policy after the one that counts is never read.
        shop.sells_for_a_year("before", "active = 'maybe', slug = 'default'");
        shop.sells_for_a_year("after", "active = 1, slug = 'default'");
        shop.sells_for_a_year("own", "active = 'maybe'");
        shop.sql(
            "INSERT INTO policies (id, product_id, name, slug, active, is_trial, created_at, updated_at)
             VALUES ('other before', 'before', 'Other', 'other', 1, 0, datetime(), datetime()),
                    ('other after', 'after', 'Other', 'other', 'maybe', 0, datetime(), datetime());
             UPDATE invoices SET policy_id = 'own' WHERE id = 'own'",
        );
        shop.fails_alone(&[("before".into(), ["policies.active is ", "maybe"])]);
        assert_eq!(
            shop.licenses("policy_id, unixepoch(expires_at) - unixepoch(issued_at)"),
            ["after|after|31536000", "own|own|31536000"]
        );
    }
}

#[test]
fn unclear_archiving_time_fails_invoice() {
    let shop = Shop::of_keysat();
    let bad: Vec<(String, [&str; 2])> = [("''", "''"), ("0", "0"), ("'no'", "no"), ("x'30'", "0")]
        .iter()
        .enumerate()
        .map(|(place, (value, shown))| {
            let id = format!("unclear-{place}");
            shop.sells_for_a_year(&id, &format!("archived_at = {value}"));
            (id, ["policies.archived_at is ", *shown])
        })
        .collect();
    for (id, time) in [
        ("keysat", "'2026-11-01T00:00:00.123456789+00:00'"),
        ("migrated", "'2026-11-01 00:00:00'"),
        ("never", "NULL"),
    ] {
        shop.sells_for_a_year(id, &format!("archived_at = {time}"));
    }
    shop.fails_alone(&bad);
    assert_eq!(
        shop.licenses("policy_id"),
        ["keysat|NULL", "migrated|NULL", "never|never"]
    );
}

#[test]
fn number_of_policy_that_is_none_fails_invoice() {
    for (opens, column, set) in [
        (&SHOPS[..], "duration_seconds", ""),
        (&SHOPS[..], "grace_seconds", ""),
        (&SHOPS[..], "max_machines", ""),
        (&SHOPS[1..], "trial_days", ""),
        (&SHOPS[1..], "trial_days", "is_recurring = 1,"),
        (&SHOPS[1..], "renewal_period_days", "is_recurring = 1,"),
    ] {
        for open in opens {
            let shop = open();
            shop.takes_any_value_in("policies", column);
            let mut bad = Vec::new();
            for (place, (value, shown)) in NO_NUMBERS.iter().enumerate() {
                // Those two say that there is none.
                if *value == "NULL" && column.ends_with("_days") {
                    continue;
                }
                let id = format!("{column}-{place}");
                shop.sells_for_a_year(
                    &id,
                    &format!("duration_seconds = 31536000, grace_seconds = 0, max_machines = 1, {set} {column} = {value}"),
                );
                bad.push((id, [column, *shown]));
            }
            shop.sells_for_a_year(
                "good",
                &format!("duration_seconds = 31536000, grace_seconds = 0, max_machines = 1, {set} {column} = 7"),
            );
            shop.fails_alone(&bad);
        }
    }
}

#[test]
fn negative_duration_fails_invoice() {
    for open in SHOPS {
        let shop = open();
        shop.sells_for_a_year("a", "duration_seconds = -1");
        shop.sells_for_a_year("b", "duration_seconds = -31536000");
        shop.fails_alone(&[
            ("a".into(), ["Correct duration_seconds", "-1 "]),
            ("b".into(), ["Correct duration_seconds", "-31536000 "]),
        ]);
    }
}

#[test]
fn license_has_exactly_its_policys_numbers() {
    for open in SHOPS {
        let shop = open();
        for (place, (grace, machines)) in
            [(0, 0), (-5, -1), (i64::MAX, i64::MIN)].iter().enumerate()
        {
            shop.sells_for_a_year(
                &place.to_string(),
                &format!("grace_seconds = {grace}, max_machines = {machines}"),
            );
        }
        shop.fails_alone(&[]);
        assert_eq!(
            shop.licenses("grace_seconds, max_machines"),
            [
                "0|0|0",
                "1|-5|-1",
                "2|9223372036854775807|-9223372036854775808"
            ]
        );
    }
}

#[test]
fn negative_days_mean_no_trial_and_shortest_period() {
    let shop = Shop::of_keysat();
    shop.sells_for_a_year(
        "a",
        "is_recurring = 1, trial_days = -14, renewal_period_days = -30",
    );
    shop.fails_alone(&[]);
    assert_eq!(
        shop.licenses("is_trial, unixepoch(expires_at) - unixepoch(issued_at)"),
        ["a|0|31536000"]
    );
    assert_eq!(shop.query("SELECT period_days FROM subscriptions"), "1");
}

#[test]
fn text_of_policy_that_is_none_fails_invoice() {
    for open in SHOPS {
        let shop = open();
        shop.takes_any_value_in("policies", "entitlements_json");
        let bad = ["NULL", "1", "x'5b5d'", "'null'", "'[1]'", "'{}'"];
        let bad: Vec<(String, [&str; 2])> = bad
            .iter()
            .enumerate()
            .map(|(place, value)| {
                let id = place.to_string();
                shop.sells_for_a_year(&id, &format!("entitlements_json = {value}"));
                (id, ["its policy ", "entitlements_json"])
            })
            .collect();
        shop.sells_for_a_year("good", "entitlements_json = '[ \"a\" ]'");
        shop.fails_alone(&bad);
        assert_eq!(shop.licenses("entitlements_json"), ["good|[ \"a\" ]"]);
    }
}

#[test]
fn code_count_that_is_no_number_fails_invoice() {
    for open in SHOPS {
        for column in ["used_count", "max_uses"] {
            for (value, shown) in NO_NUMBERS {
                // Without a limit.
                if (value, column) == ("NULL", "max_uses") {
                    continue;
                }
                for (there, redemption) in [("Settled", "cancelled"), ("Expired", "pending")] {
                    let shop = open();
                    shop.sale("a").there(there).redemption(redemption).made();
                    shop.sale("good").made();
                    shop.takes_any_value_in("discount_codes", column);
                    shop.sql(&format!(
                        "UPDATE discount_codes SET used_count = 1, {column} = {value}"
                    ));
                    shop.fails_alone(&[("a".into(), [column, shown])]);
                    assert_eq!(shop.state("good"), "settled, licensed");
                }
            }
        }
    }
}

#[test]
fn listed_price_that_is_no_number_fails_invoice() {
    let shop = Shop::of_keysat();
    shop.takes_any_value_in("invoices", "listed_value");
    let mut bad = Vec::new();
    for (place, (value, shown)) in NO_NUMBERS.iter().enumerate() {
        let id = place.to_string();
        shop.sells_for_a_year(&id, "is_recurring = 1, renewal_period_days = 30");
        shop.sql(&format!(
            "UPDATE invoices SET listed_currency = 'USD', listed_value = {value} WHERE id = '{id}'"
        ));
        if *value != "NULL" {
            bad.push((id, ["listed_value", *shown]));
        }
    }
    shop.fails_alone(&bad);
    assert_eq!(
        shop.query("SELECT listed_currency, listed_value FROM subscriptions"),
        "SAT|21000"
    );
}

#[test]
fn tip_that_is_no_number_fails_invoice() {
    let shop = Shop::of_keysat();
    shop.takes_any_value_in("policies", "tip_pct_bps");
    let mut bad = Vec::new();
    for (place, (value, shown)) in NO_NUMBERS.iter().enumerate() {
        let id = place.to_string();
        shop.sells_for_a_year(
            &id,
            &format!("tip_recipient = 'artist', tip_pct_bps = {value}"),
        );
        if *value != "NULL" {
            bad.push((id, ["tip_pct_bps", *shown]));
        }
    }
    shop.fails_alone(&bad);
}

#[test]
fn active_endpoint_is_recognized_in_every_spelling() {
    let yes = YES.map(|value| (value, Ok("1")));
    let no = NO.map(|value| (value, Ok("0")));
    let neither = NEITHER.map(|(value, shown)| (value, Err(shown)));
    for (value, expected) in yes.into_iter().chain(no).chain(neither) {
        let shop = Shop::of_keysat();
        shop.takes_any_value_in("webhook_endpoints", "active");
        shop.sql(&format!(
            "INSERT INTO webhook_endpoints (id, url, secret, active) VALUES ('all', 'https://example.com', 's', {value})"
        ));
        shop.sale("a").made();
        shop.sale("dead").there("Expired").made();
        let before = shop.everything();
        match expected {
            Ok(deliveries) => {
                shop.reconcile().exits(0);
                assert_eq!(
                    shop.query("SELECT count(*) FROM webhook_deliveries"),
                    deliveries,
                    "{value}"
                );
            }
            Err(shown) => {
                for run in [shop.reconcile().flag("-n"), shop.reconcile()] {
                    assert_eq!(shop.everything(), before);
                    let report = run.json(3);
                    let error = report["failures"][0]["error"].as_str().unwrap();
                    assert!(error.contains("webhook_endpoints.active is "), "{error}");
                    assert!(error.contains(shown), "{error}");
                }
                assert_eq!(shop.state("a"), "pending", "{value}");
                assert_eq!(shop.state("dead"), "expired", "{value}");
            }
        }
    }
}

impl Shop {
    /// The daemon died after it had issued the license of sale `a`, which lacks its subscription and
    /// the news; this endpoint had news before.
    fn died_after_the_license(&self) {
        self.sale("a").here("settled").licensed().made();
        self.sql(
            "UPDATE policies SET is_recurring = 1, renewal_period_days = 30;
             UPDATE licenses SET policy_id = 'pro-default';
             INSERT INTO webhook_endpoints (id, url, secret) VALUES ('all', 'https://example.com', 's');
             INSERT INTO webhook_deliveries (id, endpoint_id, event_type, payload_json, created_at)
             VALUES ('old', 'all', 'machine.activated', '{}', '2026-01-01T00:00:00+00:00')",
        );
    }
}

#[test]
fn trial_of_existing_license_is_recognized_in_every_spelling() {
    let yes = YES.map(|value| (value, "1"));
    let no = NO.map(|value| (value, "0"));
    for (value, expected) in yes.into_iter().chain(no) {
        let shop = Shop::of_keysat();
        shop.takes_any_value_in("licenses", "is_trial");
        shop.died_after_the_license();
        shop.sql(&format!("UPDATE licenses SET is_trial = {value}"));
        let report = shop.reconcile().flag("--recheck").json(0);
        assert_eq!(
            report["changes"][0]["completed"],
            json!(["subscription", "delivery"]),
            "{value}"
        );
        assert_eq!(
            shop.query(
                "SELECT payload_json ->> '$.data.is_trial' FROM webhook_deliveries WHERE event_type = 'license.issued'"
            ),
            expected,
            "{value}"
        );
    }
}

#[test]
fn unclear_license_is_not_completed() {
    let spoils = NEITHER
        .map(|(value, shown)| {
            (
                format!("is_trial = {value}"),
                "licenses.is_trial is ",
                shown,
            )
        })
        .into_iter()
        .chain(
            ["grace_seconds", "max_machines"]
                .into_iter()
                .flat_map(|column| {
                    NO_NUMBERS.map(|(value, shown)| (format!("{column} = {value}"), column, shown))
                }),
        )
        .chain([
            (
                "issued_at = 'today'".into(),
                "licenses.issued_at is ",
                "today",
            ),
            ("issued_at = ''".into(), "licenses.issued_at is ", "''"),
            (
                "entitlements_json = 'all'".into(),
                "licenses.entitlements_json",
                "JSON array",
            ),
        ]);
    for (spoil, column, shown) in spoils {
        let shop = Shop::of_keysat();
        for column in ["is_trial", "grace_seconds", "max_machines"] {
            shop.takes_any_value_in("licenses", column);
        }
        shop.died_after_the_license();
        shop.sql(&format!(
            "UPDATE licenses SET is_trial = 0, grace_seconds = 0, max_machines = 1; UPDATE licenses SET {spoil}"
        ));
        let before = shop.everything();
        for run in [shop.reconcile().flag("-n"), shop.reconcile()] {
            let report = run.json(3);
            let error = report["failures"][0]["error"].as_str().unwrap();
            assert!(
                error.contains("its license lic-a cannot be used"),
                "{error}"
            );
            assert!(error.contains(column) && error.contains(shown), "{error}");
            assert_eq!(shop.everything(), before, "{spoil}");
        }
    }
}

#[test]
fn unclear_subscription_gets_no_cycle() {
    for (column, value, shown) in [
        ("period_days", "'month'", "month"),
        ("period_days", "30.5", "30.5"),
        ("period_days", "x'3330'", "30"),
        ("started_at", "'today'", "today"),
        ("started_at", "''", "''"),
    ] {
        let shop = Shop::of_keysat();
        shop.died_after_the_license();
        shop.sql(&format!(
            "PRAGMA ignore_check_constraints = 1;
             INSERT INTO subscriptions (id, license_id, policy_id, product_id, period_days, listed_currency,
                                        listed_value, status, started_at, created_at, updated_at)
             VALUES ('sub', 'lic-a', 'pro-default', 'pro', 30, 'SAT', 21000, 'active',
                     strftime('%Y-%m-%dT%H:%M:%f+00:00'), datetime(), datetime());
             UPDATE subscriptions SET {column} = {value}"
        ));
        let before = shop.everything();
        for run in [shop.reconcile().flag("-n"), shop.reconcile()] {
            let report = run.json(3);
            let error = report["failures"][0]["error"].as_str().unwrap();
            assert!(error.contains("subscription"), "{error}");
            assert!(error.contains(column) && error.contains(shown), "{error}");
            assert_eq!(shop.everything(), before);
        }
    }
}

impl Shop {
    /// Makes `column` a generated one.
    fn generates(&self, table: &str, column: &str, expression: &str) {
        self.sql(&format!(
            "ALTER TABLE {table} DROP COLUMN {column};
             ALTER TABLE {table} ADD COLUMN {column} AS ({expression})"
        ));
    }
}

#[test]
fn generated_columns_are_read() {
    for open in SHOPS {
        let shop = open();
        shop.sale("a").redemption("pending").made();
        shop.sql(
            "ALTER TABLE policies ADD COLUMN terms TEXT DEFAULT '{\"days\":365,\"seats\":5,\"can\":[\"fly\"]}'",
        );
        for (table, column, expression) in [
            (
                "policies",
                "duration_seconds",
                "(terms ->> '$.days') * 86400",
            ),
            ("policies", "max_machines", "terms ->> '$.seats'"),
            ("policies", "entitlements_json", "terms -> '$.can'"),
            ("policies", "is_trial", "'f'"),
            ("policies", "active", "max_machines > 0"),
            ("policies", "grace_seconds", "86400"),
            ("invoices", "buyer_email", "id || '@example.org'"),
            ("invoices", "amount_sats", "21000"),
        ] {
            shop.generates(table, column, expression);
        }
        let predicted = shop.reconcile().flag("-n").json(0);
        assert_eq!(predicted["changes"][0]["buyer_email"], "a@example.org");
        shop.reconcile().exits(0).warns("");
        assert_eq!(
            shop.licenses(
                "policy_id, unixepoch(expires_at) - unixepoch(issued_at), grace_seconds, max_machines,
                 entitlements_json, is_trial, buyer_email"
            ),
            ["a|pro-default|31536000|86400|5|[\"fly\"]|0|a@example.org"]
        );
        shop.sql("UPDATE invoices SET updated_at = created_at");
        shop.reconcile().flag("--recheck").exits(0).says_nothing();
    }
}

#[test]
fn generated_columns_that_may_be_absent_are_read() {
    for open in SHOPS {
        let shop = open();
        shop.sale("a").redemption("cancelled").made();
        shop.generates("products", "name", "'The ' || slug");
        shop.generates("discount_codes", "max_uses", "amount - 10");
        let report = shop.reconcile().json(0);
        assert_eq!(report["changes"][0]["product"], "The pro");
        assert_eq!(report["attention"][0]["reason"], "code_over_max_uses");
    }
    let shop = Shop::of_keysat();
    shop.sale("a").made();
    shop.generates("policies", "archived_at", "updated_at");
    shop.reconcile().exits(0).warns("");
    assert_eq!(shop.licenses("policy_id"), ["a|NULL"]);
}

#[test]
fn stored_generated_column_is_read() {
    let schema = include_str!("../../schema.sql");
    let grace = "grace_seconds     INTEGER NOT NULL DEFAULT 0,";
    assert!(schema.contains(grace));
    let shop = Shop::open_with(&schema.replacen(
        grace,
        "grace_seconds INTEGER AS (max_machines * 60) STORED,",
        1,
    ));
    shop.sale("a").made();
    shop.reconcile().exits(0).warns("");
    assert_eq!(shop.licenses("grace_seconds"), ["a|180"]);
}

#[test]
fn generated_columns_of_keysat_are_read() {
    let shop = Shop::of_keysat();
    shop.sale("a").redemption("pending").made();
    shop.sql(
        "INSERT INTO webhook_endpoints (id, url, secret) VALUES ('all', 'https://example.com', 's');
         UPDATE policies SET renewal_period_days = 30",
    );
    for (table, column, expression) in [
        (
            "policies",
            "is_recurring",
            "renewal_period_days IS NOT NULL",
        ),
        ("policies", "trial_days", "renewal_period_days / 2"),
        ("policies", "archived_at", "NULL"),
        ("policies", "tip_pct_bps", "100"),
        ("policies", "tip_recipient", "'artist'"),
        ("invoices", "listed_currency", "'USD'"),
        ("invoices", "listed_value", "1999"),
        ("webhook_endpoints", "active", "'t'"),
        ("webhook_endpoints", "event_types", "'[\"*\"]'"),
        ("payment_providers", "label", "'label'"),
        ("products", "price_value", "21000"),
    ] {
        shop.generates(table, column, expression);
    }
    let report = shop.reconcile().json(0);
    assert_eq!(report["attention"][0]["reason"], "tip_not_sent");
    assert_eq!(
        shop.licenses("is_trial, unixepoch(expires_at) - unixepoch(issued_at)"),
        ["a|1|1296000"]
    );
    assert_eq!(
        shop.query(
            "SELECT period_days, listed_currency, listed_value, (SELECT count(*) FROM webhook_deliveries)
               FROM subscriptions"
        ),
        "30|USD|1999|2"
    );
}

/// Checks that no run begins, dry or real, and that SQLite's own words say why.
#[track_caller]
fn stopped_by_sqlite(shop: &Shop, table: &str, why: &str) {
    let before = shop.everything();
    for run in [shop.reconcile().flag("-n"), shop.reconcile()] {
        let ran = run.exits(1).prints("");
        let expected = format!("SQLite cannot write to the table {table} ({why})");
        assert!(ran.stderr.contains(&expected), "{expected}: {}", ran.stderr);
        assert!(!ran.stderr.contains("UNIQUE"), "{}", ran.stderr);
    }
    assert_eq!(shop.btcpay.requests(), [""; 0], "{why}");
    assert_eq!(shop.everything(), before, "{why}");
}

#[test]
fn broken_parent_table_is_named_as_sqlite_does() {
    for (spoil, why) in [
        (
            "PRAGMA legacy_alter_table = 1; ALTER TABLE products RENAME TO goods",
            "no such table: main.products",
        ),
        ("DROP TABLE products", "no such table: main.products"),
        (
            "DROP TABLE products; CREATE TABLE products (id TEXT, name TEXT)",
            "foreign key mismatch - \"licenses\" referencing \"products\"",
        ),
        (
            "DROP TABLE products; CREATE TABLE products (sku TEXT PRIMARY KEY)",
            "foreign key mismatch - \"licenses\" referencing \"products\"",
        ),
    ] {
        for open in SHOPS {
            let shop = open();
            shop.sale("a").made();
            shop.sql(&format!("PRAGMA foreign_keys = 0; {spoil}"));
            stopped_by_sqlite(&shop, "licenses", why);
        }
    }
}

/// What is written to each table of the contract.
const WRITTEN: [(&str, &str); 5] = [
    ("licenses", "INSERT"),
    ("invoices", "UPDATE OF status"),
    ("discount_redemptions", "UPDATE"),
    ("discount_codes", "UPDATE OF used_count"),
    ("audit_log", "INSERT"),
];

#[test]
fn function_of_the_service_is_named_as_sqlite_does() {
    for (table, written) in WRITTEN {
        for when in ["BEFORE", "AFTER"] {
            for open in SHOPS {
                let shop = open();
                shop.sale("a").made();
                shop.sql(&format!(
                    "CREATE TRIGGER own {when} {written} ON {table} BEGIN SELECT tell_the_buyer(new.id); END"
                ));
                stopped_by_sqlite(&shop, table, "no such function: tell_the_buyer");
            }
        }
    }
}

#[test]
fn index_of_the_service_is_named_as_sqlite_does() {
    for (index, own, why) in [
        ("(lower(id))", "(fold(id))", "unknown function: fold()"),
        (
            "(id COLLATE NOCASE)",
            "(id COLLATE german)",
            "no such collation sequence: german",
        ),
    ] {
        for open in SHOPS {
            let shop = open();
            shop.sale("a").made();
            shop.sql(&format!(
                "CREATE INDEX own ON licenses {index};
                 PRAGMA writable_schema = 1;
                 UPDATE sqlite_schema SET sql = 'CREATE INDEX own ON licenses {own}' WHERE name = 'own'"
            ));
            stopped_by_sqlite(&shop, "licenses", why);
        }
    }
}

#[test]
fn generated_column_that_is_written_is_named() {
    for open in SHOPS {
        for (table, column) in [
            ("licenses", "grace_seconds"),
            ("licenses", "metadata_json"),
            ("discount_codes", "updated_at"),
        ] {
            let shop = open();
            shop.sale("a").made();
            shop.generates(table, column, "1");
            let verb = if table == "licenses" {
                "INSERT into"
            } else {
                "UPDATE"
            };
            stopped_by_sqlite(
                &shop,
                table,
                &format!("cannot {verb} generated column \"{column}\""),
            );
        }
    }
}

#[test]
fn triggers_that_are_not_reached_do_no_harm() {
    for open in SHOPS {
        let shop = open();
        shop.sale("a").redemption("pending").made();
        for (place, (table, event)) in [
            ("licenses", "DELETE"),
            ("licenses", "UPDATE OF metadata_json"),
            ("invoices", "INSERT"),
            ("invoices", "UPDATE OF buyer_email"),
            ("discount_codes", "UPDATE OF code"),
            ("products", "UPDATE"),
            ("policies", "INSERT"),
        ]
        .iter()
        .enumerate()
        {
            shop.sql(&format!(
                "CREATE TRIGGER own{place} AFTER {event} ON {table} BEGIN SELECT tell_the_buyer(1); END"
            ));
        }
        shop.reconcile().exits(0).warns("");
        assert_eq!(
            shop.state("a"),
            "settled, licensed, redeemed with it, used 1"
        );
    }
}

#[test]
fn only_missing_uniqueness_is_called_that() {
    for open in SHOPS {
        let shop = open();
        shop.sale("a").made();
        shop.sql(
            "PRAGMA writable_schema = 1;
             UPDATE sqlite_schema SET sql = replace(sql, 'UNIQUE REFERENCES invoices', 'REFERENCES invoices') WHERE name = 'licenses';
             DELETE FROM sqlite_schema WHERE name = 'sqlite_autoindex_licenses_2'",
        );
        let ran = shop.reconcile().exits(1);
        assert!(
            ran.stderr.contains("licenses.invoice_id is not UNIQUE"),
            "{}",
            ran.stderr
        );
        assert!(
            !ran.stderr.contains("SQLite cannot write"),
            "{}",
            ran.stderr
        );
    }
}

/// What is written to tables of Keysat's own.
const WRITTEN_FOR_KEYSAT: [&str; 3] = [
    "subscriptions",
    "subscription_invoices",
    "webhook_deliveries",
];

#[test]
fn unwritable_table_of_keysat_is_foreseen() {
    for table in WRITTEN_FOR_KEYSAT {
        let shop = Shop::of_keysat();
        shop.sale("a").made();
        shop.sql(&format!(
            "UPDATE policies SET is_recurring = 1, renewal_period_days = 30;
             INSERT INTO webhook_endpoints (id, url, secret) VALUES ('all', 'https://example.com', 's');
             CREATE TRIGGER own AFTER INSERT ON {table} BEGIN SELECT tell_the_buyer(new.id); END"
        ));
        stopped_by_sqlite(&shop, table, "no such function: tell_the_buyer");
    }
}

#[test]
fn report_stays_one_object_when_values_fail() {
    let shop = Shop::open();
    shop.takes_any_value_in("policies", "active");
    shop.sells_for_a_year("a", "active = 'may\u{202e}be' || char(10) || 'not'");
    let report: Value = shop.reconcile().json(3);
    let error = report["failures"][0]["error"].as_str().unwrap();
    assert!(error.contains("policies.active is "), "{error}");
    let ran = shop.reconcile().exits(3);
    assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
}
