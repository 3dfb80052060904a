//! The metrics registry of the workers, and the export of traces: OTLP over HTTP, each batch on its own connection.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, RETRY_AFTER, USER_AGENT};
use http::{HeaderValue, Method, Request};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use metamcp_core::base::ShutdownPhase;
use metamcp_core::protocol::McpMethod;
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::timeout;

use super::super::error::AppError;
use crate::server::SharedState;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::traces::{CollectorResponse, ExportError, Traces, export};
use metamcp_config::Config;
use metamcp_config::sections::{MetricsAccess, TraceConfig};
use metamcp_http::{TlsRoots, UrlTarget, connect, resolve_url};

/// A collector's response body: a few bytes that count the rejected spans. Longer ones are not read.
const RESPONSE_BYTES_MAX: usize = 64 << 10;

/// Creates the registry for metrics and traces; `None` if both are off. Both share it because a span begins and ends
/// where a message is counted.
pub fn new_metrics(config: &Config) -> Option<Arc<Metrics>> {
    let workers = config.server.workers;
    let traces = config.traces.clone().map(|traces| Traces::new(traces, workers));
    let is_on = config.metrics_access != MetricsAccess::Off || traces.is_some();
    is_on.then(|| Arc::new(Metrics::new(workers, &McpMethod::names()).with_traces(traces)))
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
    let collector = resolve_url(&config.endpoint, roots).map_err(AppError::Collector)?;
    let post = async move |batch: Bytes| match timeout(config.timeout, send(&config, &collector, batch)).await
    {
        Ok(result) => result,
        Err(_elapsed) => Err(ExportError("it did not answer in time".to_owned())),
    };
    Ok(Some(spawn_local(export(traces, post, workers_ended))))
}

/// Sends one batch. Cancel safe: dropping it closes the connection.
async fn send(
    config: &TraceConfig,
    collector: &UrlTarget,
    batch: Bytes,
) -> Result<CollectorResponse, ExportError> {
    let failed = |error: &dyn std::error::Error| ExportError(error.to_string());
    // Private addresses are allowed: the address is the operator's own, and usually on the local network.
    let stream = connect(&collector.target, true).await.map_err(|error| failed(&error))?;
    let (mut sender, connection) =
        http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
    let request = request(config, collector, batch);
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|error| failed(&error))?;
        let (head, body) = response.into_parts();
        // The status tells whether the batch was accepted, so an unreadable body is ignored.
        let body = Limited::new(body, RESPONSE_BYTES_MAX).collect().await;
        Ok(CollectorResponse {
            status: head.status.as_u16(),
            retry_after: head.headers.get(RETRY_AFTER).and_then(parse_retry_after),
            body: body.map(http_body_util::Collected::to_bytes).unwrap_or_default(),
        })
    };
    tokio::pin!(exchange, connection);
    tokio::select! {
        biased;
        result = &mut exchange => return result,
        ended = &mut connection => ended.map_err(|error| failed(&error))?,
    }
    // The connection has ended, and its bytes are buffered.
    exchange.await
}

fn request(config: &TraceConfig, collector: &UrlTarget, batch: Bytes) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(batch));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = collector.path.clone().into();
    let headers = request.headers_mut();
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("metamcp/", env!("CARGO_PKG_VERSION"))));
    headers.extend(config.headers.iter().cloned());
    headers.insert(HOST, collector.host.clone());
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
    headers.insert(http::header::CONNECTION, HeaderValue::from_static("close"));
    request
}

/// Parses the form of `Retry-After` that is a number of seconds (RFC 9110, section 10.2.3); the other needs a clock.
fn parse_retry_after(value: &HeaderValue) -> Option<Duration> {
    value.to_str().ok()?.parse().ok().map(Duration::from_secs)
}
