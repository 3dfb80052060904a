//! The configuration of `metamcp connect`: command line, environment and key file. The gateway's own files do
//! not affect it.

use std::path::Path;
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue};

use super::cli::ConnectArgs;
use super::defaults as d;
use super::expand::expand;
use super::log_filter;
use super::mistakes::{ConfigErrors, Diagnostics, SourceLocation, WithLocation};
use super::raw::{Env, Variables, read_named};
use super::types::{LogConfig, LogFormat};
use crate::server::ServerAddress;
use crate::server::address;
use crate::server::headers::{self, HeaderOwner};

/// The complete configuration of `metamcp connect`.
pub struct ConnectConfig {
    pub address: ServerAddress,
    /// Sent with every request, including the key. Marked sensitive.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Time to the head of a response, and between two reads of one.
    pub response_timeout: Duration,
    pub log: LogConfig,
}

/// Reads the configuration. On failure returns every error. `cwd` is the same as in [`load`](super::load).
pub fn load_connect(
    log_format: Option<LogFormat>,
    args: &ConnectArgs,
    env: &dyn Env,
    cwd: &Path,
) -> Result<ConnectConfig, ConfigErrors> {
    let report = Diagnostics::default();
    let variables = Variables::read(env, cwd, &report);
    let address = address::parse(args.url.expose())
        .map_err(|wrong| report.mistake(&SourceLocation::flag("URL"), wrong))
        .ok();
    let mut headers = configured(args, &variables, &report);
    let key = key(args, &variables, cwd, &report);
    if let Some(WithLocation { value, place }) = key {
        if headers.iter().any(|(name, _)| *name == AUTHORIZATION) {
            report.mistake(&place, "is there beside an Authorization header; leave one of them out");
        }
        match headers::parse(AUTHORIZATION.as_str(), &format!("Bearer {value}")) {
            Ok(header) => headers.push(header),
            Err(wrong) => report.mistake(&place, wrong),
        }
    }
    let response_timeout = Duration::from_secs(args.timeout.unwrap_or(d::CONNECT_TIMEOUT.default.as_secs()));
    if !(d::CONNECT_TIMEOUT.min..=d::CONNECT_TIMEOUT.max).contains(&response_timeout) {
        let (min, max) = (d::CONNECT_TIMEOUT.min.as_secs(), d::CONNECT_TIMEOUT.max.as_secs());
        report.mistake(&SourceLocation::flag("--timeout"), format!("is out of range; write {min} to {max}"));
    }
    let filter = variables.text("RUST_LOG", &report).map(|written| {
        if let Some(text) = log_filter::mistake(&written.value) {
            report.mistake(&written.place, text);
        }
        written.value
    });
    let log = LogConfig {
        format: log_format.unwrap_or(LogFormat::Text),
        filter: filter.unwrap_or_else(|| d::LOG_FILTER.to_owned()),
    };
    report.finish()?;
    let address = address.expect("one that is none was a mistake");
    Ok(ConnectConfig { address, headers, response_timeout, log })
}

fn configured(
    args: &ConnectArgs,
    variables: &Variables<'_>,
    report: &Diagnostics,
) -> Vec<(HeaderName, HeaderValue)> {
    let mut list: Vec<(HeaderName, HeaderValue)> = Vec::new();
    let place = SourceLocation::flag("--header");
    for written in &args.header {
        let Some((name, value)) = written.expose().split_once('=') else {
            report.mistake(&place, "is not NAME=VALUE");
            continue;
        };
        let value = match expand(value, variables, None) {
            Ok(value) => value,
            Err(wrong) => {
                for wrong in wrong {
                    report.mistake(&place, wrong);
                }
                continue;
            }
        };
        match headers::parse(name.trim(), &value) {
            Err(wrong) => report.mistake(&place, wrong),
            Ok((name, _)) if headers::header_owner(&name) == HeaderOwner::Gateway => {
                report
                    .mistake(&place, "is a header that metamcp sets itself, on every request; leave it out");
            }
            Ok((name, _)) if list.iter().any(|(other, _)| *other == name) => {
                report.mistake(&place, "is there twice: header names do not differ by case; leave one out");
            }
            Ok(header) => list.push(header),
        }
    }
    list
}

/// Returns the key from the flag, the file or `METAMCP_KEY`. Some endpoints need none.
fn key(
    args: &ConnectArgs,
    variables: &Variables<'_>,
    cwd: &Path,
    report: &Diagnostics,
) -> Option<WithLocation<String>> {
    let written = if let Some(key) = &args.key {
        WithLocation { value: key.expose().to_owned(), place: SourceLocation::flag("--key") }
    } else if let Some(path) = &args.key_file {
        let place = SourceLocation::flag("--key-file");
        let value = read_named(&cwd.join(path), &place, report)?;
        WithLocation { value, place }
    } else {
        variables.text("METAMCP_KEY", report)?
    };
    let WithLocation { value, place } = written;
    let value = value.trim().to_owned();
    if value.is_empty() || value.contains(char::is_whitespace) {
        report.mistake(&place, "is no key; write it alone, without `Bearer`");
        return None;
    }
    Some(WithLocation { value, place })
}
