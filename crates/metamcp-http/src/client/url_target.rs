//! Where a URL leads.

use std::fmt;
use std::sync::Arc;

use http::HeaderValue;
use http::uri::PathAndQuery;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName as TlsName;

use super::connect::ConnectTarget;

/// The certificate authorities that TLS connections to servers trust. Loaded once, for all servers.
#[derive(Clone)]
pub struct TlsRoots(Arc<ClientConfig>);

impl TlsRoots {
    /// Trusts the authorities of the operating system.
    pub fn system() -> Self {
        let mut roots = RootCertStore::empty();
        let loaded = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(loaded.certs);
        if roots.is_empty() {
            let errors: Vec<_> = loaded.errors.iter().map(ToString::to_string).collect();
            let errors = errors.join("; ");
            tracing::warn!(errors, "no certificate authorities found; https servers cannot be reached");
        }
        Self::from_roots(roots)
    }

    /// Trusts these certificate authorities alone.
    pub fn from_roots(roots: RootCertStore) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has the default protocol versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self(Arc::new(config))
    }
}

/// What connecting to a URL and requesting it takes.
pub struct UrlTarget {
    pub target: ConnectTarget,
    /// The request path, with the query.
    pub path: PathAndQuery,
    /// The value of the `Host` field.
    pub host: HeaderValue,
}

/// An address that cannot be requested. The text says what is wrong, for the person who configured it.
#[derive(Debug)]
pub struct InvalidTarget(String);

impl InvalidTarget {
    pub fn new(text: String) -> Self {
        Self(text)
    }
}

/// Splits a URL of http or https.
///
/// # Errors
/// If the URL has no host, no valid host name or no valid path.
pub fn resolve_url(url: &url::Url, roots: &TlsRoots) -> Result<UrlTarget, InvalidTarget> {
    let invalid = |what: &str| InvalidTarget(format!("{what} in the URL of a server"));
    // `host_str` keeps the brackets of an IPv6 address, which a resolver does not take.
    let host = url.host_str().ok_or_else(|| invalid("no host"))?;
    let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = url.port_or_known_default().ok_or_else(|| invalid("no port"))?;
    let tls = match url.scheme() {
        "https" => {
            let name = TlsName::try_from(bare.clone()).map_err(|_| invalid("no valid host name"))?;
            Some((roots.0.clone(), name))
        }
        _ => None,
    };
    let authority = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    let path = url.query().map_or_else(|| url.path().to_owned(), |q| format!("{}?{q}", url.path()));
    Ok(UrlTarget {
        target: ConnectTarget::Tcp { host: bare, port, tls },
        path: parse_path(&path)?,
        host: HeaderValue::from_str(&authority).map_err(|_| invalid("no valid host"))?,
    })
}

/// Parses a request path. The error does not quote it, because it may hold a secret.
pub fn parse_path(path: &str) -> Result<PathAndQuery, InvalidTarget> {
    let invalid = "its path is not a request path: write it as `/mcp`";
    path.parse().map_err(|_| InvalidTarget(invalid.to_owned()))
}

impl fmt::Display for InvalidTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for InvalidTarget {}
