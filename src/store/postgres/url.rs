//! `postgres://` addresses, with the words of libpq for TLS that the driver does not know.

use std::path::PathBuf;
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::SslMode;
use url::form_urlencoded;

use crate::store::StoreError;

/// How the server is reached.
pub struct Settings {
    pub config: Config,
    pub check: Check,
}

/// What of the server's certificate is looked at, when the connection is encrypted at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// Nothing: `disable`, `prefer` and `require` without a root certificate, as libpq has it.
    Nothing,
    /// Who signed it: `verify-ca`, and `require` with a root certificate.
    Chain(Roots),
    /// That, and for which host: `verify-full`.
    Host(Roots),
}

/// Whom to believe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Roots {
    /// Whomever the operating system believes.
    System,
    /// A file of PEM certificates.
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
        // What the parser says may quote a part of the password.
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

fn tls(mode: Option<&str>, root: Option<String>) -> Result<(SslMode, Check), StoreError> {
    let given = root.is_some();
    let roots = match root {
        Some(path) if path != "system" => Roots::File(path.into()),
        _ => Roots::System,
    };
    Ok(match mode.unwrap_or("prefer") {
        "disable" => (SslMode::Disable, Check::Nothing),
        "allow" | "prefer" => (SslMode::Prefer, Check::Nothing),
        "require" if given => (SslMode::Require, Check::Chain(roots)),
        "require" => (SslMode::Require, Check::Nothing),
        "verify-ca" => (SslMode::Require, Check::Chain(roots)),
        "verify-full" => (SslMode::Require, Check::Host(roots)),
        _ => return Err(StoreError::Url(MODES.into())),
    })
}

const SYNTAX: &str = "write postgres://USER:PASSWORD@HOST:PORT/DATABASE?sslmode=verify-full, \
                      with %XX for special characters in the password";

const MODES: &str = "sslmode is one of disable, prefer, require, verify-ca and verify-full";

/// For one address of the server. A server in the same network answers in milliseconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Sent data that nobody acknowledges for so long went to a machine that is not there any more.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(10);

/// Sooner than usual firewalls forget a connection.
const KEEPALIVE_IDLE: Duration = Duration::from_mins(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(url: &str, expected: Result<(SslMode, Check), &str>) {
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
        let file = || Roots::File("/a b.pem".into());
        check("postgres://u@h/d", Ok((SslMode::Prefer, Check::Nothing)));
        check("postgresql://u:hunter2@h:1,g:2/d?sslmode=disable", Ok((SslMode::Disable, Check::Nothing)));
        check("postgres://u@h/d?sslmode=require", Ok((SslMode::Require, Check::Nothing)));
        check(
            "postgres://u@h/d?sslmode=require&sslrootcert=%2Fa%20b.pem",
            Ok((SslMode::Require, Check::Chain(file()))),
        );
        check("postgres://u@h/d?sslmode=verify-ca", Ok((SslMode::Require, Check::Chain(Roots::System))));
        check(
            "postgres://u@h/d?connect_timeout=2&sslrootcert=/a+b.pem&sslmode=verify-full",
            Ok((SslMode::Require, Check::Host(file()))),
        );
        check(
            "postgres://u@h/d?sslmode=verify-full&sslrootcert=system",
            Ok((SslMode::Require, Check::Host(Roots::System))),
        );
    }

    #[test]
    fn what_is_no_address_is_refused_without_repeating_the_password() {
        check("postgres://u@h/d?sslmode=full", Err("verify-full"));
        check("postgres://u:hunter2@h/d?hunter2", Err("%XX"));
        check("postgres://u:hunter2?x@h:y/d", Err("%XX"));
        check("postgres://u:hunter2@h:hunter2/d", Err("%XX"));
        check("mysql://u:hunter2@h/d", Err("postgres://USER"));
        check("host=h password=hunter2", Err("postgres://USER"));
        check("", Err("postgres://USER"));
    }
}
