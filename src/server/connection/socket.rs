//! A client's byte stream, whatever it is made of.

use std::io::{self, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;

use crate::base::poll_write_gathered;

/// A client's byte stream.
pub enum Socket {
    Tcp(TcpStream),
    /// Boxed: its state is a hundred times the size of a socket.
    Tls(Box<TlsStream<TcpStream>>),
    /// Of this process itself, on the private socket.
    Unix(UnixStream),
}

/// What a response is written to.
pub trait Sink: AsyncWrite + Unpin {
    /// Writes where much more is about to follow: how much of it goes out at once is the sink's business.
    fn poll_write_on(&mut self, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(self).poll_write_vectored(cx, slices)
    }
}

/// A socket that the runtime does not watch. What it cannot do at once is pending, and nobody is woken.
pub struct Still<'a>(pub &'a std::net::TcpStream);

impl Socket {
    /// Whether it is known without reading that nothing has come, and the task is woken when something does.
    pub fn is_silent(&self, cx: &mut Context<'_>) -> bool {
        match self {
            Self::Tcp(tcp) => tcp.poll_read_ready(cx).is_pending(),
            // What has come may lie in the session.
            Self::Tls(_) => false,
            Self::Unix(unix) => unix.poll_read_ready(cx).is_pending(),
        }
    }

    /// Whether it can do without the runtime for a while. The state of TLS belongs to its socket.
    pub fn can_be_still(&self) -> bool {
        matches!(self, Self::Tcp(_))
    }

    /// The same, which the runtime does not watch any more; `None` when it cannot be, or is gone.
    pub fn still(self) -> Option<std::net::TcpStream> {
        let Self::Tcp(tcp) = self else { return None };
        tcp.into_std().ok()
    }

    /// One that was still, which the runtime watches again; `None` when it cannot.
    pub fn stir(still: std::net::TcpStream) -> Option<Self> {
        TcpStream::from_std(still).ok().map(Self::Tcp)
    }
}

impl Sink for Socket {
    /// Of a TCP connection the kernel sends full segments only, and the rest with what follows (`MSG_MORE`, send(2)): else
    /// each write ends in a segment of a few bytes, which costs as much as a full one.
    fn poll_write_on(&mut self, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let Self::Tcp(tcp) = self else { return Pin::new(self).poll_write_vectored(cx, slices) };
        // Each turn but the last finds that the runtime was wrong about the socket.
        loop {
            ready!(tcp.poll_write_ready(cx))?;
            let flags = SendFlags::MORE | SendFlags::NOSIGNAL;
            let send = || Ok(sendmsg(&*tcp, slices, &mut SendAncillaryBuffer::default(), flags)?);
            match tcp.try_io(Interest::WRITABLE, send) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }
}

impl Sink for Still<'_> {}

/// What would block is pending.
fn at_once<T>(done: io::Result<T>) -> Poll<io::Result<T>> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
        done => Poll::Ready(done),
    }
}

impl AsyncWrite for Still<'_> {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        at_once(self.0.write(bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        at_once(self.0.write_vectored(slices))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.shutdown(std::net::Shutdown::Write))
    }
}

macro_rules! each {
    ($self:expr, $socket:ident => $call:expr) => {
        match $self.get_mut() {
            Socket::Tcp($socket) => $call,
            Socket::Tls($socket) => $call,
            Socket::Unix($socket) => $call,
        }
    };
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self, socket => Pin::new(socket).poll_read(cx, buffer))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, socket => Pin::new(socket).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, socket => poll_write_gathered(socket, cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(tcp) => tcp.is_write_vectored(),
            Self::Tls(tls) => tls.is_write_vectored(),
            Self::Unix(unix) => unix.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, socket => Pin::new(socket).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, socket => Pin::new(socket).poll_shutdown(cx))
    }
}
