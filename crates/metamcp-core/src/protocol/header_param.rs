//! Arguments that a call repeats in headers: those that the tool's schema annotates with `x-mcp-header` (MCP 2026-07-28,
//! Streamable HTTP, request headers).

use std::borrow::Cow;
use std::collections::HashSet;

use http::HeaderName;
use serde_json::Value;

use super::header::PARAM_PREFIX;

/// An argument that is repeated in a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderParam {
    /// The names of the properties that lead to the argument.
    path: Vec<String>,
    /// The name of the header in lower case.
    pub header: String,
}

/// The keyword in a tool's input schema that annotates an argument.
pub const HEADER_ANNOTATION: &str = "x-mcp-header";

/// Annotated arguments per tool. A request head has room for a few.
const PARAMS_MAX: usize = 32;

/// Properties per schema, so that a schema cannot block the worker.
const PROPERTIES_MAX: usize = 10_000;

/// The depth of an annotated argument.
const DEPTH_MAX: usize = 16;

/// The largest integer that all JSON parsers read alike.
const INTEGER_MAX: u64 = (1 << 53) - 1;

impl HeaderParam {
    /// Returns the text of the header for some arguments, before it is encoded. `None` if the argument is absent or has a value
    /// that a header cannot carry.
    pub fn header_text<'a>(&self, arguments: &'a Value) -> Option<Cow<'a, str>> {
        let value = self.path.iter().try_fold(arguments, |at, name| at.get(name))?;
        match value {
            Value::String(text) => Some(Cow::Borrowed(text)),
            Value::Bool(is) => Some(Cow::Borrowed(if *is { "true" } else { "false" })),
            Value::Number(number) => {
                let size = number.as_u64().or_else(|| number.as_i64().map(i64::unsigned_abs))?;
                (size <= INTEGER_MAX).then(|| number.to_string().into())
            }
            // Absent, null, or neither string nor number nor boolean.
            _ => None,
        }
    }

    /// The memory that it takes.
    pub fn memory_bytes(&self) -> usize {
        self.header.len() + self.path.iter().map(String::len).sum::<usize>()
    }
}

/// Collects the annotated arguments of a tool's schema that are reachable through `properties` alone.
///
/// # Errors
/// Returns why the tool must not be used: one invalid annotation invalidates all.
pub fn parse_header_params(schema: &Value) -> Result<Vec<HeaderParam>, &'static str> {
    let mut found: Vec<HeaderParam> = Vec::new();
    let mut names = HashSet::new();
    let mut pending = vec![(Vec::new(), schema)];
    let mut seen = 0;
    while let Some((path, schema)) = pending.pop() {
        for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            seen += 1;
            if seen > PROPERTIES_MAX || path.len() >= DEPTH_MAX {
                return Err("its schema is too large");
            }
            let path: Vec<String> = path.iter().cloned().chain([name.clone()]).collect();
            if let Some(annotation) = property.get(HEADER_ANNOTATION) {
                let param = HeaderParam { header: header_name(annotation)?, path: path.clone() };
                let is_of_type = |known: &&str| property.get("type").is_some_and(|of| of == known);
                if !["string", "integer", "boolean"].iter().any(is_of_type) {
                    return Err(
                        "x-mcp-header is on a property that is neither string nor integer nor boolean",
                    );
                }
                if !names.insert(param.header.clone()) || found.len() == PARAMS_MAX {
                    return Err("x-mcp-header names a header twice, or too many headers");
                }
                found.push(param);
            }
            pending.push((path, property));
        }
    }
    Ok(found)
}

fn header_name(annotation: &Value) -> Result<String, &'static str> {
    let text = annotation.as_str().filter(|text| !text.is_empty()).ok_or("x-mcp-header is not a text")?;
    let name = HeaderName::from_bytes(format!("{PARAM_PREFIX}{text}").as_bytes());
    name.map(|name| name.as_str().to_owned()).map_err(|_| "x-mcp-header is not a valid header name")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(schema: &str, arguments: &str, expected: &[&str]) {
        let [schema, arguments] = [schema, arguments].map(|json| serde_json::from_str(json).expect("JSON"));
        let params = parse_header_params(&schema).unwrap_or_default();
        let text =
            |param: &HeaderParam| Some(format!("{}: {}", param.header, param.header_text(&arguments)?));
        let mut found: Vec<_> = params.iter().filter_map(text).collect();
        found.sort();
        assert_eq!(found, expected, "{schema} {arguments}");
    }

    #[test]
    fn annotated_arguments_become_headers() {
        let schema = r#"{"type":"object","properties":{
            "region":{"type":"string","x-mcp-header":"Region"},
            "n":{"type":"integer","x-mcp-header":"N"},
            "is":{"type":"boolean","x-mcp-header":"Is"},
            "deep":{"type":"object","properties":{"er":{"type":"string","x-mcp-header":"Deep"}}},
            "items":{"type":"array","items":{"properties":{"x":{"type":"string","x-mcp-header":"X"}}}},
            "plain":{"type":"string"}}}"#;
        check(
            schema,
            r#"{"region":"eu","n":-3,"is":false,"deep":{"er":"x"},"plain":"y","items":[]}"#,
            &["mcp-param-deep: x", "mcp-param-is: false", "mcp-param-n: -3", "mcp-param-region: eu"],
        );
        check(schema, r#"{"region":null,"deep":3,"n":1.5,"is":[]}"#, &[]);
        check(schema, r#"{"n":9007199254740992}"#, &[]);
        check(schema, r#"{"n":9007199254740991}"#, &["mcp-param-n: 9007199254740991"]);
        check(schema, "{}", &[]);
        check(schema, "null", &[]);
        check("7", "{}", &[]);
        check(r#"{"properties":7}"#, "{}", &[]);
    }

    #[test]
    fn one_invalid_annotation_invalidates_the_tool() {
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
        // Not reachable through `properties` alone.
        check(&format!(r#"{{"anyOf":[{{"properties":{{{good}}}}}]}}"#), r#"{"a":"x"}"#, &[]);
    }

    #[test]
    fn deep_and_wide_schemas_are_bounded() {
        let mut deep = r#"{"type":"string","x-mcp-header":"A"}"#.to_owned();
        for _ in 0..20 {
            deep = format!(r#"{{"properties":{{"a":{deep}}}}}"#);
        }
        let is_refused =
            |schema: &str| parse_header_params(&serde_json::from_str(schema).expect("JSON")).is_err();
        assert!(is_refused(&deep));
        let many: Vec<_> =
            (0..40).map(|n| format!(r#""a{n}":{{"type":"string","x-mcp-header":"A{n}"}}"#)).collect();
        assert!(is_refused(&format!(r#"{{"properties":{{{}}}}}"#, many.join(","))));
    }
}
