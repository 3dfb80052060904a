//! Arguments that a tool call repeats in its HTTP head: those that the tool's schema annotates with `x-mcp-header`
//! (MCP 2026-07-28, Streamable HTTP, request headers). The annotations are learned from the `tools/list` responses
//! that pass through.

use std::collections::HashMap;

use memchr::memmem;
use serde::Deserialize;
use serde_json::Value;

use super::message;
use metamcp_core::protocol::header_param::{HEADER_ANNOTATION, HeaderParam, parse_header_params};

/// The annotated arguments of each tool.
#[derive(Default)]
pub struct ParamHeaders(HashMap<String, Vec<HeaderParam>>);

#[derive(Deserialize)]
struct ToolList {
    tools: Vec<Tool>,
}

#[derive(Deserialize)]
struct Tool {
    name: String,
    #[serde(rename = "inputSchema", default)]
    input_schema: Value,
}

/// Tools that are kept: a hundred times what a model can choose from.
const TOOLS_MAX: usize = 10_000;

impl ParamHeaders {
    /// Learns the annotations in a `tools/list` response.
    pub fn learn(&mut self, response: &[u8]) {
        // Annotations are rare: most lists are not parsed at all.
        if self.0.is_empty() && memmem::find(response, HEADER_ANNOTATION.as_bytes()).is_none() {
            return;
        }
        let result = message::result(response).map(serde_json::value::RawValue::get);
        let Some(list) = result.and_then(|result| serde_json::from_str::<ToolList>(result).ok()) else {
            return;
        };
        for Tool { name, input_schema } in list.tools {
            match parse_header_params(&input_schema) {
                Ok(params) if params.is_empty() => drop(self.0.remove(&name)),
                Ok(params) if self.0.len() < TOOLS_MAX || self.0.contains_key(&name) => {
                    self.0.insert(name, params);
                }
                Ok(_) => {}
                Err(why) => {
                    tracing::warn!(
                        why,
                        "invalid x-mcp-header in a tool schema; calls of the tool send no parameter headers"
                    );
                    self.0.remove(&name);
                }
            }
        }
    }

    /// Returns the annotated arguments of a tool.
    pub fn of_tool(&self, tool: &str) -> Vec<HeaderParam> {
        self.0.get(tool).cloned().unwrap_or_default()
    }

    /// Passes the name and text of each parameter header of a call to `put`. `arguments` is the raw object.
    pub fn write(&self, tool: &str, arguments: &[u8], mut put: impl FnMut(&str, &str)) {
        let Some(params) = self.0.get(tool) else { return };
        let Ok(arguments) = serde_json::from_slice::<Value>(arguments) else { return };
        for param in params {
            if let Some(text) = param.header_text(&arguments) {
                put(&param.header, &text);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(schema: &str) -> String {
        format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{"tools":[{{"name":"t","inputSchema":{schema}}}]}}}}"#)
    }

    fn headers(params: &ParamHeaders, arguments: &str) -> Vec<String> {
        let mut found = Vec::new();
        params.write("t", arguments.as_bytes(), |name, text| found.push(format!("{name}: {text}")));
        found.sort();
        found
    }

    #[track_caller]
    fn check(schema: &str, arguments: &str, expected: &[&str]) {
        let mut params = ParamHeaders::default();
        params.learn(list(schema).as_bytes());
        assert_eq!(headers(&params, arguments), expected, "{schema} {arguments}");
    }

    #[test]
    fn repeats_annotated_arguments() {
        let schema = r#"{"properties":{"region":{"type":"string","x-mcp-header":"Region"},"plain":{"type":"string"}}}"#;
        check(schema, r#"{"region":"eu","plain":"y"}"#, &["mcp-param-region: eu"]);
        check(schema, "{}", &[]);
        check(schema, "not json", &[]);
    }

    #[test]
    fn a_newer_list_replaces_the_annotations() {
        let mut params = ParamHeaders::default();
        params.learn(list(r#"{"properties":{"a":{"type":"string","x-mcp-header":"A"}}}"#).as_bytes());
        assert_eq!(headers(&params, r#"{"a":"x"}"#), ["mcp-param-a: x"]);
        params.learn(b"nonsense");
        params.learn(list("{}").as_bytes());
        assert_eq!(headers(&params, r#"{"a":"x"}"#), [] as [&str; 0]);
    }
}
