//! A request to an endpoint, before any check.

use std::sync::Arc;

use http::Method;
use http::uri::Authority;

use super::fields::Fields;
use super::receive::RequestBody;
use crate::route::Endpoint;

/// A request to an endpoint, parsed by the fast lane or by hyper.
pub struct EndpointRequest {
    pub method: Method,
    /// The authority of the request target, if it has one.
    pub authority: Option<Authority>,
    pub endpoint: Arc<Endpoint>,
    pub fields: Fields,
    pub body: RequestBody,
}
