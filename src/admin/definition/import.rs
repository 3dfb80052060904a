//! Entries of an `mcpServers` file on their way into the store, whoever brings them there.

use std::collections::HashSet;

use serde_json::Value;

use super::fields::{Errors, FieldError, below};
use super::mcp_json::{self, Entry, Kind, McpJson, Mistake};

/// What an entry comes to.
#[derive(Debug)]
pub enum Wanted {
    /// A definition, to be read by [`super::Server::read`].
    Define {
        /// The definition.
        value: Value,
        /// Where in the file the entry stands: what is wrong with the definition is wrong below it.
        pointer: String,
    },
    /// Nothing, and why.
    Skip(&'static str),
    /// Nothing, for all of this is wrong with it: pointers from the root of the file.
    Wrong(Errors),
}

/// The entries of a file; what is wrong with it as a whole.
pub fn entries(text: &str) -> Result<Vec<Entry>, Errors> {
    let McpJson { mistakes, mut entries } = mcp_json::parse(text);
    if entries.len() > ENTRIES_MAX {
        let detail = format!("has more than {ENTRIES_MAX} servers; send it in parts");
        return Err(vec![FieldError::new("", detail)]);
    }
    if !mistakes.is_empty() {
        return Err(mistakes.into_iter().map(field_error).collect());
    }
    let mut seen = HashSet::new();
    for entry in &mut entries {
        // One would take the place of the other in silence.
        if !seen.insert(mcp_json::stored_name(&entry.name)) {
            let text = "is stored under the name of another server in the file; rename one of them".into();
            entry.kind = Err(vec![Mistake { line: None, path: entry.path.clone(), text }]);
        }
    }
    Ok(entries)
}

/// A definition that is sent must not run what its sender likes.
const NOT_HERE: &str =
    "a program is not defined here; write it into the gateway's own mcp.json or metamcp.toml";

/// What is to be done with an entry.
pub fn wanted(entry: &Entry) -> Wanted {
    let pointer = entry.path.iter().fold(String::new(), |pointer, key| below(&pointer, key));
    match &entry.kind {
        Err(mistakes) => Wanted::Wrong(mistakes.iter().cloned().map(field_error).collect()),
        Ok(Kind::Skip(why)) => Wanted::Skip(why),
        Ok(Kind::Stdio { .. }) => Wanted::Skip(NOT_HERE),
        Ok(Kind::Http { url, headers, transport }) => {
            let errors = variables(&pointer, url, headers);
            if !errors.is_empty() {
                return Wanted::Wrong(errors);
            }
            Wanted::Define {
                value: mcp_json::definition(&entry.name, url, headers.clone(), *transport),
                pointer,
            }
        }
    }
}

/// The same of a part of the file: pointers begin there.
pub fn under(pointer: &str, mut errors: Errors) -> Errors {
    for error in &mut errors {
        error.pointer.insert_str(0, pointer);
    }
    errors
}

/// What is stored, with the members of `value` in the place of its own.
pub fn upsert(mut stored: Value, value: &Value) -> Value {
    if let (Some(stored), Some(members)) = (stored.as_object_mut(), value.as_object()) {
        stored.extend(members.clone());
    }
    stored
}

/// The environment of the gateway is not put into what somebody sends: it holds the gateway's own secrets.
fn variables(pointer: &str, url: &str, headers: &[(String, String)]) -> Errors {
    let detail = "names a variable (${...}), which is not put in here; write the value itself";
    let in_headers = headers.iter().filter(|(_, value)| value.contains("${"));
    let mut errors: Errors = in_headers
        .map(|(name, _)| FieldError::new(below(&below(pointer, "headers"), name), detail))
        .collect();
    if url.contains("${") {
        errors.push(FieldError::new(below(pointer, "url"), detail));
    }
    errors
}

fn field_error(mistake: Mistake) -> FieldError {
    let pointer = mistake.path.iter().fold(String::new(), |pointer, key| below(&pointer, key));
    let line = mistake.line.map_or(String::new(), |line| format!(" (line {line})"));
    FieldError::new(pointer, mistake.text + &line)
}

/// Servers of one file.
const ENTRIES_MAX: usize = 1000;
