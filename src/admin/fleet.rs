//! What is served now. Written through the control plane, it is served after the next publication.

use std::sync::Arc;

use crate::backend::Backend;
use crate::base::EndpointName;
use crate::route::{Endpoint, Place, Table};
use crate::session::Sessions;

/// What the control plane may ask about what is served. Each answer is a snapshot.
pub trait Fleet: Send + Sync {
    /// All paths.
    fn table(&self) -> Arc<Table>;

    /// A server, by its place in the table.
    fn backend(&self, place: &Place) -> Option<Arc<Backend>>;

    /// Legacy sessions.
    fn sessions(&self) -> Arc<Sessions>;
}

/// The endpoint that is one server by itself.
pub fn server_alone(table: &Table, name: &str) -> Option<Arc<Endpoint>> {
    table.find(&format!("/servers/{name}/mcp")).cloned()
}

/// The endpoint behind `/mcp`.
pub fn default_endpoint(table: &Table) -> Option<Arc<Endpoint>> {
    table.find(&format!("/mcp/{}", EndpointName::DEFAULT)).cloned()
}
