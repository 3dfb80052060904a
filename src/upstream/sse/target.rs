use std::sync::Arc;

use url::Url;

use metamcp_core::base::ServerName;
use metamcp_http::HttpServer;
use metamcp_http::InFlightLimit;

/// What reaching an HTTP+SSE server takes. Cheap to clone.
#[derive(Clone)]
pub struct SseTarget {
    pub name: ServerName,
    /// Where event streams are opened.
    pub url: Url,
    pub http: Arc<HttpServer>,
    /// Bounds the POSTs in flight at once.
    pub post_limit: Arc<InFlightLimit>,
    /// Bounds the POSTs of notifications and responses, which calls that wait for their POST may need.
    pub message_limit: Arc<InFlightLimit>,
}
