//! The writer of call records: a thread for a file or syslog, a task for a collector.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use metamcp_core::base::ShutdownPhase;
use rustix::fs::Access;
use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_local};

use super::super::error::AppError;
use super::super::shutdown_signals::install_hangup;
use super::http_sender::{HttpSender, PROTOBUF};
use crate::telemetry::exporter::export;
use crate::telemetry::records::{CallRecords, FileLog, RecordSink, RecordsWriter, Syslog, start_writer};
use metamcp_config::sections::{RecordsCollector, RecordsConfig, RecordsFile, RecordsTarget};
use metamcp_http::{TlsRoots, resolve_url};

/// What takes records from the queue.
pub enum RecordDelivery {
    Writer(RecordsWriter),
    Export(JoinHandle<()>),
}

impl RecordDelivery {
    /// Delivers what is queued, and ends. Bounded in time.
    pub async fn stop(self) {
        match self {
            Self::Writer(writer) => writer.stop().await,
            // Ends by itself; fails only by a panic, which is reported.
            Self::Export(export) => drop(export.await),
        }
    }
}

/// The queue of records; `None` if calls are not recorded.
pub fn new_queue(config: Option<&RecordsConfig>) -> Option<Arc<CallRecords>> {
    config.map(|config| Arc::new(CallRecords::new(config.clone())))
}

/// Checks whether records can be written, as far as that is possible without writing or connecting. The data directory is
/// created at the start.
pub fn check_records(config: &RecordsConfig, data_dir: &Path) -> Result<(), AppError> {
    match &config.target {
        RecordsTarget::File(RecordsFile { path, .. }) => {
            let parent = path.parent().unwrap_or(Path::new("/"));
            let written = if path.exists() { path } else { parent };
            if parent == data_dir && !parent.exists() {
                return Ok(());
            }
            rustix::fs::access(written, Access::WRITE_OK)
                .map_err(|error| AppError::Records { path: path.clone(), source: error.into() })
        }
        RecordsTarget::Syslog(_) => Ok(()),
        RecordsTarget::Otlp(collector) => resolve_url(&collector.endpoint, &TlsRoots::system())
            .map(drop)
            .map_err(AppError::RecordsCollector),
    }
}

/// Starts the delivery. A file must be writable, since nobody would notice a missing record.
pub fn start(
    records: Option<&Arc<CallRecords>>,
    roots: &TlsRoots,
    workers_ended: watch::Receiver<ShutdownPhase>,
) -> Result<Option<RecordDelivery>, AppError> {
    let Some(records) = records.map(Arc::clone) else { return Ok(None) };
    let delivery = match records.config().target.clone() {
        RecordsTarget::File(config) => {
            // A write over the limit of the file size is then an error, and does not end the process.
            drop(signal(SignalKind::from_raw(Signal::XFSZ.as_raw())).map_err(AppError::Signals)?);
            let path = config.path.clone();
            let file = FileLog::open(config).map_err(|source| AppError::Records { path, source })?;
            RecordDelivery::Writer(start_thread(records, Box::new(file))?)
        }
        RecordsTarget::Syslog(path) => {
            RecordDelivery::Writer(start_thread(records, Box::new(Syslog::new(path)))?)
        }
        RecordsTarget::Otlp(config) => {
            RecordDelivery::Export(spawn_export(records, config, roots, workers_ended)?)
        }
    };
    Ok(Some(delivery))
}

/// Starts the writer's thread, which opens its target anew at SIGHUP.
fn start_thread(records: Arc<CallRecords>, sink: Box<dyn RecordSink>) -> Result<RecordsWriter, AppError> {
    let writer = start_writer(records, sink).map_err(AppError::RecordsThread)?;
    let (mut hangups, reopen) = (install_hangup()?, writer.reopener());
    spawn_local(async move {
        while hangups.recv().await.is_some() {
            reopen();
        }
    });
    Ok(writer)
}

fn spawn_export(
    records: Arc<CallRecords>,
    config: RecordsCollector,
    roots: &TlsRoots,
    workers_ended: watch::Receiver<ShutdownPhase>,
) -> Result<JoinHandle<()>, AppError> {
    let RecordsCollector { endpoint, headers, timeout, .. } = config;
    let collector = HttpSender::new(&endpoint, (PROTOBUF, headers), timeout, roots)
        .map_err(AppError::RecordsCollector)?;
    let post = async move |batch: Bytes| collector.post(batch, []).await;
    Ok(spawn_local(export(records, post, workers_ended)))
}
