//! A client's byte stream, whatever it is made of.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
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
