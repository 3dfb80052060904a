//! The messages of a server's response to one call, whether it is a single message or an event stream.

use std::pin::Pin;
use std::rc::Rc;

use bytes::Bytes;
use http::StatusCode;

use crate::session::MESSAGE_BYTES_MAX;
use crate::upstream::UpstreamPool;
use metamcp_core::base::ChargedBuffer;
use metamcp_core::frame::EventReader;
use metamcp_http::{
    FailureStage, RequestKind, UpstreamBody, UpstreamError, UpstreamRequest, UpstreamResponse,
};

/// A request in flight, and the messages of its response.
pub struct CallStream {
    state: StreamState,
}

enum StreamState {
    /// Waits for the response head.
    Connecting(Pin<Box<dyn Future<Output = Result<Box<UpstreamResponse>, UpstreamError>>>>),
    /// A single message, with the bytes received so far.
    Single(StatusCode, Box<UpstreamBody>, ChargedBuffer),
    Events(Box<UpstreamBody>, EventReader),
    Ended,
}

pub enum CallEvent {
    Message(Bytes),
    /// An error status and its body.
    Refused(StatusCode, Bytes),
    /// The response broke off or is invalid.
    Failed(UpstreamError),
}

/// The body of an error status. Larger ones are not JSON-RPC errors.
const REFUSAL_BYTES_MAX: usize = 64 << 10;

impl CallStream {
    /// Creates the stream of a request, which is sent when the stream is first polled.
    pub fn new(pool: Rc<UpstreamPool>, request: UpstreamRequest) -> Self {
        let sending = async move { pool.send(&request, RequestKind::Call).await };
        Self { state: StreamState::Connecting(Box::pin(sending)) }
    }

    /// Returns the next event. Anything but a message is the last. Cancel safe.
    pub async fn next(&mut self) -> CallEvent {
        let event = self.read_next().await;
        match event {
            Ok(CallEvent::Message(message)) => CallEvent::Message(message),
            Ok(event) => {
                self.state = StreamState::Ended;
                event
            }
            Err(error) => {
                self.state = StreamState::Ended;
                CallEvent::Failed(error)
            }
        }
    }

    /// Takes a message of an event stream that was received already.
    pub fn take_ready(&mut self) -> Option<Bytes> {
        let StreamState::Events(_, reader) = &mut self.state else { return None };
        while let Ok(Some(event)) = reader.next() {
            if let Some(data) = event.data.filter(|data| !data.is_empty()) {
                return Some(data);
            }
        }
        None
    }

    /// Closes the connection of the request, whatever was received of its response.
    pub fn close(&mut self) {
        self.state = StreamState::Ended;
    }

    /// Gives the server more time: a message of the call has arrived.
    pub fn note_message(&mut self) {
        self.body().into_iter().for_each(UpstreamBody::note_message);
    }

    /// Releases the permit of a held call, whose server waits for the gateway and may be silent meanwhile.
    pub fn set_aside(&mut self) {
        self.body().into_iter().for_each(UpstreamBody::release_permit);
    }

    /// Waits for the server again, after [`Self::set_aside`].
    pub fn take_up(&mut self) {
        self.body().into_iter().for_each(UpstreamBody::restart_timeouts);
    }

    fn body(&mut self) -> Option<&mut UpstreamBody> {
        match &mut self.state {
            StreamState::Single(_, body, _) | StreamState::Events(body, _) => Some(body),
            StreamState::Connecting(_) | StreamState::Ended => None,
        }
    }

    async fn read_next(&mut self) -> Result<CallEvent, UpstreamError> {
        loop {
            match &mut self.state {
                StreamState::Connecting(sending) => {
                    let UpstreamResponse { head, mut body } = *sending.await?;
                    let is_mcp = !head.is_encoded && (head.is_json() || head.is_event_stream());
                    self.state = if !head.status.is_success() {
                        StreamState::Single(head.status, Box::new(body), ChargedBuffer::default())
                    } else if !is_mcp {
                        return Err(UpstreamError::from_stage(FailureStage::InvalidResponse));
                    } else if head.is_event_stream() {
                        body.limit_messages();
                        StreamState::Events(Box::new(body), EventReader::new())
                    } else {
                        StreamState::Single(head.status, Box::new(body), ChargedBuffer::default())
                    };
                }
                StreamState::Single(status, body, received) => {
                    let bytes_max = if status.is_success() { MESSAGE_BYTES_MAX } else { REFUSAL_BYTES_MAX };
                    while let Some(chunk) = body.chunk().await {
                        received.extend(&chunk?)?;
                        if received.len() > bytes_max {
                            return Err(UpstreamError::from_stage(FailureStage::ResponseTooLarge));
                        }
                    }
                    let (status, message) = (*status, std::mem::take(received).freeze());
                    self.state = StreamState::Ended;
                    let event = if status.is_success() {
                        CallEvent::Message(message)
                    } else {
                        CallEvent::Refused(status, message)
                    };
                    return Ok(event);
                }
                StreamState::Events(body, reader) => match reader.next()? {
                    Some(event) => {
                        if let Some(data) = event.data.filter(|data| !data.is_empty()) {
                            return Ok(CallEvent::Message(data));
                        }
                    }
                    None => match body.chunk().await {
                        Some(chunk) => reader.push(chunk?),
                        None => return Err(UpstreamError::from_stage(FailureStage::BodyIncomplete)),
                    },
                },
                StreamState::Ended => return Err(UpstreamError::from_stage(FailureStage::BodyIncomplete)),
            }
        }
    }
}
