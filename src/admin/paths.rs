//! Looks up endpoints of a topology.

use std::sync::Arc;

use crate::route::{Endpoint, RouteTable};

/// Returns the single endpoint of a server.
pub fn single_endpoint(table: &RouteTable, name: &str) -> Option<Arc<Endpoint>> {
    table.find_by_path(&format!("/servers/{name}/mcp")).cloned()
}
