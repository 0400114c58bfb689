//! The connection to BTCPay Server: TLS, proxies, Tor. Also the API key, which no one on the
//! network or on the same machine may see.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use rcgen::{BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::btcpay::{Fault, KEY};
use crate::program::Run;
use crate::shop::{STOPPED, Shop, at_once};

/// Listens on loopback, hands each connection to `serve`, and returns the address.
pub fn listen(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let serve = Arc::clone(&serve);
            thread::spawn(move || serve(stream.unwrap()));
        }
    });
    address.to_string()
}

/// The address on which the shop's BTCPay Server listens.
fn btcpay_address(shop: &Shop) -> String {
    shop.btcpay.url().replace("http://", "")
}

/// Puts a TLS endpoint in front of the shop's BTCPay Server, with a certificate for localhost from
/// a private authority. Returns the URL and the authority's certificate.
fn behind_tls(shop: &Shop) -> (String, String) {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["localhost".into()])
        .unwrap()
        .signed_by(&key, &authority)
        .unwrap();
    (shows(shop, &certificate, &key), authority.pem())
}

/// Puts a TLS endpoint with this certificate in front of the shop's BTCPay Server. Returns the URL.
pub fn shows(shop: &Shop, certificate: &Certificate, key: &KeyPair) -> String {
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    let config = Arc::new(config);
    let btcpay = btcpay_address(shop);
    let address = listen(move |stream| {
        let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
        let mut outside = StreamOwned::new(connection, stream);
        let mut inside = TcpStream::connect(&btcpay).unwrap();
        // Forward one request at a time, and its response.
        while let Some(request) = read_head(&mut outside) {
            inside.write_all(&request).unwrap();
            let head = read_head(&mut inside).unwrap();
            let text = String::from_utf8_lossy(&head).to_lowercase();
            let (_, length) = text.split_once("content-length: ").unwrap();
            let length = length.lines().next().unwrap().parse().unwrap();
            let mut body = vec![0; length];
            inside.read_exact(&mut body).unwrap();
            outside.write_all(&[head, body].concat()).unwrap();
        }
    });
    let port = address.rsplit(':').next().unwrap();
    format!("https://localhost:{port}")
}

pub fn read_head(stream: &mut impl Read) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.extend(byte);
    }
    Some(head)
}

#[test]
fn untrusted_certificate_is_refused_until_authority_is_configured() {
    let shop = Shop::open();
    shop.sale("a").made();
    let (url, authority) = behind_tls(&shop);
    let run = || shop.reconcile().option("--btcpay-url", &url);
    let ran = run().exits(1).prints(STOPPED).warns(&format!(
        "error: the certificate of {url}/ is not trusted: [..]SSL_CERT_FILE[..]"
    ));
    assert!(!ran.stderr.contains(KEY));
    assert_eq!(shop.btcpay.requests(), [""; 0], "the key was not sent");

    let file = shop.private_file("authority.pem", authority);
    run().env("SSL_CERT_FILE", &file).exits(0).warns("");
    assert_eq!(shop.state("a"), "settled, licensed");
    shop.sale("b").made();
    run()
        .env("SSL_CERT_FILE", &file)
        .option("--btcpay-url", &url.replace("localhost", "127.0.0.1"))
        .exits(1)
        .warns(
            "error: the certificate of [..] is for localhost, not for 127.0.0.1. Set --btcpay-url [..]",
        );
}

#[test]
fn proxy_from_environment_is_used() {
    let shop = Shop::open();
    shop.sale("a").made();
    let btcpay = btcpay_address(&shop);
    let proxy = listen(move |mut outside| {
        let request = String::from_utf8(read_head(&mut outside).unwrap()).unwrap();
        let request = request.replacen("http://btcpay.internal", "", 1);
        let mut inside = TcpStream::connect(&btcpay).unwrap();
        inside.write_all(request.as_bytes()).unwrap();
        inside.shutdown(Shutdown::Write).unwrap();
        io::copy(&mut inside, &mut outside).unwrap();
    });
    shop.reconcile()
        .option("--btcpay-url", "http://btcpay.internal")
        .env("HTTP_PROXY", &format!("http://{proxy}"))
        .exits(0)
        .warns("");
    assert_eq!(shop.state("a"), "settled, licensed");
}

#[test]
fn plain_http_through_remote_proxy_is_refused() {
    let shop = Shop::open();
    shop.sale("a").made();
    let remote_proxy = "http://somebody:s3cret@proxy.example.com:3128";
    for variable in ["http_proxy", "HTTP_PROXY", "ALL_PROXY"] {
        shop.reconcile()
            .option("--btcpay-url", "http://btcpay.internal")
            .env(variable, remote_proxy)
            .exits(2)
            .warns(
                "error: plain http would send the API key unencrypted to http://proxy.example.com:3128/, \
                 the environment's proxy. [..]https[..]NO_PROXY[..]",
            );
    }
    shop.reconcile()
        .env("HTTP_PROXY", remote_proxy)
        .exits(0)
        .warns("");
    assert_eq!(
        shop.state("a"),
        "settled, licensed",
        "requests to loopback bypass the proxy"
    );
}

#[test]
fn unreachable_proxy_is_named_in_error() {
    let shop = Shop::open();
    shop.sale("a").made();
    for proxy in [
        "http://somebody:s3@cret@127.0.0.1:1",
        "socks5h://127.0.0.1:1",
        "socks4a://127.0.0.1:1",
    ] {
        shop.reconcile()
            .option("--btcpay-url", "https://btcpay.internal")
            .env("ALL_PROXY", proxy)
            .exits(1)
            .warns(
                "error: cannot reach BTCPay Server at https://btcpay.internal/: nothing listens at \
                 127.0.0.1:1, the environment's proxy. Is it running, and is its address right?",
            );
    }
}

#[test]
fn onion_name_reaches_tor_unresolved() {
    const ONION: &str = "zqktlwiuavvvqqt4ybvgvi7tyo4hjl5xgfuvpdf6otjiycgwqbym2qad.onion";
    let shop = Shop::open();
    shop.sale("a").made();
    let btcpay = btcpay_address(&shop);
    let requested_name = Arc::new(Mutex::new(String::new()));
    let requested = Arc::clone(&requested_name);
    let tor = listen(move |mut outside| {
        // SOCKS 5: a greeting with the authentication methods, then the address to connect to.
        let mut greeting = [0; 2];
        outside.read_exact(&mut greeting).unwrap();
        outside
            .read_exact(&mut vec![0; greeting[1].into()])
            .unwrap();
        outside.write_all(&[5, 0]).unwrap();
        let mut request = [0; 5];
        outside.read_exact(&mut request).unwrap();
        assert_eq!(
            request[..4],
            [5, 1, 0, 3],
            "expected CONNECT to a host name"
        );
        let mut name = vec![0; request[4].into()];
        outside.read_exact(&mut name).unwrap();
        outside.read_exact(&mut [0; 2]).unwrap();
        *requested.lock().unwrap() = String::from_utf8(name).unwrap();
        outside.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).unwrap();
        let request = read_head(&mut outside).unwrap();
        let mut inside = TcpStream::connect(&btcpay).unwrap();
        inside.write_all(&request).unwrap();
        inside.shutdown(Shutdown::Write).unwrap();
        io::copy(&mut inside, &mut outside).unwrap();
    });
    shop.reconcile()
        .option("--btcpay-url", &format!("http://{ONION}"))
        .env("ALL_PROXY", &format!("socks5h://{tor}"))
        .exits(0)
        .warns("");
    assert_eq!(*requested_name.lock().unwrap(), ONION);
    assert_eq!(shop.state("a"), "settled, licensed");
}

#[test]
fn api_key_is_never_printed_on_any_outcome() {
    const MOVED: &str =
        "Location: http://elsewhere.example/6f3a1c9e5b7d2f4a8c0e1b3d5f7a9c2e4b6d8f0a\r\n";
    assert!(MOVED.contains(KEY));
    let faults = [
        None,
        Some(Fault::Answer(401, "", format!("your key {KEY} is unknown"))),
        Some(Fault::Answer(
            500,
            "",
            format!("Authorization: token {KEY}"),
        )),
        Some(Fault::Answer(302, MOVED, String::new())),
        Some(Fault::Twisted(|body| {
            body.replace(r#""status":""#, &format!(r#""status":"{KEY}"#))
        })),
        Some(Fault::Reset),
        Some(Fault::HalfABody),
        // Part of it beyond what is quoted.
        Some(Fault::Answer(422, "", format!("{}{KEY}", "x".repeat(180)))),
    ];
    at_once(faults, |fault| {
        for log in ["-vvv", "RUST_LOG"] {
            let shop = Shop::open();
            shop.sale("a").made();
            if let Some(fault) = fault.clone() {
                shop.btcpay.fails("btc-a", fault);
            }
            let file = shop.private_file("key", KEY);
            let with_full_log = |run: Run| match log {
                "-vvv" => run.flag("-vvv"),
                _ => run.env("RUST_LOG", "trace"),
            };
            let output = with_full_log(shop.reconcile().option("--api-key-file", &file))
                .option("--format", "json")
                .command()
                .output()
                .unwrap();
            for text in [&output.stdout, &output.stderr] {
                assert!(!text.is_empty());
                let text = String::from_utf8_lossy(text);
                assert!(!text.contains(&KEY[..10]), "{text}");
            }
        }
    });
}

#[test]
fn api_key_is_not_printed_from_what_btcpay_says_of_it() {
    let allowed: [&[&str]; 3] = [&["unrestricted"], &[], &[KEY]];
    for permissions in allowed {
        let shop = Shop::open();
        shop.sale("a").made();
        shop.btcpay.gives(KEY, permissions);
        let run = shop.reconcile().flag("-n").flag("-vvv");
        let output = run.command().output().unwrap();
        let asked = shop.btcpay.requests();
        assert_eq!(asked.last().unwrap(), "/api/v1/api-keys/current");
        for text in [&output.stdout, &output.stderr] {
            let text = String::from_utf8_lossy(text);
            assert!(!text.contains(&KEY[..10]), "{text}");
        }
    }
}
