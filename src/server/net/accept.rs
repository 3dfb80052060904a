//! Accepts connections: in batches, so that a flood of them does not starve the others, and also when no file
//! descriptor is left.

use std::fs::File;
use std::future::poll_fn;
use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::FutureExt as _;
use rustix::io::Errno;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

use crate::server::http1::socket::Socket;

/// A listening socket that is not registered with a runtime.
pub enum ListeningSocket {
    Public(TcpListener),
    Private(UnixListener),
}

/// Accepts the connections of a worker's listening sockets.
pub struct Acceptor {
    listeners: Listeners,
    /// Connections accepted since the last yield.
    at_once: usize,
    /// When to continue after an error.
    resumes_at: Option<Instant>,
    /// When an error was last logged.
    logged_at: Option<Instant>,
    /// A spare descriptor. It is released while no other is left, to accept and close waiting connections.
    spare: Option<File>,
}

/// Connections accepted before yielding: about a tenth of a millisecond of work.
const AT_ONCE_MAX: usize = 16;

/// The pause after an error. A descriptor becomes free when a connection ends, not by retrying at once.
const PAUSE: Duration = Duration::from_millis(50);

/// The minimum time between two log entries.
const LOG_INTERVAL: Duration = Duration::from_mins(1);

impl Acceptor {
    /// # Errors The runtime cannot register the socket.
    pub fn new(listening: Vec<ListeningSocket>) -> io::Result<Self> {
        let all = listening.into_iter().map(Listener::of).collect::<io::Result<_>>()?;
        let listeners = Listeners { all, first: 0 };
        Ok(Self { listeners, at_once: 0, resumes_at: None, logged_at: None, spare: spare() })
    }

    /// The next connection. Cancel safe.
    pub async fn next(&mut self) -> Socket {
        loop {
            if let Some(resumes_at) = self.resumes_at {
                sleep_until(resumes_at).await;
                self.resumes_at = None;
            }
            if self.at_once >= AT_ONCE_MAX {
                self.at_once = 0;
                yield_now().await;
            }
            match self.listeners.accept().await {
                Ok(socket) => {
                    self.at_once += 1;
                    return socket;
                }
                Err(error) if is_of_client(&error) => {}
                Err(error) => {
                    self.log_error(&error);
                    if lacks_files(&error) {
                        self.close_waiting();
                    }
                    self.resumes_at = Some(Instant::now() + PAUSE);
                }
            }
        }
    }

    fn log_error(&mut self, error: &io::Error) {
        let now = Instant::now();
        if self.logged_at.is_none_or(|logged_at| now.duration_since(logged_at) >= LOG_INTERVAL) {
            self.logged_at = Some(now);
            tracing::warn!(
                %error,
                "cannot accept connections; if the limit on open files is reached, new ones are closed until others end: raise it \
                 (LimitNOFILE=, ulimit -Hn), or set server.connections_max lower"
            );
        }
    }

    /// Closes some of the connections that wait in the kernel's queue, where they would otherwise stay.
    fn close_waiting(&mut self) {
        for _ in 0..AT_ONCE_MAX {
            self.spare = None;
            let accepted = self.listeners.accept().now_or_never();
            let is_one = matches!(accepted, Some(Ok(_)));
            drop(accepted);
            self.spare = spare();
            if !is_one {
                return;
            }
        }
    }
}

/// Whether only this connection failed, and the next may succeed. Linux also reports pending errors of the
/// new socket here (accept(2)).
fn is_of_client(error: &io::Error) -> bool {
    Errno::from_io_error(error).is_some_and(|errno| {
        matches!(
            errno,
            Errno::CONNABORTED
                | Errno::CONNRESET
                | Errno::HOSTDOWN
                | Errno::HOSTUNREACH
                | Errno::NETDOWN
                | Errno::NETUNREACH
                | Errno::NONET
                | Errno::NOPROTOOPT
                | Errno::OPNOTSUPP
                | Errno::PERM
                | Errno::PROTO
        )
    })
}

/// Whether the process or the system has no descriptor left.
fn lacks_files(error: &io::Error) -> bool {
    Errno::from_io_error(error).is_some_and(|errno| matches!(errno, Errno::MFILE | Errno::NFILE))
}

/// Fails if there is no descriptor; then no connection is closed until there is one.
fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}

/// A listening socket that is registered with a runtime.
enum Listener {
    Public(tokio::net::TcpListener),
    Private(tokio::net::UnixListener),
}

impl Listener {
    fn of(listening: ListeningSocket) -> io::Result<Self> {
        match listening {
            ListeningSocket::Public(listener) => {
                tokio::net::TcpListener::from_std(listener).map(Self::Public)
            }
            ListeningSocket::Private(listener) => {
                tokio::net::UnixListener::from_std(listener).map(Self::Private)
            }
        }
    }

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Socket>> {
        match self {
            Self::Public(listener) => {
                let (tcp, _) = ready!(listener.poll_accept(cx))?;
                // A response is written at once, so Nagle's algorithm has nothing to combine. If the client
                // has left already, the first read notices.
                let _ = tcp.set_nodelay(true);
                Poll::Ready(Ok(Socket::Tcp(tcp)))
            }
            Self::Private(listener) => loop {
                let (stream, _) = ready!(listener.poll_accept(cx))?;
                // Requests on the private socket need no key.
                let own = i32::try_from(std::process::id()).ok();
                if stream.peer_cred().is_ok_and(|peer| peer.pid() == own) {
                    return Poll::Ready(Ok(Socket::Unix(stream)));
                }
                tracing::warn!("refused a connection of another process to the private socket");
            },
        }
    }
}

/// The listening sockets of one worker. More than one only if more were passed to the process than it has workers.
struct Listeners {
    all: Vec<Listener>,
    /// The one to look at first: no socket is served before the others each time.
    first: usize,
}

impl Listeners {
    /// The next connection. Cancel safe.
    async fn accept(&mut self) -> io::Result<Socket> {
        poll_fn(|cx| {
            let count = self.all.len();
            for offset in 0..count {
                let at = (self.first + offset) % count;
                if let Poll::Ready(accepted) = self.all[at].poll_accept(cx) {
                    self.first = (at + 1) % count;
                    return Poll::Ready(accepted);
                }
            }
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::TcpStream;

    use super::*;

    fn intake() -> (Acceptor, std::net::SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        listener.set_nonblocking(true).expect("it is a socket");
        let address = listener.local_addr().expect("it has an address");
        (Acceptor::new(vec![ListeningSocket::Public(listener)]).expect("there is a runtime"), address)
    }

    fn connect(address: std::net::SocketAddr, count: usize) -> Vec<TcpStream> {
        (0..count).map(|_| TcpStream::connect(address).expect("there is room in the queue")).collect()
    }

    #[tokio::test]
    async fn turn_away_closes_a_bounded_number_of_waiting_connections() {
        let (mut intake, address) = intake();
        let clients = connect(address, AT_ONCE_MAX + 3);
        // Lets the runtime poll the kernel for new connections.
        yield_now().await;
        intake.close_waiting();
        for (number, mut client) in clients.into_iter().enumerate() {
            client.set_nonblocking(true).expect("it is a socket");
            let is_closed = client.read(&mut [0]).is_ok_and(|count| count == 0);
            assert_eq!(is_closed, number < AT_ONCE_MAX, "{number}");
        }
        assert!(intake.spare.is_some());
        // The loop ends when no connection is waiting.
        while intake.next().now_or_never().is_some() {}
        intake.close_waiting();
    }

    #[tokio::test]
    async fn accepting_yields_after_a_batch() {
        let (mut intake, address) = intake();
        let _clients = connect(address, 3 * AT_ONCE_MAX);
        yield_now().await;
        let mut taken = Vec::new();
        for _ in 0..3 {
            let mut count = 0;
            // Stops when the acceptor yields, although more connections are waiting.
            while intake.next().now_or_never().is_some() {
                count += 1;
            }
            taken.push(count);
            yield_now().await;
        }
        assert_eq!(taken, [AT_ONCE_MAX; 3]);
    }
}
