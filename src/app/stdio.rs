//! The two programs for clients that start programs. `metamcp stdio` runs a gateway for the one client that started it;
//! `metamcp connect` connects the client to an endpoint elsewhere. Both use standard input and output, and end with their
//! client.

use std::future::{pending, ready};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::config_sync::ConfigLoader;
use super::connect::{self, LINE_BYTES_MAX, StdioClient};
use super::error::AppError;
use super::gateway::App;
use super::private_dir::PrivateDir;
use super::shutdown_signals::ShutdownSignals;
use super::tls::system_roots;
use crate::server::ListenTarget;
use http::header::AUTHORIZATION;
use metamcp_config::sections::AuthMode;
use metamcp_config::server::ServerAddress;
use metamcp_config::{Config, Connect};
use metamcp_core::base::EndpointName;

/// The bridge's timeout for the gateway in the same process. It is never reached: the gateway's own timeouts for its
/// servers are shorter.
const GATEWAY_TIMEOUT: Duration = Duration::from_hours(24);

/// Adapts a configuration for a gateway with one client. It needs no key, since the client started the gateway and nothing
/// is reachable over the network.
pub fn for_one_client(mut config: Config) -> Config {
    config.auth_mode = AuthMode::Open;
    config.server.listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    config.server.tls = None;
    config.server.workers = 1;
    // There is no load balancer to wait for.
    config.server.drain_delay = Duration::ZERO;
    config
}

/// Serves an endpoint of the gateway to the client that started this process, until the client is gone. Runs in a
/// `LocalSet`. `config` and the results of `load_config` must come from [`for_one_client`].
pub async fn serve(
    config: Config,
    load_config: ConfigLoader,
    endpoint: Option<EndpointName>,
) -> Result<(), AppError> {
    let client = StdioClient::of_this_process().map_err(AppError::Pipes)?;
    let private_dir = PrivateDir::new(&std::env::temp_dir()).map_err(AppError::PrivateDir)?;
    let line_bytes_max = config.server.body_bytes_max;
    let app = tokio::select! {
        app = App::start(config, ListenTarget::Private(private_dir.socket()), load_config) => app?,
        // Waiting for a database may take any time; without a client there is nothing to wait for.
        () = client.disconnected() => return Ok(()),
    };
    let path = match path_of(endpoint, &app) {
        Ok(path) => path,
        Err(error) => {
            // Shuts down workers and stdio servers in order, instead of killing them with the process.
            app.run(ready(())).await?;
            return Err(error);
        }
    };
    let bridge = connect::Config {
        address: ServerAddress::Unix { socket: private_dir.socket(), path },
        headers: Vec::new(),
        line_bytes_max,
        response_timeout: GATEWAY_TIMEOUT,
    };
    tracing::info!(servers = app.info.servers.len(), "serving one client over standard input and output");
    let roots = system_roots();
    app.run(async {
        // It fails only if the address is invalid, and that was built here.
        if let Err(error) = connect::run(bridge, &roots, client, pending()).await {
            tracing::error!(%error, "the private socket cannot be used");
        }
    })
    .await
}

/// Connects the client that started this process to an endpoint, until the client is gone or SIGTERM or SIGINT arrives.
/// Runs in a `LocalSet`.
pub async fn connect(config: Connect) -> Result<(), AppError> {
    let mut signals = ShutdownSignals::install()?;
    let client = StdioClient::of_this_process().map_err(AppError::Pipes)?;
    let Connect { address, headers, patience, .. } = config;
    if is_unencrypted(&address) && headers.iter().any(|(name, _)| *name == AUTHORIZATION) {
        tracing::warn!("the key is sent over the network unencrypted: use https");
    }
    let bridge =
        connect::Config { address, headers, line_bytes_max: LINE_BYTES_MAX, response_timeout: patience };
    connect::run(bridge, &system_roots(), client, signals.received()).await.map_err(AppError::Endpoint)
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

/// Returns the path of an endpoint that the gateway serves.
fn path_of(endpoint: Option<EndpointName>, app: &App) -> Result<String, AppError> {
    let Some(name) = endpoint else { return Ok("/mcp".to_owned()) };
    if app.info.endpoints.iter().any(|(known, _)| *known == name) {
        return Ok(format!("/mcp/{name}"));
    }
    let known: Vec<_> = app.info.endpoints.iter().map(|(name, _)| name.to_string()).collect();
    Err(AppError::NoEndpoint { name, known: known.join(", ") })
}
