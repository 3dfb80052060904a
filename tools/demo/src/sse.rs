//! Response bodies: one buffer, or a stream of server-sent events. Knows nothing of methods or sessions.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame};
use serde_json::Value;
use tokio::{
    sync::mpsc,
    task::AbortHandle,
    time::{Interval, MissedTickBehavior},
};

use crate::{event::event, replay::ReplayReader};

/// Messages that wait in one stream for a slow client. A call that sends more waits.
pub const QUEUE_MESSAGES_MAX: usize = 256;

/// After this much silence a comment is sent, so that proxies keep the stream open and dead clients are detected.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Sends messages to a client's stream.
pub type Sender = mpsc::Sender<Value>;

/// Aborts a task when dropped: in the Modern era a client cancels by closing the connection.
#[derive(Debug)]
pub struct AbortOnDrop(pub AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The body of a response.
#[derive(Debug)]
pub enum ReplyBody {
    Whole(Option<Bytes>),
    Events(EventBody),
}

/// An event stream; ends when all senders are gone.
#[derive(Debug)]
pub struct EventBody {
    source: Source,
    keep_alive: Interval,
    _task: Option<AbortOnDrop>,
}

#[derive(Debug)]
enum Source {
    Queue { first: Option<Value>, messages: mpsc::Receiver<Value> },
    Replay(ReplayReader),
}

impl EventBody {
    /// Creates a stream of `first`, which was already received from `messages`, and of the rest. `task` is aborted when the
    /// stream is dropped.
    pub fn new(first: Option<Value>, messages: mpsc::Receiver<Value>, task: Option<AbortOnDrop>) -> Self {
        Self::from_source(Source::Queue { first, messages }, task)
    }

    /// Creates a resumable stream.
    pub fn replay(reader: ReplayReader) -> Self {
        Self::from_source(Source::Replay(reader), None)
    }

    fn from_source(source: Source, task: Option<AbortOnDrop>) -> Self {
        let mut keep_alive = tokio::time::interval(KEEP_ALIVE);
        keep_alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        keep_alive.reset();
        Self { source, keep_alive, _task: task }
    }

    fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let next = match &mut self.source {
            Source::Replay(reader) => reader.poll_event(context),
            Source::Queue { first, messages } => match first.take() {
                Some(first) => Poll::Ready(Some(event(&first))),
                None => messages.poll_recv(context).map(|message| message.as_ref().map(event)),
            },
        };
        if next.is_ready() {
            self.keep_alive.reset();
            return next;
        }
        ready!(self.keep_alive.poll_tick(context));
        Poll::Ready(Some(Bytes::from_static(b": keep-alive\n\n")))
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let bytes = match &mut *self {
            Self::Whole(bytes) => bytes.take(),
            Self::Events(events) => ready!(events.poll_event(context)),
        };
        Poll::Ready(bytes.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn size_hint(&self) -> http_body::SizeHint {
        match self {
            Self::Whole(bytes) => {
                http_body::SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Events(_) => http_body::SizeHint::default(),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use serde_json::json;
    use tokio::time::Instant;

    use super::*;

    #[test]
    fn an_event_is_one_line_of_data() {
        let check = |text: &str| {
            let bytes = event(&json!({ "text": text }));
            let written = std::str::from_utf8(&bytes).unwrap();
            let line = written.strip_prefix("event: message\ndata: ").unwrap().strip_suffix("\n\n").unwrap();
            assert!(!line.contains(['\n', '\r']), "{line}");
            assert_eq!(serde_json::from_str::<Value>(line).unwrap()["text"], text);
        };
        check("plain");
        check("two\nlines\r\nand\u{2028}more");
        check("data: {}\n\nevent: forged");
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_filled_with_comments() {
        let (sender, messages) = mpsc::channel(1);
        let mut body = ReplyBody::Events(EventBody::new(Some(json!(1)), messages, None));
        let begun = Instant::now();
        let mut next = async || body.frame().await.map(|frame| frame.unwrap().into_data().unwrap());
        assert_eq!(next().await.unwrap(), "event: message\ndata: 1\n\n");
        assert_eq!(next().await.unwrap(), ": keep-alive\n\n");
        assert_eq!(begun.elapsed(), KEEP_ALIVE);
        sender.send(json!(2)).await.unwrap();
        assert_eq!(next().await.unwrap(), "event: message\ndata: 2\n\n");
        drop(sender);
        assert_eq!(next().await, None);
    }
}
