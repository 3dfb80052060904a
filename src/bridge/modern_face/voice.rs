//! What a server says to one call: the messages of its answer, in either of the two forms.

use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::StatusCode;

use crate::frame::EventReader;
use crate::session::MESSAGE_BYTES_MAX;
use crate::upstream::{Answer, Answered, Lane, Outgoing, Pool, Stage, UpstreamError};

/// A call on its way, and its answer.
pub struct Voice {
    stage: At,
}

enum At {
    /// Its head is awaited.
    Asked(Pin<Box<dyn Future<Output = Result<Box<Answered>, UpstreamError>>>>),
    /// One message, with what came of it.
    Whole(StatusCode, Box<Answer>, BytesMut),
    /// Many.
    Events(Box<Answer>, EventReader),
    /// Nothing more is to come.
    Over,
}

/// What came.
pub enum Said {
    /// A message.
    Message(Bytes),
    /// An error status, and what came with it.
    Refused(StatusCode, Bytes),
    /// It broke off, or answered what is no answer.
    Failed(UpstreamError),
}

/// The body of an error status; bigger ones are no errors of the protocol.
const REFUSAL_BYTES_MAX: usize = 64 << 10;

impl Voice {
    /// Of a request, which is sent when it is first listened to.
    pub fn of(pool: Rc<Pool>, request: Outgoing) -> Self {
        let asking = async move { pool.send(&request, Lane::Call).await };
        Self { stage: At::Asked(Box::pin(asking)) }
    }

    /// What comes next. After anything but a message nothing more comes. Cancel safe.
    pub async fn next(&mut self) -> Said {
        let said = self.hear().await;
        match said {
            Ok(Said::Message(message)) => Said::Message(message),
            Ok(said) => {
                self.stage = At::Over;
                said
            }
            Err(error) => {
                self.stage = At::Over;
                Said::Failed(error)
            }
        }
    }

    /// What is here already of an event stream. No wait.
    pub fn ready(&mut self) -> Option<Bytes> {
        let At::Events(_, reader) = &mut self.stage else { return None };
        while let Ok(Some(event)) = reader.next() {
            if let Some(data) = event.data.filter(|data| !data.is_empty()) {
                return Some(data);
            }
        }
        None
    }

    /// While a call is held its server waits for us: its silence is no failure of it, and it takes no place
    /// among the server's calls. `idle_timeout`: how long it may be silent from now on.
    pub fn set_aside(&mut self, idle_timeout: Option<Duration>) {
        match &mut self.stage {
            At::Whole(_, answer, _) | At::Events(answer, _) => answer.set_aside(idle_timeout),
            At::Asked(_) | At::Over => {}
        }
    }

    async fn hear(&mut self) -> Result<Said, UpstreamError> {
        loop {
            match &mut self.stage {
                At::Asked(asking) => {
                    let Answered { head, body } = *asking.await?;
                    let is_of_mcp = !head.is_packed && (head.is_json() || head.is_event_stream());
                    self.stage = if !head.status.is_success() {
                        At::Whole(head.status, Box::new(body), BytesMut::new())
                    } else if !is_of_mcp {
                        return Err(UpstreamError::bare(Stage::Nonsense));
                    } else if head.is_event_stream() {
                        At::Events(Box::new(body), EventReader::new())
                    } else {
                        At::Whole(head.status, Box::new(body), BytesMut::new())
                    };
                }
                At::Whole(status, answer, whole) => {
                    let bytes_max = if status.is_success() { MESSAGE_BYTES_MAX } else { REFUSAL_BYTES_MAX };
                    while let Some(chunk) = answer.chunk().await {
                        whole.extend_from_slice(&chunk?);
                        if whole.len() > bytes_max {
                            return Err(UpstreamError::bare(Stage::TooLarge));
                        }
                    }
                    let (status, message) = (*status, std::mem::take(whole).freeze());
                    self.stage = At::Over;
                    let said = if status.is_success() {
                        Said::Message(message)
                    } else {
                        Said::Refused(status, message)
                    };
                    return Ok(said);
                }
                At::Events(answer, reader) => {
                    match reader.next().map_err(|error| UpstreamError::new(Stage::Nonsense, error))? {
                        Some(event) => {
                            if let Some(data) = event.data.filter(|data| !data.is_empty()) {
                                return Ok(Said::Message(data));
                            }
                        }
                        None => match answer.chunk().await {
                            Some(chunk) => reader.push(chunk?),
                            None => return Err(UpstreamError::bare(Stage::Body)),
                        },
                    }
                }
                At::Over => return Err(UpstreamError::bare(Stage::Body)),
            }
        }
    }
}
