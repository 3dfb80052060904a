//! The two programs for clients that start programs: `metamcp stdio`, the gateway for the one client that
//! started it, and `metamcp connect`, which leads to an endpoint elsewhere. Both speak over standard input
//! and output, and end with their client.

use std::future::{Future, pending, ready};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use http::header::AUTHORIZATION;
use tokio::signal::unix::{SignalKind, signal};

use super::connect::{self, Client, LINE_BYTES_MAX};
use super::folder::Folder;
use super::reload::Reload;
use super::{App, AppError, system_roots};
use crate::auth::Mode;
use crate::base::EndpointName;
use crate::config::{Config, Connect};
use crate::server::Door;
use crate::upstream::Address;

/// How long the gateway behind the pipe may take: its servers have timeouts of their own, which are shorter.
const PATIENCE: Duration = Duration::from_hours(24);

/// The configuration as it is for a gateway with one client, who started it and is asked for no key: nothing
/// of it is on the network.
pub fn for_one_client(mut config: Config) -> Config {
    config.auth_mode = Mode::Open;
    config.server.listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    config.server.tls = None;
    config.server.workers = 1;
    // No load balancer has to notice.
    config.server.drain_delay = Duration::ZERO;
    config
}

/// Serves an endpoint of the gateway to the client that started this process, until that has gone. Runs in a
/// `LocalSet`. `config` and what `reload` gives: as of [`for_one_client`].
pub async fn serve(config: Config, reload: Reload, endpoint: Option<EndpointName>) -> Result<(), AppError> {
    let client = Client::of_this_process().map_err(AppError::Pipes)?;
    let folder = Folder::new(&std::env::temp_dir()).map_err(AppError::Private)?;
    let line_bytes_max = config.server.body_bytes_max;
    let app = tokio::select! {
        app = App::start(config, Door::Private(folder.socket()), reload) => app?,
        // A database may be waited for, for as long as it takes; a client is not.
        () = client.gone() => return Ok(()),
    };
    let path = match path_of(endpoint, &app) {
        Ok(path) => path,
        Err(error) => {
            // Its workers and programs end with it, and not by the end of this process.
            app.run(ready(())).await?;
            return Err(error);
        }
    };
    let bridge = connect::Config {
        address: Address::Unix { socket: folder.socket(), path },
        headers: Vec::new(),
        line_bytes_max,
        patience: PATIENCE,
    };
    tracing::info!(
        servers = app.greeting.servers.len(),
        "serving the client that started this, over its pipes"
    );
    let roots = system_roots();
    app.run(async {
        // Its address was made here.
        if let Err(error) = connect::run(bridge, &roots, client, pending()).await {
            tracing::error!(%error, "the private socket cannot be used");
        }
    })
    .await
}

/// Leads the client that started this process to an endpoint, until it has gone or SIGTERM or SIGINT comes.
/// Runs in a `LocalSet`.
pub async fn connect(config: Connect) -> Result<(), AppError> {
    let stop = signalled()?;
    let client = Client::of_this_process().map_err(AppError::Pipes)?;
    let Connect { address, headers, patience, .. } = config;
    if is_readable_on_the_way(&address) && headers.iter().any(|(name, _)| *name == AUTHORIZATION) {
        tracing::warn!("the key goes over the network in the clear: use https");
    }
    let bridge = connect::Config { address, headers, line_bytes_max: LINE_BYTES_MAX, patience };
    connect::run(bridge, &system_roots(), client, stop).await.map_err(AppError::Endpoint)
}

fn is_readable_on_the_way(address: &Address) -> bool {
    let Address::Http(url) = address else { return false };
    let is_here = match url.host() {
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.to_canonical().is_loopback(),
        Some(url::Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        None => false,
    };
    url.scheme() == "http" && !is_here
}

fn signalled() -> Result<impl Future<Output = ()>, AppError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(AppError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(AppError::Signals)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

fn path_of(endpoint: Option<EndpointName>, app: &App) -> Result<String, AppError> {
    let Some(name) = endpoint else { return Ok("/mcp".to_owned()) };
    if app.greeting.endpoints.iter().any(|(known, _)| *known == name) {
        return Ok(format!("/mcp/{name}"));
    }
    let known: Vec<_> = app.greeting.endpoints.iter().map(|(name, _)| name.to_string()).collect();
    Err(AppError::NoEndpoint { name, known: known.join(", ") })
}
