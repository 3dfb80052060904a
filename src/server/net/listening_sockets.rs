//! The public listening sockets of the process: bound by it, or passed to it by systemd or by the process that it replaces.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::sockopt::socket_acceptconn;
use socket2::{Domain, Protocol, Socket, Type};

use super::accept::ListeningSocket;
use super::listen_error::ListenError;

/// The public listening sockets. Never empty.
pub struct ListeningSockets {
    sockets: Vec<TcpListener>,
    pub address: SocketAddr,
}

/// Connections that the kernel may queue per worker, for a burst of reconnecting clients. Linux' default
/// limit since 5.4.
const BACKLOG: i32 = 4096;

/// The file with the kernel's limit.
const BACKLOG_MAX: &str = "/proc/sys/net/core/somaxconn";

impl ListeningSockets {
    /// Opens one socket for each worker.
    pub fn bind(address: SocketAddr, workers: usize) -> Result<Self, ListenError> {
        refuse_taken(address)?;
        let first = bind(address)?;
        let address = first.local_addr().map_err(|source| ListenError::Bind { address, source })?;
        let mut sockets = vec![first];
        while sockets.len() < workers {
            sockets.push(bind(address)?);
        }
        let allowed = fs::read_to_string(BACKLOG_MAX).ok().and_then(|text| text.trim().parse().ok());
        if let Some(allowed) = allowed.filter(|allowed: &i32| *allowed < BACKLOG) {
            tracing::info!(
                "the kernel holds {allowed} new connections, not {BACKLOG}: raise net.core.somaxconn for bursts"
            );
        }
        Ok(Self { sockets, address })
    }

    /// Takes sockets that were passed to this process.
    ///
    /// # Errors
    /// One of them does not listen, or they listen at different addresses.
    pub fn inherit(sockets: Vec<TcpListener>) -> Result<Self, ListenError> {
        let mut address = None;
        for (number, socket) in sockets.iter().enumerate() {
            let check = || -> io::Result<SocketAddr> {
                if !socket_acceptconn(socket)? {
                    return Err(io::Error::other("it does not listen"));
                }
                // Programs that the gateway starts must not hold it.
                fcntl_setfd(socket, FdFlags::CLOEXEC)?;
                socket.set_nonblocking(true)?;
                socket.local_addr()
            };
            let own = check().map_err(|source| ListenError::Inherited { number, source })?;
            if *address.get_or_insert(own) != own {
                let source = io::Error::other(format!("it listens on {own}, and the first one elsewhere"));
                return Err(ListenError::Inherited { number, source });
            }
        }
        let source = || io::Error::other("no socket was passed");
        let address = address.ok_or_else(|| ListenError::Inherited { number: 0, source: source() })?;
        Ok(Self { sockets, address })
    }

    /// The sockets of each worker. All workers together accept from all sockets, so that no connection stays in the queue
    /// of one that nobody looks at; with fewer sockets than workers, several accept from the same queue.
    pub(super) fn for_workers(&self, workers: usize) -> io::Result<Vec<Vec<ListeningSocket>>> {
        let count = self.sockets.len();
        let open = |socket: &TcpListener| socket.try_clone().map(ListeningSocket::Public);
        let own = |worker: usize| {
            let own = (worker % count..count).step_by(workers.max(1));
            let own: Vec<_> = if worker < count { own.collect() } else { vec![worker % count] };
            own.into_iter().map(|at| open(&self.sockets[at])).collect()
        };
        (0..workers).map(own).collect()
    }

    /// The descriptors of all sockets.
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.sockets.iter().map(AsFd::as_fd).collect()
    }
}

/// With `SO_REUSEPORT` a second gateway would silently share the port. Binding without it detects that.
fn refuse_taken(address: SocketAddr) -> Result<(), ListenError> {
    let probe = || -> io::Result<()> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())
    };
    probe().map_err(|source| ListenError::Bind { address, source })
}

fn bind(address: SocketAddr) -> Result<TcpListener, ListenError> {
    let open = || -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        // The kernel distributes connections over the workers' sockets.
        socket.set_reuse_port(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    open().map_err(|source| ListenError::Bind { address, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_socket_has_a_worker_and_every_worker_a_socket() {
        let check = |sockets: usize, workers: usize, expected: &[usize]| {
            let address = "127.0.0.1:0".parse().unwrap();
            let all = ListeningSockets::bind(address, sockets).unwrap().for_workers(workers).unwrap();
            let counts: Vec<usize> = all.iter().map(Vec::len).collect();
            assert_eq!(counts, expected, "{sockets} sockets, {workers} workers");
        };
        check(1, 1, &[1]);
        check(3, 3, &[1, 1, 1]);
        check(1, 3, &[1, 1, 1]);
        check(2, 3, &[1, 1, 1]);
        check(5, 2, &[3, 2]);
        check(4, 1, &[4]);
    }

    #[test]
    fn only_listening_sockets_of_one_address_are_inherited() {
        let listening = || TcpListener::bind("127.0.0.1:0").unwrap();
        let check = |sockets: Vec<TcpListener>, expected: bool| {
            assert_eq!(ListeningSockets::inherit(sockets).is_ok(), expected);
        };
        let one = listening();
        check(vec![one.try_clone().unwrap(), one], true);
        check(vec![listening(), listening()], false);
        check(vec![], false);
        let unbound = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        check(vec![unbound.into()], false);
    }
}
