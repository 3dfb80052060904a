//! The paths that are not MCP's: what the data plane asks of whoever answers them, and all it knows of it.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use bytes::Bytes;
use http::Response;
use http::request::Parts;
use http_body::Body;

use crate::journal::usage::Counters;
use crate::limits::Permit;
use crate::telemetry::metrics::MetricsWriter;
use metamcp_core::base::BodyReader;

/// What answers the paths that are not MCP's. The data plane knows no more of the control plane.
pub trait ControlPlane: Send + Sync {
    /// The methods that a path takes, as `Allow` has them; `None` where there is nothing.
    fn methods(&self, path: &str) -> Option<String>;

    /// Answers a request. Not a byte of its body is read before it is taken.
    fn answer<'a>(
        &'a self,
        request: ControlRequest<'a>,
    ) -> Pin<Box<dyn Future<Output = ControlResponse> + 'a>>;
}

/// A request whose head has come.
pub struct ControlRequest<'a> {
    /// Its head.
    pub head: Parts,
    /// Its body.
    pub body: BodyReader<'a>,
    /// Where the worker that has it counts what is used, when that is counted.
    pub counters: Option<&'a Counters>,
    /// How it goes, likewise.
    pub metrics: Option<&'a Rc<MetricsWriter>>,
}

/// What is answered.
pub type ControlResponse = Response<ControlBody>;

/// The body of an answer.
pub enum ControlBody {
    /// It is here, with the key's place that is held until its last piece is taken.
    Whole(Bytes, Option<Permit>),
    /// It comes by and by. Dropped, whoever makes it is told that nobody takes it.
    Stream(Stream),
}

/// A body that comes by and by.
pub type Stream = Pin<Box<dyn Body<Data = Bytes, Error = Infallible>>>;
