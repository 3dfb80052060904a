//! A request to an endpoint, before anything of it was checked.

use std::sync::Arc;

use http::Method;
use http::uri::Authority;

use super::fields::Fields;
use super::receive::RequestBody;
use crate::route::Endpoint;

/// A request to an endpoint, whoever read its head.
pub struct Asked {
    /// What is to be done.
    pub method: Method,
    /// The authority of the target, when it has one.
    pub authority: Option<Authority>,
    /// Where.
    pub endpoint: Arc<Endpoint>,
    /// The header fields.
    pub fields: Fields,
    /// The body.
    pub body: RequestBody,
}
