//! Subscription filters (MCP 2026-07-28, subscriptions).

use serde::{Deserialize, Serialize};

use super::McpMethod;

/// The notifications that a client subscribes to: `params.notifications` of `subscriptions/listen`. The acknowledgement has
/// the same form, with the part that is granted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SubscriptionFilter {
    #[serde(skip_serializing_if = "is_not_true")]
    pub tools_list_changed: Option<bool>,
    #[serde(skip_serializing_if = "is_not_true")]
    pub prompts_list_changed: Option<bool>,
    #[serde(skip_serializing_if = "is_not_true")]
    pub resources_list_changed: Option<bool>,
    /// The URIs of resources whose updates are notified.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resource_subscriptions: Vec<String>,
    /// The ids of tasks whose status is notified (extension `io.modelcontextprotocol/tasks`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub task_ids: Vec<String>,
}

impl SubscriptionFilter {
    /// Parses the params of `subscriptions/listen`. `None` if they are invalid.
    pub fn from_params(params: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Params {
            notifications: SubscriptionFilter,
        }
        serde_json::from_slice(params).ok().map(|Params { notifications }| notifications)
    }

    /// Whether the filter includes a `list_changed` notification.
    pub fn includes(&self, method: McpMethod) -> bool {
        let flag = match method {
            McpMethod::ToolsListChanged => self.tools_list_changed,
            McpMethod::PromptsListChanged => self.prompts_list_changed,
            McpMethod::ResourcesListChanged => self.resources_list_changed,
            _ => None,
        };
        flag == Some(true)
    }
}

#[expect(
    clippy::ref_option,
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature that serde requires"
)]
fn is_not_true(flag: &Option<bool>) -> bool {
    *flag != Some(true)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(params: &str, expected: Option<&str>) {
        let found =
            SubscriptionFilter::from_params(params.as_bytes()).map(|filter| json!(filter).to_string());
        assert_eq!(found.as_deref(), expected, "{params}");
    }

    #[test]
    fn unset_members_are_omitted() {
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
