//! Bounds of the catalog.

use std::time::Duration;

/// Bounds of the catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogConfig {
    /// How long a list request waits for a server. What is missing then is named in `_meta`.
    pub list_deadline: Duration,
    /// A list older than this is fetched again in the background when it is next requested.
    pub refresh_after: Duration,
    /// Pages fetched from one server for one list.
    pub pages_max: usize,
    /// Items fetched from one server for one list.
    pub items_max: usize,
    /// Bytes fetched from one server for one list.
    pub list_bytes_max: usize,
    /// Items on one page towards clients.
    pub page_items: usize,
}
