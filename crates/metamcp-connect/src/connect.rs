use std::future::Future;
use std::io;

use http::header::AUTHORIZATION;
use metamcp_config::ConnectConfig;
use metamcp_config::server::ServerAddress;
use metamcp_http::{InvalidTarget, TlsRoots};

use super::bridge::StdioBridgeConfig;
use super::client::StdioClient;
use super::serve::{LINE_BYTES_MAX, run};

/// Why the client cannot be connected. Each text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Standard input and output cannot be used to reach the client.
    #[error("cannot use standard input and output: {0}; start this from a program that speaks MCP over them")]
    Pipes(io::Error),
    #[error("cannot connect to that URL: {0}")]
    Endpoint(#[from] InvalidTarget),
}

/// Connects the client that started this process to an endpoint, until the client is gone or `stop` resolves.
/// Runs in a `LocalSet`.
pub async fn connect(config: ConnectConfig, stop: impl Future<Output = ()>) -> Result<(), ConnectError> {
    let client = StdioClient::of_this_process().map_err(ConnectError::Pipes)?;
    let ConnectConfig { address, headers, response_timeout, .. } = config;
    if is_unencrypted(&address) && headers.iter().any(|(name, _)| *name == AUTHORIZATION) {
        tracing::warn!("the key is sent over the network unencrypted: use https");
    }
    let bridge = StdioBridgeConfig { address, headers, line_bytes_max: LINE_BYTES_MAX, response_timeout };
    Ok(run(bridge, &TlsRoots::system(), client, stop).await?)
}

/// Whether requests to the address cross the network without TLS.
fn is_unencrypted(address: &ServerAddress) -> bool {
    let ServerAddress::Http(url) = address else { return false };
    let is_loopback = match url.host() {
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.to_canonical().is_loopback(),
        Some(url::Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        None => false,
    };
    url.scheme() == "http" && !is_loopback
}
