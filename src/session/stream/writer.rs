//! The writing side of a stream: adds a server's events to the log.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::eviction::{MemoryWait, allocate_block};
use super::resumable_stream::ResumableStream;
use super::state::{RetentionReason, StreamClosed};
use metamcp_core::frame::EventPart;

/// Writes a stream. Only one task may use it, since only one is woken. Dropping it before
/// [`StreamWriter::finish`] discards the stream.
pub struct StreamWriter(Arc<ResumableStream>);

/// Elapses when a client that left can no longer come back. Boxed: most clients stay.
pub type ReconnectTimer = Option<Pin<Box<Sleep>>>;

/// How long a writer waits for memory. Meanwhile its server waits too, and it keeps what it retains, so that writers could wait
/// for each other for ever. A burst of large messages passes within seconds; clients give up after 60 s (the default of the
/// SDKs) and should learn the reason before.
pub(super) const MEMORY_TIMEOUT: Duration = Duration::from_secs(10);

/// How often it asks for memory meanwhile: the return of charges wakes nobody.
const MEMORY_POLL: Duration = Duration::from_millis(20);

impl StreamWriter {
    pub(super) fn new(stream: Arc<ResumableStream>) -> Self {
        Self(stream)
    }

    pub fn stream(&self) -> &Arc<ResumableStream> {
        &self.0
    }

    /// Appends a part of an event, and waits for room if necessary. Not cancel safe: some of the part may be
    /// written.
    pub async fn push(&self, part: &EventPart) -> Result<(), StreamClosed> {
        push(&self.0, part).await
    }

    /// Appends several parts. The future does not borrow the writer.
    pub fn push_all(&self, parts: Vec<EventPart>) -> impl Future<Output = Result<(), StreamClosed>> + use<> {
        let stream = Arc::clone(&self.0);
        async move {
            for part in &parts {
                push(&stream, part).await?;
            }
            Ok(())
        }
    }

    /// Makes the reader send a comment, so that the connection is not considered dead.
    pub fn send_comment(&self) {
        self.0.send_comment();
    }

    /// Completes when no client will read the stream: its client left and cannot come back, or did not in
    /// time; or the stream was discarded. Cancel safe.
    pub async fn abandoned(&self) {
        let mut timer = None;
        poll_fn(|cx| self.poll_abandoned(&mut timer, cx)).await;
    }

    /// The polling form of [`Self::abandoned`].
    pub fn poll_abandoned(&self, timer: &mut ReconnectTimer, cx: &mut Context<'_>) -> Poll<()> {
        match self.0.poll_retention(cx.waker()) {
            None => Poll::Ready(()),
            Some(RetentionReason::Reader) => {
                *timer = None;
                Poll::Pending
            }
            Some(RetentionReason::Reconnect(deadline)) => {
                let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
                if timer.deadline() != deadline {
                    timer.as_mut().reset(deadline);
                }
                timer.as_mut().poll(cx)
            }
        }
    }

    /// Completes when the client has cancelled the call. Cancel safe.
    pub async fn cancelled(&self) {
        poll_fn(|cx| ready_if(self.0.poll_cancelled(cx.waker()))).await;
    }

    /// Completes when the stream has no reader. Cancel safe.
    pub async fn unread(&self) {
        poll_fn(|cx| ready_if(self.0.poll_unread(cx.waker()))).await;
    }

    /// Ends the stream. It stays readable until its retention expires.
    pub fn finish(self) {
        self.0.finish();
    }
}

impl Drop for StreamWriter {
    fn drop(&mut self) {
        if !self.0.is_closed() {
            self.0.discard();
        }
    }
}

async fn push(stream: &Arc<ResumableStream>, part: &EventPart) -> Result<(), StreamClosed> {
    let (mut rest, mut begins) = (&part.bytes[..], part.begins);
    loop {
        let written = match write(stream, rest, begins, part.ends, MemoryWait::Ongoing)? {
            WriteOutcome::Written(written) => written,
            WriteOutcome::AheadOfReader | WriteOutcome::NoBlock => {
                // Boxed: rare, and large.
                Box::pin(write_with_room(stream, rest, begins, part.ends)).await?
            }
        };
        rest = &rest[written..];
        begins = false;
        if rest.is_empty() {
            return Ok(());
        }
    }
}

/// The result of an attempt to write.
enum WriteOutcome {
    /// So many bytes were written.
    Written(usize),
    /// The stream has as much as it may retain, until its client has read or left.
    AheadOfReader,
    /// There is no block, or no memory for one.
    NoBlock,
}

fn write(
    stream: &Arc<ResumableStream>,
    bytes: &[u8],
    begins: bool,
    ends: bool,
    wait: MemoryWait,
) -> Result<WriteOutcome, StreamClosed> {
    let mut failed = WriteOutcome::AheadOfReader;
    let written = stream.write(bytes, begins, ends, || {
        let block = allocate_block(&stream.pool, stream, wait);
        if block.is_none() {
            failed = WriteOutcome::NoBlock;
        }
        block
    })?;
    Ok(written.map_or(failed, WriteOutcome::Written))
}

/// Waits for room, and writes as much as fits. If there is no memory in time, the largest stream is discarded, which may be
/// this one. If there is none and its client has left, this one is.
async fn write_with_room(
    stream: &Arc<ResumableStream>,
    bytes: &[u8],
    begins: bool,
    ends: bool,
) -> Result<usize, StreamClosed> {
    let mut deadline = None;
    loop {
        let mut freed = pin!(stream.pool.freed());
        freed.as_mut().enable();
        // Room that appears from here on wakes this task.
        stream.request_room();
        let is_over = deadline.is_some_and(|deadline| Instant::now() >= deadline);
        let wait = if is_over { MemoryWait::Over } else { MemoryWait::Ongoing };
        let is_short = match write(stream, bytes, begins, ends, wait)? {
            WriteOutcome::Written(written) => return Ok(written),
            WriteOutcome::AheadOfReader => false,
            WriteOutcome::NoBlock => true,
        };
        if is_short && (is_over || stream.is_unread()) {
            stream.fail_out_of_memory();
            return Err(StreamClosed);
        }
        deadline = is_short.then(|| deadline.unwrap_or_else(|| Instant::now() + MEMORY_TIMEOUT));
        tokio::select! {
            () = poll_fn(|cx| ready_if(stream.poll_room(cx.waker()))) => {}
            () = freed => {}
            () = async { sleep(MEMORY_POLL).await }, if is_short => {}
        }
    }
}

fn ready_if(is_ready: bool) -> Poll<()> {
    if is_ready { Poll::Ready(()) } else { Poll::Pending }
}
