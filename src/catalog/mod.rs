//! The lists of all backends.

use std::time::Duration;

/// Bounds of the catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// A list request never waits longer than this for a backend; what is missing is named in `_meta`.
    pub list_deadline: Duration,
    /// A list older than this is fetched again in the background when next asked for.
    pub refresh_after: Duration,
    /// Pages taken from one backend for one list.
    pub pages_max: usize,
    /// Items taken from one backend for one list.
    pub items_max: usize,
    /// Bytes taken from one backend for one list.
    pub list_bytes_max: usize,
    /// Items on one page towards clients.
    pub page_items: usize,
}
