//! Finds endpoints in a key's grants that the database does not have.

use metamcp_core::base::EndpointName;
use metamcp_store::store::{Grants, Store};

use crate::failure::Failure;

/// Returns the endpoints and servers of the grants that the database does not have. They may be in the `metamcp.toml` of a
/// gateway, which keyadm does not read.
pub async fn find_unknown(store: &Store, grants: &Grants) -> Result<Vec<String>, Failure> {
    let mut unknown = Vec::new();
    for entry in grants.endpoints.iter().flatten() {
        let exists = match entry.strip_prefix("servers/") {
            Some(server) => store.server(server).await?.is_some_and(|row| row.name == server),
            // Every gateway has the default endpoint.
            None if entry == EndpointName::DEFAULT => true,
            None => store.endpoint(entry).await?.is_some_and(|row| row.name == *entry),
        };
        if !exists {
            unknown.push(entry.clone());
        }
    }
    Ok(unknown)
}

/// Prints a warning for each of them.
pub fn warn(unknown: &[String]) {
    for entry in unknown {
        let (kind, name) =
            entry.strip_prefix("servers/").map_or(("endpoint", &**entry), |name| ("server", name));
        eprintln!(
            "keyadm: the database has no {kind} {name:?}: the key can use it only once it is added, or where the \
             metamcp.toml of a gateway defines it; see `keyadm {kind}s list`"
        );
    }
}
