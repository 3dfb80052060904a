//! What became of what is stored: which rows are served, and why the others are not. Published by whoever builds the
//! topology, and shown.

use std::collections::HashMap;

use crate::base::ServerName;
use crate::store::Uuid;

/// What became of every stored server and endpoint in the version that is served.
#[derive(Debug, Default)]
pub struct Standing {
    /// What was changed here before the store was read for it: see `Admin::topology_changes`.
    pub changes: u64,
    /// Names of the servers that are defined in files, which win over stored ones.
    pub of_files: Vec<ServerName>,
    /// What is not served as it was asked for, each with its reason; what is switched off is not among it.
    pub left_out: Vec<String>,
    rows: HashMap<Uuid, Stand>,
}

/// What became of one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stand {
    /// Of the row that was read.
    pub version: u64,
    /// Why it is not served, for those who administer.
    pub served: Result<(), String>,
}

/// Of a row that is newer than what is served.
const NOT_YET: &str = "it is not taken up yet; look again in a moment";

impl Standing {
    /// Of all rows.
    pub fn new(
        changes: u64,
        of_files: Vec<ServerName>,
        left_out: Vec<String>,
        rows: HashMap<Uuid, Stand>,
    ) -> Self {
        Self { changes, of_files, left_out, rows }
    }

    /// Whether that version of a row is served, or why not.
    pub fn of(&self, id: Uuid, version: u64) -> Result<(), &str> {
        match self.rows.get(&id) {
            Some(stand) if stand.version == version => stand.served.as_ref().map_err(String::as_str).copied(),
            Some(_) | None => Err(NOT_YET),
        }
    }

    /// Whether some version of a row is served.
    pub fn serves(&self, id: Uuid) -> bool {
        self.rows.get(&id).is_some_and(|stand| stand.served.is_ok())
    }
}
