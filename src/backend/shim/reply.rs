//! What goes between the thread of a server and the one that asks: what is asked one way, answers the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use serde_json::Value;
use tokio::sync::Notify;
use tokio::sync::mpsc::{self, UnboundedSender};

use super::super::{BackendError, Stage};

/// What is asked.
pub enum Verb {
    /// That it takes a message.
    Post(Bytes),
    /// The event stream of a session.
    Get,
    /// The end of a session.
    Delete,
}

/// What comes of it.
pub type Outcome = Result<Reply, BackendError>;

/// An answer, as a Streamable HTTP server would give it.
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// Of the session that was opened.
    pub session_id: Option<HeaderValue>,
    /// The rest.
    pub body: ReplyBody,
}

/// The body of an answer.
pub enum ReplyBody {
    /// One message, or none.
    Whole(Bytes),
    /// An event stream.
    Events(Events),
}

impl Reply {
    /// Nothing but a status.
    pub fn bare(status: StatusCode) -> Self {
        Self { status, session_id: None, body: ReplyBody::Whole(Bytes::new()) }
    }

    /// A message.
    pub fn message(message: Bytes) -> Self {
        Self { status: StatusCode::OK, session_id: None, body: ReplyBody::Whole(message) }
    }

    /// A message of ours: the error of a call whose raw id is given.
    pub fn error(status: StatusCode, id: &[u8], code: i32, text: &str) -> Self {
        Self::error_with(status, id, code, text, None)
    }

    /// Likewise, with `data`.
    pub fn error_with(status: StatusCode, id: &[u8], code: i32, text: &str, data: Option<&Value>) -> Self {
        let id = if id.is_empty() { "null".into() } else { String::from_utf8_lossy(id) };
        let text = Value::from(text);
        let data = data.map_or_else(String::new, |data| format!(r#","data":{data}"#));
        let message =
            format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{code},"message":{text}{data}}}}}"#);
        Self { status, ..Self::message(message.into()) }
    }

    /// Events to come.
    pub fn events(events: Events) -> Self {
        Self { status: StatusCode::OK, session_id: None, body: ReplyBody::Events(events) }
    }
}

/// The end of an event stream that is written to. It never waits: a server that is shared goes on when one of
/// its clients does not read.
pub struct Outlet {
    sender: mpsc::Sender<Result<Bytes, Stage>>,
    queue: Arc<Queue>,
}

/// The end that is read.
pub struct Events {
    receiver: mpsc::Receiver<Result<Bytes, Stage>>,
    queue: Arc<Queue>,
}

/// What waits to be read.
#[derive(Default)]
struct Queue {
    bytes: AtomicUsize,
    /// Told when some of it was.
    read: Notify,
}

/// Events that wait for a slow client: as many as a busy tool sends in some seconds.
const QUEUED_MAX: usize = 256;

/// Bytes of them. The answer itself comes on top.
const QUEUED_BYTES_MAX: usize = 4 << 20;

/// The two ends of a stream.
pub fn stream() -> (Outlet, Events) {
    // One more, for the answer, which is never left out.
    stream_of(QUEUED_MAX + 1)
}

/// Likewise, with room for so many events.
pub fn stream_of(events_max: usize) -> (Outlet, Events) {
    let (sender, receiver) = mpsc::channel(events_max);
    let queue = Arc::<Queue>::default();
    (Outlet { sender, queue: Arc::clone(&queue) }, Events { receiver, queue })
}

impl Outlet {
    /// Puts an event behind the others; false when there is no room for it, or nobody reads.
    pub fn put(&self, event: Bytes) -> bool {
        let bytes = event.len();
        if self.sender.capacity() <= 1
            || self.queue.bytes.load(Ordering::Relaxed).saturating_add(bytes) > QUEUED_BYTES_MAX
        {
            return false;
        }
        self.queue.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.sender.try_send(Ok(event)).is_ok()
    }

    /// Puts an event behind the others, when there is room for it, one of any size behind none; false when
    /// nobody reads. For a writer that holds up nobody else. Cancel safe: the event is put, or it is not.
    pub async fn send(&self, event: Bytes) -> bool {
        loop {
            let read = self.queue.read.notified();
            let queued = self.queue.bytes.load(Ordering::Acquire);
            if queued == 0 || queued.saturating_add(event.len()) <= QUEUED_BYTES_MAX {
                break;
            }
            tokio::select! {
                () = read => {}
                () = self.sender.closed() => return false,
            }
        }
        let Ok(room) = self.sender.reserve().await else { return false };
        self.queue.bytes.fetch_add(event.len(), Ordering::Relaxed);
        room.send(Ok(event));
        true
    }

    /// Waits until nobody reads any more. Cancel safe.
    pub async fn closed(&self) {
        self.sender.closed().await;
    }

    /// Puts the last event.
    pub fn end(self, event: Bytes) {
        self.queue.bytes.fetch_add(event.len(), Ordering::Relaxed);
        // Nobody may be reading any more.
        let _ = self.sender.try_send(Ok(event));
    }

    /// Breaks off, behind what was put. Not cancel safe: the stream may then seem to end as it should.
    pub async fn break_off(self, stage: Stage) {
        // Nobody may be reading any more.
        let _ = self.sender.send(Err(stage)).await;
    }

    /// Breaks off.
    pub fn fail(self, stage: Stage) {
        let _ = self.sender.try_send(Err(stage));
    }
}

impl Events {
    /// The next event; `None` at the regular end.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BackendError>>> {
        self.receiver.poll_recv(cx).map(|next| {
            next.map(|event| {
                let event = event.map_err(BackendError::bare)?;
                self.queue.bytes.fetch_sub(event.len(), Ordering::Release);
                // One who comes to wait in this moment finds it told.
                self.queue.read.notify_one();
                Ok(event)
            })
        })
    }
}

/// The asker's hold on a call: dropped before the answer has passed, it tells the server to stop.
pub struct Hold {
    gone: UnboundedSender<u64>,
    /// `None` once there is nothing to stop.
    number: Option<u64>,
}

impl Hold {
    /// On a call.
    pub fn new(gone: UnboundedSender<u64>, number: u64) -> Self {
        Self { gone, number: Some(number) }
    }

    /// The answer has passed.
    pub fn release(&mut self) {
        self.number = None;
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Some(number) = self.number.take() {
            // The server may be gone. There is at most one such message for each call.
            let _ = self.gone.send(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    fn drain(events: &mut Events) -> Vec<Result<usize, Stage>> {
        let mut cx = Context::from_waker(Waker::noop());
        let mut read = Vec::new();
        while let Poll::Ready(Some(next)) = events.poll_next(&mut cx) {
            read.push(next.map(|event| event.len()).map_err(|error| error.stage));
        }
        read
    }

    #[test]
    fn the_answer_always_has_room() {
        let check = |events: usize, bytes: usize, expected: usize| {
            let (outlet, mut reader) = stream();
            let event = Bytes::from(vec![b'x'; bytes]);
            let taken = (0..events).filter(|_| outlet.put(event.clone())).count();
            assert_eq!(taken, expected, "{events} of {bytes}");
            outlet.end(Bytes::from_static(b"the answer"));
            let read = drain(&mut reader);
            assert_eq!((read.len(), read.last()), (expected + 1, Some(&Ok(10))));
        };
        check(1, 1, 1);
        check(QUEUED_MAX, 1, QUEUED_MAX);
        check(10 * QUEUED_MAX, 1, QUEUED_MAX);
        check(10, 1 << 20, 4);
        check(1, QUEUED_BYTES_MAX + 1, 0);
        let (outlet, mut reader) = stream();
        assert!((0..10_000).all(|_| outlet.put(vec![0; 1 << 10].into()) && drain(&mut reader).len() == 1));
        outlet.fail(Stage::Body);
        assert_eq!(drain(&mut reader), [Err(Stage::Body)]);
    }

    #[tokio::test]
    async fn a_writer_that_waits_holds_no_more_than_one_that_does_not() {
        let (outlet, mut reader) = stream_of(8);
        let event = |bytes: usize| Bytes::from(vec![b'x'; bytes]);
        // One of any size, for it cannot be made smaller.
        assert!(outlet.send(event(2 * QUEUED_BYTES_MAX)).await);
        let waiting = async { (outlet.send(event(1)).await, outlet.send(event(QUEUED_BYTES_MAX)).await) };
        let reading = async {
            tokio::task::yield_now().await;
            let mut read = drain(&mut reader);
            assert_eq!(read, [Ok(2 * QUEUED_BYTES_MAX)], "nothing was put behind it");
            while read.len() < 3 {
                tokio::task::yield_now().await;
                read.extend(drain(&mut reader));
            }
            assert_eq!(read[1..], [Ok(1), Ok(QUEUED_BYTES_MAX)]);
        };
        assert_eq!(tokio::join!(waiting, reading).0, (true, true));
        assert!(outlet.send(event(QUEUED_BYTES_MAX)).await);
        let (sent, ()) = tokio::join!(outlet.send(event(1)), async { drop(reader) });
        assert!(!sent, "nobody reads");
    }

    #[test]
    fn a_call_is_given_up_once() {
        let (gone, mut seen) = mpsc::unbounded_channel();
        drop(Hold::new(gone.clone(), 7));
        let mut done = Hold::new(gone, 8);
        done.release();
        drop(done);
        assert_eq!((seen.try_recv(), seen.try_recv().is_err()), (Ok(7), true));
    }

    #[test]
    fn errors_are_json() {
        let check = |id: &str, text: &str, expected: &str| {
            let ReplyBody::Whole(message) = Reply::error(StatusCode::OK, id.as_bytes(), -32600, text).body
            else {
                panic!("a message");
            };
            assert_eq!(message, expected);
        };
        check("1", "a", r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32600,"message":"a"}}"#);
        check("\"x\"", "\"", r#"{"jsonrpc":"2.0","id":"x","error":{"code":-32600,"message":"\""}}"#);
        check("", "a", r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"a"}}"#);
    }
}
