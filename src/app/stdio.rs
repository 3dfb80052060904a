//! `metamcp stdio`: a gateway for the one client that started it, over standard input and output. It ends with its client.

use std::collections::BTreeSet;
use std::future::{pending, ready};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::config_sync::ConfigLoader;
use super::error::AppError;
use super::gateway::{App, Launch};
use super::keyring::is_first_start;
use super::private_dir::PrivateDir;
use metamcp_config::Config;
use metamcp_config::sections::AuthMode;
use metamcp_config::server::ServerAddress;
use metamcp_connect::{StdioBridgeConfig, StdioClient};
use metamcp_core::base::EndpointName;
use metamcp_http::TlsRoots;
use rustls::RootCertStore;

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

/// Checks before a start whether the endpoint that the client is to have can exist. The store may define it, if there is one
/// already.
pub fn check_endpoint(config: &Config, endpoint: Option<&EndpointName>) -> Result<(), AppError> {
    let Some(name) = endpoint.filter(|_| is_first_start(config)) else { return Ok(()) };
    let default = EndpointName::new(EndpointName::DEFAULT).ok();
    let known: BTreeSet<_> = config.endpoints.iter().map(|endpoint| &endpoint.name).chain(&default).collect();
    find_endpoint(name, known.iter().copied())
}

fn find_endpoint<'a>(
    name: &EndpointName,
    mut known: impl Iterator<Item = &'a EndpointName> + Clone,
) -> Result<(), AppError> {
    let names: Vec<_> = known.clone().map(ToString::to_string).collect();
    if known.any(|known| known == name) {
        return Ok(());
    }
    Err(AppError::NoEndpoint { name: name.clone(), known: names.join(", ") })
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
    let launch = Launch::private(config, private_dir.socket(), load_config);
    let app = tokio::select! {
        app = App::start(launch) => app?,
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
    let bridge = StdioBridgeConfig {
        address: ServerAddress::Unix { socket: private_dir.socket(), path },
        headers: Vec::new(),
        line_bytes_max,
        response_timeout: GATEWAY_TIMEOUT,
    };
    tracing::info!(servers = app.info.servers.len(), "serving one client over standard input and output");
    // The private socket needs no certificates.
    let roots = TlsRoots::from_roots(RootCertStore::empty());
    app.run(async {
        // It fails only if the address is invalid, and that was built here.
        if let Err(error) = metamcp_connect::run(bridge, &roots, client, pending()).await {
            tracing::error!(%error, "the private socket cannot be used");
        }
    })
    .await
}

/// Returns the path of an endpoint that the gateway serves.
fn path_of(endpoint: Option<EndpointName>, app: &App) -> Result<String, AppError> {
    let Some(name) = endpoint else { return Ok("/mcp".to_owned()) };
    find_endpoint(&name, app.info.endpoints.iter().map(|(name, _)| name))?;
    Ok(format!("/mcp/{name}"))
}
