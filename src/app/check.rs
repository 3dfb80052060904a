//! What a start would refuse, found without starting.

use metamcp_config::Config;
use metamcp_config::certificates::PemFiles;
use metamcp_http::{TlsRoots, resolve_url};

use super::background::check_records;
use super::error::AppError;
use super::keyring::check_secrets;
use metamcp_store::store::check_postgres_url;

/// Reads the files that a start would read, beyond those of the configuration: certificates and secrets. Creates nothing,
/// connects to nothing. Returns every reason that can be found so why the gateway would not start.
pub fn check(config: &Config) -> Vec<AppError> {
    let tls = config.server.tls.as_ref().map(|files| PemFiles::read(files)?.check());
    let collector = config.traces.as_ref().map(|traces| {
        resolve_url(&traces.endpoint, &TlsRoots::system()).map(drop).map_err(AppError::Collector)
    });
    let database = config.database.as_ref().map(|database| check_postgres_url(&database.url));
    let results = [
        Some(check_secrets(config)),
        database.map(|checked| checked.map_err(AppError::from)),
        config.records.as_ref().map(|records| check_records(records, &config.data_dir)),
        tls.map(|checked| checked.map_err(AppError::from)),
        collector,
    ];
    results.into_iter().flatten().filter_map(Result::err).collect()
}

/// What does not prevent a start and yet needs attention, one line each: the dates of certificates and revocation lists. A
/// start logs the same by itself.
pub fn date_warnings(config: &Config) -> Vec<String> {
    // What cannot be read is refused by `check`.
    let files = config.server.tls.as_ref().and_then(|files| PemFiles::read(files).ok());
    files.map(|files| files.date_warnings()).unwrap_or_default()
}

/// As [`check`] before a start, which looks for the secrets by itself: another process may be creating them at this moment.
pub fn check_before_start(config: &Config) -> Vec<AppError> {
    let mut mistakes = check(config);
    mistakes.retain(|mistake| !matches!(mistake, AppError::FirstStart(_)));
    mistakes
}
