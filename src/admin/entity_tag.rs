//! Entity tags (RFC 9110, section 8.8.3) in two parts: one for the definition, and after `~` one for what the
//! gateway reports about it (`served`, `reason`, `condition`), which changes without a write.
//!
//! Readers compare both parts, so that `If-None-Match` notices when a server becomes available. Writers
//! compare the first part only, so that a change is not refused because the server failed in the meantime.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use metamcp_store::store::{EndpointRow, ServerRow, Uuid};

/// The first part. It changes with everything that a writer can read and depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntityTag(String);

impl EntityTag {
    /// Includes the id: an object that was deleted and created again is a different one.
    fn new(id: Uuid, version: u64) -> Self {
        Self(format!("{}.{version}", id.simple()))
    }

    /// The tag of a stored server.
    pub fn for_server(row: &ServerRow) -> Self {
        Self::new(row.id, row.version)
    }

    /// The tag of a server defined in a file.
    pub fn for_file_server(view: &Value) -> Self {
        let definition = ["name", "kind", "url", "command"].map(|member| &view[member]);
        Self(format!("file.{}", digest(&format!("{definition:?}"))))
    }

    /// The tag of an endpoint. Includes the names of its servers, because a rename does not change the row of
    /// the endpoint.
    pub fn for_endpoint(row: &EndpointRow, servers: &[ServerRow]) -> Self {
        let Self(mut tag) = Self::new(row.id, row.version);
        if !row.servers.is_empty() {
            let name = |id| servers.iter().find(|server| server.id == id).map(|server| server.name.as_str());
            let names: Vec<_> = row.servers.iter().map(|of| (of.server_id, name(of.server_id))).collect();
            tag = format!("{tag}.{}", digest(&format!("{names:?}")));
        }
        Self(tag)
    }

    /// Returns the complete ETag, given the representation that is sent.
    pub fn to_etag(&self, view: &Value) -> String {
        let state = ["served", "reason", "condition"].map(|member| &view[member]);
        format!("\"{}~{}\"", self.0, digest(&format!("{state:?}")))
    }

    /// Whether the tag is among those of an `If-Match` header.
    pub fn matches_any(&self, tags: &str) -> bool {
        // Weak tags never match here (RFC 9110, section 13.1.1).
        let opaque = |tag: &str| Some(tag.trim().strip_prefix('"')?.strip_suffix('"')?.to_owned());
        tags.split(',').filter_map(opaque).any(|tag| tag.split('~').next() == Some(&self.0))
    }
}

/// Distinguishes two states. Collisions are not a risk: a caller gains nothing from one.
fn digest(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(&Sha256::digest(text)[..DIGEST_BYTES])
}

/// Enough to avoid accidental collisions.
const DIGEST_BYTES: usize = 8;
