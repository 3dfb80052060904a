//! Reads one entry of the file. Clients use different names for the same things; all of them are accepted.

use serde_json::Value;

use super::entry::{Diagnostic, EntryKind, HttpTransport};

pub(super) type JsonObject = serde_json::Map<String, Value>;

pub(super) fn read_entry_kind(fields: &JsonObject, path: &[&str]) -> Result<EntryKind, Vec<Diagnostic>> {
    if fields.get("disabled") == Some(&Value::Bool(true))
        || fields.get("enabled") == Some(&Value::Bool(false))
    {
        return Ok(EntryKind::Skip("it is disabled"));
    }
    let path_to = |key| [path, &[key]].concat();
    let url =
        ["url", "serverUrl", "httpUrl"].into_iter().find_map(|key| fields.get(key).map(|url| (key, url)));
    let has_command = fields.contains_key("command");
    let declared = ["type", "transport"].into_iter().find_map(|key| fields.get(key).map(|v| (key, v)));
    let transport = match declared {
        Some((key, value)) => match parse_transport(value) {
            Some(transport) => transport,
            None => return fail(&path_to(key), TRANSPORT_FORM),
        },
        None if url.is_some() && has_command => {
            return fail(path, "has both command and url; say which with type: \"http\" or \"stdio\"");
        }
        None if has_command => DeclaredTransport::Stdio,
        None => DeclaredTransport::Http(HttpTransport::Unspecified),
    };
    match (transport, url) {
        (DeclaredTransport::Stdio, _) => read_program(fields, path),
        (DeclaredTransport::Http(transport), Some((_, Value::String(url)))) => Ok(EntryKind::Http {
            url: url.clone(),
            headers: read_text_map(fields, "headers", path)?,
            transport,
        }),
        (DeclaredTransport::Http(_), Some((key, _))) => fail(&path_to(key), NOT_A_STRING),
        (DeclaredTransport::Http(_), None) => fail(path, "has no url; write \"url\": \"http://...\""),
    }
}

/// Reports members that clients support and the gateway does not, and values that are taken as strings.
pub(super) fn collect_notices(fields: &JsonObject, path: &[&str]) -> Vec<Diagnostic> {
    let mut notices = Vec::new();
    if fields.get("envFile").is_some_and(|file| !file.is_null()) {
        notices.push(Diagnostic::new(&[path, &["envFile"]].concat(), ENV_FILE_IGNORED));
    }
    let is_scalar = |value: &Value| value.is_number() || value.is_boolean();
    if fields.get("args").and_then(Value::as_array).is_some_and(|args| args.iter().any(is_scalar)) {
        notices.push(Diagnostic::new(&[path, &["args"]].concat(), TAKEN_AS_STRING));
    }
    for (name, value) in fields.get("env").and_then(Value::as_object).into_iter().flatten() {
        if is_scalar(value) {
            notices.push(Diagnostic::new(&[path, &["env", name]].concat(), TAKEN_AS_STRING));
        }
    }
    notices
}

fn read_program(fields: &JsonObject, path: &[&str]) -> Result<EntryKind, Vec<Diagnostic>> {
    let mut errors = Vec::new();
    let mut text = |key: &str| match fields.get(key) {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text.clone()),
        Some(_) => {
            errors.push(Diagnostic::new(&[path, &[key]].concat(), NOT_A_STRING));
            None
        }
    };
    let (command, cwd) = (text("command"), text("cwd"));
    let args = match fields.get("args") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(items)) if items.iter().all(|item| scalar_text(item).is_some()) => {
            items.iter().filter_map(scalar_text).collect()
        }
        Some(_) => {
            let text = "is not a list of strings; write [\"...\"]";
            errors.push(Diagnostic::new(&[path, &["args"]].concat(), text));
            Vec::new()
        }
    };
    let env = read_text_map(fields, "env", path).unwrap_or_else(|env_errors| {
        errors.extend(env_errors);
        Vec::new()
    });
    if !errors.is_empty() {
        return Err(errors);
    }
    match command {
        Some(command) => Ok(EntryKind::Stdio { command, args, env, cwd }),
        None => fail(path, "has no command; write \"command\": \"npx\""),
    }
}

/// The text of an argument. Clients also accept numbers and booleans, and pass them on as text.
fn scalar_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        _ => None,
    }
}

#[derive(Clone, Copy)]
enum DeclaredTransport {
    Http(HttpTransport),
    Stdio,
}

/// Parses the names that clients use for the transports, ignoring case and separators.
fn parse_transport(value: &Value) -> Option<DeclaredTransport> {
    let is_letter = |c: &char| !matches!(c, '-' | '_' | ' ');
    let name: String =
        value.as_str()?.chars().filter(is_letter).take(32).collect::<String>().to_ascii_lowercase();
    match name.as_str() {
        "http" | "https" | "streamablehttp" | "streaminghttp" | "remote" => {
            Some(DeclaredTransport::Http(HttpTransport::Streamable))
        }
        "sse" | "httpsse" => Some(DeclaredTransport::Http(HttpTransport::Sse)),
        "stdio" | "std" | "local" | "command" => Some(DeclaredTransport::Stdio),
        _ => None,
    }
}

/// Reads an object of strings. In `env`, numbers and booleans are taken as strings, as clients do.
fn read_text_map(
    fields: &JsonObject,
    key: &str,
    path: &[&str],
) -> Result<Vec<(String, String)>, Vec<Diagnostic>> {
    let path = [path, &[key]].concat();
    match fields.get(key) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Object(members)) => {
            let (mut texts, mut errors) = (Vec::new(), Vec::new());
            for (name, value) in members {
                let path = [&path[..], &[name]].concat();
                let is_same_header = |(other, _): &(String, String)| other.eq_ignore_ascii_case(name);
                match value {
                    Value::String(_) if key == "headers" && texts.iter().any(is_same_header) => {
                        errors.push(Diagnostic::new(&path, DUPLICATE_HEADER));
                    }
                    Value::String(value) => texts.push((name.clone(), value.clone())),
                    Value::Number(_) | Value::Bool(_) if key == "env" => {
                        texts.push((name.clone(), value.to_string()));
                    }
                    _ => errors.push(Diagnostic::new(&path, NOT_A_STRING)),
                }
            }
            if errors.is_empty() { Ok(texts) } else { Err(errors) }
        }
        Some(_) => fail(&path, "is not an object of strings; write {\"Name\": \"value\"}"),
    }
}

pub(super) fn fail<T>(path: &[&str], text: &str) -> Result<T, Vec<Diagnostic>> {
    Err(vec![Diagnostic::new(path, text)])
}

const DUPLICATE_HEADER: &str = "is a duplicate: header names are case-insensitive; leave one of them out";

const ENV_FILE_IGNORED: &str =
    "is ignored; write its variables into env, or set them in the environment of metamcp";

const NOT_A_STRING: &str = "is not a string";

const TAKEN_AS_STRING: &str = "is taken as a string; write it in quotes";

const TRANSPORT_FORM: &str = "is not a transport; write \"http\", \"sse\" or \"stdio\"";
