//! How long a response body may take.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use super::response_head::ResponseHead;
use crate::error::FailureStage;
use crate::request::RequestKind;
use metamcp_config::server::ServerSettings;

/// The timeouts of one response body. Small, because thousands of bodies may be idle.
#[derive(Clone, Copy)]
pub struct BodyTimeouts {
    /// Between two reads, in milliseconds.
    idle_ms: u32,
    /// For one message, in milliseconds. A body that is not an event stream is one message.
    message_ms: u32,
    limits_message: bool,
}

/// The timers of a body that had to be waited for.
pub struct BodyTimer {
    timeouts: BodyTimeouts,
    idle: Pin<Box<Sleep>>,
    /// When the current message must be complete.
    message_due: Instant,
}

impl BodyTimeouts {
    /// The timeouts of a response; `None` where silence is normal. Those of an event stream limit a message only
    /// after [`Self::limit_messages`], since the reader must then report each message.
    pub fn new(settings: &ServerSettings, kind: RequestKind, head: &ResponseHead) -> Option<Self> {
        match kind {
            RequestKind::Call | RequestKind::Message => Some(Self {
                idle_ms: milliseconds(settings.stream_idle_timeout),
                message_ms: milliseconds(settings.call_timeout),
                limits_message: !head.is_event_stream(),
            }),
            RequestKind::Stream => None,
        }
    }

    /// Limits each message of an event stream.
    pub fn limit_messages(&mut self) {
        self.limits_message = true;
    }

    fn idle_due(self, now: Instant) -> Instant {
        now + Duration::from_millis(self.idle_ms.into())
    }

    fn message_due(self, now: Instant) -> Instant {
        now + Duration::from_millis(self.message_ms.into())
    }
}

impl BodyTimer {
    /// Begins with the first wait: a small response arrives in one piece with its head and needs no clock.
    pub fn start(timeouts: BodyTimeouts) -> Self {
        let now = Instant::now();
        Self {
            timeouts,
            idle: Box::pin(sleep_until(timeouts.idle_due(now))),
            message_due: timeouts.message_due(now),
        }
    }

    /// Ready when nothing was read for too long.
    pub fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<FailureStage> {
        self.idle.as_mut().poll(cx).map(|()| FailureStage::BodyIdle)
    }

    /// Restarts the idle timeout after a read. Returns an error if the message takes too long. It is checked only
    /// here, because silence has a timeout of its own.
    pub fn note_read(&mut self) -> Result<(), FailureStage> {
        let now = Instant::now();
        if self.timeouts.limits_message && now >= self.message_due {
            return Err(FailureStage::MessageTimeout);
        }
        self.idle.as_mut().reset(self.timeouts.idle_due(now));
        Ok(())
    }

    /// Restarts the timeout of a message: one of an event stream is complete.
    pub fn note_message(&mut self) {
        self.message_due = self.timeouts.message_due(Instant::now());
    }
}

fn milliseconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}
