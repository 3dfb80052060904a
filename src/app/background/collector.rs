//! A collector of telemetry: OTLP over HTTP, each batch on its own connection.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, RETRY_AFTER, USER_AGENT};
use http::{HeaderName, HeaderValue, Method, Request};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::timeout;
use url::Url;

use crate::telemetry::exporter::{CollectorResponse, ExportError};
use metamcp_http::{InvalidTarget, TlsRoots, UrlTarget, connect, resolve_url};

/// Where batches of one signal are posted to.
pub struct Collector {
    url: UrlTarget,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// For one batch, from connecting to the last byte of the response.
    timeout: Duration,
}

/// A collector's response body: a few bytes that count the rejected spans. Longer ones are not read.
const RESPONSE_BYTES_MAX: usize = 64 << 10;

impl Collector {
    pub fn new(
        endpoint: &Url,
        headers: Vec<(HeaderName, HeaderValue)>,
        timeout: Duration,
        roots: &TlsRoots,
    ) -> Result<Self, InvalidTarget> {
        Ok(Self { url: resolve_url(endpoint, roots)?, headers, timeout })
    }

    /// Sends one batch, within the timeout. Cancel safe: dropping it closes the connection.
    pub async fn post(&self, batch: Bytes) -> Result<CollectorResponse, ExportError> {
        match timeout(self.timeout, send(self, batch)).await {
            Ok(result) => result,
            Err(_elapsed) => Err(ExportError("it did not answer in time".to_owned())),
        }
    }
}

/// Sends one batch. Cancel safe: dropping it closes the connection.
async fn send(collector: &Collector, batch: Bytes) -> Result<CollectorResponse, ExportError> {
    let failed = |error: &dyn std::error::Error| ExportError(error.to_string());
    // Private addresses are allowed: the address is the operator's own, and usually on the local network.
    let stream = connect(&collector.url.target, true).await.map_err(|error| failed(&error))?;
    let (mut sender, connection) =
        http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
    let request = request(collector, batch);
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

fn request(collector: &Collector, batch: Bytes) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(batch));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = collector.url.path.clone().into();
    let headers = request.headers_mut();
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("metamcp/", env!("CARGO_PKG_VERSION"))));
    headers.extend(collector.headers.iter().cloned());
    headers.insert(HOST, collector.url.host.clone());
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
    headers.insert(http::header::CONNECTION, HeaderValue::from_static("close"));
    request
}

/// Parses the form of `Retry-After` that is a number of seconds (RFC 9110, section 10.2.3); the other needs a clock.
fn parse_retry_after(value: &HeaderValue) -> Option<Duration> {
    value.to_str().ok()?.parse().ok().map(Duration::from_secs)
}
