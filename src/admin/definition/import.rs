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

/// What is to be done with an entry.
pub fn wanted(entry: &Entry) -> Wanted {
    let pointer = entry.path.iter().fold(String::new(), |pointer, key| below(&pointer, key));
    match &entry.kind {
        Err(mistakes) => Wanted::Wrong(mistakes.iter().cloned().map(field_error).collect()),
        Ok(Kind::Skip(why)) => Wanted::Skip(why),
        Ok(Kind::Stdio { command, args, env, cwd }) => {
            let mut written = vec![("command".to_owned(), command)];
            written.extend(args.iter().enumerate().map(|(at, arg)| (format!("args/{at}"), arg)));
            written.extend(env.iter().map(|(name, value)| (below("env", name), value)));
            written.extend(cwd.iter().map(|cwd| ("cwd".to_owned(), cwd)));
            // Whether it may be run is not decided here.
            let value = mcp_json::program_definition(&entry.name, command, args, env, cwd.as_deref());
            define(value, pointer, &written)
        }
        Ok(Kind::Http { url, headers, transport }) => {
            let mut written: Vec<_> =
                headers.iter().map(|(name, value)| (below("headers", name), value)).collect();
            written.push(("url".to_owned(), url));
            define(mcp_json::definition(&entry.name, url, headers.clone(), *transport), pointer, &written)
        }
    }
}

/// `written`: every text of it, and where it stands below the entry. The environment of the gateway is not put into what
/// somebody sends: it holds the gateway's own secrets.
fn define(value: Value, pointer: String, written: &[(String, &String)]) -> Wanted {
    let detail = "names a variable (${...}), which is not put in here; write the value itself";
    let naming = written.iter().filter(|(_, text)| text.contains("${"));
    let errors: Errors =
        naming.map(|(place, _)| FieldError::new(format!("{pointer}/{place}"), detail)).collect();
    if errors.is_empty() { Wanted::Define { value, pointer } } else { Wanted::Wrong(errors) }
}

/// The same of a part of the file: pointers begin there.
pub fn under(pointer: &str, mut errors: Errors) -> Errors {
    for error in &mut errors {
        error.pointer.insert_str(0, pointer);
    }
    errors
}

/// What is stored, with the members of `value` in the place of its own. What was said of a server of another kind does not
/// hold for this one.
pub fn upsert(mut stored: Value, value: &Value) -> Value {
    if stored["kind"] != value["kind"] {
        return value.clone();
    }
    if let (Some(stored), Some(members)) = (stored.as_object_mut(), value.as_object()) {
        stored.extend(members.clone());
    }
    stored
}

fn field_error(mistake: Mistake) -> FieldError {
    let pointer = mistake.path.iter().fold(String::new(), |pointer, key| below(&pointer, key));
    let line = mistake.line.map_or(String::new(), |line| format!(" (line {line})"));
    FieldError::new(pointer, mistake.text + &line)
}

/// Servers of one file.
const ENTRIES_MAX: usize = 1000;
