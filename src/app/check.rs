//! What a start would refuse, found without starting.

use metamcp_config::Config;
use metamcp_http::{TlsRoots, resolve_url};

use super::error::AppError;
use super::keyring::check_secrets;
use crate::server::ServerTls;

/// Reads the files that a start would read, beyond those of the configuration: certificates and secrets. Creates nothing,
/// connects to nothing. Returns every reason why the gateway would not start.
pub fn check(config: &Config) -> Vec<AppError> {
    let tls = config.server.tls.as_ref().map(ServerTls::load);
    let collector = config.traces.as_ref().map(|traces| {
        resolve_url(&traces.endpoint, &TlsRoots::system()).map(drop).map_err(AppError::Collector)
    });
    let results = [
        Some(check_secrets(config)),
        tls.map(|checked| checked.map(drop).map_err(AppError::from)),
        collector,
    ];
    results.into_iter().flatten().filter_map(Result::err).collect()
}
