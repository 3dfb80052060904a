//! Connections to the target: TCP, and TLS for an `https` URL. Does not know HTTP.

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

/// A connection that carries HTTP.
pub trait ByteStream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> ByteStream for T {}

/// A connection that is being established.
pub type ConnectFuture = Pin<Box<dyn Future<Output = io::Result<Box<dyn ByteStream>>> + Send>>;

/// Establishes connections to the target. Tests have one that stays within the process.
pub trait Connector: Send + Sync {
    fn connect(&self) -> ConnectFuture;
}

/// Connects over the network. The host name is resolved once.
pub struct NetworkConnector {
    addresses: Arc<[SocketAddr]>,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl NetworkConnector {
    /// Resolves the host of the URL. `authorities` is a PEM file of trusted certificates that replaces the system's.
    pub async fn new(url: &Uri, authorities: Option<&Path>) -> Result<Self, String> {
        let host = url.host().ok_or_else(|| format!("{url} has no host"))?;
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let is_tls = match url.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(format!("{url} does not begin with http:// or https://")),
        };
        let port = url.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let resolved = tokio::net::lookup_host((bare, port)).await;
        let addresses: Arc<[_]> =
            resolved.map_err(|error| format!("cannot resolve {host}: {error}"))?.collect();
        if addresses.is_empty() {
            return Err(format!("{host} has no address"));
        }
        let tls = if is_tls {
            let name = ServerName::try_from(bare.to_owned());
            let name = name.map_err(|error| format!("{host} is not a valid TLS server name: {error}"))?;
            Some((tls_connector(authorities)?, name))
        } else {
            None
        };
        Ok(Self { addresses, tls })
    }
}

impl Connector for NetworkConnector {
    fn connect(&self) -> ConnectFuture {
        let (addresses, tls) = (Arc::clone(&self.addresses), self.tls.clone());
        Box::pin(async move {
            let stream = TcpStream::connect(&addresses[..]).await?;
            // A request is one write, so delaying small segments gains nothing.
            stream.set_nodelay(true)?;
            Ok(match tls {
                None => Box::new(stream) as Box<dyn ByteStream>,
                Some((connector, name)) => Box::new(connector.connect(name, stream).await?),
            })
        })
    }
}

fn tls_connector(authorities: Option<&Path>) -> Result<TlsConnector, String> {
    let mut roots = RootCertStore::empty();
    match authorities {
        Some(path) => {
            let invalid = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
            for certificate in CertificateDer::pem_file_iter(path).map_err(|error| invalid(&error))? {
                let certificate = certificate.map_err(|error| invalid(&error))?;
                roots.add(certificate).map_err(|error| invalid(&error))?;
            }
        }
        // An unreadable certificate is treated like a missing one.
        None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
    }
    if roots.is_empty() {
        return Err("no certificate authority was found; pass a PEM file with --ca".to_owned());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
