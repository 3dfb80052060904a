//! Where the bytes of a response body come from.

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Response};
use hyper::body::Incoming;
use metamcp_core::protocol::header;

use super::chunked::ChunkedDecoder;
use super::response_head::ResponseHead;
use crate::error::FailureStage;
use crate::multiplex::{CancelGuard, EventSource, LocalBody, LocalResponse, event_channel};

/// What is still to come of a response body.
pub enum BodySource {
    /// These bytes, and nothing more.
    Buffered(Bytes),
    /// `first`, and `left` more bytes from the connection.
    Length {
        first: Bytes,
        left: u64,
        /// Memory for reads, reused.
        buffer: BytesMut,
    },
    /// `first`, and more chunks from the connection.
    Chunked {
        first: Bytes,
        decoder: Box<ChunkedDecoder>,
    },
    /// What hyper reads from the connection.
    Hyper(Incoming),
    /// Events of an era adapter, or of a server that is not spoken to over Streamable HTTP. The guard cancels
    /// the call when it is dropped.
    Events(Box<(EventSource, Option<CancelGuard>)>),
    Ended,
}

impl BodySource {
    /// A body whose first bytes were read, with `left` bytes still to come.
    pub fn from_length(first: Bytes, left: u64) -> Self {
        match (left, first.is_empty()) {
            (0, true) => Self::Ended,
            (0, false) => Self::Buffered(first),
            _ => Self::Length { first, left, buffer: BytesMut::new() },
        }
    }

    /// A chunked body whose first bytes were decoded.
    pub fn from_chunked(first: Bytes, decoder: Box<ChunkedDecoder>) -> Self {
        if decoder.is_ended() { Self::from_length(first, 0) } else { Self::Chunked { first, decoder } }
    }

    /// A response made within this process. The guard is disarmed if the response is complete.
    pub fn from_local(response: LocalResponse, mut guard: Option<CancelGuard>) -> (ResponseHead, Self) {
        let LocalResponse { status, session_id, body } = response;
        let (content_type, body) = match body {
            LocalBody::Message(bytes) => {
                guard.iter_mut().for_each(CancelGuard::disarm);
                (header::JSON, Self::from_length(bytes, 0))
            }
            LocalBody::Failed(stage) => {
                guard.iter_mut().for_each(CancelGuard::disarm);
                (header::JSON, Self::failed(stage))
            }
            LocalBody::Events(events) => (header::EVENT_STREAM, Self::Events(Box::new((events, guard)))),
        };
        let content_type = Some(HeaderValue::from_static(content_type));
        (ResponseHead { status, content_type, session_id, is_encoded: false }, body)
    }

    /// A body that cannot be read.
    #[cold]
    fn failed(stage: FailureStage) -> Self {
        let (sink, events) = event_channel();
        sink.fail(stage);
        Self::Events(Box::new((events, None)))
    }

    /// A response that hyper reads.
    pub fn from_hyper(response: Response<Incoming>) -> (ResponseHead, Self) {
        let head = ResponseHead::from_hyper(&response);
        (head, Self::Hyper(response.into_body()))
    }
}
