//! TLS: which certificates are trusted, and what a person can do about one that is not.

use std::env;
use std::error::Error as StdError;
use std::io;
use std::sync::Arc;

use anyhow::{Error, Result, anyhow};
use jiff::Timestamp;
use reqwest::Url;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, InvalidMessage, SignatureScheme,
};
use rustls_platform_verifier::Verifier;

use super::near::is_near;

/// The variable that names a file with certificates to be trusted instead of the system's.
const NAMED_IN: &str = "SSL_CERT_FILE";

/// # Errors
///
/// There is no certificate to be trusted.
pub fn config() -> Result<ClientConfig> {
    let named = env::var_os(NAMED_IN);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let system = Verifier::new(Arc::clone(&provider)).map_err(|_| match &named {
        Some(file) => anyhow!(
            "no certificate can be read from {}, which {NAMED_IN} names. Set it to a file that this \
             user can read, with -----BEGIN CERTIFICATE----- in it",
            file.display()
        ),
        None => anyhow!(
            "this machine trusts no certificates at all. Install the system's (ca-certificates on \
             Debian), or name a certificate file in {NAMED_IN}"
        ),
    })?;
    let named = named.map(CertificateDer::pem_file_iter);
    let named = named.and_then(Result::ok).into_iter().flatten();
    let verifier = SystemOrNamed {
        system,
        named: named.flatten().collect(),
    };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Trusts what the system trusts, and a server whose own certificate is named.
///
/// `openssl req -x509` makes certificates that may sign others, which webpki accepts of no server, even
/// if that very certificate is trusted. OpenSSL, and so curl, accepts it.
#[derive(Debug)]
struct SystemOrNamed {
    system: Verifier,
    named: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for SystemOrNamed {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verdict = self.system.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        match &verdict {
            Err(rustls::Error::InvalidCertificate(error))
                if may_sign(error) && self.named.contains(end_entity) =>
            {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            Ok(_) | Err(_) => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.system
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.system
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.system.supported_verify_schemes()
    }
}

/// Whether webpki has only this against a certificate, that it may sign others. It looks at the dates
/// before.
fn may_sign(error: &CertificateError) -> bool {
    match error {
        CertificateError::Other(other) => format!("{:?}", other.0) == "CaUsedAsEndEntity",
        _ => false,
    }
}

/// Why no TLS connection to `server` can come about, for a person; None if that is not why `error` came.
pub fn explain(error: &(dyn StdError + 'static), server: &Url) -> Option<Error> {
    match in_chain(error)? {
        rustls::Error::InvalidCertificate(why) => Some(refused(why, server)),
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            Some(anyhow!("{}", no_tls(server)))
        }
        _ => None,
    }
}

/// rustls's error, which `io::Error` does not show among its sources.
fn in_chain<'error>(error: &'error (dyn StdError + 'static)) -> Option<&'error rustls::Error> {
    let mut cause = error;
    loop {
        if let Some(found) = cause.downcast_ref() {
            return Some(found);
        }
        let io = cause.downcast_ref::<io::Error>();
        cause = match io.and_then(io::Error::get_ref) {
            Some(inside) => inside,
            None => cause.source()?,
        };
    }
}

fn refused(why: &CertificateError, server: &Url) -> Error {
    let host = server.host_str().unwrap_or_default();
    let certificate = format!("the certificate of {server}");
    match why {
        CertificateError::ExpiredContext { not_after, .. } => anyhow!(
            "{certificate} expired on {}. Renew it there, or if it was renewed, correct this \
             machine's clock (timedatectl set-ntp true)",
            day(*not_after)
        ),
        CertificateError::NotValidYetContext { not_before, .. } => anyhow!(
            "{certificate} is valid from {} on. Correct this machine's clock (timedatectl set-ntp \
             true), or wait until then",
            day(*not_before)
        ),
        CertificateError::NotValidForNameContext { presented, .. } if presented.is_empty() => {
            let kind = if server.domain().is_some() {
                "DNS"
            } else {
                "IP"
            };
            anyhow!(
                "{certificate} has no subjectAltName, and its CN does not count. Make one for {host}: \
                 openssl req -x509 with -addext 'subjectAltName={kind}:{host}'"
            )
        }
        CertificateError::NotValidForNameContext { presented, .. } => anyhow!(
            "{certificate} is for {}, not for {host}. Set --btcpay-url to a name that it has, or get \
             one for {host}",
            names(presented)
        ),
        _ => {
            let why = if may_sign(why) {
                "it is self-signed".into()
            } else if *why == CertificateError::UnknownIssuer {
                "its issuer is unknown here".into()
            } else {
                why.to_string()
            };
            match env::var_os(NAMED_IN) {
                None => anyhow!(
                    "{certificate} is not trusted: {why}. If it is your own, or from your own \
                     authority, name its file, or that authority's certificate file, in {NAMED_IN}"
                ),
                Some(file) => anyhow!(
                    "{certificate} is not trusted: {why}. {}, which {NAMED_IN} names, has neither it \
                     nor its authority's. Put one of them there",
                    file.display()
                ),
            }
        }
    }
}

/// What answers there is probably plain http.
fn no_tls(server: &Url) -> String {
    let what = format!("{server} answers, but without TLS: that port is probably for plain http");
    match with_scheme(server, "http") {
        Some(http) if is_near(&http) => format!("{what}. Should --btcpay-url be {http}?"),
        Some(_) | None => format!("{what}. Set --btcpay-url to BTCPay Server's https port"),
    }
}

/// `server` by another protocol.
pub fn with_scheme(server: &Url, scheme: &str) -> Option<Url> {
    let mut other = server.clone();
    other.set_scheme(scheme).ok()?;
    Some(other)
}

fn day(time: UnixTime) -> String {
    let second = i64::try_from(time.as_secs()).ok();
    let time = second.and_then(|second| Timestamp::from_second(second).ok());
    time.map_or("?".into(), |time| {
        time.to_string().chars().take(10).collect()
    })
}

/// The first names of a certificate, which webpki calls `DnsName("localhost")`.
fn names(presented: &[String]) -> String {
    const MOST: usize = 3;
    let bare = |name: &String| {
        let inside = name.split_once('(').map_or(name.as_str(), |(_, name)| name);
        inside.trim_matches(['(', ')', '"']).to_owned()
    };
    let first: Vec<String> = presented.iter().take(MOST).map(bare).collect();
    let more = if presented.len() > MOST {
        " and others"
    } else {
        ""
    };
    format!("{}{more}", first.join(", "))
}
