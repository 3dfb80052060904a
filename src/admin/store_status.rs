//! The status of stored servers and endpoints: which of them are served, and why the others are not.
//! Published whenever the topology is built.

use std::collections::HashMap;

use serde_json::Value;

use metamcp_core::base::ServerName;
use metamcp_store::store::Uuid;

/// The status of every stored row in the topology that is served.
#[derive(Debug, Default)]
pub struct StoreStatus {
    /// The version of changes that the store was read at: see `ControlPlane::topology_changes`.
    pub changes: u64,
    /// Names of servers defined in files, which take precedence over stored ones.
    pub of_files: Vec<ServerName>,
    /// Rows that are not served as defined, each with its reason. Disabled servers are not included.
    pub rejected: Vec<String>,
    rows: HashMap<Uuid, RowStatus>,
}

/// The status of one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowStatus {
    /// The version of the row when it was read.
    pub version: u64,
    /// Why the row is not served, for administrators.
    pub served: Result<(), String>,
}

/// The row is newer than the topology.
const NOT_YET: &str = "it is not served yet; check again in a moment";

impl StoreStatus {
    pub fn new(
        changes: u64,
        of_files: Vec<ServerName>,
        rejected: Vec<String>,
        rows: HashMap<Uuid, RowStatus>,
    ) -> Self {
        Self { changes, of_files, rejected, rows }
    }

    /// Returns why this version of a row is not served, if it is not.
    pub fn row_status(&self, id: Uuid, version: u64) -> Result<(), &str> {
        match self.rows.get(&id) {
            Some(stand) if stand.version == version => stand.served.as_ref().map_err(String::as_str).copied(),
            Some(_) | None => Err(NOT_YET),
        }
    }

    /// Whether any version of the row is served.
    pub fn is_served(&self, id: Uuid) -> bool {
        self.rows.get(&id).is_some_and(|stand| stand.served.is_ok())
    }
}

/// Adds the members that only the gateway writes: id, version, times, whether the row is served and, if not,
/// why.
pub fn add_row_status(
    view: &mut Value,
    store_status: &StoreStatus,
    id: Uuid,
    [version, created_at, changed_at]: [u64; 3],
) {
    view["id"] = id.to_string().into();
    view["version"] = version.into();
    view["created_at"] = created_at.into();
    view["changed_at"] = changed_at.into();
    let status = store_status.row_status(id, version);
    view["served"] = status.is_ok().into();
    if let Err(reason) = status {
        view["reason"] = reason.into();
    }
}
