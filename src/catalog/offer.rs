//! The capabilities and instructions of an endpoint: the union of what its servers offer.

use bytes::Bytes;
use serde_json::json;

use super::merge::{Merged, TTL_MS_DEFAULT, server_info};
use crate::session::ServerFeatures;
use metamcp_core::base::ServerName;
use metamcp_core::protocol::{Revision, TASKS_EXTENSION};

/// Bound of the joined instructions; they go into a model's context.
const INSTRUCTIONS_BYTES_MAX: usize = 16 << 10;

impl Merged {
    /// Returns the `capabilities` object of the endpoint. A missing server may still bring any list, so lists
    /// are announced then.
    pub fn capabilities_json(&self) -> serde_json::Value {
        let unknown = !self.missing.is_empty();
        let mut capabilities = serde_json::Map::new();
        let features = &self.features;
        if features.tools || unknown {
            capabilities.insert("tools".into(), json!({"listChanged": true}));
        }
        if features.prompts || unknown {
            capabilities.insert("prompts".into(), json!({"listChanged": true}));
        }
        if features.resources || unknown {
            let resources = if features.subscribe || unknown {
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
        let made = &self.initialized[usize::from(revision.to_byte())];
        made.get_or_init(|| self.make_initialize_result(revision)).clone()
    }

    fn make_initialize_result(&self, revision: Revision) -> Bytes {
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
        if let Some(instructions) = &self.features.instructions {
            result["instructions"] = instructions.as_str().into();
        }
        result.to_string().into()
    }
}

/// Adds the features of another server.
pub fn join(all: &mut ServerFeatures, server: &ServerName, other: &ServerFeatures) {
    all.tools |= other.tools;
    all.prompts |= other.prompts;
    all.resources |= other.resources;
    all.subscribe |= other.subscribe;
    all.logging |= other.logging;
    all.completions |= other.completions;
    all.tasks = all.tasks.or(other.tasks);
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

    fn none() -> Merged {
        Merged::default()
    }

    #[test]
    fn each_revision_is_answered_in_its_own_words() {
        let merged = none();
        // The second time it is what was made the first time.
        for revision in Revision::ALL.into_iter().chain(Revision::ALL) {
            let result = merged.initialize_result(revision);
            let result: serde_json::Value = serde_json::from_slice(&result).expect("JSON");
            assert_eq!(result["protocolVersion"], revision.as_str());
        }
    }

    #[test]
    fn tasks_are_promised_in_the_words_of_each_era() {
        let check = |tasks: TaskFeatures, revision, initialized: &str, discovered: &str| {
            let features = ServerFeatures { tasks, ..ServerFeatures::default() };
            let mut merged = none();
            merged.features = features;
            let told = |result: Bytes, member: &str| {
                let result: serde_json::Value = serde_json::from_slice(&result).expect("JSON");
                result["capabilities"][member].to_string()
            };
            assert_eq!(told(merged.initialize_result(revision), "tasks"), initialized);
            assert_eq!(told(merged.discover_result(), "extensions"), discovered);
        };
        let calls = TaskFeatures { calls: true, list: true, ..TaskFeatures::default() };
        let extension = TaskFeatures { extension: true, ..TaskFeatures::default() };
        let said = r#"{"list":{},"requests":{"tools":{"call":{}}}}"#;
        check(calls, Revision::V2025_11_25, said, "null");
        check(calls, Revision::V2025_06_18, "null", "null");
        check(extension, Revision::V2025_11_25, "null", r#"{"io.modelcontextprotocol/tasks":{}}"#);
        check(TaskFeatures::default(), Revision::V2025_11_25, "null", "null");
    }
}
