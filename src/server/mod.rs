//! The data plane: from the listening socket to the client's last byte.
//!
//! Invariants: a worker shares nothing on the path of a request but snapshots and padded counters; what a
//! request holds is held until the last byte of its answer was taken from the upstream; nothing reaches a
//! upstream before the credential, the message and its headers were checked.
//!
//! Does not know: the store, the control plane, or where configuration comes from. `handler::forward`
//! tells the way of a request.

mod again;
mod batch;
mod bell;
mod body;
mod call;
mod connection;
mod control;
mod event_stream;
mod fast_lane;
mod fields;
mod frames;
mod guard;
mod handler;
mod intake;
mod kept;
mod legacy;
mod listener;
mod local;
mod mapped;
mod message;
mod meter;
mod modern;
mod parking;
mod plane;
mod queue;
mod receive;
mod relay;
mod reply;
mod send;
mod subscription;
mod tag;
mod task_list;
mod tasks;
mod trace;
mod words;
mod worker;
mod write;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use body::ResponseBody;
pub use guard::Guard;
pub use listener::{Door, ListenError, Workers, start};
pub use plane::{ControlBody, ControlPlane, ControlRequest, ControlResponse};
pub use worker::{Shared, Worker};

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

/// Where the certificate is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// PEM, leaf first.
    pub cert: PathBuf,
    /// PEM, PKCS#8, PKCS#1 or SEC1.
    pub key: PathBuf,
}
