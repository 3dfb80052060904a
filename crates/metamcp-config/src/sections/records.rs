//! `[records]`: the record of each call.

use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use url::Url;

/// Where the records of calls go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordsConfig {
    pub target: RecordsTarget,
    /// Records that may wait for the writer. Further ones are dropped and counted.
    pub queue_max: usize,
}

/// A destination of records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordsTarget {
    File(RecordsFile),
    /// A datagram socket that takes messages of RFC 5424, usually `/dev/log`.
    Syslog(PathBuf),
    Otlp(RecordsCollector),
}

/// A file of JSON lines that is rotated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordsFile {
    pub path: PathBuf,
    /// The permission bits of a new file.
    pub mode: u32,
    /// A file that would become longer than this is renamed, and a new one is begun.
    pub bytes_max: usize,
    /// Renamed files that are kept: `PATH.1` is the youngest.
    pub kept_max: usize,
}

/// A collector of OpenTelemetry logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordsCollector {
    /// The URL that batches are posted to.
    pub endpoint: Url,
    /// Headers of each request to the collector. They may hold credentials and are marked sensitive.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Time for one export request, from connecting to the last byte of the collector's response.
    pub timeout: Duration,
    /// The resource attribute `service.name`.
    pub service: String,
}
