//! Parses a whole `mcp.json` file.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::entry::{Diagnostic, McpJsonEntry, McpJsonFile};
use super::entry_reader::{collect_notices, fail, read_entry_kind};
use super::jsonc::strip_comments;
use crate::mistakes::{printable, quote};
use crate::strict_json::{self, StrictJsonError};
use crate::suggest::nearest;

/// The members of an object in the order of the file, including duplicates. A map would silently drop one of two
/// servers with the same name.
struct OrderedMembers(Vec<(String, Box<RawValue>)>);

/// Parses a file. Errors in one entry do not affect the others.
pub fn parse(text: &str) -> McpJsonFile {
    let mut file = McpJsonFile::default();
    let text = strip_comments(text);
    let members = match serde_json::from_str::<OrderedMembers>(&text) {
        Ok(OrderedMembers(members)) => members,
        Err(error) => {
            file.errors.push(syntax_error(&error));
            return file;
        }
    };
    let mut found = false;
    for (key, value) in &members {
        match key.as_str() {
            "mcpServers" | "servers" => {
                found = true;
                file.read_servers(value, &[key]);
            }
            "mcp" => {
                let inner = serde_json::from_str(value.get()).unwrap_or(OrderedMembers(Vec::new()));
                for (_, value) in inner.0.iter().filter(|(key, _)| key == "servers") {
                    found = true;
                    file.read_servers(value, &["mcp", "servers"]);
                }
            }
            // VS Code asks for the values of `inputs`.
            "inputs" | "$schema" => {}
            _ => {
                let hint = nearest(key, ["mcpServers", "servers"])
                    .map_or(String::new(), |near| format!("; did you mean {}?", quote(near)));
                let text = format!("is unknown, and has no effect{hint}");
                file.notices.push(Diagnostic::new(&[key], &text));
            }
        }
    }
    if !found {
        let text =
            "has neither mcpServers nor servers; write {\"mcpServers\": {\"name\": {\"url\": \"...\"}}}";
        file.errors.push(Diagnostic::new(&[], text));
    }
    file
}

/// The error of a file that is not JSON, or not an object. The parser's text is given only where it quotes nothing of the file.
fn syntax_error(error: &serde_json::Error) -> Diagnostic {
    let line = Some(error.line()).filter(|line| *line > 0);
    let text = if error.is_syntax() || error.is_eof() {
        let text = error.to_string();
        let reason = text.split(" at line ").next().unwrap_or_default();
        format!("is not JSON at column {}: {}", error.column(), printable(reason))
    } else {
        "is not a JSON object: {\"mcpServers\": {...}}".to_owned()
    };
    Diagnostic { line, path: Vec::new(), text }
}

impl McpJsonFile {
    fn read_servers(&mut self, value: &RawValue, path: &[&str]) {
        let Ok(OrderedMembers(members)) = serde_json::from_str(value.get()) else {
            let text = "is not an object; write {\"name\": {\"url\": \"...\"}}";
            return self.errors.push(Diagnostic::new(path, text));
        };
        for (name, value) in members {
            let path = [path, &[&name]].concat();
            let mut notices = Vec::new();
            let kind = match strict_json::parse(value.get().as_bytes()) {
                Ok(Value::Object(fields)) => {
                    notices = collect_notices(&fields, &path);
                    read_entry_kind(&fields, &path)
                }
                Ok(_) => fail(&path, "is not an object; write {\"url\": \"...\"}"),
                Err(StrictJsonError::DuplicateMember(below)) => {
                    let below = below.iter().map(String::as_str);
                    fail(&path.iter().copied().chain(below).collect::<Vec<_>>(), "is a duplicate")
                }
                Err(StrictJsonError::Malformed { .. }) => {
                    fail(&path, "cannot be parsed: too deeply nested, or a number out of range")
                }
            };
            let path = path.into_iter().map(str::to_owned).collect();
            self.entries.push(McpJsonEntry { name: name.clone(), path, kind, notices });
        }
    }
}

impl<'de> Deserialize<'de> for OrderedMembers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OrderedMembersVisitor;

        impl<'de> Visitor<'de> for OrderedMembersVisitor {
            type Value = OrderedMembers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<OrderedMembers, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(OrderedMembers(members))
            }
        }

        deserializer.deserialize_map(OrderedMembersVisitor)
    }
}
