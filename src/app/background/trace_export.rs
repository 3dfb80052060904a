//! The metrics registry of the workers, and the export of traces.

use std::sync::Arc;

use bytes::Bytes;
use metamcp_core::base::ShutdownPhase;
use metamcp_core::protocol::McpMethod;
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_local};

use super::super::error::AppError;
use super::http_sender::{HttpSender, PROTOBUF};
use crate::server::SharedState;
use crate::telemetry::exporter::export;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::records::CallRecords;
use crate::telemetry::traces::Traces;
use metamcp_config::Config;
use metamcp_config::sections::MetricsAccess;
use metamcp_http::TlsRoots;

/// Creates the registry for metrics and traces; `None` if both are off. Both share it because a span begins and ends
/// where a message is counted.
pub fn new_metrics(config: &Config, records: Option<&Arc<CallRecords>>) -> Option<Arc<Metrics>> {
    let workers = config.server.workers;
    let traces = config.traces.clone().map(|traces| Traces::new(traces, workers));
    let is_on = config.metrics_access != MetricsAccess::Off || traces.is_some();
    is_on.then(|| {
        Arc::new(
            Metrics::new(workers, &McpMethod::names()).with_traces(traces).with_records(records.cloned()),
        )
    })
}

/// Returns the metrics for the administration to serve, unless scraping is off.
pub fn scraped_metrics(
    config: &Config,
    metrics: Option<&Arc<Metrics>>,
) -> Option<(Arc<Metrics>, MetricsAccess)> {
    metrics
        .filter(|_| config.metrics_access != MetricsAccess::Off)
        .map(|metrics| (Arc::clone(metrics), config.metrics_access))
}

/// Spawns the export of spans, which runs until `workers_ended` changes and the last spans are sent. `None` if traces
/// are off.
pub fn spawn_export(
    shared: &SharedState,
    roots: &TlsRoots,
    workers_ended: watch::Receiver<ShutdownPhase>,
) -> Result<Option<JoinHandle<()>>, AppError> {
    let traces = shared.metrics.as_ref().and_then(|metrics| metrics.traces());
    let Some(traces) = traces.map(Arc::clone) else { return Ok(None) };
    let config = traces.config().clone();
    let collector = HttpSender::new(&config.endpoint, (PROTOBUF, config.headers), config.timeout, roots);
    let collector = collector.map_err(AppError::Collector)?;
    let post = async move |batch: Bytes| collector.post(batch, []).await;
    Ok(Some(spawn_local(export(traces, post, workers_ended))))
}
