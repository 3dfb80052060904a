//! `postgres://` addresses, including the TLS parameters of libpq that the driver does not know.

use std::path::PathBuf;
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::SslMode;
use url::form_urlencoded;

use crate::store::error::StoreError;

pub struct Settings {
    pub config: Config,
    pub check: CertificateCheck,
}

/// How much of the server's certificate is verified when the connection is encrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateCheck {
    /// Nothing: `disable`, `prefer`, and `require` without a root certificate, as in libpq.
    Nothing,
    /// The chain of signatures: `verify-ca`, and `require` with a root certificate.
    Chain(RootCertificates),
    /// The chain and the host name: `verify-full`.
    Host(RootCertificates),
}

/// The trusted root certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootCertificates {
    /// Those of the operating system.
    System,
    /// Those in a PEM file.
    File(PathBuf),
}

impl Settings {
    pub fn parse(url: &str) -> Result<Self, StoreError> {
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let (mut mode, mut root, mut rest) = (None, None, Vec::new());
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = form_urlencoded::parse(pair.as_bytes()).next().unwrap_or_default();
            match &*name {
                "sslmode" => mode = Some(value.into_owned()),
                "sslrootcert" => root = Some(value.into_owned()),
                _ => rest.push(pair),
            }
        }
        let plain = format!("{base}?{}", rest.join("&"));
        let scheme = ["postgres://", "postgresql://"].iter().any(|scheme| plain.starts_with(scheme));
        // The parser's own error may quote a part of the password.
        let mut config: Config =
            plain.parse().ok().filter(|_| scheme).ok_or_else(|| StoreError::Url(SYNTAX.into()))?;
        let (ssl, check) = tls(mode.as_deref(), root)?;
        config.ssl_mode(ssl);
        if config.get_application_name().is_none() {
            config.application_name("metamcp");
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        config.tcp_user_timeout(UNACKNOWLEDGED_MAX).keepalives_idle(KEEPALIVE_IDLE);
        Ok(Self { config, check })
    }
}

fn tls(mode: Option<&str>, root: Option<String>) -> Result<(SslMode, CertificateCheck), StoreError> {
    let given = root.is_some();
    let roots = match root {
        Some(path) if path != "system" => RootCertificates::File(path.into()),
        _ => RootCertificates::System,
    };
    Ok(match mode.unwrap_or("prefer") {
        "disable" => (SslMode::Disable, CertificateCheck::Nothing),
        "allow" | "prefer" => (SslMode::Prefer, CertificateCheck::Nothing),
        "require" if given => (SslMode::Require, CertificateCheck::Chain(roots)),
        "require" => (SslMode::Require, CertificateCheck::Nothing),
        "verify-ca" => (SslMode::Require, CertificateCheck::Chain(roots)),
        "verify-full" => (SslMode::Require, CertificateCheck::Host(roots)),
        _ => return Err(StoreError::Url(MODES.into())),
    })
}

const SYNTAX: &str = "write postgres://USER:PASSWORD@HOST:PORT/DATABASE?sslmode=verify-full, \
                      with %XX for special characters in the password";

const MODES: &str = "sslmode is one of disable, prefer, require, verify-ca and verify-full";

/// The limit for one address of the server. A server in the same network answers in milliseconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// When sent data is not acknowledged for this long, the other machine is gone.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(10);

/// Shorter than the time after which usual firewalls forget a connection.
const KEEPALIVE_IDLE: Duration = Duration::from_mins(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(url: &str, expected: Result<(SslMode, CertificateCheck), &str>) {
        match (Settings::parse(url), expected) {
            (Ok(settings), Ok((mode, check))) => {
                assert_eq!((settings.config.get_ssl_mode(), settings.check), (mode, check), "{url}");
            }
            (Err(error), Err(expected)) => {
                let text = error.to_string();
                assert!(text.contains(expected), "{expected:?} is not in {text:?}");
                assert!(!text.contains("hunter2"), "{text}");
            }
            (seen, expected) => panic!("{url}: {:?} is not {expected:?}", seen.map(|seen| seen.check)),
        }
    }

    #[test]
    fn tls_is_as_strict_as_the_address_says() {
        let file = || RootCertificates::File("/a b.pem".into());
        check("postgres://u@h/d", Ok((SslMode::Prefer, CertificateCheck::Nothing)));
        check(
            "postgresql://u:hunter2@h:1,g:2/d?sslmode=disable",
            Ok((SslMode::Disable, CertificateCheck::Nothing)),
        );
        check("postgres://u@h/d?sslmode=require", Ok((SslMode::Require, CertificateCheck::Nothing)));
        check(
            "postgres://u@h/d?sslmode=require&sslrootcert=%2Fa%20b.pem",
            Ok((SslMode::Require, CertificateCheck::Chain(file()))),
        );
        check(
            "postgres://u@h/d?sslmode=verify-ca",
            Ok((SslMode::Require, CertificateCheck::Chain(RootCertificates::System))),
        );
        check(
            "postgres://u@h/d?connect_timeout=2&sslrootcert=/a+b.pem&sslmode=verify-full",
            Ok((SslMode::Require, CertificateCheck::Host(file()))),
        );
        check(
            "postgres://u@h/d?sslmode=verify-full&sslrootcert=system",
            Ok((SslMode::Require, CertificateCheck::Host(RootCertificates::System))),
        );
    }

    #[test]
    fn an_invalid_address_is_refused_without_repeating_the_password() {
        check("postgres://u@h/d?sslmode=full", Err("verify-full"));
        check("postgres://u:hunter2@h/d?hunter2", Err("%XX"));
        check("postgres://u:hunter2?x@h:y/d", Err("%XX"));
        check("postgres://u:hunter2@h:hunter2/d", Err("%XX"));
        check("mysql://u:hunter2@h/d", Err("postgres://USER"));
        check("host=h password=hunter2", Err("postgres://USER"));
        check("", Err("postgres://USER"));
    }
}
