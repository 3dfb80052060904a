//! Where a URL leads.

use std::fmt;
use std::sync::Arc;

use http::HeaderValue;
use http::uri::PathAndQuery;
use metamcp_config::server::UpstreamTls;
use rustls::client::WantsClientCert;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore};
use rustls_pki_types::ServerName as TlsName;

use super::connect::ConnectTarget;

/// The certificate authorities that TLS connections to servers trust. Loaded once, for all servers.
#[derive(Clone)]
pub struct TlsRoots {
    roots: Arc<RootCertStore>,
    /// Trusts the roots, and presents no certificate.
    config: Arc<ClientConfig>,
}

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
        let roots = Arc::new(roots);
        let config = trust(Arc::clone(&roots)).with_no_client_auth();
        Self { roots, config: Arc::new(config) }
    }

    /// What connects to a server that has its own authorities, or wants a client certificate.
    fn for_server(&self, tls: &UpstreamTls) -> Result<Arc<ClientConfig>, InvalidTarget> {
        if tls.authorities.is_none() && tls.client.is_none() {
            return Ok(Arc::clone(&self.config));
        }
        let invalid = |error| InvalidTarget(format!("{error} in the certificates for a server"));
        let mut roots = Arc::clone(&self.roots);
        if let Some(authorities) = &tls.authorities {
            let mut own = RootCertStore::empty();
            for authority in authorities {
                own.add(authority.clone()).map_err(invalid)?;
            }
            roots = Arc::new(own);
        }
        let builder = trust(roots);
        let config = match &tls.client {
            Some(own) => {
                builder.with_client_auth_cert(own.chain.clone(), own.key.clone_key()).map_err(invalid)?
            }
            None => builder.with_no_client_auth(),
        };
        Ok(Arc::new(config))
    }
}

fn trust(roots: Arc<RootCertStore>) -> ConfigBuilder<ClientConfig, WantsClientCert> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has the default protocol versions")
        .with_root_certificates(roots)
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
            Some((Arc::clone(&roots.config), name))
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

impl UrlTarget {
    /// Connects as the configuration of the server says. Has no effect without TLS.
    ///
    /// # Errors
    /// If the certificates cannot be used.
    pub fn with_tls(mut self, tls: Option<&UpstreamTls>, roots: &TlsRoots) -> Result<Self, InvalidTarget> {
        if let (ConnectTarget::Tcp { tls: Some((config, name)), .. }, Some(tls)) = (&mut self.target, tls) {
            *config = roots.for_server(tls)?;
            if let Some(expected) = &tls.server_name {
                *name = expected.clone();
            }
        }
        Ok(self)
    }
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
