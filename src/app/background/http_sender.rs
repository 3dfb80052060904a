//! Posts telemetry and events to a collector or a webhook, each message on its own connection.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, RETRY_AFTER, USER_AGENT};
use http::{HeaderName, HeaderValue, Method, Request};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::timeout;
use url::Url;

use crate::telemetry::exporter::{PostError, PostResponse};
use metamcp_http::{InvalidTarget, TlsRoots, UrlTarget, connect, resolve_url};

/// Posts messages to one URL.
pub struct HttpSender {
    url: UrlTarget,
    content_type: HeaderValue,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// For one message, from connecting to the last byte of the response.
    timeout: Duration,
}

/// The media type of OTLP over HTTP (OTLP specification, binary protobuf encoding).
pub const PROTOBUF: HeaderValue = HeaderValue::from_static("application/x-protobuf");

/// A collector's response body: a few bytes that count the rejected spans. Longer ones are not read.
const RESPONSE_BYTES_MAX: usize = 64 << 10;

impl HttpSender {
    /// `headers` are those of each request.
    pub fn new(
        endpoint: &Url,
        (content_type, headers): (HeaderValue, Vec<(HeaderName, HeaderValue)>),
        timeout: Duration,
        roots: &TlsRoots,
    ) -> Result<Self, InvalidTarget> {
        Ok(Self { url: resolve_url(endpoint, roots)?, content_type, headers, timeout })
    }

    /// Sends one message, with more headers, within the timeout. Cancel safe: dropping it closes the connection.
    pub async fn post(
        &self,
        body: Bytes,
        more: impl IntoIterator<Item = (HeaderName, HeaderValue)>,
    ) -> Result<PostResponse, PostError> {
        let mut request = request(self, body);
        request.headers_mut().extend(more);
        match timeout(self.timeout, send(self, request)).await {
            Ok(result) => result,
            Err(_elapsed) => Err(PostError("it did not answer in time".to_owned())),
        }
    }
}

/// Sends one message. Cancel safe: dropping it closes the connection.
async fn send(sender: &HttpSender, request: Request<Full<Bytes>>) -> Result<PostResponse, PostError> {
    let failed = |error: &dyn std::error::Error| PostError(error.to_string());
    // Private addresses are allowed: the address is the operator's own, and usually on the local network.
    let stream = connect(&sender.url.target, true).await.map_err(|error| failed(&error))?;
    let (mut connected, connection) =
        http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
    let exchange = async {
        let response = connected.send_request(request).await.map_err(|error| failed(&error))?;
        let (head, body) = response.into_parts();
        // The status tells whether the message was accepted, so an unreadable body is ignored.
        let body = Limited::new(body, RESPONSE_BYTES_MAX).collect().await;
        Ok(PostResponse {
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

fn request(sender: &HttpSender, body: Bytes) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = sender.url.path.clone().into();
    let headers = request.headers_mut();
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("metamcp/", env!("CARGO_PKG_VERSION"))));
    headers.extend(sender.headers.iter().cloned());
    headers.insert(HOST, sender.url.host.clone());
    headers.insert(CONTENT_TYPE, sender.content_type.clone());
    headers.insert(http::header::CONNECTION, HeaderValue::from_static("close"));
    request
}

/// Parses the form of `Retry-After` that is a number of seconds (RFC 9110, section 10.2.3); the other needs a clock.
fn parse_retry_after(value: &HeaderValue) -> Option<Duration> {
    value.to_str().ok()?.parse().ok().map(Duration::from_secs)
}
