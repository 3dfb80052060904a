//! Entity tags (RFC 9110, section 8.8.3), in two parts: what somebody wrote, and behind `~` what the gateway says of it
//! beside (`served`, `reason`, `condition`), which changes by itself.
//!
//! Who reads is told of both: nobody who asks with `If-None-Match` misses that a server came to be served. Who writes
//! answers for the first part alone: a change that was made to what is there is not refused for a server that failed.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::store::{EndpointRow, ServerRow, Uuid};

/// The first part. It moves with everything that whoever writes can read, and depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag(String);

impl Tag {
    /// The id is in it: what was taken out and made anew is something else.
    fn new(id: Uuid, version: u64) -> Self {
        Self(format!("{}.{version}", id.simple()))
    }

    /// Of a server.
    pub fn of_server(row: &ServerRow) -> Self {
        Self::new(row.id, row.version)
    }

    /// Of a server that a file defines.
    pub fn of_file(view: &Value) -> Self {
        let definition = ["name", "kind", "url", "command"].map(|member| &view[member]);
        Self(format!("file.{}", digest(&format!("{definition:?}"))))
    }

    /// Of an endpoint. It is read and written with the names of its servers, and their renaming is no change of its row.
    pub fn of_endpoint(row: &EndpointRow, servers: &[ServerRow]) -> Self {
        let Self(mut tag) = Self::new(row.id, row.version);
        if !row.servers.is_empty() {
            let name = |id| servers.iter().find(|server| server.id == id).map(|server| server.name.as_str());
            let names: Vec<_> = row.servers.iter().map(|of| (of.server_id, name(of.server_id))).collect();
            tag = format!("{tag}.{}", digest(&format!("{names:?}")));
        }
        Self(tag)
    }

    /// As it is sent with a view of what it is of.
    pub fn with(&self, view: &Value) -> String {
        let state = ["served", "reason", "condition"].map(|member| &view[member]);
        format!("\"{}~{}\"", self.0, digest(&format!("{state:?}")))
    }

    /// Whether one of the tags that a writer expects, as `If-Match` has them, is this one.
    pub fn is_one_of(&self, tags: &str) -> bool {
        // Weak ones never match here (RFC 9110, section 13.1.1).
        let opaque = |tag: &str| Some(tag.trim().strip_prefix('"')?.strip_suffix('"')?.to_owned());
        tags.split(',').filter_map(opaque).any(|tag| tag.split('~').next() == Some(&self.0))
    }
}

/// Tells two states apart; nobody gains by making two that it takes for one, who could not change them anyway.
fn digest(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(&Sha256::digest(text)[..DIGEST_BYTES])
}

/// Enough that two states are not taken for one by chance.
const DIGEST_BYTES: usize = 8;
