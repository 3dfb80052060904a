//! Opening a stream to an address.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls_pki_types::ServerName as TlsName;
use socket2::{SockRef, TcpKeepalive};
#[cfg(unix)]
use tokio::net::UnixStream;
use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::TlsConnector;

use super::stream::Stream;
use crate::error::{FailureStage, UpstreamError};
use metamcp_config::server::is_private;

/// Where connections go, resolved from a `ServerAddress` once, at start.
#[derive(Clone)]
pub enum ConnectTarget {
    Tcp {
        /// A DNS name or an IP address, without brackets.
        host: String,
        port: u16,
        /// The TLS client and the name to verify, for `https`.
        tls: Option<(Arc<ClientConfig>, TlsName<'static>)>,
    },
    /// The path of a Unix socket.
    Unix(PathBuf),
}

/// Silence after which the kernel probes whether the peer is still there.
const KEEP_ALIVE: Duration = Duration::from_mins(1);

/// Addresses tried of one name: a resolver may return a thousand.
const ADDRESSES_MAX: usize = 8;

/// Connects; to a private address or a Unix socket only if `private_addresses` allows it. Cancel safe:
/// dropping it closes what was opened.
pub async fn connect(target: &ConnectTarget, private_addresses: bool) -> Result<Stream, UpstreamError> {
    match target {
        ConnectTarget::Unix(_) if !private_addresses => {
            Err(UpstreamError::from_stage(FailureStage::PrivateAddress))
        }
        #[cfg(unix)]
        ConnectTarget::Unix(path) => UnixStream::connect(path)
            .await
            .map(Stream::Unix)
            .map_err(|error| UpstreamError::new(FailureStage::Connect, error)),
        #[cfg(not(unix))]
        ConnectTarget::Unix(_) => {
            Err(UpstreamError::new(FailureStage::Connect, io::Error::from(io::ErrorKind::Unsupported)))
        }
        ConnectTarget::Tcp { host, port, tls } => {
            let tcp = connect_tcp(host, *port, private_addresses).await?;
            match tls {
                None => Ok(Stream::Tcp(tcp)),
                Some((config, name)) => TlsConnector::from(config.clone())
                    .connect(name.clone(), tcp)
                    .await
                    .map(|stream| Stream::Tls(Box::new(stream)))
                    .map_err(|error| UpstreamError::new(FailureStage::Tls, error)),
            }
        }
    }
}

/// Connects to the first address that accepts. The address that was checked is the one connected to: the name
/// is not resolved a second time.
async fn connect_tcp(host: &str, port: u16, private_addresses: bool) -> Result<TcpStream, UpstreamError> {
    let failed = |error| UpstreamError::new(FailureStage::Connect, error);
    let addresses =
        lookup_host((host, port)).await.map_err(|error| UpstreamError::new(FailureStage::Resolve, error))?;
    let mut last = failed(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    for address in addresses.take(ADDRESSES_MAX) {
        if !private_addresses && is_private(address.ip()) {
            last = UpstreamError::from_stage(FailureStage::PrivateAddress);
            continue;
        }
        match TcpStream::connect(address).await {
            Ok(stream) => {
                // A request is written whole, so there is nothing for Nagle's algorithm to gather.
                stream.set_nodelay(true).map_err(failed)?;
                // An event stream may be silent for days; keep-alive notices a peer that is gone.
                let keep_alive = TcpKeepalive::new().with_time(KEEP_ALIVE);
                SockRef::from(&stream).set_tcp_keepalive(&keep_alive).map_err(failed)?;
                return Ok(stream);
            }
            Err(error) => last = UpstreamError::new(classify_connect_error(&error), error),
        }
    }
    Err(last)
}

/// Distinguishes failures of the server from those of the gateway. Connections closed a moment ago keep their
/// local ports for a minute; when none is left for an address, or this process or the system is out of
/// descriptors, the server is not to blame.
fn classify_connect_error(error: &io::Error) -> FailureStage {
    let is_local = error.kind() == io::ErrorKind::AddrNotAvailable
        || error.raw_os_error().is_some_and(|code| OUT_OF_FILES.contains(&code));
    if is_local { FailureStage::LocalPortsExhausted } else { FailureStage::Connect }
}

/// The errors of a process or a system without a free descriptor, for which the standard library has no kind.
#[cfg(unix)]
const OUT_OF_FILES: [i32; 2] = [libc::EMFILE, libc::ENFILE];

/// `WSAEMFILE` (Windows Sockets error codes).
#[cfg(not(unix))]
const OUT_OF_FILES: [i32; 1] = [10024];

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;

    #[test]
    fn local_resource_errors_are_not_the_servers_fault() {
        let check = |code: i32, expected: FailureStage, text: &str| {
            let stage = classify_connect_error(&io::Error::from_raw_os_error(code));
            assert_eq!(
                (stage, stage.is_server_fault()),
                (expected, expected == FailureStage::Connect),
                "{code}"
            );
            let name = metamcp_core::base::ServerName::new("a").expect("a name");
            let fault = UpstreamError::from_stage(stage).into_fault(&name);
            assert!(fault.for_client().contains(text), "{}", fault.for_client());
            assert!(fault.for_client().contains("did not run"));
        };
        for code in [libc::EADDRNOTAVAIL, libc::EMFILE, libc::ENFILE] {
            check(
                code,
                FailureStage::LocalPortsExhausted,
                "server `a` cannot be connected to, because no local port or file descriptor is free",
            );
        }
        check(libc::ECONNREFUSED, FailureStage::Connect, "cannot be reached");
    }

    /// Whether a connection to a port with a listener succeeds, or why not.
    async fn check(host: &str, private_addresses: bool, expected: Result<(), FailureStage>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let port = listener.local_addr().expect("it has an address").port();
        let target = ConnectTarget::Tcp { host: host.to_owned(), port, tls: None };
        let found = connect(&target, private_addresses).await;
        assert_eq!(found.map(drop).map_err(|error| error.stage), expected, "{host}");
    }

    #[tokio::test]
    async fn private_addresses_need_permission_in_every_spelling() {
        for host in ["127.0.0.1", "localhost", "::ffff:127.0.0.1"] {
            check(host, true, Ok(())).await;
            check(host, false, Err(FailureStage::PrivateAddress)).await;
        }
        let socket = ConnectTarget::Unix("/nowhere/at.sock".into());
        for (private_addresses, expected) in
            [(true, FailureStage::Connect), (false, FailureStage::PrivateAddress)]
        {
            let found = connect(&socket, private_addresses).await;
            assert_eq!(found.map(drop).map_err(|error| error.stage), Err(expected));
        }
    }
}
