//! Arguments that a call says in its head too: those that the tool's schema marks by `x-mcp-header` (MCP 2026-07-28,
//! Streamable HTTP, request headers). What is marked is learnt from the lists that pass by.

use std::collections::{HashMap, HashSet};

use http::HeaderName;
use memchr::memmem;
use serde::Deserialize;
use serde_json::Value;

use super::heard;
use crate::protocol::header::PARAM_PREFIX;

/// What is marked, by tool.
#[derive(Default)]
pub struct Params(HashMap<String, Vec<Param>>);

/// One argument that is marked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Param {
    /// From the arguments down to it.
    path: Vec<String>,
    /// In lower case.
    header: String,
}

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

const MARK: &str = "x-mcp-header";

/// Tools that are remembered: a hundred times what a model can choose from.
const TOOLS_MAX: usize = 10_000;

/// Arguments of one tool that may be marked: a head has room for some.
const PARAMS_MAX: usize = 32;

/// Properties of one schema that are looked at, so that a schema cannot hold up what comes behind it.
const PROPERTIES_MAX: usize = 10_000;

/// How deep in the arguments one may stand.
const DEPTH_MAX: usize = 16;

/// The largest integer that every reader of JSON takes for the same.
const INTEGER_MAX: u64 = (1 << 53) - 1;

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
            match marked(&input_schema) {
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
    pub fn of_tool(&self, tool: &str) -> Vec<Param> {
        self.0.get(tool).cloned().unwrap_or_default()
    }

    /// Gives each header of a call, name and text, to `put`. `arguments`: the raw object.
    pub fn of_call(&self, tool: &str, arguments: &[u8], mut put: impl FnMut(&str, &str)) {
        let Some(marked) = self.0.get(tool) else { return };
        let Ok(arguments) = serde_json::from_slice::<Value>(arguments) else { return };
        for Param { path, header } in marked {
            let found = path.iter().try_fold(&arguments, |at, name| at.get(name));
            match found {
                Some(Value::String(text)) => put(header, text),
                Some(Value::Bool(is)) => put(header, if *is { "true" } else { "false" }),
                Some(Value::Number(number)) => {
                    let integer = number.as_i64().filter(|integer| integer.unsigned_abs() <= INTEGER_MAX);
                    if let Some(integer) = integer {
                        put(header, &integer.to_string());
                    }
                }
                // Absent or null: no header.
                _ => {}
            }
        }
    }
}

/// What a schema marks, or why none of it counts.
fn marked(schema: &Value) -> Result<Vec<Param>, &'static str> {
    let mut found: Vec<Param> = Vec::new();
    let mut names = HashSet::new();
    let mut open = vec![(Vec::new(), schema)];
    let mut seen = 0;
    while let Some((path, schema)) = open.pop() {
        for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            seen += 1;
            if seen > PROPERTIES_MAX || path.len() >= DEPTH_MAX {
                return Err("its schema is too large");
            }
            let path: Vec<String> = path.iter().cloned().chain([name.clone()]).collect();
            if let Some(mark) = property.get(MARK) {
                let param = Param { header: header_name(mark)?, path: path.clone() };
                let is_of_type = |known: &&str| property.get("type").is_some_and(|of| of == known);
                if !["string", "integer", "boolean"].iter().any(is_of_type) {
                    return Err("x-mcp-header stands at what is neither string nor integer nor boolean");
                }
                if !names.insert(param.header.clone()) || found.len() == PARAMS_MAX {
                    return Err("x-mcp-header names a header twice, or there are too many");
                }
                found.push(param);
            }
            open.push((path, property));
        }
    }
    Ok(found)
}

fn header_name(mark: &Value) -> Result<String, &'static str> {
    let text = mark.as_str().filter(|text| !text.is_empty()).ok_or("x-mcp-header is no name")?;
    let name = HeaderName::from_bytes(format!("{PARAM_PREFIX}{text}").as_bytes());
    name.map(|name| name.as_str().to_owned()).map_err(|_| "x-mcp-header is no name of a header")
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
        let schema = r#"{"type":"object","properties":{
            "region":{"type":"string","x-mcp-header":"Region"},
            "n":{"type":"integer","x-mcp-header":"N"},
            "is":{"type":"boolean","x-mcp-header":"Is"},
            "deep":{"type":"object","properties":{"er":{"type":"string","x-mcp-header":"Deep"}}},
            "plain":{"type":"string"}}}"#;
        let all = r#"{"region":"eu","n":-3,"is":false,"deep":{"er":"x"},"plain":"y"}"#;
        check(
            schema,
            all,
            &["mcp-param-deep: x", "mcp-param-is: false", "mcp-param-n: -3", "mcp-param-region: eu"],
        );
        check(schema, r#"{"region":null,"deep":3,"n":1.5,"is":[]}"#, &[]);
        check(schema, r#"{"n":9007199254740992}"#, &[]);
        check(schema, r#"{"n":9007199254740991}"#, &["mcp-param-n: 9007199254740991"]);
        check(schema, "{}", &[]);
        check(schema, "not json", &[]);
    }

    #[test]
    fn one_bad_mark_takes_back_all_of_the_tool() {
        let good = r#""a":{"type":"string","x-mcp-header":"A"}"#;
        for bad in [
            r#""b":{"type":"string","x-mcp-header":"a"}"#,
            r#""b":{"type":"string","x-mcp-header":""}"#,
            r#""b":{"type":"string","x-mcp-header":"a b"}"#,
            r#""b":{"type":"string","x-mcp-header":7}"#,
            r#""b":{"type":"number","x-mcp-header":"B"}"#,
            r#""b":{"x-mcp-header":"B"}"#,
        ] {
            check(&format!(r#"{{"properties":{{{good},{bad}}}}}"#), r#"{"a":"x"}"#, &[]);
        }
        check(&format!(r#"{{"properties":{{{good}}}}}"#), r#"{"a":"x"}"#, &["mcp-param-a: x"]);
        // Not reachable by `properties` alone.
        check(&format!(r#"{{"anyOf":[{{"properties":{{{good}}}}}]}}"#), r#"{"a":"x"}"#, &[]);
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

    #[test]
    fn deep_and_wide_schemas_are_bounded() {
        let mut deep = r#"{"type":"string","x-mcp-header":"A"}"#.to_owned();
        for _ in 0..20 {
            deep = format!(r#"{{"properties":{{"a":{deep}}}}}"#);
        }
        check(&deep, "{}", &[]);
        let many: Vec<_> =
            (0..40).map(|n| format!(r#""a{n}":{{"type":"string","x-mcp-header":"A{n}"}}"#)).collect();
        check(&format!(r#"{{"properties":{{{}}}}}"#, many.join(",")), r#"{"a1":"x"}"#, &[]);
    }
}
