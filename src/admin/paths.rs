//! Endpoints of a topology, by what the control plane knows of them.

use std::sync::Arc;

use crate::route::{Endpoint, Table};

/// The endpoint that is one server by itself.
pub fn server_alone(table: &Table, name: &str) -> Option<Arc<Endpoint>> {
    table.find(&format!("/servers/{name}/mcp")).cloned()
}
