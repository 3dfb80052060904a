//! Reads one entry of the file. Clients use different names for the same things; all of them are accepted.

use serde_json::Value;

use super::entry::{Diagnostic, EntryKind, HttpTransport};
use crate::mistakes::quote;
use crate::suggest::nearest;

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
        None if url.is_none() => return fail(path, &neither_command_nor_url(fields)),
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

/// The error of an entry that is neither a program nor reached over HTTP. A member with nearly the right name is named.
fn neither_command_nor_url(fields: &JsonObject) -> String {
    let mut unknown = fields.keys().filter(|name| !MEMBERS.contains(&name.as_str()));
    let near = |name: &String| nearest(name, ["command", "url"]).map(|near| (name.clone(), near));
    let hint = unknown.find_map(near).map_or(String::new(), |(name, near)| {
        format!("; did you mean {} instead of {}?", quote(near), quote(&name))
    });
    format!("has neither command nor url; write \"command\": \"npx\" or \"url\": \"http://...\"{hint}")
}

/// Reports members that have no effect, and values that are taken as strings.
pub(super) fn collect_notices(fields: &JsonObject, path: &[&str]) -> Vec<Diagnostic> {
    let mut notices = Vec::new();
    for name in fields.keys() {
        if let Some(text) = without_effect(name) {
            notices.push(Diagnostic::new(&[path, &[name]].concat(), &text));
        }
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

/// Why a member has no effect. `None` if it has one.
fn without_effect(name: &str) -> Option<String> {
    if MEMBERS.contains(&name) {
        return None;
    }
    if let Some((_, instead)) = CLIENT_MEMBERS.iter().find(|(member, _)| *member == name) {
        return Some(format!("is a setting of the client, and has no effect here{instead}"));
    }
    let hint =
        nearest(name, MEMBERS).map_or(String::new(), |near| format!("; did you mean {}?", quote(near)));
    Some(format!("is unknown, and has no effect{hint}"))
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
    let (command, cwd, env_file) = (text("command"), text("cwd"), text("envFile"));
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
        Some(command) => Ok(EntryKind::Stdio { command, args, env, env_file, cwd }),
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

/// The members of an entry that have an effect.
const MEMBERS: [&str; 14] = [
    "args",
    "command",
    "cwd",
    "disabled",
    "enabled",
    "env",
    "envFile",
    "headers",
    "httpUrl",
    "serverUrl",
    "transport",
    "type",
    "url",
    "name",
];

/// Members that clients read, each with what to write for metamcp instead.
const CLIENT_MEMBERS: [(&str, &str); 21] = [
    ("alwaysAllow", TOOLS),
    ("auth", HEADERS),
    ("authProviderType", HEADERS),
    ("autoApprove", TOOLS),
    ("description", ""),
    ("dev", ""),
    ("disabledTools", TOOLS),
    ("enabledTools", TOOLS),
    ("excludeTools", TOOLS),
    ("gallery", ""),
    ("includeTools", TOOLS),
    ("initTimeout", TIMEOUTS),
    ("oauth", HEADERS),
    ("sandbox", "; write confine of the server in metamcp.toml"),
    ("startup_timeout_sec", TIMEOUTS),
    ("timeout", TIMEOUTS),
    ("tool_timeout_sec", TIMEOUTS),
    ("toolTimeout", TIMEOUTS),
    ("tools", TOOLS),
    ("trust", ""),
    ("version", ""),
];

const TOOLS: &str = "; write which tools an endpoint shows into metamcp.toml";

const HEADERS: &str = "; write the credential into headers";

const TIMEOUTS: &str = "; write call_timeout or start_timeout of the server into metamcp.toml";

const NOT_A_STRING: &str = "is not a string";

const TAKEN_AS_STRING: &str = "is taken as a string; write it in quotes";

const TRANSPORT_FORM: &str = "is not a transport; write \"http\", \"sse\" or \"stdio\"";
