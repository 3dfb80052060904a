//! What is counted and traced, and the way to the collector of traces: OTLP over HTTP, each batch on a connection of its
//! own.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, RETRY_AFTER, USER_AGENT};
use http::{HeaderValue, Method, Request};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::timeout;

use super::AppError;
use crate::admin::Scrapes;
use crate::base::Phase;
use crate::config::Config;
use crate::protocol::Method as McpMethod;
use crate::server::Shared;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::traces::{self, Answer, Traces, Unsent, export};
use crate::upstream::{Reached, TlsRoots, connect, reach};

/// The answer of a collector: a few bytes that say how many spans it did not want. What is longer is not read.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// What the workers count and trace with, unless both are off: a span begins and ends where a message is counted.
pub fn metrics(config: &Config) -> Option<Arc<Metrics>> {
    let workers = config.server.workers;
    let traces = config.traces.clone().map(|traces| Traces::new(traces, workers));
    let is_on = config.scrapes != Scrapes::Off || traces.is_some();
    is_on.then(|| Arc::new(Metrics::new(workers, &McpMethod::names()).with_traces(traces)))
}

/// What the workers count, as far as somebody may look at it.
pub fn scraped(config: &Config, metrics: Option<&Arc<Metrics>>) -> Option<(Arc<Metrics>, Scrapes)> {
    metrics.filter(|_| config.scrapes != Scrapes::Off).map(|metrics| (Arc::clone(metrics), config.scrapes))
}

/// Hands spans on until it is told that nothing more is traced; `None`: nothing is.
pub fn hand_on(
    shared: &Shared,
    roots: &TlsRoots,
    end: watch::Receiver<Phase>,
) -> Result<Option<JoinHandle<()>>, AppError> {
    let traces = shared.metrics.as_ref().and_then(|metrics| metrics.traces());
    let Some(traces) = traces.map(Arc::clone) else { return Ok(None) };
    let config = traces.config().clone();
    let reached = reach(&config.endpoint, roots).map_err(AppError::Collector)?;
    let post = async move |batch: Bytes| match timeout(config.timeout, send(&config, &reached, batch)).await {
        Ok(answered) => answered,
        Err(_elapsed) => Err(Unsent("it did not answer in time".to_owned())),
    };
    Ok(Some(spawn_local(export(traces, post, end))))
}

/// One batch. Cancel safe: dropping it closes the connection.
async fn send(config: &traces::Config, reached: &Reached, batch: Bytes) -> Result<Answer, Unsent> {
    let failed = |error: &dyn std::error::Error| Unsent(error.to_string());
    // The address is the operator's own, and mostly one of the house.
    let stream = connect(&reached.target, true).await.map_err(|error| failed(&error))?;
    let (mut sender, connection) =
        http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
    let request = request(config, reached, batch);
    let asking = async {
        let answer = sender.send_request(request).await.map_err(|error| failed(&error))?;
        let (head, body) = answer.into_parts();
        // What cannot be read says nothing; that it was taken, the status has said.
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        Ok(Answer {
            status: head.status.as_u16(),
            retry_after: head.headers.get(RETRY_AFTER).and_then(seconds),
            body: body.map(http_body_util::Collected::to_bytes).unwrap_or_default(),
        })
    };
    tokio::pin!(asking, connection);
    tokio::select! {
        biased;
        answered = &mut asking => return answered,
        ended = &mut connection => ended.map_err(|error| failed(&error))?,
    }
    // It is over, and what came on it is here.
    asking.await
}

fn request(config: &traces::Config, reached: &Reached, batch: Bytes) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(batch));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = reached.path.clone().into();
    let headers = request.headers_mut();
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("metamcp/", env!("CARGO_PKG_VERSION"))));
    headers.extend(config.headers.iter().cloned());
    headers.insert(HOST, reached.host.clone());
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
    headers.insert(http::header::CONNECTION, HeaderValue::from_static("close"));
    request
}

/// Of the two forms of `Retry-After` (RFC 9110, section 10.2.3) the one that needs no clock.
fn seconds(value: &HeaderValue) -> Option<Duration> {
    value.to_str().ok()?.parse().ok().map(Duration::from_secs)
}
