//! Response bodies: one buffer, or a stream of server-sent events.
//!
//! Invariant: an event holds one message on one `data:` line, since JSON text as `serde_json` writes it holds
//! no line break. Knows nothing of methods or sessions.

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

use crate::replay::Reader;

/// How many messages may wait in one stream for a slow client. A call that sends more waits itself.
pub const QUEUE_MESSAGES_MAX: usize = 256;

/// A comment line after this much silence keeps proxies from closing the stream and finds dead clients.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The end of a stream that carries messages to a client.
pub type Sender = mpsc::Sender<Value>;

/// Ends a task when dropped: in the Modern era a client that goes away has cancelled its request.
#[derive(Debug)]
pub struct AbortOnDrop(pub AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// One event.
pub fn event(message: &Value) -> Bytes {
    Bytes::from(format!("event: message\ndata: {message}\n\n"))
}

/// The body of a response.
#[derive(Debug)]
pub enum ReplyBody {
    /// Known in full.
    Whole(Option<Bytes>),
    /// Comes message by message.
    Events(EventBody),
}

/// A stream of events; ends when all senders are gone.
#[derive(Debug)]
pub struct EventBody {
    source: Source,
    keep_alive: Interval,
    _task: Option<AbortOnDrop>,
}

#[derive(Debug)]
enum Source {
    Queue { first: Option<Value>, messages: mpsc::Receiver<Value> },
    Replay(Reader),
}

impl EventBody {
    /// `first` was already taken out of `messages`. `task` ends with the stream.
    pub fn new(first: Option<Value>, messages: mpsc::Receiver<Value>, task: Option<AbortOnDrop>) -> Self {
        Self::from_source(Source::Queue { first, messages }, task)
    }

    /// A stream that the client may come back to.
    pub fn replay(reader: Reader) -> Self {
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
