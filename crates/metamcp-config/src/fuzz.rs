//! The bodies of the fuzz targets for the configuration files. Each panics if an invariant does not hold.
//!
//! Each file is read twice: as it is, and with a secret before the text of every address, header and variable in it. Then
//! no error, notice or summary may quote the secret.

use std::ffi::OsString;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::Value;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::cli::Flags;
use super::describe::Summary;
use super::mcp_json::strip_comments;
use super::mistakes::Diagnostics;
use super::raw::{Env, Raw, TextFile, Variables};
use super::resolve;

/// Reads a `metamcp.toml`.
pub fn metamcp_toml(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let is_quoted = resolve_files(Some(&text), None, false);
    if let Some(text) = toml_with_secrets(&text).filter(|_| !is_quoted) {
        resolve_files(Some(&text), None, true);
    }
}

/// Reads an `mcp.json`.
pub fn mcp_json(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    resolve_files(None, Some(&text), false);
    let plain = strip_comments(&text);
    assert_eq!(plain.len(), text.len());
    assert!(plain.lines().count() == text.lines().count(), "an error names a line of the file");
    if let Ok(value) = serde_json::from_str::<Value>(&text) {
        assert_eq!(serde_json::from_str::<Value>(&plain).ok(), Some(value), "JSON means what it means");
    }
    let Ok(mut value) = serde_json::from_str::<Value>(&plain) else { return };
    // An object keeps one of the members of one name, so that this file has no duplicates, and more of it is read.
    if resolve_files(None, Some(&value.to_string()), false) {
        return;
    }
    add_secrets(&mut value, false);
    resolve_files(None, Some(&value.to_string()), true);
}

/// No word of a configuration. A fuzzer finds it, and makes a name of it.
const SECRET: &str = "s3cr3t-c4n4ry";

/// The variables that a file can refer to.
struct FixedVariables;

impl Env for FixedVariables {
    fn var(&self, name: &str) -> Option<OsString> {
        let value = match name {
            "HOME" => "/nonexistent",
            "TOKEN" => SECRET,
            "EMPTY" => "",
            _ => return None,
        };
        Some(value.into())
    }
}

/// Resolves the files. `has_secrets`: whether the secret is where secrets are, and nowhere else. Without, the file may contain
/// it anywhere, which matters only if it cannot be read. Returns whether it is quoted.
fn resolve_files(toml: Option<&str>, mcp_json: Option<&str>, has_secrets: bool) -> bool {
    let report = Diagnostics::default();
    let folder = Path::new("/nonexistent");
    let file = |name: &str, text: Option<&str>| {
        text.map(|text| TextFile { path: folder.join(name), text: text.to_owned() })
    };
    let flags = Flags::default();
    let raw = Raw {
        audience: super::raw::Audience::Network,
        flags: &flags,
        variables: Variables::read(&FixedVariables, folder, &report),
        data_dir: PathBuf::from(folder),
        toml: file("metamcp.toml", toml),
        mcp_json: file("mcp.json", mcp_json),
        candidates: Vec::new(),
        missing: Vec::new(),
        loaded_at: std::time::SystemTime::UNIX_EPOCH,
    };
    let told = match resolve::resolve(&raw, report) {
        Ok(config) => Summary(&config).to_string(),
        Err(errors) => {
            assert_eq!(errors.iter().count(), errors.len());
            errors.to_string()
        }
    };
    let quotes = |line: &&str| line.contains(SECRET);
    let is_unreadable =
        |line: &str| line.contains(": is not TOML") || line.contains(": is not a JSON object");
    let quoting = told.lines().find(|line| quotes(line) && (has_secrets || is_unreadable(line)));
    assert_eq!(quoting, None, "an address, a header or a variable is quoted");
    assert!(told.chars().all(|c| !c.is_control() || c == '\n'), "{told:?} goes to a terminal");
    told.contains(SECRET)
}

/// The file with secrets in it. `None` if it is no TOML.
fn toml_with_secrets(text: &str) -> Option<String> {
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        return None;
    }
    let mut places = Vec::new();
    for (section, value) in table.get_ref() {
        for (_, server) in value.get_ref().as_table().into_iter().flatten() {
            if section.get_ref() == "servers" {
                collect_secret_places(server, &mut places);
            }
        }
    }
    places.sort_by_key(|(range, _)| std::cmp::Reverse(range.start));
    let mut text = text.to_owned();
    for (range, value) in places {
        text.replace_range(range, &Value::String(value).to_string());
    }
    Some(text)
}

/// The strings of a server that are secret, with the text that replaces each.
fn collect_secret_places(server: &Spanned<DeValue<'_>>, places: &mut Vec<(Range<usize>, String)>) {
    for (key, value) in server.get_ref().as_table().into_iter().flatten() {
        let mut add = |value: &Spanned<DeValue<'_>>| {
            if let Some(text) = value.get_ref().as_str() {
                places.push((value.span(), secret_text(text)));
            }
        };
        match key.get_ref().as_ref() {
            "url" | "bearer" => add(value),
            "headers" | "env" => {
                value.get_ref().as_table().into_iter().flatten().for_each(|(_, value)| add(value));
            }
            _ => {}
        }
    }
}

/// Puts the secret into all addresses, headers and variables below a value.
fn add_secrets(value: &mut Value, is_secret: bool) {
    match value {
        Value::String(text) if is_secret => *text = secret_text(text),
        Value::Array(items) => items.iter_mut().for_each(|item| add_secrets(item, false)),
        Value::Object(members) => {
            for (name, value) in members {
                let is_secret =
                    matches!(name.as_str(), "url" | "serverUrl" | "httpUrl" | "headers" | "env") || is_secret;
                add_secrets(value, is_secret);
            }
        }
        _ => {}
    }
}

/// A text with the secret in it: of an address as the name of a user, so that it stays an address. The path of a socket has
/// no place for one.
fn secret_text(text: &str) -> String {
    match text.split_once("://") {
        Some(("unix", _)) => text.to_owned(),
        Some((scheme @ ("http" | "https"), rest)) => format!("{scheme}://{SECRET}@{rest}"),
        _ => format!("{SECRET}{text}"),
    }
}

#[cfg(test)]
mod tests {
    use metamcp_core::fuzz::run_corpus;

    use super::*;

    #[test]
    fn corpora() {
        run_corpus("metamcp_toml", metamcp_toml);
        run_corpus("mcp_json", mcp_json);
    }

    #[test]
    fn secrets_are_put_where_secrets_are() {
        let text = "[servers.a]\nurl = 'http://h/'\nheaders.x = \"v\"\n[other]\nurl = 'u'\n";
        let expected = format!(
            "[servers.a]\nurl = \"http://{SECRET}@h/\"\nheaders.x = \"{SECRET}v\"\n[other]\nurl = 'u'\n"
        );
        assert_eq!(toml_with_secrets(text), Some(expected));
        let mut value = serde_json::json!({"a": {"url": "u", "env": {"b": "c"}, "args": ["d"]}});
        add_secrets(&mut value, false);
        let expected = serde_json::json!({"a": {"url": format!("{SECRET}u"), "env": {"b": format!("{SECRET}c")}, "args": ["d"]}});
        assert_eq!(value, expected);
    }
}
