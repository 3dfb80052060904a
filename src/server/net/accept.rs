//! Connections as they come in: in batches, so that a flood of them leaves the others their turn, and with an answer for
//! those for which there is no descriptor left.

use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use futures_util::FutureExt as _;
use rustix::io::Errno;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

use crate::server::http1::socket::Socket;

/// A listening socket, before a runtime has it.
pub enum Listening {
    Public(TcpListener),
    Private(UnixListener),
}

/// What comes in at one listening socket.
pub struct Intake {
    listener: Listener,
    /// Taken since others had their turn.
    at_once: usize,
    /// When it goes on, after there was no descriptor.
    goes_on: Option<Instant>,
    /// When that was last said.
    said: Option<Instant>,
    /// A descriptor that is given up when there is no other, for as long as it takes to close those that wait.
    spare: Option<File>,
}

/// Then all others have their turn. A tenth of a millisecond's worth of accepting.
const AT_ONCE_MAX: usize = 16;

/// After there was no descriptor: one becomes free when a connection ends, and not by asking again at once.
const PAUSE: Duration = Duration::from_millis(50);

/// Between two times that it is said.
const SAY_EVERY: Duration = Duration::from_mins(1);

impl Intake {
    /// Of that socket.
    ///
    /// # Errors
    /// The runtime cannot watch it.
    pub fn new(listening: Listening) -> io::Result<Self> {
        let listener = Listener::of(listening)?;
        Ok(Self { listener, at_once: 0, goes_on: None, said: None, spare: spare() })
    }

    /// The next connection. Cancel safe.
    pub async fn next(&mut self) -> Socket {
        loop {
            if let Some(goes_on) = self.goes_on {
                sleep_until(goes_on).await;
                self.goes_on = None;
            }
            if self.at_once >= AT_ONCE_MAX {
                self.at_once = 0;
                yield_now().await;
            }
            match self.listener.accept().await {
                Ok(socket) => {
                    self.at_once += 1;
                    return socket;
                }
                Err(error) if is_of_client(&error) => {}
                Err(error) => {
                    self.say(&error);
                    if lacks_files(&error) {
                        self.turn_away();
                    }
                    self.goes_on = Some(Instant::now() + PAUSE);
                }
            }
        }
    }

    fn say(&mut self, error: &io::Error) {
        let now = Instant::now();
        if self.said.is_none_or(|said| now.duration_since(said) >= SAY_EVERY) {
            self.said = Some(now);
            tracing::warn!(
                %error,
                "cannot accept connections. Where open files are lacking, new ones are closed until others end: allow more \
                 (LimitNOFILE=, ulimit -Hn), or set server.connections_max lower"
            );
        }
    }

    /// Closes some of those that wait in the kernel: they would wait there for as long as they like to.
    fn turn_away(&mut self) {
        for _ in 0..AT_ONCE_MAX {
            self.spare = None;
            let accepted = self.listener.accept().now_or_never();
            let is_one = matches!(accepted, Some(Ok(_)));
            drop(accepted);
            self.spare = spare();
            if !is_one {
                return;
            }
        }
    }
}

/// Whether that one connection is gone or forbidden, and nothing is wrong with the next: Linux gives the errors of the new
/// socket itself, too (accept(2)).
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

/// Whether neither this process nor the system has a descriptor left for it.
fn lacks_files(error: &io::Error) -> bool {
    Errno::from_io_error(error).is_some_and(|errno| matches!(errno, Errno::MFILE | Errno::NFILE))
}

/// There may be none left for it; then nobody is turned away until there is.
fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}

/// A listening socket within a runtime.
enum Listener {
    Public(tokio::net::TcpListener),
    Private(tokio::net::UnixListener),
}

impl Listener {
    fn of(listening: Listening) -> io::Result<Self> {
        match listening {
            Listening::Public(listener) => tokio::net::TcpListener::from_std(listener).map(Self::Public),
            Listening::Private(listener) => tokio::net::UnixListener::from_std(listener).map(Self::Private),
        }
    }

    /// The next connection. Cancel safe.
    async fn accept(&self) -> io::Result<Socket> {
        match self {
            Self::Public(listener) => {
                let (tcp, _) = listener.accept().await?;
                // A response is written whole, so there is nothing for Nagle's algorithm to gather. One that is gone
                // already is found out by the first read.
                let _ = tcp.set_nodelay(true);
                Ok(Socket::Tcp(tcp))
            }
            Self::Private(listener) => loop {
                let (stream, _) = listener.accept().await?;
                // Nobody is asked for a key here.
                let own = i32::try_from(std::process::id()).ok();
                if stream.peer_cred().is_ok_and(|peer| peer.pid() == own) {
                    return Ok(Socket::Unix(stream));
                }
                tracing::warn!("another process came to the private socket; it was not let in");
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::TcpStream;

    use super::*;

    fn intake() -> (Intake, std::net::SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        listener.set_nonblocking(true).expect("it is a socket");
        let address = listener.local_addr().expect("it has an address");
        (Intake::new(Listening::Public(listener)).expect("there is a runtime"), address)
    }

    fn come(address: std::net::SocketAddr, count: usize) -> Vec<TcpStream> {
        (0..count).map(|_| TcpStream::connect(address).expect("there is room in the queue")).collect()
    }

    #[tokio::test]
    async fn who_waits_for_a_descriptor_is_told() {
        let (mut intake, address) = intake();
        let clients = come(address, AT_ONCE_MAX + 3);
        // The runtime asks the kernel what has come.
        yield_now().await;
        intake.turn_away();
        for (number, mut client) in clients.into_iter().enumerate() {
            client.set_nonblocking(true).expect("it is a socket");
            let is_closed = client.read(&mut [0]).is_ok_and(|count| count == 0);
            assert_eq!(is_closed, number < AT_ONCE_MAX, "{number}");
        }
        assert!(intake.spare.is_some());
        // With nobody there it comes to an end.
        while intake.next().now_or_never().is_some() {}
        intake.turn_away();
    }

    #[tokio::test]
    async fn a_flood_leaves_others_their_turn() {
        let (mut intake, address) = intake();
        let _clients = come(address, 3 * AT_ONCE_MAX);
        yield_now().await;
        let mut taken = Vec::new();
        for _ in 0..3 {
            let mut count = 0;
            // Until it waits, though more are there.
            while intake.next().now_or_never().is_some() {
                count += 1;
            }
            taken.push(count);
            yield_now().await;
        }
        assert_eq!(taken, [AT_ONCE_MAX; 3]);
    }
}
