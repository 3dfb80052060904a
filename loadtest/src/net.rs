//! Connections to the target: TCP, TLS where the address says so. Knows no HTTP.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use http::Uri;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// What HTTP is spoken over.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// A connection under way.
pub type Connecting = Pin<Box<dyn Future<Output = io::Result<Box<dyn Stream>>> + Send>>;

/// Whoever makes connections to the target; in tests one that stays within the process.
pub trait Connect: Send + Sync {
    /// One more.
    fn connect(&self) -> Connecting;
}

/// The target as the network knows it; its name is looked up once.
pub struct Network {
    addresses: Arc<[SocketAddr]>,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl Network {
    /// `authorities`: a PEM file of those that may have signed the target's certificate, instead of the
    /// system's.
    pub async fn new(url: &Uri, authorities: Option<&Path>) -> Result<Self, String> {
        let host = url.host().ok_or_else(|| format!("{url} names no host"))?;
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let secure = match url.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(format!("{url} does not begin with http:// or https://")),
        };
        let port = url.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let found = tokio::net::lookup_host((bare, port)).await;
        let addresses: Arc<[_]> = found.map_err(|error| format!("{host} is not found: {error}"))?.collect();
        if addresses.is_empty() {
            return Err(format!("{host} has no address"));
        }
        let tls = if secure {
            let name = ServerName::try_from(bare.to_owned());
            let name = name.map_err(|error| format!("{host} is no name for TLS: {error}"))?;
            Some((connector(authorities)?, name))
        } else {
            None
        };
        Ok(Self { addresses, tls })
    }
}

impl Connect for Network {
    fn connect(&self) -> Connecting {
        let (addresses, tls) = (Arc::clone(&self.addresses), self.tls.clone());
        Box::pin(async move {
            let stream = TcpStream::connect(&addresses[..]).await?;
            // A request is one write; nothing is gained by waiting for more.
            stream.set_nodelay(true)?;
            Ok(match tls {
                None => Box::new(stream) as Box<dyn Stream>,
                Some((connector, name)) => Box::new(connector.connect(name, stream).await?),
            })
        })
    }
}

fn connector(authorities: Option<&Path>) -> Result<TlsConnector, String> {
    let mut roots = RootCertStore::empty();
    match authorities {
        Some(path) => {
            let wrong = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
            for certificate in CertificateDer::pem_file_iter(path).map_err(|error| wrong(&error))? {
                let certificate = certificate.map_err(|error| wrong(&error))?;
                roots.add(certificate).map_err(|error| wrong(&error))?;
            }
        }
        // One that cannot be read is as good as not there.
        None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
    }
    if roots.is_empty() {
        return Err("no certificate of an authority was found; name a PEM file with --ca".to_owned());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
