//! The status of stored servers and endpoints: which of them are served, and why the others are not.
//! Published whenever the topology is built.

use std::collections::HashMap;

use crate::store::Uuid;
use metamcp_core::base::ServerName;

/// The status of every stored row in the topology that is served.
#[derive(Debug, Default)]
pub struct Standing {
    /// The version of changes that the store was read at: see `Admin::topology_changes`.
    pub changes: u64,
    /// Names of servers defined in files, which take precedence over stored ones.
    pub of_files: Vec<ServerName>,
    /// Rows that are not served as defined, each with its reason. Disabled servers are not included.
    pub rejected: Vec<String>,
    rows: HashMap<Uuid, Stand>,
}

/// The status of one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stand {
    /// The version of the row when it was read.
    pub version: u64,
    /// Why the row is not served, for administrators.
    pub served: Result<(), String>,
}

/// The row is newer than the topology.
const NOT_YET: &str = "it is not served yet; check again in a moment";

impl Standing {
    pub fn new(
        changes: u64,
        of_files: Vec<ServerName>,
        rejected: Vec<String>,
        rows: HashMap<Uuid, Stand>,
    ) -> Self {
        Self { changes, of_files, rejected, rows }
    }

    /// Returns why this version of a row is not served, if it is not.
    pub fn of(&self, id: Uuid, version: u64) -> Result<(), &str> {
        match self.rows.get(&id) {
            Some(stand) if stand.version == version => stand.served.as_ref().map_err(String::as_str).copied(),
            Some(_) | None => Err(NOT_YET),
        }
    }

    /// Whether any version of the row is served.
    pub fn serves(&self, id: Uuid) -> bool {
        self.rows.get(&id).is_some_and(|stand| stand.served.is_ok())
    }
}
