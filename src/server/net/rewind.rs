//! What hyper reads from and writes to.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::server::http1::activity::Control;
use crate::server::http1::socket::Socket;

/// A stream with bytes put in front that were read already.
pub struct Rewound {
    /// Those.
    pub first: BytesMut,
    /// What follows.
    pub socket: Socket,
    control: Rc<Control>,
}

impl Rewound {
    /// These bytes first, then what the socket gives.
    pub fn new(first: BytesMut, socket: Socket, control: Rc<Control>) -> Self {
        Self { first, socket, control }
    }
}

impl AsyncRead for Rewound {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.first.is_empty() {
            let count = self.first.len().min(buffer.remaining());
            buffer.put_slice(&self.first[..count]);
            self.first.advance(count);
            self.control.note_read();
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.socket).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.control.note_read();
        }
        read
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.control.note_unwritten(true);
        let written = Pin::new(&mut self.socket).poll_write(cx, bytes);
        self.control.note_write(written.is_ready());
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.control.note_unwritten(true);
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, slices);
        self.control.note_write(written.is_ready());
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.socket).poll_flush(cx);
        // Over TLS a small answer is taken at once, and waits here for the client to read.
        self.control.note_write(flushed.is_ready());
        if matches!(flushed, Poll::Ready(Ok(()))) {
            self.control.note_unwritten(false);
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
