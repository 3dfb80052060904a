//! The commands of the program, each until it ends: a gateway on the network, a gateway for one client, a bridge.
//!
//! These block and are compiled here: an async function is compiled where it is first polled, which would otherwise
//! be the program, in one piece.

use std::future::{Future, pending};

use metamcp_config::{Config, ConnectConfig};
use metamcp_core::base::EndpointName;
use tokio::runtime::Builder;
use tokio::task::LocalSet;

use super::config_sync::ConfigLoader;
use super::error::AppError;
use super::gateway::App;
use super::shutdown_signals::ShutdownSignals;
use super::startup_info::StartupInfo;
use super::stdio;
use crate::server::ListenTarget;

/// Serves clients on the network until a signal arrives. `started` is called once the gateway accepts connections.
pub fn serve_network(
    config: Config,
    load_config: ConfigLoader,
    started: fn(&StartupInfo),
) -> Result<(), AppError> {
    block_on(async {
        let app = App::start(config, ListenTarget::Public, load_config).await?;
        started(&app.info);
        app.run(pending()).await
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
