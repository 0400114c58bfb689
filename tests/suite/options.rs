//! Command-line options, environment variables, and the exit code of each mistake.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

use crate::btcpay::{KEY, STORE};
use crate::disks::{NOBODY, as_nobody};
use crate::program::{Ran, Run, full_disk, line_matches};
use crate::shop::Shop;

/// A run configured entirely by environment variables.
fn by_environment(shop: &Shop) -> Run {
    Run::bare()
        .env("RECONCILE_DATABASE", shop.database().to_str().unwrap())
        .env("BTCPAY_URL", &shop.btcpay.url())
        .env("BTCPAY_STORE_ID", STORE)
        .env("BTCPAY_API_KEY", KEY)
}

#[test]
fn every_setting_can_come_from_the_environment() {
    let shop = Shop::open();
    shop.sale("a").made();
    by_environment(&shop).exits(0).warns("");
    assert_eq!(shop.state("a"), "settled, licensed");
}

#[test]
fn option_overrides_environment_variable() {
    let shop = Shop::open();
    shop.sale("a").made();
    shop.reconcile()
        .option("--api-key-file", &shop.private_file("key", KEY))
        .env("RECONCILE_DATABASE", "/nowhere")
        .env("BTCPAY_URL", "http://127.0.0.1:1")
        .env("BTCPAY_STORE_ID", "another")
        .env("BTCPAY_API_KEY_FILE", "/nowhere")
        .env("BTCPAY_API_KEY", "wrong")
        .exits(0)
        .warns("");
    assert_eq!(shop.state("a"), "settled, licensed");
}

#[test]
fn empty_setting_counts_as_unset() {
    let shop = Shop::open();
    shop.sale("a").made();
    by_environment(&shop)
        .env("BTCPAY_API_KEY_FILE", "")
        .env("RUST_LOG", "")
        .option("--database", "")
        .exits(0)
        .warns("");
    for (name, question) in [
        ("RECONCILE_DATABASE", "no database given"),
        ("BTCPAY_URL", "no BTCPay Server given"),
        ("BTCPAY_STORE_ID", "no store given"),
        ("BTCPAY_API_KEY", "no API key given"),
    ] {
        by_environment(&shop)
            .env(name, "")
            .exits(2)
            .prints("")
            .warns(&format!("error: {question}[..]{name}[..]"));
    }
}

#[test]
fn api_key_sources_have_a_fixed_precedence() {
    let shop = Shop::open();
    shop.sale("a").there("New").made();
    let good = shop.private_file("good", format!("{KEY}\n"));
    let crlf = shop.private_file("crlf", format!("{KEY}\r\n"));
    let wrong = shop.private_file("wrong", "wrong");
    by_environment(&shop)
        .option("--api-key-file", &good)
        .env("BTCPAY_API_KEY_FILE", &wrong)
        .exits(0);
    by_environment(&shop)
        .env("BTCPAY_API_KEY_FILE", &crlf)
        .env("BTCPAY_API_KEY", "wrong")
        .exits(0);
    by_environment(&shop)
        .env("BTCPAY_API_KEY_FILE", &wrong)
        .exits(1);
}

#[test]
fn malformed_api_key_is_a_configuration_error() {
    let shop = Shop::open();
    for text in [
        "",
        "\n",
        "two\nlines",
        "two words",
        "\u{e9}",
        "# the key\nabc\n",
    ] {
        by_environment(&shop)
            .option("--api-key-file", &shop.private_file("key", text))
            .exits(2)
            .warns("error: the API key file [..]");
    }
    let picture = shop.private_file("key", [0xff, 0xd8, 0xff, 0xe0]);
    for (file, why) in [
        ("/nowhere/key", "no such file"),
        ("/", "is a directory"),
        (&picture, "it is not a text file"),
    ] {
        by_environment(&shop)
            .option("--api-key-file", file)
            .exits(2)
            .warns(&format!(
                "error: cannot read the API key file {file}: {why}. Correct --api-key-file (BTCPAY_API_KEY_FILE)"
            ));
    }
}

#[test]
fn malformed_url_is_a_configuration_error() {
    const LACKS: &str = "lacks http:// or https://";
    let shop = Shop::open();
    for (url, wrong) in [
        ("btcpay.example.com", LACKS),
        ("127.0.0.1:23000", LACKS),
        // Not the protocol `localhost`.
        ("localhost:23000", LACKS),
        ("//btcpay.example.com", LACKS),
        ("ftp://btcpay.example.com", LACKS),
        ("mailto:a@example.com", LACKS),
        ("https://", "cannot be parsed: empty host"),
        ("https://btcpay.example.com/?a=b", "contains a '?' or '#'"),
        ("https://btcpay.example.com/#a", "contains a '?' or '#'"),
    ] {
        for (option, what) in [
            ("--btcpay-url", "the URL of BTCPay Server"),
            ("--public-url", "the public URL of BTCPay Server"),
        ] {
            shop.reconcile()
                .option(option, url)
                .exits(2)
                .warns(&format!(
                    "error: {what} {wrong}. Set {option} ([..]) to an address like https://btcpay.example.com"
                ));
        }
    }
    let ran = shop
        .reconcile()
        .option("--btcpay-url", "https://me:hunter2@btcpay.example.com")
        .exits(2);
    assert!(!ran.stderr.contains("hunter2"), "{}", ran.stderr);
}

#[test]
fn store_id_cannot_change_the_request_path() {
    let shop = Shop::open();
    for id in ["..", "a/b", "a\nb"] {
        shop.reconcile()
            .option("--store-id", id)
            .exits(2)
            .warns("error: the store id [..]");
    }
}

#[test]
fn usage_error_exits_with_2() {
    let shop = Shop::open();
    for (name, value) in [
        ("--max-age-hours", "0"),
        ("--max-age-hours", "-1"),
        ("--max-age-hours", "many"),
        ("--deadline", "-1"),
        ("--deadline", "soon"),
        ("--format", "xml"),
        ("--dry-rum", "--recheck"),
        ("-q", "-v"),
        ("--api-key", "secret"),
    ] {
        shop.reconcile().option(name, value).exits(2).prints("");
    }
}

#[test]
fn value_that_is_no_whole_number_is_told_so() {
    for (option, values, why) in [
        (
            "--max-age-hours",
            ["0", "-5", "1.5", "abc", "4294967296"],
            "it takes whole hours, from 1 to 4294967295",
        ),
        (
            "--deadline",
            ["-1", "-5", "0.5", "soon", "4294967296"],
            "it takes whole seconds, from 0 (no limit) to 4294967295",
        ),
    ] {
        for value in values {
            let ran = Run::bare().option(option, value).exits(2);
            let error = format!("error: invalid value '{value}' for '{option} <[..]>': {why}");
            let said = ran.stderr.lines().next().unwrap();
            assert!(line_matches(&error, said), "{}", ran.stderr);
        }
    }
}

#[test]
fn no_message_shows_a_usage_that_is_refused() {
    for words in [
        "--recheck inv-1",
        "inv-1 --recheck",
        "inv-1 --issue inv-2",
        "--issue inv-1 --recheck",
        "--acknowledge inv-1 -n",
        "-q -v",
    ] {
        let run = words.split(' ').fold(Run::bare(), Run::flag);
        run.exits(2).prints("").warns(
            "error: the argument [..] cannot be used with [..]

             For more information, try '--help'.",
        );
    }
    // That would make an INVOICE of it.
    for unknown in ["-5", "--zzz"] {
        let ran = Run::bare().flag(unknown).exits(2);
        let error = format!("error: unexpected argument '{unknown}' found");
        assert!(ran.stderr.starts_with(&error), "{}", ran.stderr);
        assert!(!ran.stderr.contains("tip:"), "{}", ran.stderr);
    }
}

#[test]
fn api_key_is_absent_from_verbose_logs() {
    let shop = Shop::open();
    shop.sale("a").made();
    let ran = shop.reconcile().flag("-vvv").exits(0);
    assert!(
        ran.stderr.contains("debug:"),
        "no debug output: {}",
        ran.stderr
    );
    assert!(!ran.stderr.contains(KEY));
    let ran = shop.reconcile().env("RUST_LOG", "trace").exits(0);
    assert!(!ran.stderr.contains(KEY));
}

#[test]
fn verbosity_options_override_rust_log() {
    let shop = Shop::open();
    shop.sale("doubt").here("settled").there("New").made();
    let doubt = [("doubt", "settled_here_not_there")];
    // As if each run were the first.
    let run = || {
        shop.sql("DELETE FROM audit_log");
        shop.reconcile()
    };
    run().exits(0).tells(&doubt);
    run().flag("-q").exits(0).warns("");
    run().env("RUST_LOG", "error").exits(0).warns("");
    for filter_of_another_program in ["keysat=debug,tower_http=off", "keysat=debug/payment"] {
        run()
            .env("RUST_LOG", filter_of_another_program)
            .exits(0)
            .tells(&doubt);
    }
    run().env("RUST_LOG", "trace").flag("-q").exits(0).warns("");
    for (level, flags) in [("error", &["-v"][..]), ("info", &[])] {
        let run = flags
            .iter()
            .fold(run().env("RUST_LOG", level), |run, flag| run.flag(flag));
        run.exits(0)
            .says("info: invoice doubt: settled in the database, New in BTCPay")
            .says("21,000 sats, 1 h old: settled here not there");
    }
}

#[test]
fn help_lists_every_option_variable_and_exit_code() {
    let help = Run::bare().flag("--help").exits(0).stdout;
    for word in [
        "--database",
        "--btcpay-url",
        "--store-id",
        "--api-key-file",
        "--dry-run",
        "--recheck",
        "--issue",
        "--acknowledge",
        "[INVOICE]...",
        "--max-age-hours",
        "--deadline",
        "--format",
        "--verbose",
        "--quiet",
        "RECONCILE_DATABASE",
        "BTCPAY_URL",
        "BTCPAY_PUBLIC_URL",
        "BTCPAY_STORE_ID",
        "BTCPAY_API_KEY_FILE",
        "BTCPAY_API_KEY.",
        "RUST_LOG",
        "  0 ",
        "  1 ",
        "  2 ",
        "  3 ",
        "72",
    ] {
        assert!(help.contains(word), "{word} is missing from:\n{help}");
    }
    let widest = help.lines().map(str::len).max().unwrap();
    assert!(widest <= 80, "{help}");
    assert!(help.lines().count() <= 50, "{help}");
}

#[test]
fn readable_key_file_warns_with_chmod_command() {
    let shop = Shop::open();
    let file = shop.private_file("key", KEY);
    for (mode, warning) in [
        (0o600, ""),
        (0o400, ""),
        (
            0o640,
            "warning: other users can read the API key file [..]. Run: chmod 600 '[..]/key'",
        ),
        (
            0o604,
            "warning: other users can read the API key file [..]. Run: chmod 600 '[..]/key'",
        ),
    ] {
        fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
        by_environment(&shop)
            .option("--api-key-file", &file)
            .exits(0)
            .warns(warning);
    }
}

#[test]
fn key_file_of_another_user_is_handed_over_and_not_only_closed() {
    let shop = Shop::open();
    shop.sale("a").made();
    // It is root's, and where the tests do not run as root, this user's.
    let file = shop.private_file("key", KEY);
    let metadata = fs::metadata(&file).unwrap();
    let close = if metadata.uid() == 0 {
        format!("As root: chown {NOBODY} '{file}' && chmod 600 '{file}'")
    } else {
        format!("Run: chmod 600 '{file}'")
    };
    let run = |code| {
        as_nobody(
            &shop,
            by_environment(&shop).option("--api-key-file", &file),
            code,
        )
    };
    fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    run(0).warns(&format!(
        "warning: other users can read the API key file {file}. {close}"
    ));
    fs::set_permissions(&file, Permissions::from_mode(0o000)).unwrap();
    run(2).warns(&format!(
        "error: cannot read the API key file {file}: permission denied. {close}"
    ));
    let mut as_advised = Command::new("sh");
    as_advised.args(["-c", close.split_once(": ").unwrap().1]);
    Ran::of(as_advised, 0);
    run(0).warns("");
}

#[test]
fn wrong_option_is_a_usage_error_even_if_nobody_can_read_that() {
    let shop = Shop::open();
    let mut command = shop.reconcile().flag("--bogus").command();
    let status = command.stderr(full_disk()).status().unwrap();
    assert_eq!(status.code(), Some(2));
}

#[test]
fn plain_http_to_public_host_is_refused() {
    let shop = Shop::open();
    shop.sale("a").made();
    shop.reconcile()
        .option("--btcpay-url", "http://btcpay.example.com")
        .env("HTTP_PROXY", &shop.btcpay.url())
        .exits(2)
        .prints("")
        .warns("error: plain http would send the API key unencrypted to btcpay.example.com. [..]https[..]");
    assert_eq!(shop.btcpay.requests(), [""; 0]);
}
