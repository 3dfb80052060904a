//! Changes single members of a raw tool definition; all other values stay as the server wrote them.

use std::borrow::Cow;

use bytes::{BufMut, Bytes, BytesMut};
use memchr::memmem;
use metamcp_store::tool_pins::RawMembers;
use serde::Deserialize;

use metamcp_config::sections::ToolOverride;
use metamcp_core::frame::json_string;

/// Returns the tool with the configured title, description and annotations in place of the server's. The name
/// stays.
pub fn apply_override(tool: &Bytes, tool_override: &ToolOverride) -> Bytes {
    let text = |text: &Option<String>| text.as_deref().map(json_string);
    let annotations = tool_override.annotations.as_ref().map(|value| Bytes::from(value.to_string()));
    let overridden = [
        ("title", text(&tool_override.title)),
        ("description", text(&tool_override.description)),
        ("annotations", annotations),
    ];
    let overridden: Vec<(&str, Bytes)> =
        overridden.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    if overridden.is_empty() {
        return tool.clone();
    }
    // It was parsed as an object before; otherwise it would not be in a list.
    let Ok(RawMembers(members)) = serde_json::from_slice(tool) else { return tool.clone() };
    let mut json = BytesMut::with_capacity(tool.len());
    for (name, value) in &members {
        if overridden.iter().all(|(other, _)| other != name) {
            put(&mut json, name, value.get().as_bytes());
        }
    }
    for (name, value) in &overridden {
        put(&mut json, name, value);
    }
    json.put_u8(b'}');
    json.freeze()
}

/// Returns the tool without its task support, unless it says `forbidden`.
pub fn without_task_support(tool: Bytes) -> Bytes {
    if memmem::find(&tool, b"taskSupport").is_none() {
        return tool;
    }
    let Ok(RawMembers(members)) = serde_json::from_slice(&tool) else { return tool };
    let execution = members.iter().find(|(name, _)| name == "execution").map(|(_, value)| value.get());
    let execution = execution.and_then(|execution| serde_json::from_str::<Execution<'_>>(execution).ok());
    if execution.is_some_and(|execution| execution.task_support == "forbidden") {
        return tool;
    }
    let mut json = BytesMut::with_capacity(tool.len());
    for (name, value) in members.iter().filter(|(name, _)| name != "execution") {
        put(&mut json, name, value.get().as_bytes());
    }
    json.put_u8(b'}');
    json.freeze()
}

#[derive(Deserialize)]
struct Execution<'a> {
    #[serde(rename = "taskSupport", borrow)]
    task_support: Cow<'a, str>,
}

fn put(json: &mut BytesMut, name: &str, value: &[u8]) {
    json.put_u8(if json.is_empty() { b'{' } else { b',' });
    json.put_slice(&json_string(name));
    json.put_u8(b':');
    json.put_slice(value);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(tool: &'static str, tool_override: &ToolOverride, expected: &str) {
        let found = apply_override(&Bytes::from_static(tool.as_bytes()), tool_override);
        assert_eq!(found, expected, "{}", found.escape_ascii());
    }

    #[test]
    fn only_overridden_members_change() {
        let some = |text: &str| Some(text.to_owned());
        let tool = r#"{"name":"a", "description" : "old","annotations":{"title":"t"},"x":1.0e2}"#;
        check(tool, &ToolOverride::default(), tool);
        check(tool, &ToolOverride { name: some("b"), ..ToolOverride::default() }, tool);
        check(
            tool,
            &ToolOverride { description: some("say \"new\""), ..ToolOverride::default() },
            r#"{"name":"a","annotations":{"title":"t"},"x":1.0e2,"description":"say \"new\""}"#,
        );
        let all = ToolOverride {
            name: None,
            title: some("T"),
            description: some(""),
            annotations: Some(json!({"readOnlyHint": true})),
        };
        check(
            r#"{"\u0064escription":"old","name":"\u0061","description":"twice","title":null}"#,
            &all,
            r#"{"name":"\u0061","title":"T","description":"","annotations":{"readOnlyHint":true}}"#,
        );
        check("{}", &all, r#"{"title":"T","description":"","annotations":{"readOnlyHint":true}}"#);
    }

    #[test]
    fn task_support_is_removed_unless_forbidden() {
        for (tool, expected) in [
            (
                r#"{"name":"a", "execution": {"taskSupport":"forbidden"}}"#,
                r#"{"name":"a", "execution": {"taskSupport":"forbidden"}}"#,
            ),
            (r#"{"name":"a","execution":{"taskSupport":"optional"},"x":1}"#, r#"{"name":"a","x":1}"#),
            (r#"{"name":"a","execution":{"taskSupport":7}}"#, r#"{"name":"a"}"#),
            (r#"{"name":"taskSupport"}"#, r#"{"name":"taskSupport"}"#),
        ] {
            assert_eq!(without_task_support(Bytes::from_static(tool.as_bytes())), expected);
        }
    }
}
