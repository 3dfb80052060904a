//! From a configured address to what connecting and asking need.

use std::fmt;
use std::sync::Arc;

use http::HeaderValue;
use http::uri::PathAndQuery;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName as TlsName;

use super::connect::ConnectTarget;
use super::{Config, Reach, ServerAddress, Upstream, UpstreamId, sse, stdio};

/// Whom TLS connections to upstreams trust: loaded once, for all.
#[derive(Clone)]
pub struct TlsRoots(Arc<ClientConfig>);

impl TlsRoots {
    /// These authorities.
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

pub(super) struct Resolved {
    pub reach: Reach,
    pub path: PathAndQuery,
    pub host: HeaderValue,
}

/// An address that cannot be asked; says what to write instead.
#[derive(Debug)]
pub struct InvalidTarget(String);

pub(super) fn resolve(id: UpstreamId, config: &Config, roots: &TlsRoots) -> Result<Resolved, InvalidTarget> {
    // Of what is not asked for by URL.
    let here = |reach| Resolved {
        reach,
        path: PathAndQuery::from_static("/"),
        host: HeaderValue::from_static("localhost"),
    };
    match &config.address {
        ServerAddress::Stdio(program) => {
            let server = stdio::Server::new(config.name.clone(), program.clone(), config.era);
            let deployed = server.deploy().map_err(|failed| InvalidTarget(failed.why().to_owned()))?;
            Ok(here(Reach::Process(deployed)))
        }
        ServerAddress::Sse(url) => {
            let deployed = sse::Server::deploy(over_http(id, config, url, roots)?, url.clone());
            let failed = |error| format!("the thread that would speak to it cannot be started: {error}");
            Ok(here(Reach::Sse(deployed.map_err(|error| InvalidTarget(failed(error)))?)))
        }
        ServerAddress::Unix { socket, path } => Ok(Resolved {
            reach: Reach::Wire(ConnectTarget::Unix(socket.clone())),
            path: parse_path(path)?,
            host: HeaderValue::from_static("localhost"),
        }),
        ServerAddress::Http(url) => {
            let UrlTarget { target, path, host } = reach(url, roots)?;
            let reach = if config.may_be_sse {
                Reach::Unsaid(target, sse::Candidate::new(over_http(id, config, url, roots)?, url.clone()))
            } else {
                Reach::Wire(target)
            };
            Ok(Resolved { reach, path, host })
        }
    }
}

/// Where a URL leads, and what is asked for there.
pub struct UrlTarget {
    /// What is connected to.
    pub target: ConnectTarget,
    /// What is asked for, with the query.
    pub path: PathAndQuery,
    /// The value of `Host`.
    pub host: HeaderValue,
}

/// Takes a URL of http or https apart.
///
/// # Errors
/// What is wrong with it.
pub fn reach(url: &url::Url, roots: &TlsRoots) -> Result<UrlTarget, InvalidTarget> {
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

/// How the URL of a server is spoken to, whatever its transport makes of that.
fn over_http(
    id: UpstreamId,
    config: &Config,
    url: &url::Url,
    roots: &TlsRoots,
) -> Result<Arc<Upstream>, InvalidTarget> {
    let wire = Config {
        address: ServerAddress::Http(url.clone()),
        may_be_sse: false,
        has_breaker: false,
        ..config.clone()
    };
    Upstream::new(id, wire, roots)
}

fn parse_path(path: &str) -> Result<PathAndQuery, InvalidTarget> {
    // Not quoted: it may hold a secret.
    let invalid = "its path is not a request path: write it as `/mcp`";
    path.parse().map_err(|_| InvalidTarget(invalid.to_owned()))
}

impl fmt::Display for InvalidTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for InvalidTarget {}
