use bytes::Bytes;
use tokio::sync::oneshot;

use super::event_channel::{EventSink, event_channel};
use super::local_response::{CallOutcome, LocalResponse};
use super::splice::{splice, splice_event};
use crate::error::UpstreamError;
use metamcp_core::frame::Span;

/// Where the response of a call goes.
pub enum ResponseSink {
    /// To a caller that has received nothing yet.
    Waiting(oneshot::Sender<CallOutcome>),
    /// To an event stream that was started by an event ahead of the response.
    Streaming(EventSink),
}

// A caller that no longer waits makes every send fail. Its `CancelGuard` reports that, so the errors are
// ignored here.
impl ResponseSink {
    /// Sends an event ahead of the response. False when it is lost.
    pub fn send_event(&mut self, event: Bytes) -> bool {
        if let Self::Waiting(_) = self {
            let (sink, source) = event_channel();
            let waiting = std::mem::replace(self, Self::Streaming(sink));
            if let Self::Waiting(reply) = waiting {
                let _ = reply.send(Ok(LocalResponse::from_events(source)));
            }
        }
        match self {
            Self::Streaming(sink) => sink.try_send(event),
            Self::Waiting(_) => false,
        }
    }

    /// Sends the response, with parts replaced.
    pub fn finish(self, message: &[u8], edits: &[(Span, &[u8])]) {
        match self {
            Self::Waiting(reply) => {
                let _ = reply.send(Ok(LocalResponse::from_message(splice(message, edits))));
            }
            Self::Streaming(sink) => sink.finish(splice_event(message, edits)),
        }
    }

    /// Reports that there will be no response.
    pub fn fail(self, error: UpstreamError) {
        match self {
            Self::Waiting(reply) => {
                let _ = reply.send(Err(error));
            }
            Self::Streaming(sink) => sink.fail(error.stage),
        }
    }
}
