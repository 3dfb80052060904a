//! From an address to an established stream, within the connect timeout.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls_pki_types::ServerName as TlsName;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio_rustls::TlsConnector;

use super::stream::Stream;
use super::{BackendError, Stage};

/// Where a backend's connections go: resolved from its `Address` once, at start.
#[derive(Clone)]
pub enum Target {
    /// Host (name or address) and port, with TLS for `https`.
    Tcp {
        /// A DNS name or an IP address, without brackets.
        host: String,
        /// The port.
        port: u16,
        /// The TLS client and the name to verify.
        tls: Option<(Arc<ClientConfig>, TlsName<'static>)>,
    },
    /// A Unix socket.
    Unix(std::path::PathBuf),
}

/// Silence after which the kernel asks whether the peer is still there.
const KEEP_ALIVE: Duration = Duration::from_mins(1);

/// Addresses tried of one name: a resolver may return a thousand.
const ADDRESSES_MAX: usize = 8;

/// Connects. Cancel safe: dropping it closes what was opened.
pub async fn connect(target: &Target) -> Result<Stream, BackendError> {
    match target {
        Target::Unix(path) => UnixStream::connect(path)
            .await
            .map(Stream::Unix)
            .map_err(|error| BackendError::new(Stage::Connect, error)),
        Target::Tcp { host, port, tls } => {
            let tcp = connect_tcp(host, *port).await?;
            match tls {
                None => Ok(Stream::Tcp(tcp)),
                Some((config, name)) => TlsConnector::from(config.clone())
                    .connect(name.clone(), tcp)
                    .await
                    .map(|stream| Stream::Tls(Box::new(stream)))
                    .map_err(|error| BackendError::new(Stage::Tls, error)),
            }
        }
    }
}

async fn connect_tcp(host: &str, port: u16) -> Result<TcpStream, BackendError> {
    let addresses =
        lookup_host((host, port)).await.map_err(|error| BackendError::new(Stage::Resolve, error))?;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses.take(ADDRESSES_MAX) {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                // A request is written whole, so there is nothing for Nagle's algorithm to gather.
                stream.set_nodelay(true).map_err(|error| BackendError::new(Stage::Connect, error))?;
                // An event stream may be silent for days; a peer that is gone is noticed all the same.
                let keep_alive = TcpKeepalive::new().with_time(KEEP_ALIVE);
                SockRef::from(&stream)
                    .set_tcp_keepalive(&keep_alive)
                    .map_err(|error| BackendError::new(Stage::Connect, error))?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(BackendError::new(Stage::Connect, last))
}
