//! Opening an event stream, and reading it until the server says where messages go.

use bytes::Bytes;
use http::StatusCode;
use http::uri::PathAndQuery;
use url::Url;

use super::message_endpoint::resolve_message_endpoint;
use metamcp_core::frame::EventReader;
use metamcp_http::{FailureStage, UpstreamError};
use metamcp_http::{HttpPool, UpstreamBody, UpstreamResponse};
use metamcp_http::{RequestKind, UpstreamRequest};

/// The result of a GET that is to open an event stream.
pub enum StreamOpening {
    Open(Box<OpenStream>),
    /// Another status than a success, with its body.
    Refused(StatusCode, Bytes),
}

/// An event stream whose `endpoint` event was read.
pub struct OpenStream {
    /// The target of messages to the server.
    pub endpoint: PathAndQuery,
    pub body: UpstreamBody,
    pub reader: EventReader,
}

/// The name of the event that says where messages go.
pub const ENDPOINT_EVENT: &[u8] = b"endpoint";

/// The body of a refusal. Larger ones are no JSON-RPC errors.
pub const ERROR_BYTES_MAX: usize = 64 << 10;

/// What a stream may send ahead of its `endpoint` event: comments, as servers send them to keep a connection
/// alive.
const PREFACE_BYTES_MAX: usize = 64 << 10;

/// Opens an event stream with the header fields of `request`. Cancel safe: dropping it closes the stream.
pub async fn open_stream(
    http: &HttpPool,
    url: &Url,
    request: &UpstreamRequest,
) -> Result<StreamOpening, UpstreamError> {
    let get = UpstreamRequest::get().with_headers_of(request);
    let UpstreamResponse { head, mut body } = *http.send(&get, RequestKind::Stream, None).await?;
    if !head.status.is_success() {
        let error = body.collect(ERROR_BYTES_MAX).await.unwrap_or_default();
        return Ok(StreamOpening::Refused(head.status, error));
    }
    let failed = |reason: &str| UpstreamError::new(FailureStage::NoEndpoint, reason);
    if !head.is_event_stream() || head.is_encoded {
        return Err(failed("the response to GET is not an event stream"));
    }
    let (mut reader, mut read_bytes) = (EventReader::new(), 0);
    loop {
        let invalid = |error| UpstreamError::new(FailureStage::NoEndpoint, error);
        while let Some(event) = reader.next().map_err(invalid)? {
            if event.event_name.as_deref() == Some(ENDPOINT_EVENT) {
                let endpoint = resolve_message_endpoint(url, event.data.as_deref().unwrap_or_default())?;
                return Ok(StreamOpening::Open(Box::new(OpenStream { endpoint, body, reader })));
            }
        }
        if read_bytes > PREFACE_BYTES_MAX {
            return Err(failed("the event stream sent 64 KiB without an event `endpoint`"));
        }
        let chunk = body.chunk().await.ok_or_else(|| failed("the event stream ended at once"))??;
        read_bytes += chunk.len();
        reader.push(chunk);
    }
}

/// Whether a status says that the server is unwell. Other statuses may be due to what this one client sent,
/// and must not keep the next client from trying.
pub fn is_server_failure(status: StatusCode) -> bool {
    status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS
}
