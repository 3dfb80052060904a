//! The capabilities and instructions of an endpoint: the union of what its servers offer.

use bytes::Bytes;
use serde_json::json;

use super::merged::MergedLists;
use crate::session::ServerFeatures;
use metamcp_core::base::{GATEWAY_ID_MEMBER, ServerName, gateway_id};
use metamcp_core::protocol::{Revision, TASKS_EXTENSION};

/// How long a client may cache a Modern list if no server says so. Changes are announced anyway.
pub const TTL_MS_DEFAULT: u64 = 60_000;

/// Bound of the joined instructions; they go into a model's context.
const INSTRUCTIONS_BYTES_MAX: usize = 16 << 10;

impl MergedLists {
    /// Returns the `capabilities` object of the endpoint. A missing server may still bring any list, so lists
    /// are announced then.
    pub fn capabilities_json(&self) -> serde_json::Value {
        let may_grow = !self.missing.is_empty();
        let mut capabilities = serde_json::Map::new();
        let features = &self.features;
        if features.tools || may_grow {
            capabilities.insert("tools".into(), json!({"listChanged": true}));
        }
        if features.prompts || may_grow {
            capabilities.insert("prompts".into(), json!({"listChanged": true}));
        }
        if features.resources || may_grow {
            let resources = if features.subscribe || may_grow {
                json!({"listChanged": true, "subscribe": true})
            } else {
                json!({"listChanged": true})
            };
            capabilities.insert("resources".into(), resources);
        }
        if features.logging {
            capabilities.insert("logging".into(), json!({}));
        }
        if features.completions {
            capabilities.insert("completions".into(), json!({}));
        }
        serde_json::Value::Object(capabilities)
    }

    /// Returns the `result` of `initialize`. Built once for each revision: clients that open a session for
    /// each call ask for it as often as they call.
    pub fn initialize_result(&self, revision: Revision) -> Bytes {
        let result = &self.initialize_results[usize::from(revision.to_byte())];
        result.get_or_init(|| self.build_initialize_result(revision)).clone()
    }

    fn build_initialize_result(&self, revision: Revision) -> Bytes {
        let mut capabilities = self.capabilities_json();
        let tasks = self.features.tasks;
        if tasks.calls && revision >= Revision::V2025_11_25 {
            capabilities["tasks"] = json!({"requests": {"tools": {"call": {}}}});
            for (name, has) in [("list", tasks.list), ("cancel", tasks.cancel)] {
                if has {
                    capabilities["tasks"][name] = json!({});
                }
            }
        }
        let mut result = json!({
            "protocolVersion": revision.as_str(),
            "capabilities": capabilities,
            "serverInfo": server_info(),
        });
        if let Some(id) = gateway_id() {
            result["_meta"] = json!({ GATEWAY_ID_MEMBER: id });
        }
        if let Some(instructions) = &self.features.instructions {
            result["instructions"] = instructions.as_str().into();
        }
        result.to_string().into()
    }

    /// Returns the `result` of `server/discover`.
    pub fn discover_result(&self) -> Bytes {
        let mut capabilities = self.capabilities_json();
        if self.features.tasks.extension {
            capabilities["extensions"] = json!({TASKS_EXTENSION: {}});
        }
        let mut result = json!({
            "resultType": "complete",
            "supportedVersions": [Revision::MODERN_LATEST.as_str()],
            "capabilities": capabilities,
            "ttlMs": if self.missing.is_empty() { TTL_MS_DEFAULT } else { 0 },
            "cacheScope": "public",
            "_meta": {"io.modelcontextprotocol/serverInfo": server_info()},
        });
        if let Some(id) = gateway_id() {
            result["_meta"][GATEWAY_ID_MEMBER] = id.into();
        }
        if let Some(instructions) = &self.features.instructions {
            result["instructions"] = instructions.as_str().into();
        }
        result.to_string().into()
    }
}

/// Returns the gateway's own `Implementation` object.
pub fn server_info() -> serde_json::Value {
    json!({"name": "metamcp", "version": env!("CARGO_PKG_VERSION")})
}

/// Adds the features of another server.
pub fn add_features(all: &mut ServerFeatures, server: &ServerName, other: &ServerFeatures) {
    all.tools |= other.tools;
    all.prompts |= other.prompts;
    all.resources |= other.resources;
    all.subscribe |= other.subscribe;
    all.logging |= other.logging;
    all.completions |= other.completions;
    all.tasks = all.tasks.union(other.tasks);
    if let Some(text) = &other.instructions {
        let all = all.instructions.get_or_insert_default();
        if all.len() + text.len() < INSTRUCTIONS_BYTES_MAX {
            if !all.is_empty() {
                all.push_str("\n\n");
            }
            all.push_str(server.as_str());
            all.push_str(": ");
            all.push_str(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::TaskFeatures;

    fn empty() -> MergedLists {
        MergedLists::default()
    }

    #[test]
    fn each_revision_has_its_own_initialize_result() {
        let merged = empty();
        // The second time the result comes from the cache.
        for revision in Revision::ALL.into_iter().chain(Revision::ALL) {
            let result = merged.initialize_result(revision);
            let result: serde_json::Value = serde_json::from_slice(&result).expect("JSON");
            assert_eq!(result["protocolVersion"], revision.as_str());
        }
    }

    #[test]
    fn task_support_is_announced_per_era() {
        let check = |tasks: TaskFeatures, revision, initialized: &str, discovered: &str| {
            let features = ServerFeatures { tasks, ..ServerFeatures::default() };
            let mut merged = empty();
            merged.features = features;
            let capability = |result: Bytes, member: &str| {
                let result: serde_json::Value = serde_json::from_slice(&result).expect("JSON");
                result["capabilities"][member].to_string()
            };
            assert_eq!(capability(merged.initialize_result(revision), "tasks"), initialized);
            assert_eq!(capability(merged.discover_result(), "extensions"), discovered);
        };
        let calls = TaskFeatures { calls: true, list: true, ..TaskFeatures::default() };
        let extension = TaskFeatures { extension: true, ..TaskFeatures::default() };
        let expected = r#"{"list":{},"requests":{"tools":{"call":{}}}}"#;
        check(calls, Revision::V2025_11_25, expected, "null");
        check(calls, Revision::V2025_06_18, "null", "null");
        check(extension, Revision::V2025_11_25, "null", r#"{"io.modelcontextprotocol/tasks":{}}"#);
        check(TaskFeatures::default(), Revision::V2025_11_25, "null", "null");
    }
}
