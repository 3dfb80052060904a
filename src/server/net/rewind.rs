//! The stream that hyper reads from and writes to.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::strict_feed::StrictFeed;
use crate::server::http1::activity::ConnectionActivity;
use crate::server::http1::socket::Socket;
use metamcp_http::io::with_scratch;

/// A stream that first returns bytes that were read before.
pub struct RewoundSocket {
    pub first: BytesMut,
    pub socket: Socket,
    activity: Rc<ConnectionActivity>,
    /// What hyper may have of HTTP/1.1; none on HTTP/2.
    feed: Option<StrictFeed>,
}

impl RewoundSocket {
    /// Returns `first`, then the bytes of the socket; of HTTP/1.1, what `feed` lets pass.
    pub fn new(
        first: BytesMut,
        socket: Socket,
        activity: Rc<ConnectionActivity>,
        feed: Option<StrictFeed>,
    ) -> Self {
        Self { first, socket, activity, feed }
    }

    /// Whether a request was refused, or answered before all of its body had arrived. The connection then ends with the answer.
    pub fn has_unread_request(&self) -> bool {
        self.feed.as_ref().is_some_and(|feed| feed.is_refused() || feed.is_in_body())
    }

    /// Whether the request in flight arrived before the one in front of it was answered.
    pub fn is_pipelined(&self) -> bool {
        self.feed.as_ref().is_some_and(|feed| feed.is_pipelined)
    }

    fn poll_read_raw(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
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

    /// Each round but the last reads framing that hyper does not get, of which there is little without data.
    fn poll_read_checked(
        &mut self,
        feed: &mut StrictFeed,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        loop {
            if feed.is_refused() {
                self.first.clear();
                return Poll::Ready(feed.end(buffer));
            }
            if feed.is_between() && !feed.begin_next(&self.activity, !self.first.is_empty()) {
                return self.poll_left(feed, cx);
            }
            if !self.first.is_empty() {
                let count = feed.pass(&self.first, buffer);
                self.first.advance(count);
                if self.first.is_empty() {
                    // An idle connection holds no buffer.
                    self.first = BytesMut::new();
                }
                self.activity.note_read();
                if count == 0 && !feed.is_refused() {
                    // hyper always has room for some KiB.
                    return Poll::Ready(Err(io::ErrorKind::OutOfMemory.into()));
                }
            } else if ready!(self.poll_read_next(feed, cx, buffer))? == 0 {
                return Poll::Ready(Ok(()));
            }
            if buffer.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Reads from the socket, and passes on what hyper may have. Returns how many bytes were read.
    fn poll_read_next(
        &mut self,
        feed: &mut StrictFeed,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<usize>> {
        let Self { first, socket, activity, .. } = self;
        let count = if feed.is_plain() {
            let before = buffer.filled().len();
            ready!(Pin::new(socket).poll_read(cx, buffer))?;
            let received = &buffer.filled()[before..];
            let (count, kept) = (received.len(), feed.follow(received));
            first.extend_from_slice(&received[kept..]);
            buffer.set_filled(before + kept);
            count
        } else {
            ready!(with_scratch(|scratch| {
                let mut scratch = ReadBuf::new(scratch);
                ready!(Pin::new(socket).poll_read(cx, &mut scratch))?;
                let done = feed.pass(scratch.filled(), buffer);
                first.extend_from_slice(&scratch.filled()[done..]);
                Poll::Ready(io::Result::Ok(scratch.filled().len()))
            }))?
        };
        if count > 0 {
            activity.note_read();
        }
        Poll::Ready(Ok(count))
    }

    /// While a request is answered: whether the client has left, which hyper wants to know. What it sends
    /// meanwhile is kept. A client that closes its sending side behind several requests waits for all answers.
    fn poll_left(&mut self, feed: &StrictFeed, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.activity.wake_when_answered();
        if !self.first.is_empty() {
            return Poll::Pending;
        }
        let Self { first, socket, activity, .. } = self;
        let count = ready!(with_scratch(|scratch| {
            let mut scratch = ReadBuf::new(scratch);
            ready!(Pin::new(socket).poll_read(cx, &mut scratch))?;
            first.extend_from_slice(scratch.filled());
            Poll::Ready(io::Result::Ok(scratch.filled().len()))
        }))?;
        if count > 0 {
            activity.note_read();
        }
        if count > 0 || feed.is_pipelined { Poll::Pending } else { Poll::Ready(Ok(())) }
    }
}

impl AsyncRead for RewoundSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(mut feed) = self.feed.take() else { return self.poll_read_raw(cx, buffer) };
        let read = self.poll_read_checked(&mut feed, cx, buffer);
        self.feed = Some(feed);
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
