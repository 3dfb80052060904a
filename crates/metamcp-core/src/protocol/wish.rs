//! What a client wants to be told of (MCP 2026-07-28, subscriptions).

use serde::{Deserialize, Serialize};

use super::McpMethod;

/// `params.notifications` of `subscriptions/listen`, and of its acknowledgement the part that is met.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SubscriptionFilter {
    /// That the list of tools changed.
    #[serde(skip_serializing_if = "is_unwanted")]
    pub tools_list_changed: Option<bool>,
    /// Likewise, of prompts.
    #[serde(skip_serializing_if = "is_unwanted")]
    pub prompts_list_changed: Option<bool>,
    /// Likewise, of resources.
    #[serde(skip_serializing_if = "is_unwanted")]
    pub resources_list_changed: Option<bool>,
    /// That one of these resources changed, by their URIs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resource_subscriptions: Vec<String>,
    /// How these tasks stand, by their ids (the extension `io.modelcontextprotocol/tasks`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub task_ids: Vec<String>,
}

impl SubscriptionFilter {
    /// Of the params of a request; `None` when they are none.
    pub fn read(params: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Params {
            notifications: SubscriptionFilter,
        }
        serde_json::from_slice(params).ok().map(|Params { notifications }| notifications)
    }

    /// Whether it is for the announcements of a list's changes.
    pub fn includes(&self, method: McpMethod) -> bool {
        let wanted = match method {
            McpMethod::ToolsListChanged => self.tools_list_changed,
            McpMethod::PromptsListChanged => self.prompts_list_changed,
            McpMethod::ResourcesListChanged => self.resources_list_changed,
            _ => None,
        };
        wanted == Some(true)
    }
}

#[expect(clippy::ref_option, clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_unwanted(wanted: &Option<bool>) -> bool {
    *wanted != Some(true)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(params: &str, expected: Option<&str>) {
        let read = SubscriptionFilter::read(params.as_bytes()).map(|wish| json!(wish).to_string());
        assert_eq!(read.as_deref(), expected, "{params}");
    }

    #[test]
    fn what_is_not_wanted_is_not_said() {
        check(r#"{"notifications":{}}"#, Some("{}"));
        check(
            r#"{"notifications":{"toolsListChanged":true,"promptsListChanged":false,"x":1,"taskIds":[]}}"#,
            Some(r#"{"toolsListChanged":true}"#),
        );
        let all = r#"{"resourceSubscriptions":["a"],"resourcesListChanged":true,"taskIds":["b"]}"#;
        check(&format!(r#"{{"notifications":{all}}}"#), Some(all));
        for none in ["", "{}", "7", r#"{"notifications":7}"#, r#"{"notifications":{"taskIds":[7]}}"#] {
            check(none, None);
        }
    }
}
