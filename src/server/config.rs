//! The configuration of the data plane, ready to run.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// What the data plane is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Worker threads, one per core by default.
    pub workers: usize,
    /// Certificate chain and key (PEM), when TLS is spoken.
    pub tls: Option<Tls>,
    /// From the first byte of a request to the end of its head.
    pub header_timeout: Duration,
    /// From the head of a request to the end of its body: a total, not per read.
    pub body_timeout: Duration,
    /// A keep-alive connection without a request for this long is closed.
    pub idle_timeout: Duration,
    /// One request body.
    pub body_bytes_max: usize,
    /// The head of one request.
    pub header_bytes_max: usize,
    /// Header fields in one request.
    pub header_count_max: usize,
    /// Connections at once, over all workers; one more is closed when accepted.
    pub connections_max: usize,
    /// Origins a browser may call from, beside loopback ones: `https://host[:port]`.
    pub origins: Vec<String>,
    /// Names under which the gateway is reached, beside loopback ones and the listening address.
    pub hosts: Vec<String>,
    /// Between "not ready" and closing the listening socket, for load balancers to notice.
    pub drain_delay: Duration,
    /// Then, at most this long for what is under way to end.
    pub drain_deadline: Duration,
    /// Between two comments on an otherwise silent event stream.
    pub keep_alive: Duration,
    /// Whether requests of the usual shape are read here; else hyper reads them all.
    pub fast_lane: bool,
}

impl Config {
    /// Whether only this machine can reach it.
    pub fn is_loopback(&self) -> bool {
        self.listen.ip().is_loopback()
    }
}

/// Where the certificate is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// PEM, leaf first.
    pub cert: PathBuf,
    /// PEM, PKCS#8, PKCS#1 or SEC1.
    pub key: PathBuf,
}
