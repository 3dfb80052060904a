//! Ensures that no two servers use the same tool prefix.

use http::StatusCode;

use super::control_plane::ControlPlane;
use super::problem::Problem;
use metamcp_core::base::ServerName;
use metamcp_store::definition::{ServerDefinition, check_prefixes};
use metamcp_store::store::ServerRow;

impl ControlPlane {
    /// Responds with 409 if the tools of two servers would have the same names. Of two servers written at the same moment,
    /// one is reported later with `served: false`.
    pub(super) async fn check_prefixes(
        &self,
        server: &ServerDefinition,
        before: Option<&ServerRow>,
    ) -> Result<(), Problem> {
        let (store_status, rows) = (self.store_status(), self.parts.store.servers().await?.rows);
        let of_files = store_status.of_files.iter().map(ServerName::as_str);
        check_prefixes(server, before, &rows, of_files)
            .map_err(|error| Problem::fields(StatusCode::CONFLICT, vec![error]))
    }
}
