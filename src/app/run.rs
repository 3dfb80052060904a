//! The commands of the program, each until it ends: a gateway on the network, a gateway for one client, a bridge.
//!
//! These block and are compiled here: an async function is compiled where it is first polled, which would otherwise
//! be the program, in one piece.

use std::future::{Future, pending};
use std::net::SocketAddr;

use metamcp_config::sections::AuthMode;
use metamcp_config::{Config, ConnectConfig, ProcessEnv};
use metamcp_core::base::EndpointName;
use tokio::runtime::Builder;
use tokio::task::LocalSet;

use super::config_sync::ConfigLoader;
use super::error::AppError;
use super::gateway::{App, Launch};
use super::handover::{Inheritance, ServiceManager};
use super::shutdown_signals::ShutdownSignals;
use super::startup_info::StartupInfo;
use super::stdio;
use crate::server::ListenTarget;

/// Serves clients on the network until a signal arrives or a successor takes over. `inheritance`: what was passed to this
/// process. `started` is called once the gateway accepts connections.
pub fn serve_network(
    config: Config,
    load_config: ConfigLoader,
    inheritance: Option<Inheritance>,
    started: fn(&StartupInfo),
) -> Result<(), AppError> {
    let manager = ServiceManager::find(&ProcessEnv);
    let (sockets, predecessor) = match inheritance {
        Some(Inheritance { sockets, predecessor }) => (Some(sockets), predecessor),
        None => (None, None),
    };
    let listening = sockets.as_ref().map(|sockets| sockets.address);
    let (config, load_config) = match listening {
        Some(address) => {
            (at_address(config.clone(), address)?, adapt(load_config, config.server.listen, address))
        }
        None => (config, load_config),
    };
    let launch = Launch {
        config,
        door: ListenTarget::Public,
        load_config,
        sockets,
        is_successor: predecessor.is_some(),
        manager: manager.clone(),
    };
    block_on(async {
        let start = Box::pin(App::start(launch));
        let app = match &predecessor {
            Some(predecessor) => predecessor.race(start).await??,
            None => start.await?,
        };
        // At once: clients that are connected by now would be lost with a successor that is not told of.
        match predecessor {
            Some(predecessor) => predecessor.send_accepts()?,
            None => manager.ready(),
        }
        started(&app.info);
        app.run(pending()).await
    })
}

/// The configuration of a gateway that listens where the sockets do that were passed to it.
fn at_address(mut config: Config, address: SocketAddr) -> Result<Config, AppError> {
    let is_loopback = address.ip().to_canonical().is_loopback();
    if config.auth_mode == AuthMode::Open && !is_loopback {
        return Err(AppError::OpenSocket(address));
    }
    if config.server.listen.port() != 0 && config.server.listen != address {
        tracing::info!(%address, "the inherited sockets decide where the gateway listens, not server.host and server.port");
    }
    config.server.listen = address;
    config.serving_policy.allow_private = is_loopback;
    Ok(config)
}

/// Loads later configurations as the first one was adapted. Another address than the one that was `written` first stays, so
/// that it is found to differ.
fn adapt(load_config: ConfigLoader, written: SocketAddr, address: SocketAddr) -> ConfigLoader {
    Box::new(move || {
        let mut config = load_config()?;
        if config.server.listen == written {
            config.server.listen = address;
        }
        config.serving_policy.allow_private = address.ip().to_canonical().is_loopback();
        Ok(config)
    })
}

/// Serves an endpoint to the client that started this process, until the client is gone or a signal arrives.
pub fn serve_one_client(
    config: Config,
    load_config: ConfigLoader,
    endpoint: Option<EndpointName>,
) -> Result<(), AppError> {
    block_on(stdio::serve(config, load_config, endpoint))
}

/// Connects the client that started this process to an endpoint elsewhere, until the client is gone or a signal
/// arrives.
pub fn connect(config: ConnectConfig) -> Result<(), AppError> {
    block_on(async {
        let mut signals = ShutdownSignals::install()?;
        Ok(metamcp_connect::connect(config, signals.received()).await?)
    })
}

/// Runs `work` on this thread, together with the tasks that it spawns.
fn block_on(work: impl Future<Output = Result<(), AppError>>) -> Result<(), AppError> {
    let runtime = Builder::new_current_thread().enable_all().build().map_err(AppError::Signals)?;
    LocalSet::new().block_on(&runtime, work)
}
