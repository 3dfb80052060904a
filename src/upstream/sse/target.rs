use std::sync::Arc;

use url::Url;

use super::super::http::HttpServer;
use super::super::limit::InFlightLimit;
use metamcp_core::base::ServerName;

/// What reaching an HTTP+SSE server takes. Cheap to clone.
#[derive(Clone)]
pub struct SseTarget {
    pub name: ServerName,
    /// Where event streams are opened.
    pub url: Url,
    pub http: Arc<HttpServer>,
    /// Bounds the POSTs in flight at once.
    pub post_limit: Arc<InFlightLimit>,
}
