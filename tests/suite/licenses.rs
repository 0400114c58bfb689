//! A license grants the terms of the policy that the buyer paid for.

use crate::shop::Shop;

/// Runs the program once and returns the terms of the only license.
#[track_caller]
fn terms(shop: &Shop) -> String {
    shop.reconcile().exits(0);
    shop.query(
        "SELECT policy_id, grace_seconds, max_machines, entitlements_json, is_trial,
                unixepoch(expires_at) - unixepoch(issued_at)
           FROM licenses",
    )
}

#[test]
fn license_records_invoice_and_source() {
    let shop = Shop::open();
    shop.sale("a").made();
    shop.reconcile().exits(0);
    assert_eq!(
        shop.query(
            "SELECT product_id, invoice_id, status, buyer_email, metadata_json,
                    id GLOB '????????-????-4???-[89ab]???-????????????',
                    issued_at GLOB '20??-??-??T??:??:??Z', abs(unixepoch() - unixepoch(issued_at)) < 600
               FROM licenses"
        ),
        r#"pro|a|active|a@example.com|{"btcpay_invoice_id":"btc-a","source":"reconcile"}|1|1|1"#
    );
}

#[test]
fn default_policy_of_the_product_wins() {
    let shop = Shop::open();
    shop.sql(
        "INSERT INTO policies (id, product_id, name, slug) VALUES ('early', 'pro', 'AAA', 'aaa')",
    );
    shop.sale("a").made();
    assert_eq!(terms(&shop), "pro-default|0|3|[\"updates\"]|0|NULL");
}

#[test]
fn first_active_policy_by_name_is_the_fallback() {
    let shop = Shop::open();
    shop.sql(
        "UPDATE policies SET active = 0;
         INSERT INTO policies (id, product_id, name, slug, duration_seconds, grace_seconds, is_trial)
         VALUES ('z', 'pro', 'B', 'z', 86400, 60, 1), ('y', 'pro', 'B', 'y', 86400, 60, 1),
                ('x', 'pro', 'a', 'x', 1, 1, 1), ('w', 'pro', 'C', 'w', 2, 2, 0);",
    );
    shop.sale("a").made();
    assert_eq!(terms(&shop), "y|60|1|[]|1|86400");
}

#[test]
fn license_without_policy_is_perpetual_for_one_machine() {
    let shop = Shop::open();
    shop.sql("UPDATE policies SET active = 0");
    shop.sale("a").made();
    assert_eq!(terms(&shop), "NULL|0|1|[]|0|NULL");
}

#[test]
fn inactive_policy_of_the_invoice_still_applies() {
    let shop = Shop::open();
    shop.sql(
        "INSERT INTO policies (id, product_id, name, slug, duration_seconds, max_machines, active)
         VALUES ('own', 'pro', 'Own', 'own', 31536000, 0, 0)",
    );
    shop.sale("a").made();
    shop.sql("UPDATE invoices SET policy_id = 'own'");
    assert_eq!(terms(&shop), "own|0|0|[]|0|31536000");
}

#[test]
fn unusable_policy_fails_invoice_with_reason() {
    for (spoil, why) in [
        (
            "UPDATE policies SET product_id = 'x'; UPDATE invoices SET policy_id = 'pro-default'",
            "belongs to another product",
        ),
        (
            "UPDATE policies SET entitlements_json = '{\"a\": 1}'",
            "entitlements",
        ),
        (
            "UPDATE policies SET entitlements_json = '[1]'",
            "entitlements",
        ),
        (
            "UPDATE policies SET entitlements_json = '[\"a\"'",
            "entitlements",
        ),
        (
            "UPDATE policies SET duration_seconds = 9223372036854775807",
            "gives no date",
        ),
        (
            "UPDATE policies SET duration_seconds = 400000000000",
            "gives no date",
        ),
        (
            "UPDATE policies SET duration_seconds = 'year'",
            "duration_seconds",
        ),
        ("UPDATE policies SET max_machines = 'many'", "max_machines"),
    ] {
        let shop = Shop::open();
        shop.sale("a").redemption("pending").made();
        shop.sql("PRAGMA ignore_check_constraints = 1");
        let connection = shop.connection();
        connection
            .pragma_update(None, "ignore_check_constraints", true)
            .unwrap();
        connection.execute_batch(spoil).unwrap();
        let before = shop.everything();
        for dry in [&["--dry-run"][..], &[]] {
            let run = dry
                .iter()
                .fold(shop.reconcile(), |run, flag| run.flag(flag));
            let report = run.json(3);
            let error = report["failures"][0]["error"].as_str().unwrap();
            assert!(error.contains(why), "{spoil}: {error}");
            assert_eq!(shop.everything(), before, "{spoil}");
        }
    }
}

#[test]
fn policy_is_read_only_to_issue_a_license() {
    let shop = Shop::open();
    shop.sale("a").licensed().redemption("pending").made();
    shop.sql("UPDATE invoices SET policy_id = 'gone'");
    shop.reconcile().exits(0);
    assert_eq!(
        shop.state("a"),
        "settled, licensed, redeemed with it, used 1"
    );
}

#[test]
fn existing_license_is_kept() {
    let shop = Shop::open();
    shop.sale("a").licensed().redemption("pending").made();
    shop.sql("UPDATE licenses SET status = 'revoked'");
    let report = shop.reconcile().json(0);
    assert_eq!(
        shop.query("SELECT id, status FROM licenses"),
        "lic-a|revoked"
    );
    assert_eq!(report["changes"][0]["license_issued"], false);
    assert_eq!(report["changes"][0]["license_id"], "lic-a");
}

#[test]
fn rejected_write_fails_that_invoice_alone() {
    for spoil in [
        "ALTER TABLE licenses ADD COLUMN serial TEXT CHECK (serial IS NOT NULL OR invoice_id = 'good')",
        "CREATE TRIGGER no BEFORE INSERT ON licenses WHEN new.invoice_id = 'bad' BEGIN SELECT RAISE(ABORT, 'not this one'); END",
        "CREATE TRIGGER no BEFORE INSERT ON licenses WHEN new.invoice_id = 'bad' BEGIN SELECT RAISE(ROLLBACK, 'not this one'); END",
        "CREATE TRIGGER no BEFORE INSERT ON licenses WHEN new.invoice_id = 'bad' BEGIN SELECT RAISE(IGNORE); END",
        "CREATE TRIGGER no BEFORE UPDATE ON invoices WHEN new.id = 'bad' BEGIN SELECT RAISE(FAIL, 'not this one'); END",
        "CREATE TRIGGER no BEFORE UPDATE ON invoices WHEN new.id = 'bad' BEGIN SELECT RAISE(IGNORE); END",
        "CREATE TRIGGER no AFTER INSERT ON audit_log WHEN new.target_id = 'red-bad' BEGIN SELECT RAISE(ABORT, 'not this one'); END",
    ] {
        let shop = Shop::open();
        shop.sale("bad").redemption("pending").made();
        shop.sale("good").redemption("pending").made();
        shop.sql(spoil);
        shop.reconcile()
            .exits(3)
            .warns("error: invoice bad (BTCPay invoice btc-bad): [..]");
        assert_eq!(shop.state("bad"), "pending, pending, used 2", "{spoil}");
        assert_eq!(
            shop.state("good"),
            "settled, licensed, redeemed with it, used 2",
            "{spoil}"
        );
        assert_eq!(shop.query("SELECT count(*) FROM audit_log"), "3", "{spoil}");
    }
}

#[test]
fn uncountable_discount_code_fails_invoice() {
    for spoil in [
        "UPDATE discount_codes SET used_count = 'some'",
        "UPDATE discount_redemptions SET code_id = 'gone'",
    ] {
        let shop = Shop::open();
        shop.sale("dead")
            .there("Expired")
            .redemption("pending")
            .made();
        shop.sql(spoil);
        let before = shop.everything();
        shop.reconcile()
            .exits(3)
            .warns("error: invoice dead (BTCPay invoice btc-dead): its discount code [..]");
        assert_eq!(shop.everything(), before, "{spoil}");
    }
}
