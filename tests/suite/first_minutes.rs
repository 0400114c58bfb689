//! The first minutes, and what is pasted, quoted or mixed up in them: each mistake gets a message from
//! which it can be mended, and none shows the API key.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, date_time_ymd};
use serde_json::json;

use crate::btcpay::{Fault, KEY, STORE};
use crate::disks::as_nobody;
use crate::network::{listen, read_head, shows};
use crate::program::{Ran, Run};
use crate::shop::{BTC, Shop};

/// A key of another server, or of yesterday.
const OTHER_KEY: &str = "0a1b2c3d4e5f60718293A4B5C6D7E8F901234567";

/// A shop with one pending invoice that is paid.
fn shop_with_a_sale() -> Shop {
    let shop = Shop::open();
    shop.sale("a").made();
    shop
}

/// No message is longer than three lines of 80 columns, and none has the key.
#[track_caller]
fn is_short_and_without_key(ran: &Ran) {
    for line in ran.stderr.lines() {
        assert!(line.chars().count() <= 240, "{line}");
    }
    for text in [&ran.stderr, &ran.stdout] {
        for key in [KEY, OTHER_KEY] {
            let lower = text.to_lowercase();
            assert!(!lower.contains(&key.to_lowercase()[..10]), "{text}");
        }
    }
}

/// The run refuses its settings with this message, prints nothing and asks nothing.
#[track_caller]
fn is_refused(shop: &Shop, run: Run, message: &str) {
    let ran = run.exits(2).prints("").warns(message);
    is_short_and_without_key(&ran);
    assert_eq!(shop.btcpay.requests(), [""; 0]);
}

/// The run fails with this message.
#[track_caller]
fn fails(run: Run, message: &str) {
    is_short_and_without_key(&run.exits(1).warns(message));
}

#[test]
fn key_in_the_wrong_place_is_not_shown() {
    let shop = shop_with_a_sale();
    let message = "error: [..] looks like an API key. Put the key into a file of its own, named in --api-key-file [..]";
    for key in [
        KEY,
        OTHER_KEY,
        &format!("token {KEY}"),
        &format!("/x/{KEY}"),
    ] {
        for option in [
            "--database",
            "--btcpay-url",
            "--public-url",
            "--store-id",
            "--api-key-file",
        ] {
            is_refused(&shop, shop.reconcile().option(option, key), message);
        }
    }
    for variable in ["BTCPAY_API_KEY_FILE", "BTCPAY_PUBLIC_URL"] {
        is_refused(&shop, shop.reconcile().env(variable, KEY), message);
    }
    is_refused(
        &shop,
        shop.reconcile().flag(KEY),
        "error: the API key was given as INVOICE. [..]",
    );
    for option in ["--issue", "--acknowledge", "--"] {
        let ran = shop.reconcile().option(option, OTHER_KEY).exits(3);
        is_short_and_without_key(&ran);
        ran.says("error: '(an API key?)': [..]");
    }
}

#[test]
fn key_is_not_in_what_is_wrong_with_the_options() {
    for wrong in [
        vec!["--deadline", KEY],
        vec!["--deadline", OTHER_KEY],
        vec!["--api-key", KEY],
        vec!["--format", KEY],
        vec![&format!("--{KEY}")],
        vec![&format!("--api-key={OTHER_KEY}")],
        vec!["--acknowledge", KEY, "--recheck"],
    ] {
        for color in ["0", "1"] {
            let run = wrong.iter().fold(Run::bare(), |run, word| run.flag(word));
            let ran = run.env("CLICOLOR_FORCE", color).exits(2).prints("");
            is_short_and_without_key(&ran);
        }
    }
    let odd = "not-of-hex-digits-but-a-key";
    let run = Run::bare().option("--deadline", odd);
    let ran = run.env("BTCPAY_API_KEY", odd).exits(2);
    assert!(!ran.stderr.contains(odd), "{}", ran.stderr);
    ran.says("read. Name that file in --api-key-file (BTCPAY_API_KEY_FILE).");
    let ran = Run::bare().option("--deadline", "soon").exits(2);
    assert!(!ran.stderr.contains("key"), "{}", ran.stderr);
}

#[test]
fn key_that_a_server_echoes_is_not_logged() {
    const ECHOES: &str = "Via: Authorization: token 0a1b2c3d4e5f60718293A4B5C6D7E8F901234567\r\nX-Key: 6f3a1c9e5b7d2f4a8c0e1b3d5f7a9c2e4b6d8f0a\r\n";
    assert!(ECHOES.contains(KEY) && ECHOES.contains(OTHER_KEY));
    for verbosity in ["-v", "-vv", "-vvv"] {
        for status in [200, 400, 401, 403, 404, 500] {
            let body = format!("Authorization: token {KEY}\nX-Forwarded-Key: {OTHER_KEY}");
            let shop = shop_with_a_sale();
            for what in ["btc-a", "list", "key"] {
                let fault = Fault::Answer(status, ECHOES, body.clone());
                shop.btcpay.fails(what, fault);
            }
            let run = shop.reconcile().flag(verbosity).option("--deadline", "2");
            let output = run.command().output().unwrap();
            for text in [output.stdout, output.stderr] {
                let text = String::from_utf8(text).unwrap().to_lowercase();
                for key in [KEY, OTHER_KEY] {
                    assert!(!text.contains(&key.to_lowercase()[..10]), "{text}");
                }
            }
        }
    }
}

/// A service may name its invoices by hashes. One of them would have to be the key to be hidden.
#[test]
fn ids_are_shown_even_if_they_look_like_a_key() {
    const ID: &str = "da39a3ee5e6b4b0d3255bfef95601890afd80709";
    let shop = Shop::open();
    let late = shop.sale(ID).there("Expired");
    late.additional("PaidLate", BTC).made();
    let ran = shop.reconcile().exits(0);
    ran.tells(&[(ID, "paid_late")]);
    let ran = shop.reconcile().flag("-n").flag("-v").exits(0);
    assert!(ran.stdout.contains(ID), "{}", ran.stdout);

    let shop = Shop::open();
    shop.sale(ID).made();
    let fault = Fault::Answer(400, "", OTHER_KEY.into());
    shop.btcpay.fails(&format!("btc-{ID}"), fault);
    let ran = shop.reconcile().flag(ID).exits(3);
    assert!(ran.stderr.contains(ID), "{}", ran.stderr);

    for dry in [true, false] {
        let shop = Shop::open();
        shop.sale(KEY).made();
        let run = shop.reconcile();
        let ran = if dry { run.flag("-n") } else { run }.exits(0);
        is_short_and_without_key(&ran);
        assert!(ran.stdout.contains("(the API key)"), "{}", ran.stdout);
        let json = shop.reconcile().flag("--recheck").json(0).to_string();
        assert!(!json.contains(KEY), "{json}");
    }
}

#[test]
fn blanks_around_settings_are_trimmed() {
    let shop = shop_with_a_sale();
    shop.reconcile()
        .option("--btcpay-url", &format!("  {}\t", shop.btcpay.url()))
        .option("--store-id", &format!(" {STORE}\r\n"))
        .option("--public-url", " https://btcpay.example.com ")
        .env("BTCPAY_API_KEY", &format!(" {KEY} \n"))
        .exits(0)
        .warns("");
    assert_eq!(shop.state("a"), "settled, licensed");
    shop.reconcile()
        .option(
            "--api-key-file",
            &shop.private_file("key", format!("\u{feff}\n {KEY}\t\r\n\r\n")),
        )
        .flag("-n")
        .exits(0)
        .warns("");
    shop.reconcile()
        .option("--store-id", "  ")
        .exits(2)
        .warns("error: no store given. [..]");
}

#[test]
fn quotes_and_comments_around_settings_are_named() {
    let shop = shop_with_a_sale();
    let url = shop.btcpay.url();
    for (option, variable, value) in [
        ("--btcpay-url", "BTCPAY_URL", url.as_str()),
        ("--store-id", "BTCPAY_STORE_ID", STORE),
        (
            "--public-url",
            "BTCPAY_PUBLIC_URL",
            "https://btcpay.example.com",
        ),
        ("--database", "RECONCILE_DATABASE", "/var/lib/licenses.db"),
        ("--api-key-file", "BTCPAY_API_KEY_FILE", "/etc/key"),
    ] {
        for (before, after) in [("\"", "\""), ("'", "'"), ("“", "”"), ("„", "“"), ("", "\"")]
        {
            is_refused(
                &shop,
                shop.reconcile()
                    .option(option, &format!("{before}{value}{after}")),
                &format!(
                    "error: [..] has quotes around it. Set {option} or {variable} without, as in {variable}=[..]"
                ),
            );
        }
    }
    for (option, value) in [("--btcpay-url", url.as_str()), ("--store-id", STORE)] {
        for (end, what) in [
            (" # ours", "a blank in it, or a comment behind it"),
            ("\u{200b}", "a character in it that cannot be seen"),
            ("\u{1b}", "a character in it that cannot be seen"),
        ] {
            is_refused(
                &shop,
                shop.reconcile().option(option, &format!("{value}{end}")),
                &format!("error: [..] has {what}. Set {option} or [..] without, as in [..]"),
            );
        }
    }
    for text in [format!("\"{KEY}\""), format!("'{KEY}'\n")] {
        let file = shop.private_file("key", text);
        is_refused(
            &shop,
            shop.reconcile().option("--api-key-file", &file),
            "error: the API key file [..] has quotes around the key. Remove them",
        );
    }
}

#[test]
fn path_of_a_page_or_of_the_api_is_named_with_the_right_address() {
    let shop = shop_with_a_sale();
    let url = shop.btcpay.url();
    for (path, base) in [
        ("/api/v1", "/"),
        ("/api/v1/", "/"),
        ("/btcpay/api/v1/stores", "/btcpay"),
        ("/stores/9CiNzKoANXxmk5/invoices", "/"),
        ("/invoices/MxK3TLpLpSDDvNmwA2XkKZ", "/"),
        ("/Login", "/"),
    ] {
        is_refused(
            &shop,
            shop.reconcile()
                .option("--btcpay-url", &format!("{url}{path}")),
            &format!(
                "error: [..] ends with the path of BTCPay's API or of one of its pages. Set --btcpay-url (BTCPAY_URL) to {url}{base}"
            ),
        );
    }
    is_refused(
        &shop,
        shop.reconcile()
            .option("--public-url", "https://btcpay.example.com/login"),
        "error: [..] Set --public-url (BTCPAY_PUBLIC_URL) to https://btcpay.example.com/",
    );
}

#[test]
fn plain_http_to_an_https_port_is_told() {
    // nginx, and Go.
    for body in [
        "<html><body><center>The plain HTTP request was sent to HTTPS port</center></body></html>",
        "Client sent an HTTP request to an HTTPS server.\n",
    ] {
        let shop = shop_with_a_sale();
        for what in ["btc-a", "list"] {
            let fault = Fault::Answer(400, "Server: nginx\r\n", body.into());
            shop.btcpay.fails(what, fault);
        }
        let https = shop.btcpay.url().replace("http:", "https:");
        fails(
            shop.reconcile(),
            &format!(
                "error: http://[..]/ is an https port, but was asked over plain http (400: [..]). Should --btcpay-url be {https}/?"
            ),
        );
    }
    // What answers with an alert of TLS.
    let shop = shop_with_a_sale();
    let (certificate, key) = self_signed(&["localhost"], |_| {});
    let https = shows(&shop, &certificate, &key);
    let http = https.replace("https:", "http:");
    fails(
        shop.reconcile()
            .option("--btcpay-url", &http)
            .option("--deadline", "1")
            .flag("-n")
            .flag("a"),
        &format!(
            "error: [..]what answers at {http}/ does not speak plain http ([..]). Should --btcpay-url be {https}/?"
        ),
    );
}

#[test]
fn redirect_to_https_names_the_address() {
    let shop = shop_with_a_sale();
    for what in ["btc-a", "list"] {
        let fault = Fault::Answer(
            301,
            "Location: https://btcpay.local/btcpay/api/v1/stores/x/invoices?take=1\r\n",
            String::new(),
        );
        shop.btcpay.fails(what, fault);
    }
    fails(
        shop.reconcile(),
        "error: BTCPay Server redirects to https://[..] (301[..]), which reconcile does not follow. Set --btcpay-url to https://btcpay.local/btcpay",
    );
}

#[test]
fn https_to_a_port_for_plain_http_is_told() {
    let shop = shop_with_a_sale();
    let address = listen(|mut stream| {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        read_head(&mut stream);
    });
    fails(
        shop.reconcile()
            .option("--btcpay-url", &format!("https://{address}")),
        &format!(
            "error: https://{address}/ answers, but without TLS: that port is probably for plain http. Should --btcpay-url be http://{address}/?"
        ),
    );
}

#[test]
fn onion_address_without_tor_is_told() {
    let shop = shop_with_a_sale();
    fails(
        shop.reconcile()
            .option("--btcpay-url", "http://zqktlwiuavvvqqt4ybvgvi7t.onion"),
        "error: cannot reach BTCPay Server at [..].onion/ without Tor. Set ALL_PROXY=socks5h://127.0.0.1:9050[..]",
    );
}

#[test]
fn proxy_that_cannot_be_used_is_told() {
    let shop = shop_with_a_sale();
    let far = || {
        shop.reconcile()
            .option("--btcpay-url", "https://btcpay.internal")
    };
    for (variable, value) in [
        ("ALL_PROXY", "socks://127.0.0.1:9050"),
        ("all_proxy", "socks://127.0.0.1:9050"),
        ("ALL_PROXY", "SOCKS5H://127.0.0.1:9050"),
        ("ALL_PROXY", "\"socks5h://127.0.0.1:9050\""),
        ("ALL_PROXY", "'127.0.0.1:9050'"),
        ("ALL_PROXY", "socks5h://127.0.0.1:9050 # Tor"),
        ("HTTPS_PROXY", "ftp://somebody:s3cret@127.0.0.1"),
        ("https_proxy", "http://127.0.0.1:port"),
    ] {
        is_refused(
            &shop,
            far().env(variable, value),
            &format!(
                "error: {variable} is set, but reconcile cannot use it. Set it to an address like socks5h://127.0.0.1:9050 [..]"
            ),
        );
    }
    for exceptions in [
        "\"btcpay.internal\"",
        "localhost btcpay.internal",
        "localhost # here",
    ] {
        is_refused(
            &shop,
            far()
                .env("ALL_PROXY", "socks5h://127.0.0.1:1")
                .env("NO_PROXY", exceptions),
            "error: NO_PROXY is set, but reconcile cannot use it. Set it to names with commas [..]",
        );
    }
    // What does not count, or is not for this address.
    for (variable, value) in [
        ("HTTP_PROXY", "socks://127.0.0.1:9050"),
        ("NO_PROXY", "a b"),
    ] {
        fails(
            far().env(variable, value).option("--deadline", "1"),
            "error: [..]cannot reach BTCPay Server at https://btcpay.internal/: lookup[..]",
        );
    }
    fails(
        far()
            .env("ALL_PROXY", "socks://127.0.0.1:9050")
            .env("NO_PROXY", "localhost, .internal")
            .option("--deadline", "1"),
        "error: [..]cannot reach BTCPay Server at https://btcpay.internal/: lookup[..]",
    );
    shop.reconcile()
        .env("ALL_PROXY", "socks://127.0.0.1:9050")
        .exits(0)
        .warns("");
}

/// What `openssl req -x509` makes: it signs itself, and may sign others.
fn self_signed(
    names: &[&str],
    change: impl FnOnce(&mut CertificateParams),
) -> (rcgen::Certificate, KeyPair) {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut parameters = CertificateParams::new(names).unwrap();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let cn = "localhost";
    parameters.distinguished_name.push(DnType::CommonName, cn);
    change(&mut parameters);
    let key = KeyPair::generate().unwrap();
    (parameters.self_signed(&key).unwrap(), key)
}

#[test]
fn own_certificate_is_trusted_of_the_very_server_that_shows_it() {
    let shop = shop_with_a_sale();
    let (certificate, key) = self_signed(&["localhost"], |_| {});
    let url = shows(&shop, &certificate, &key);
    let run = || shop.reconcile().option("--btcpay-url", &url);
    fails(
        run(),
        &format!(
            "error: the certificate of {url}/ is not trusted: it is self-signed. If it is your own[..] in SSL_CERT_FILE"
        ),
    );
    // The same names, another key.
    let (stranger, _) = self_signed(&["localhost"], |_| {});
    let file = shop.private_file("other.pem", stranger.pem());
    fails(
        run().env("SSL_CERT_FILE", &file),
        &format!(
            "error: the certificate of {url}/ is not trusted: it is self-signed. {file}, which SSL_CERT_FILE names, has neither it nor its authority's. [..]"
        ),
    );
    assert_eq!(shop.btcpay.requests(), [""; 0], "the key was not sent");
    // Among others, as in a bundle.
    let bundle = format!("{}{}", stranger.pem(), certificate.pem());
    let file = shop.private_file("both.pem", bundle);
    run().env("SSL_CERT_FILE", &file).exits(0).warns("");
    assert_eq!(shop.state("a"), "settled, licensed");
}

#[test]
fn what_is_wrong_with_a_certificate_comes_first() {
    let shop = shop_with_a_sale();
    let reason = |names: &[&str], change: fn(&mut CertificateParams), message: &str| {
        let (certificate, key) = self_signed(names, change);
        let url = shows(&shop, &certificate, &key);
        let file = shop.private_file("own.pem", certificate.pem());
        fails(
            shop.reconcile()
                .option("--btcpay-url", &url)
                .env("SSL_CERT_FILE", &file),
            &format!("error: the certificate of {url}/ {message}"),
        );
        assert_eq!(shop.btcpay.requests(), [""; 0], "the key was not sent");
    };
    reason(
        &["localhost"],
        |parameters| parameters.not_after = date_time_ymd(2024, 2, 29),
        "expired on 2024-02-29. Renew it there, or if it was renewed, correct this machine's clock [..]",
    );
    reason(
        &["localhost"],
        |parameters| parameters.not_before = date_time_ymd(2090, 1, 1),
        "is valid from 2090-01-01 on. Correct this machine's clock [..]",
    );
    reason(
        &["btcpay.example.com", "www.example.com"],
        |_| {},
        "is for btcpay.example.com, www.example.com, not for localhost. Set --btcpay-url to a name that it has[..]",
    );
    reason(
        &[],
        |_| {},
        "has no subjectAltName, and its CN does not count. Make one for localhost: openssl req -x509 with -addext 'subjectAltName=DNS:localhost'",
    );
}

#[test]
fn certificate_file_without_certificates_is_told() {
    let shop = shop_with_a_sale();
    for file in [
        "/nowhere/own.pem".into(),
        shop.private_file("key.pem", "no certificate"),
    ] {
        fails(
            shop.reconcile()
                .option("--btcpay-url", "https://localhost:1")
                .env("SSL_CERT_FILE", &file),
            &format!(
                "error: no certificate can be read from {file}, which SSL_CERT_FILE names. [..]"
            ),
        );
    }
}

#[test]
fn journal_of_another_user_is_named_with_the_command_that_gives_it_back() {
    let shop = shop_with_a_sale();
    shop.sql("PRAGMA journal_mode = wal");
    // While another connection is open, the files stay. They are root's, and where the tests do not run
    // as root, nobody's.
    let service = shop.connection();
    service
        .execute_batch("UPDATE products SET name = 'Pro'")
        .unwrap();
    let files = ["wal", "shm"].map(|end| shop.path(&format!("licenses.db-{end}")));
    let is_root = files[0].metadata().unwrap().uid() == 0;
    let database = shop.database();
    let [wal, shm] = [0, 1].map(|place| files[place].display().to_string());
    // root's umask decides whether others may read them.
    for (of_root, dry) in [(0o600, true), (0o600, false), (0o644, false)] {
        for file in &files {
            let mode = if is_root { of_root } else { 0 };
            fs::set_permissions(file, Permissions::from_mode(mode)).unwrap();
        }
        let run = shop.reconcile();
        let run = if dry { run.flag("-n") } else { run };
        let ran = as_nobody(&shop, run, 1).warns(&format!(
            "error: this user may not write to {wal}, which \
             another user's run left. As root: chown --reference='{0}' '{wal}' '{shm}'",
            database.display()
        ));
        is_short_and_without_key(&ran);
    }
    for file in files {
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    }
}

#[test]
fn answer_from_a_cache_says_nothing_about_the_clock() {
    let answer =
        json!({"id": "btc-a", "storeId": STORE, "status": "New", "currency": "BTC", "amount": BTC});
    let shop = shop_with_a_sale();
    let headers = "Date: Wed, 21 Oct 2015 07:28:00 GMT\r\nAge: 86400\r\n";
    let fault = Fault::Answer(200, headers, answer.to_string());
    shop.btcpay.fails("btc-a", fault);
    shop.reconcile().exits(0).warns("");
}

#[test]
fn btcpay_before_1_2_is_told_to_be_too_old() {
    let shop = Shop::open();
    for id in ["a", "b", "c"] {
        shop.sale(id).made();
        shop.btcpay.fails(
            &format!("btc-{id}"),
            Fault::Twisted(|body| body.replace("\"storeId\"", "\"shop\"")),
        );
    }
    fails(
        shop.reconcile(),
        "error: BTCPay Server does not say which store an invoice belongs to (storeId), so it is older than 1.2.0. Update it to 1.2.0 or newer",
    );
    assert_eq!(shop.state("a"), "pending");
}

#[test]
fn wrong_setting_prints_no_summary_of_zeros() {
    let shop = Shop::open();
    for run in [
        shop.reconcile()
            .option("--database", "/nowhere/licenses.db"),
        shop.reconcile()
            .flag("-n")
            .option("--btcpay-url", "http://127.0.0.1:1"),
        shop.reconcile().flag("-n").option("--store-id", "another"),
        shop.reconcile()
            .flag("-n")
            .flag("-v")
            .env("BTCPAY_API_KEY", "another"),
    ] {
        run.exits(1).prints("");
    }
}

#[test]
fn dry_run_without_anything_to_do_says_so() {
    let shop = Shop::open();
    let nothing = "20[..]Z dry run: 0 checked, nothing to do; 2 requests, [..] ms";
    shop.reconcile()
        .flag("-n")
        .exits(0)
        .warns("")
        .prints(nothing);
    shop.sale("open").there("New").made();
    let nothing = "20[..]Z dry run: 1 checked, nothing to do; [..] ms";
    shop.reconcile()
        .flag("-n")
        .exits(0)
        .warns("")
        .prints(nothing);
    shop.reconcile().exits(0).says_nothing();
}

#[test]
fn plain_http_is_for_what_is_near_unless_it_is_allowed() {
    let shop = shop_with_a_sale();
    let address = shop.btcpay.url();
    let far = |host: &str| {
        shop.reconcile()
            .option("--btcpay-url", &format!("http://{host}"))
            .env("HTTP_PROXY", &address)
            .option("--deadline", "1")
    };
    for host in [
        "btcpay.home.arpa",
        "btcpay.lan",
        "btcpay.home",
        "fritz.box",
        "btcpay.fritz.box",
    ] {
        let ran = far(host).command().output().unwrap();
        let said = String::from_utf8(ran.stderr).unwrap();
        assert!(!said.contains("unencrypted"), "{said}");
        assert!(!shop.btcpay.requests().is_empty());
    }
    is_refused(
        &shop,
        far("btcpay.example.com").env("HTTP_PROXY", ""),
        "error: plain http would send the API key unencrypted to btcpay.example.com. [..] add --allow-http",
    );
    let ran = far("btcpay.example.com").flag("--allow-http").command();
    let said = String::from_utf8({ ran }.output().unwrap().stderr).unwrap();
    assert!(!said.contains("unencrypted"), "{said}");
    shop.btcpay.requests();
    is_refused(
        &shop,
        shop.reconcile()
            .option("--btcpay-url", "http://btcpay.internal")
            .env("HTTP_PROXY", "http://proxy.example.com:3128"),
        "error: plain http would send the API key unencrypted to http://proxy.example.com:3128/, [..] add --allow-http",
    );
}

#[test]
fn key_file_that_systemd_guards_may_have_any_mode() {
    let shop = shop_with_a_sale();
    let file = shop.private_file("key", KEY);
    fs::set_permissions(&file, Permissions::from_mode(0o444)).unwrap();
    let folder = shop.path("");
    shop.reconcile()
        .option("--api-key-file", &file)
        .env("CREDENTIALS_DIRECTORY", folder.to_str().unwrap())
        .exits(0)
        .warns("");
    shop.reconcile()
        .option("--api-key-file", &file)
        .exits(0)
        .warns("warning: other users can read the API key file [..]");
}
