//! `[server]`: where the gateway listens, and its limits for clients.

use std::net::SocketAddr;
use std::time::Duration;

use super::tls::TlsFiles;

/// Where the gateway listens, and its limits for clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpConfig {
    /// The address to listen on.
    pub listen: SocketAddr,
    /// Worker threads, one per core by default.
    pub workers: usize,
    /// The certificate, and those of clients. `None` serves plain HTTP.
    pub tls: Option<TlsFiles>,
    /// Timeout from the first byte of a request to the end of its head.
    pub header_timeout: Duration,
    /// Timeout from the head of a request to the end of its body: a total, not per read.
    pub body_timeout: Duration,
    /// A keep-alive connection without a request for this long is closed.
    pub idle_timeout: Duration,
    /// Limit for the body of one request.
    pub body_bytes_max: usize,
    /// Limit for the head of one request.
    pub header_bytes_max: usize,
    /// Limit for the number of header fields in one request.
    pub header_count_max: usize,
    /// Limit for open connections, over all workers; one more is closed when accepted.
    pub connections_max: usize,
    /// Origins that a browser may call from, in addition to loopback ones: `https://host[:port]`.
    pub origins: Vec<String>,
    /// Host names of the gateway, in addition to loopback ones and the listening address.
    pub hosts: Vec<String>,
    /// Time between "not ready" and closing the listening socket, for load balancers to notice.
    pub drain_delay: Duration,
    /// After that, the longest time for in-flight work to end.
    pub drain_deadline: Duration,
    /// The same for in-flight work of a process that has handed its sockets over to a successor.
    pub handover_deadline: Duration,
    /// Time between two comments on an otherwise silent event stream.
    pub keep_alive: Duration,
    /// Whether the gateway's own HTTP/1.1 engine reads requests of the usual form; otherwise hyper reads them
    /// all.
    pub fast_lane: bool,
    /// Whether the configuration is loaded again when one of its files changes.
    pub watch: bool,
}

impl HttpConfig {
    /// Whether only this machine can reach the gateway.
    pub fn is_loopback(&self) -> bool {
        self.listen.ip().is_loopback()
    }
}
