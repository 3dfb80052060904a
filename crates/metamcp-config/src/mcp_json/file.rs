//! Parses a whole `mcp.json` file.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::entry::{Diagnostic, McpJsonEntry, McpJsonFile};
use super::entry_reader::{collect_notices, fail, read_entry_kind};
use super::jsonc::strip_comments;
use crate::strict_json::{self, StrictJsonError};

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
            let line = Some(error.line()).filter(|line| *line > 0);
            // The text of the parse error is left out, because it quotes the file.
            let text = "is not a JSON object: {\"mcpServers\": {...}}".into();
            file.errors.push(Diagnostic { line, path: Vec::new(), text });
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
            _ => {}
        }
    }
    if !found {
        let text =
            "has neither mcpServers nor servers; write {\"mcpServers\": {\"name\": {\"url\": \"...\"}}}";
        file.errors.push(Diagnostic::new(&[], text));
    }
    file
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
