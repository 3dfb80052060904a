//! Arguments that a call says in its head too: those that the tool's schema marks by `x-mcp-header` (MCP
//! 2026-07-28, Streamable HTTP, request headers). What is marked is learnt from the lists that pass by.

use std::collections::HashMap;

use memchr::memmem;
use serde::Deserialize;
use serde_json::Value;

use super::heard;
use crate::protocol::param::{MARK, Mark, marks};

/// What is marked, by tool.
#[derive(Default)]
pub struct Params(HashMap<String, Vec<Mark>>);

#[derive(Deserialize)]
struct Listed {
    tools: Vec<Tool>,
}

#[derive(Deserialize)]
struct Tool {
    name: String,
    #[serde(rename = "inputSchema", default)]
    input_schema: Value,
}

/// Tools that are remembered: a hundred times what a model can choose from.
const TOOLS_MAX: usize = 10_000;

impl Params {
    /// Learns from an answer to `tools/list`.
    pub fn learn(&mut self, answer: &[u8]) {
        // Marks are rare: most lists are not read at all.
        if self.0.is_empty() && memmem::find(answer, MARK.as_bytes()).is_none() {
            return;
        }
        let result = heard::result(answer).map(serde_json::value::RawValue::get);
        let Some(listed) = result.and_then(|result| serde_json::from_str::<Listed>(result).ok()) else {
            return;
        };
        for Tool { name, input_schema } in listed.tools {
            match marks(&input_schema) {
                Ok(marked) if marked.is_empty() => drop(self.0.remove(&name)),
                Ok(marked) if self.0.len() < TOOLS_MAX || self.0.contains_key(&name) => {
                    self.0.insert(name, marked);
                }
                Ok(_) => {}
                Err(why) => {
                    tracing::warn!(why, "a tool of the endpoint cannot be called as its schema asks");
                    self.0.remove(&name);
                }
            }
        }
    }

    /// What is marked of one tool.
    pub fn of_tool(&self, tool: &str) -> Vec<Mark> {
        self.0.get(tool).cloned().unwrap_or_default()
    }

    /// Gives each header of a call, name and text, to `put`. `arguments`: the raw object.
    pub fn of_call(&self, tool: &str, arguments: &[u8], mut put: impl FnMut(&str, &str)) {
        let Some(marked) = self.0.get(tool) else { return };
        let Ok(arguments) = serde_json::from_slice::<Value>(arguments) else { return };
        for mark in marked {
            if let Some(text) = mark.text(&arguments) {
                put(&mark.header, &text);
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

    fn of_call(params: &Params, arguments: &str) -> Vec<String> {
        let mut found = Vec::new();
        params.of_call("t", arguments.as_bytes(), |name, text| found.push(format!("{name}: {text}")));
        found.sort();
        found
    }

    #[track_caller]
    fn check(schema: &str, arguments: &str, expected: &[&str]) {
        let mut params = Params::default();
        params.learn(list(schema).as_bytes());
        assert_eq!(of_call(&params, arguments), expected, "{schema} {arguments}");
    }

    #[test]
    fn mirrors_what_is_marked() {
        let schema = r#"{"properties":{"region":{"type":"string","x-mcp-header":"Region"},"plain":{"type":"string"}}}"#;
        check(schema, r#"{"region":"eu","plain":"y"}"#, &["mcp-param-region: eu"]);
        check(schema, "{}", &[]);
        check(schema, "not json", &[]);
    }

    #[test]
    fn a_newer_list_counts() {
        let mut params = Params::default();
        params.learn(list(r#"{"properties":{"a":{"type":"string","x-mcp-header":"A"}}}"#).as_bytes());
        assert_eq!(of_call(&params, r#"{"a":"x"}"#), ["mcp-param-a: x"]);
        params.learn(b"nonsense");
        params.learn(list("{}").as_bytes());
        assert_eq!(of_call(&params, r#"{"a":"x"}"#), [] as [&str; 0]);
    }
}
