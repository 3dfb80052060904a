//! Notifications for a client whose subscription was interrupted: everything it subscribed to may have changed.

use serde::Deserialize;
use serde_json::value::RawValue;

use metamcp_core::protocol::McpMethod;

/// An acknowledgement, as far as it lists what is subscribed to.
#[derive(Deserialize)]
struct Acknowledgement<'a> {
    #[serde(borrow)]
    params: AcknowledgementParams<'a>,
}

#[derive(Deserialize)]
struct AcknowledgementParams<'a> {
    #[serde(default)]
    notifications: SubscriptionFilter,
    #[serde(rename = "_meta", borrow)]
    meta: &'a RawValue,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct SubscriptionFilter {
    tools_list_changed: bool,
    prompts_list_changed: bool,
    resources_list_changed: bool,
    resource_subscriptions: Vec<String>,
}

/// Builds the notifications to send when a subscription is acknowledged again after an interruption: one for
/// each list and each resource in the acknowledgement.
pub fn missed_changes(acknowledgement: &[u8]) -> Vec<String> {
    let Ok(Acknowledgement { params }) = serde_json::from_slice::<Acknowledgement<'_>>(acknowledgement)
    else {
        return Vec::new();
    };
    let AcknowledgementParams { notifications: filter, meta } = params;
    let lists = [
        (filter.tools_list_changed, McpMethod::ToolsListChanged),
        (filter.prompts_list_changed, McpMethod::PromptsListChanged),
        (filter.resources_list_changed, McpMethod::ResourcesListChanged),
    ];
    let notification = |method: &str, member: &str| {
        format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{{{member}"_meta":{meta}}}}}"#)
    };
    let lists = lists.into_iter().filter(|(is_subscribed, _)| *is_subscribed);
    let lists = lists.map(|(_, method)| notification(method.as_str(), ""));
    let updated = |uri: &String| {
        let uri = serde_json::Value::from(uri.as_str());
        notification("notifications/resources/updated", &format!(r#""uri":{uri},"#))
    };
    lists.chain(filter.resource_subscriptions.iter().map(updated)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announces_everything_subscribed_to() {
        let check = |notifications: &str, expected: &[&str]| {
            let text = format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{{"notifications":{notifications},"_meta":{{"s":1}}}}}}"#
            );
            assert_eq!(missed_changes(text.as_bytes()), expected, "{notifications}");
        };
        check("{}", &[]);
        check("nonsense", &[]);
        check(
            r#"{"toolsListChanged":true,"promptsListChanged":false,"x":1,"resourceSubscriptions":["a\"b"]}"#,
            &[
                r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{"_meta":{"s":1}}}"#,
                r#"{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"a\"b","_meta":{"s":1}}}"#,
            ],
        );
    }
}
