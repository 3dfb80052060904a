//! What a server says, on its way to what is kept of a stream.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::time::{Sleep, sleep_until};

use super::state::{ResumableStream, RetentionReason, StreamClosed};
use metamcp_core::frame::EventPart;

/// The one who writes a stream: one task, which alone is woken. Dropped before its end, the stream is lost.
pub struct StreamWriter(Arc<ResumableStream>);

/// Until when a client that has gone is waited for. Boxed: most clients stay.
pub type ReconnectTimer = Option<Pin<Box<Sleep>>>;

impl StreamWriter {
    pub(super) fn new(stream: Arc<ResumableStream>) -> Self {
        Self(stream)
    }

    /// The stream.
    pub fn stream(&self) -> &Arc<ResumableStream> {
        &self.0
    }

    /// Writes a part of an event behind the others; waits for room. Not cancel safe: a part of it may be written.
    pub async fn push(&self, part: &EventPart) -> Result<(), StreamClosed> {
        push(&self.0, part).await
    }

    /// Likewise, all of these, by a future of its own.
    pub fn push_all(&self, parts: Vec<EventPart>) -> impl Future<Output = Result<(), StreamClosed>> + use<> {
        let stream = Arc::clone(&self.0);
        async move {
            for part in &parts {
                push(&stream, part).await?;
            }
            Ok(())
        }
    }

    /// Has the reader pass a comment on, so that the connection is not taken for dead.
    pub fn comment(&self) {
        self.0.comment();
    }

    /// Completes when nobody waits for the stream: its client has gone, and cannot come back or did not in time; or the
    /// stream is lost. Cancel safe.
    pub async fn abandoned(&self) {
        let mut wait = None;
        poll_fn(|cx| self.poll_abandoned(&mut wait, cx)).await;
    }

    /// Ready likewise.
    pub fn poll_abandoned(&self, wait: &mut ReconnectTimer, cx: &mut Context<'_>) -> Poll<()> {
        match self.0.waits(cx.waker()) {
            None => Poll::Ready(()),
            Some(RetentionReason::Read) => {
                *wait = None;
                Poll::Pending
            }
            Some(RetentionReason::Until(until)) => {
                let over = wait.get_or_insert_with(|| Box::pin(sleep_until(until)));
                if over.deadline() != until {
                    over.as_mut().reset(until);
                }
                over.as_mut().poll(cx)
            }
        }
    }

    /// Completes when the client has cancelled the call. Cancel safe.
    pub async fn cancelled(&self) {
        poll_fn(|cx| ready_if(self.0.is_cancelled(cx.waker()))).await;
    }

    /// Completes when nobody reads the stream. Cancel safe.
    pub async fn left(&self) {
        poll_fn(|cx| ready_if(self.0.is_unread(cx.waker()))).await;
    }

    /// All has come.
    pub fn finish(self) {
        self.0.finish();
    }
}

impl Drop for StreamWriter {
    fn drop(&mut self) {
        if !self.0.is_over() {
            self.0.lose();
        }
    }
}

async fn push(stream: &Arc<ResumableStream>, part: &EventPart) -> Result<(), StreamClosed> {
    let (mut rest, mut begins) = (&part.bytes[..], part.begins);
    loop {
        let written = match stream.write(rest, begins, part.ends)? {
            Some(written) => written,
            None => push_with_room(stream, rest, begins, part.ends).await?,
        };
        rest = &rest[written..];
        begins = false;
        if rest.is_empty() {
            return Ok(());
        }
    }
}

async fn push_with_room(
    stream: &Arc<ResumableStream>,
    bytes: &[u8],
    begins: bool,
    ends: bool,
) -> Result<usize, StreamClosed> {
    loop {
        let mut freed = pin!(stream.streams.freed.notified());
        freed.as_mut().enable();
        // Told from here on.
        stream.want_room();
        if let Some(written) = stream.write(bytes, begins, ends)? {
            return Ok(written);
        }
        tokio::select! {
            () = poll_fn(|cx| ready_if(stream.may_have_room(cx.waker()))) => {}
            () = freed => {}
        }
    }
}

fn ready_if(is_so: bool) -> Poll<()> {
    if is_so { Poll::Ready(()) } else { Poll::Pending }
}
