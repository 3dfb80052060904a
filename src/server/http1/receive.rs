//! Receives a request body within its size limit and timeout, and checks the media types.

use std::future::{Future as _, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;

use bytes::Bytes;
use hyper::body::{Body, Incoming};
use tokio::time::timeout;

use super::fields::{Field, Fields};
use super::mapped::{AppendError, MappedBuffer};
use metamcp_config::sections::HttpConfig;
use metamcp_core::base::{ChargedBuffer, Fault, FaultKind, MemoryCharge, OutOfMemory, charge_bytes};
use metamcp_core::protocol::header;

/// The body of a request.
pub enum RequestBody {
    /// The whole body, within the size limit.
    Whole(Bytes),
    /// The body is still to be read from hyper.
    Streamed(Incoming),
}

/// Bodies from this length on are stored in an anonymous memory map.
const MAPPED_FROM_BYTES: usize = 1 << 20;

/// Checks that a POST carries JSON, and that the client accepts both forms of a response.
pub fn negotiate(fields: &Fields) -> Result<(), Fault> {
    if fields.has(Field::ContentEncoding) {
        return Err(Fault::client(
            FaultKind::UnsupportedMedia,
            "send the body as it is, without Content-Encoding",
        ));
    }
    if !fields.get(Field::ContentType).is_some_and(header::is_json) {
        return Err(Fault::client(FaultKind::UnsupportedMedia, "send `Content-Type: application/json`"));
    }
    // The value that nearly every client sends.
    let is_usual = fields.get(Field::Accept) == Some(header::ACCEPT_BOTH.as_bytes());
    let takes_both = || accepts(fields, header::JSON) && accepts(fields, header::EVENT_STREAM);
    if !is_usual && !takes_both() {
        return Err(Fault::client(
            FaultKind::NotAcceptable,
            "send `Accept: application/json, text/event-stream`: a server may answer in either form",
        ));
    }
    Ok(())
}

/// Whether the client accepts a media type.
pub fn accepts(fields: &Fields, wanted: &str) -> bool {
    let (kind, _) = wanted.split_once('/').unwrap_or_default();
    fields.text(Field::Accept).unwrap_or_default().split(',').any(|range| {
        let range = range.split(';').next().unwrap_or_default().trim();
        range.eq_ignore_ascii_case(wanted)
            || range == "*/*"
            || range.strip_suffix("/*").is_some_and(|range| range.eq_ignore_ascii_case(kind))
    })
}

/// Receives the whole body of a message.
///
/// Not cancel safe: bytes that were read are lost, and the connection is unusable.
pub async fn receive(config: &HttpConfig, fields: &Fields, body: RequestBody) -> Result<Bytes, Fault> {
    match body {
        RequestBody::Whole(body) => Ok(body),
        RequestBody::Streamed(mut body) => collect(config, config.body_bytes_max, fields, &mut body).await,
    }
}

/// Receives the whole body. A body that arrives in one read is not copied. Not cancel safe, for the same
/// reason.
pub async fn collect(
    config: &HttpConfig,
    bytes_max: usize,
    fields: &Fields,
    body: &mut Incoming,
) -> Result<Bytes, Fault> {
    // Refuse before reading a byte, if the length is known.
    let announced = fields.text(Field::ContentLength).and_then(|value| value.parse::<u64>().ok());
    if announced.is_some_and(|bytes| bytes > bytes_max as u64) {
        return Err(too_large(bytes_max));
    }
    let mut collecting = pin!(collect_all(bytes_max, body, announced));
    // Nearly every body has arrived together with its head, and needs no timer.
    if let Poll::Ready(collected) = poll_fn(|cx| Poll::Ready(collecting.as_mut().poll(cx))).await {
        return collected;
    }
    timeout(config.body_timeout, collecting).await.unwrap_or_else(|_elapsed| {
        Err(Fault::client(FaultKind::BodyTimeout, "the body did not come in time").closing_connection())
    })
}

async fn collect_all(bytes_max: usize, body: &mut Incoming, announced: Option<u64>) -> Result<Bytes, Fault> {
    let Some(first) = chunk(body).await? else { return Ok(Bytes::new()) };
    if body.is_end_stream() {
        return charge_bytes(check_length(bytes_max, first)?).map_err(refused);
    }
    let announced =
        announced.and_then(|bytes| usize::try_from(bytes).ok()).filter(|bytes| *bytes >= MAPPED_FROM_BYTES);
    match announced {
        Some(bytes) => collect_mapped(first, body, bytes).await,
        None => collect_buffered(bytes_max, first, body).await,
    }
}

async fn collect_buffered(bytes_max: usize, first: Bytes, body: &mut Incoming) -> Result<Bytes, Fault> {
    let mut whole = ChargedBuffer::begin(first).map_err(refused)?;
    while let Some(bytes) = chunk(body).await? {
        if whole.len() + bytes.len() > bytes_max {
            return Err(too_large(bytes_max));
        }
        whole.extend(&bytes).map_err(refused)?;
    }
    check_length(bytes_max, whole.freeze())
}

/// Collects into a memory map of the announced length. hyper returns no byte more, and fails if there are
/// fewer.
async fn collect_mapped(first: Bytes, body: &mut Incoming, length: usize) -> Result<Bytes, Fault> {
    let charge = MemoryCharge::new();
    // A body for which there is no memory now is not received in vain.
    charge.check(length).map_err(refused)?;
    let full =
        |error| Fault::gateway(FaultKind::Overloaded, "no memory for a body of this size").with_source(error);
    let mut mapped = MappedBuffer::with_capacity(length, charge).map_err(full)?;
    let mut next = Some(first);
    while let Some(bytes) = next {
        mapped.append(&bytes).map_err(|error| match error {
            AppendError::TooLong => broken("longer than its Content-Length"),
            AppendError::OutOfMemory(error) => refused(error),
        })?;
        next = chunk(body).await?;
    }
    Ok(mapped.freeze())
}

async fn chunk(body: &mut Incoming) -> Result<Option<Bytes>, Fault> {
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
        // Trailers have no meaning in MCP.
        if let Ok(bytes) = frame.map_err(broken)?.into_data() {
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}

fn check_length(bytes_max: usize, bytes: Bytes) -> Result<Bytes, Fault> {
    if bytes.len() > bytes_max { Err(too_large(bytes_max)) } else { Ok(bytes) }
}

#[cold]
fn broken(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Fault {
    Fault::client(FaultKind::BodyIncomplete, "the body broke off").with_source(error).closing_connection()
}

/// The rest of the body is not read.
#[cold]
fn refused(error: OutOfMemory) -> Fault {
    Fault::from(error).closing_connection()
}

#[cold]
fn too_large(bytes_max: usize) -> Fault {
    let text = format!("the body is over the limit of {bytes_max} bytes (`server.body_bytes_max`)");
    Fault::client(FaultKind::TooLarge, text).closing_connection()
}

#[cfg(test)]
mod tests {
    use http::header::{ACCEPT, CONTENT_TYPE};
    use http::{HeaderMap, HeaderValue};

    use super::*;

    #[track_caller]
    fn check(content_type: Option<&'static str>, accept: Option<&'static str>, expected: Option<FaultKind>) {
        let mut headers = HeaderMap::new();
        if let Some(value) = content_type {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(value));
        }
        if let Some(value) = accept {
            headers.insert(ACCEPT, HeaderValue::from_static(value));
        }
        assert_eq!(
            negotiate(&Fields::from_map(&headers)).err().map(|fault| fault.kind),
            expected,
            "{content_type:?} {accept:?}"
        );
    }

    #[test]
    fn types() {
        let both = Some("application/json, text/event-stream");
        check(Some("application/json"), both, None);
        check(Some("Application/JSON; charset=utf-8"), both, None);
        check(Some("application/json"), Some("text/event-stream;q=0.5,application/*"), None);
        check(Some("application/json"), Some("*/*"), None);
        check(Some("application/json"), Some("application/json"), Some(FaultKind::NotAcceptable));
        check(Some("application/json"), None, Some(FaultKind::NotAcceptable));
        check(Some("text/plain"), both, Some(FaultKind::UnsupportedMedia));
        check(Some("application/jsonx"), both, Some(FaultKind::UnsupportedMedia));
        check(None, both, Some(FaultKind::UnsupportedMedia));
    }
}
