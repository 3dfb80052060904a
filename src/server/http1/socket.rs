//! The byte stream of a client connection.

use std::io::{self, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;

use metamcp_http::io::poll_write_gathered;

/// The byte stream of a client connection: plain TCP, TLS, or a Unix socket.
pub enum Socket {
    Tcp(TcpStream),
    /// Boxed: its state is a hundred times the size of a socket.
    Tls(Box<TlsStream<TcpStream>>),
    /// A connection of this process to itself, through the private socket.
    Unix(UnixStream),
}

/// A destination of responses.
pub trait ResponseSink: AsyncWrite + Unpin {
    /// Writes bytes that more will follow soon. The sink may delay them to combine them with those.
    fn poll_write_on(&mut self, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(self).poll_write_vectored(cx, slices)
    }
}

/// A socket that is not registered with the runtime. An operation that would block returns pending, without
/// waking the task later.
pub struct UnwatchedSocket<'a>(pub &'a std::net::TcpStream);

impl Socket {
    /// Whether no bytes have arrived, as far as that is known without reading. If so, the task is woken when
    /// some arrive.
    pub fn is_silent(&self, cx: &mut Context<'_>) -> bool {
        match self {
            Self::Tcp(tcp) => tcp.poll_read_ready(cx).is_pending(),
            // The TLS session may have buffered bytes.
            Self::Tls(_) => false,
            Self::Unix(unix) => unix.poll_read_ready(cx).is_pending(),
        }
    }

    /// Whether the socket can be detached from the runtime. TLS state cannot be separated from its socket.
    pub fn can_be_parked(&self) -> bool {
        matches!(self, Self::Tcp(_))
    }

    /// Detaches the socket from the runtime. `None` if that is not possible.
    pub fn into_std(self) -> Option<std::net::TcpStream> {
        let Self::Tcp(tcp) = self else { return None };
        tcp.into_std().ok()
    }

    /// Attaches a detached socket to the runtime. `None` if that fails.
    pub fn from_std(still: std::net::TcpStream) -> Option<Self> {
        TcpStream::from_std(still).ok().map(Self::Tcp)
    }
}

impl ResponseSink for Socket {
    /// On TCP the kernel only sends full segments, and the rest together with the next write (`MSG_MORE`,
    /// send(2)). Otherwise each write would end in a segment of a few bytes, which costs as much as a full
    /// one.
    fn poll_write_on(&mut self, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let Self::Tcp(tcp) = self else { return Pin::new(self).poll_write_vectored(cx, slices) };
        // Each iteration but the last finds that the socket was not writable after all.
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

impl ResponseSink for UnwatchedSocket<'_> {}

/// Maps an operation that would block to pending.
fn at_once<T>(done: io::Result<T>) -> Poll<io::Result<T>> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
        done => Poll::Ready(done),
    }
}

impl AsyncWrite for UnwatchedSocket<'_> {
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

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::{IoSlice, Read as _};
    use std::net::{TcpListener, TcpStream as Client};
    use std::thread;
    use std::time::Duration;

    use socket2::SockRef;
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    /// How long sent bytes may take to arrive.
    const TIMEOUT: Duration = Duration::from_secs(10);

    /// A client connection, and its other side.
    fn pair() -> (Socket, Client) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let client = Client::connect(listener.local_addr().expect("it has an address")).expect("it listens");
        client.set_read_timeout(Some(TIMEOUT)).expect("it is a socket");
        let (socket, _) = listener.accept().expect("one has come");
        socket.set_nodelay(true).expect("it is a socket");
        socket.set_nonblocking(true).expect("it is a socket");
        (Socket::from_std(socket).expect("there is a runtime"), client)
    }

    async fn write_on(socket: &mut Socket, slices: &[&[u8]]) -> usize {
        let slices: Vec<_> = slices.iter().map(|slice| IoSlice::new(slice)).collect();
        poll_fn(|cx| socket.poll_write_on(cx, &slices)).await.expect("the other side is there")
    }

    /// Whether the kernel sent nothing before the next write, and then everything.
    async fn waits_for_more() -> bool {
        let (mut socket, mut client) = pair();
        assert_eq!(write_on(&mut socket, &[b"fir", b"st, "]).await, 7);
        client.set_nonblocking(true).expect("it is a socket");
        let has_waited = client.peek(&mut [0]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        client.set_nonblocking(false).expect("it is a socket");
        socket.write_all(b"last").await.expect("the other side is there");
        let mut read = [0; 11];
        client.read_exact(&mut read).expect("nothing is held back for more");
        assert_eq!(&read, b"first, last");
        has_waited
    }

    #[tokio::test]
    async fn write_more_is_sent_with_the_next_write() {
        // The kernel waits for at most 200 ms. If the test does not run for that long, it proves nothing, so
        // it tries again.
        for _ in 0..10 {
            if waits_for_more().await {
                return;
            }
        }
        panic!("what is written on went out by itself");
    }

    #[tokio::test]
    async fn partial_writes_arrive_complete() {
        let (mut socket, mut client) = pair();
        let Socket::Tcp(tcp) = &socket else { panic!("it is one") };
        SockRef::from(tcp).set_send_buffer_size(16 << 10).expect("it is a socket");
        let bytes: Vec<u8> = (0..1_u32 << 20).flat_map(|at| (at % 251).to_le_bytes()).take(1 << 20).collect();
        let mut read = vec![0; bytes.len()];
        let reader = thread::spawn(move || client.read_exact(&mut read).map(|()| read));
        let (last, mut left) = bytes.split_last().expect("there are some");
        let mut writes = 0;
        while !left.is_empty() {
            let (one, other) = left.split_at(left.len() / 2);
            let count = write_on(&mut socket, &[one, other]).await;
            left = &left[count..];
            writes += 1;
        }
        assert!(writes > 1, "it was taken at once");
        socket.write_all(&[*last]).await.expect("the other side is there");
        let read = reader.join().expect("it does not panic").expect("all of it comes");
        assert!(read == bytes);
    }
}
