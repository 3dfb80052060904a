//! The client's end of a call: receives the response, and the events before it.

use bytes::Bytes;
use tokio::sync::oneshot;

use super::request::ModernRequest;
use metamcp_core::frame::write_event;
use metamcp_core::protocol::LogLevel;
use metamcp_http::UpstreamError;
use metamcp_http::multiplex::{
    CallOutcome, EventSink, LocalBody, LocalResponse, event_channel_with_capacity,
};

/// Responds to one request of a client.
pub struct ClientResponder {
    state: ResponderState,
    /// The raw id of the request.
    pub id: Bytes,
    /// The raw progress token, if the request has one.
    pub token: Option<Bytes>,
    /// The minimum level of the log messages that the client wants; `None` if it wants none.
    pub log_level: Option<LogLevel>,
}

enum ResponderState {
    /// Nothing was sent yet.
    Waiting(oneshot::Sender<CallOutcome>),
    Streaming(EventSink),
    Gone,
}

/// Events that wait for a slow client; beyond that the server waits. One event may have 4 MiB.
const EVENTS_MAX: usize = 8;

impl ClientResponder {
    /// Creates the responder of a request, and the receiver of its response.
    pub fn new(request: &ModernRequest) -> (Self, oneshot::Receiver<CallOutcome>) {
        let (sender, response) = oneshot::channel();
        let client = Self {
            state: ResponderState::Waiting(sender),
            id: request.id(),
            token: request.progress_token(),
            log_level: request.log_level,
        };
        (client, response)
    }

    /// Sends an event before the response; waits while the client is slow. Not cancel safe: the event may be
    /// lost.
    pub async fn send_event(&mut self, message: &[u8]) {
        if let ResponderState::Waiting(_) = self.state {
            let (sink, events) = event_channel_with_capacity(EVENTS_MAX);
            if let ResponderState::Waiting(sender) =
                std::mem::replace(&mut self.state, ResponderState::Streaming(sink))
                && sender.send(Ok(LocalResponse::from_events(events))).is_err()
            {
                self.state = ResponderState::Gone;
            }
        }
        if let ResponderState::Streaming(sink) = &self.state {
            // A disconnected client is noticed by `gone`.
            let _ = sink.send(write_event(message)).await;
        }
    }

    /// Sends the response. Returns false if the client has disconnected. Not cancel safe: the response may be
    /// lost.
    pub async fn end(self, reply: LocalResponse) -> bool {
        match (self.state, reply) {
            (ResponderState::Waiting(sender), reply) => sender.send(Ok(reply)).is_ok(),
            (ResponderState::Streaming(sink), LocalResponse { body: LocalBody::Message(message), .. }) => {
                sink.send(write_event(&message)).await
            }
            (ResponderState::Streaming(sink), LocalResponse { body: LocalBody::Failed(stage), .. }) => {
                sink.fail(stage);
                true
            }
            // No response here is itself a stream.
            (ResponderState::Streaming(_) | ResponderState::Gone, _) => false,
        }
    }

    pub fn fail(self, error: UpstreamError) {
        match self.state {
            ResponderState::Waiting(sender) => drop(sender.send(Err(error))),
            ResponderState::Streaming(sink) => sink.fail(error.stage),
            ResponderState::Gone => {}
        }
    }

    /// Waits until the client has disconnected. Cancel safe.
    pub async fn gone(&mut self) {
        match &mut self.state {
            ResponderState::Waiting(sender) => sender.closed().await,
            ResponderState::Streaming(sink) => sink.closed().await,
            ResponderState::Gone => {}
        }
    }
}
