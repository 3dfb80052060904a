//! Plans the import of an `mcpServers` file into the store, for the control plane and for keyadm.

use std::collections::HashSet;

use serde_json::Value;

use super::fields::{FieldError, FieldErrors, child_pointer};
use metamcp_config::mcp_json::{self, Diagnostic, EntryKind, McpJsonEntry, McpJsonFile};

/// What to do with one entry of the file.
#[derive(Debug)]
pub enum ImportAction {
    /// Store the definition, which is still to be validated by [`super::ServerDefinition::read`].
    Define {
        value: Value,
        /// Where the entry is in the file. Pointers of errors in the definition are relative to it.
        pointer: String,
    },
    /// Leave the entry out, for this reason.
    Skip(&'static str),
    /// Report these errors. Their pointers begin at the root of the file.
    Reject(FieldErrors),
}

/// Reads the entries of a file. Fails on errors that concern the file as a whole.
pub fn read_entries(text: &str) -> Result<Vec<McpJsonEntry>, FieldErrors> {
    let McpJsonFile { errors, mut entries, .. } = mcp_json::parse(text);
    if entries.len() > ENTRIES_MAX {
        let detail = format!("has more than {ENTRIES_MAX} servers; split the file");
        return Err(vec![FieldError::new("", detail)]);
    }
    if !errors.is_empty() {
        return Err(errors.into_iter().map(field_error).collect());
    }
    let mut seen = HashSet::new();
    for entry in &mut entries {
        // Otherwise one of the two servers would silently replace the other.
        if !seen.insert(mcp_json::server_name_for(&entry.name)) {
            let text = "is stored under the name of another server in the file; rename one of them".into();
            entry.kind = Err(vec![Diagnostic { line: None, path: entry.path.clone(), text }]);
        }
    }
    Ok(entries)
}

/// Decides what to do with one entry.
pub fn plan_import(entry: &McpJsonEntry) -> ImportAction {
    let pointer = entry.path.iter().fold(String::new(), |pointer, key| child_pointer(&pointer, key));
    match &entry.kind {
        Err(errors) => ImportAction::Reject(errors.iter().cloned().map(field_error).collect()),
        Ok(EntryKind::Skip(reason)) => ImportAction::Skip(reason),
        Ok(EntryKind::Stdio { env_file: Some(_), .. }) => {
            let detail = "names a file, which is not read here; write its variables into env";
            ImportAction::Reject(vec![FieldError::new(format!("{pointer}/envFile"), detail)])
        }
        Ok(EntryKind::Stdio { command, args, env, env_file: None, cwd }) => {
            let mut texts = vec![("command".to_owned(), command)];
            texts.extend(args.iter().enumerate().map(|(at, arg)| (format!("args/{at}"), arg)));
            texts.extend(env.iter().map(|(name, value)| (child_pointer("env", name), value)));
            texts.extend(cwd.iter().map(|cwd| ("cwd".to_owned(), cwd)));
            // Whether the program may run is decided when the definition is validated.
            let value = mcp_json::stdio_definition(&entry.name, command, args, env, cwd.as_deref());
            define_server(value, pointer, &texts)
        }
        Ok(EntryKind::Http { url, headers, transport }) => {
            let mut texts: Vec<_> =
                headers.iter().map(|(name, value)| (child_pointer("headers", name), value)).collect();
            texts.push(("url".to_owned(), url));
            define_server(
                mcp_json::http_definition(&entry.name, url, headers.clone(), *transport),
                pointer,
                &texts,
            )
        }
    }
}

/// Rejects variable references: the gateway's environment holds the gateway's own secrets and is never
/// inserted into what a caller sends. `texts` lists every string of the entry with its pointer relative to
/// the entry.
fn define_server(value: Value, pointer: String, texts: &[(String, &String)]) -> ImportAction {
    let detail = "references a variable (${...}), which is not expanded here; write the value itself";
    let references = texts.iter().filter(|(_, text)| text.contains("${"));
    let errors: FieldErrors =
        references.map(|(child, _)| FieldError::new(format!("{pointer}/{child}"), detail)).collect();
    if errors.is_empty() { ImportAction::Define { value, pointer } } else { ImportAction::Reject(errors) }
}

/// Prepends `pointer` to the pointers of errors in a part of a document.
pub fn prefix_pointers(pointer: &str, mut errors: FieldErrors) -> FieldErrors {
    for error in &mut errors {
        error.pointer.insert_str(0, pointer);
    }
    errors
}

/// Replaces members of the stored definition with those of `value`. If the kind of server changes, the stored
/// members do not apply and `value` replaces the whole definition.
pub fn overlay_definition(mut stored: Value, value: &Value) -> Value {
    if stored["kind"] != value["kind"] {
        return value.clone();
    }
    if let (Some(stored), Some(members)) = (stored.as_object_mut(), value.as_object()) {
        stored.extend(members.clone());
    }
    stored
}

fn field_error(diagnostic: Diagnostic) -> FieldError {
    let pointer = diagnostic.path.iter().fold(String::new(), |pointer, key| child_pointer(&pointer, key));
    let line = diagnostic.line.map_or(String::new(), |line| format!(" (line {line})"));
    FieldError::new(pointer, diagnostic.text + &line)
}

/// Servers in one file.
const ENTRIES_MAX: usize = 1000;
