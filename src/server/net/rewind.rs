//! The stream that hyper reads from and writes to.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::server::http1::activity::ConnectionActivity;
use crate::server::http1::socket::Socket;

/// A stream that first returns bytes that were read before.
pub struct RewoundSocket {
    pub first: BytesMut,
    pub socket: Socket,
    activity: Rc<ConnectionActivity>,
}

impl RewoundSocket {
    /// Returns `first`, then the bytes of the socket.
    pub fn new(first: BytesMut, socket: Socket, activity: Rc<ConnectionActivity>) -> Self {
        Self { first, socket, activity }
    }
}

impl AsyncRead for RewoundSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.first.is_empty() {
            let count = self.first.len().min(buffer.remaining());
            buffer.put_slice(&self.first[..count]);
            self.first.advance(count);
            self.activity.note_read();
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.socket).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.activity.note_read();
        }
        read
    }
}

impl AsyncWrite for RewoundSocket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.activity.note_unwritten(true);
        let written = Pin::new(&mut self.socket).poll_write(cx, bytes);
        self.activity.note_write(written.is_ready());
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.activity.note_unwritten(true);
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, slices);
        self.activity.note_write(written.is_ready());
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.socket).poll_flush(cx);
        // Over TLS a small response is buffered by the session, and waits here for the client to read.
        self.activity.note_write(flushed.is_ready());
        if matches!(flushed, Poll::Ready(Ok(()))) {
            self.activity.note_unwritten(false);
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
