//! A request as handlers see it.

use std::rc::Rc;

use bytes::Bytes;
use http::HeaderMap;
use http::request::Parts as Head;

use crate::journal::usage::WorkerCounters;
use crate::limits::Permit;
use crate::telemetry::metrics::MetricsWriter;
use crate::telemetry::records::RequestRecorder;
use metamcp_store::auth::{ClientCertificate, Identity};
use metamcp_store::store::{Audit, Role};

/// An authenticated request with its body.
pub(super) struct AuthenticatedRequest<'a> {
    pub(super) head: &'a Head,
    /// What the certificate of the connection stands for.
    pub(super) certificate: Option<ClientCertificate>,
    pub(super) body: Bytes,
    pub(super) parameters: Vec<String>,
    /// `None` on public routes.
    pub(super) identity: Option<Identity>,
    /// The key's permit, on routes that call servers on behalf of the key.
    pub(super) permit: Option<Permit>,
    pub(super) counters: Option<&'a WorkerCounters>,
    pub(super) metrics: Option<&'a Rc<MetricsWriter>>,
    /// The record of calls, if there is one.
    pub(super) records: Option<RequestRecorder<'a>>,
}

impl AuthenticatedRequest<'_> {
    pub(super) fn headers(&self) -> &HeaderMap {
        &self.head.headers
    }

    pub(super) fn body(&self) -> &Bytes {
        &self.body
    }

    pub(super) fn query(&self) -> Option<&str> {
        self.head.uri.query()
    }

    /// Returns the value of a `{…}` in the path of the route.
    pub(super) fn parameter(&self, at: usize) -> &str {
        &self.parameters[at]
    }

    /// The caller. Only for routes that are not public.
    pub(super) fn identity(&self) -> &Identity {
        self.identity.as_ref().expect("the route's policy let somebody in")
    }

    pub(super) fn is_admin(&self) -> bool {
        self.identity().role() == Role::Admin
    }

    /// Whether the caller sees tools that no endpoint shows: an administrator whose key is not confined.
    pub(super) fn sees_all_tools(&self) -> bool {
        self.is_admin() && !self.identity().is_restricted()
    }

    pub(super) fn audit(&self) -> Audit {
        Audit::by(self.identity().key_id().as_str())
    }
}
