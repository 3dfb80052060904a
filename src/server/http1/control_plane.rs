//! The interface to the control plane, which serves every path that is not an MCP endpoint.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use bytes::Bytes;
use http::Response;
use http::request::Parts;
use http_body::Body;

use crate::journal::usage::WorkerCounters;
use crate::limits::Permit;
use crate::telemetry::metrics::MetricsWriter;
use crate::telemetry::records::RequestRecorder;
use metamcp_core::base::BodyReader;
use metamcp_store::auth::{ClientCertificate, Identity};

/// Serves every path that is not an MCP endpoint. This is all that the data plane knows of it.
pub trait ControlService: Send + Sync {
    /// The methods that a path supports, in the format of `Allow`. `None` if the path does not exist.
    fn methods(&self, path: &str) -> Option<String>;

    /// Answers a request. The body is read only on demand.
    fn answer<'a>(
        &'a self,
        request: ControlRequest<'a>,
    ) -> Pin<Box<dyn Future<Output = ControlResponse> + 'a>>;
}

/// A request whose head was received.
pub struct ControlRequest<'a> {
    pub head: Parts,
    /// What the certificate of the connection stands for.
    pub certificate: Option<ClientCertificate>,
    pub body: BodyReader<'a>,
    /// The worker's usage counters, if usage is recorded.
    pub counters: Option<&'a WorkerCounters>,
    /// The worker's metrics, if they are collected.
    pub metrics: Option<&'a Rc<MetricsWriter>>,
    /// The record of calls, if there is one.
    pub records: Option<RequestRecorder<'a>>,
}

pub type ControlResponse = Response<ControlBody>;

/// The body of a response.
pub enum ControlBody {
    /// The whole body, and the permit that is held until its last byte is written.
    Whole(Bytes, Option<Permit>),
    /// A body that is produced over time, and whose credential it ends with. Dropping it tells the producer that there is no
    /// reader.
    Stream(Stream, Identity),
}

pub type Stream = Pin<Box<dyn Body<Data = Bytes, Error = Infallible>>>;
