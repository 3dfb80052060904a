use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite as _;

use super::stream::Stream;

/// A request that is not yet written completely.
pub struct PendingWrite {
    bytes: Vec<u8>,
    written: usize,
    is_flushed: bool,
}

impl PendingWrite {
    /// Takes an encoded request that has not been written yet.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, written: 0, is_flushed: false }
    }

    /// Whether no byte was written.
    pub fn is_untouched(&self) -> bool {
        self.written == 0
    }

    /// Returns the rest of the request; `None` when all of it is written and flushed.
    pub fn into_rest(self) -> Option<Self> {
        (!self.is_flushed).then_some(self)
    }

    /// Writes as much as the stream takes now.
    pub fn write(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> io::Result<()> {
        while self.written < self.bytes.len() {
            match Pin::new(&mut *stream).poll_write(cx, &self.bytes[self.written..]) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(count)) => self.written += count,
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => return Ok(()),
            }
        }
        if !self.is_flushed
            && let Poll::Ready(flushed) = Pin::new(stream).poll_flush(cx)
        {
            flushed?;
            self.is_flushed = true;
        }
        Ok(())
    }

    /// Continues a write while the response is read. Clears `rest` when all is written, or the peer takes no
    /// more.
    pub fn continue_write(rest: &mut Option<Self>, stream: &mut Stream, cx: &mut Context<'_>) {
        if let Some(pending) = rest
            && (pending.write(stream, cx).is_err() || pending.is_flushed)
        {
            *rest = None;
        }
    }
}
