//! Limits for the names and texts that an endpoint gives to tools.

use serde_json::Value;

/// Whether a tool may be listed under this name.
pub fn check_listed_name(name: &str) -> Result<(), String> {
    let is_name = |name: &str| {
        name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'/'))
    };
    if (1..=NAME_MAX).contains(&name.len()) && is_name(name) {
        Ok(())
    } else {
        Err(format!("is not a tool name: write 1 to {NAME_MAX} characters of A-Z a-z 0-9 _ - . /"))
    }
}

/// Whether a server may list a tool under this name.
pub fn check_server_tool_name(tool: &str) -> Result<(), String> {
    if (1..=NAME_MAX).contains(&tool.len()) && !tool.contains(char::is_control) {
        Ok(())
    } else {
        Err(format!("is not a name of 1 to {NAME_MAX} bytes"))
    }
}

/// Checks the title of a tool.
pub fn check_title(text: &str) -> Result<(), String> {
    check_text(text, TITLE_MAX)
}

/// Checks the description of a tool.
pub fn check_description(text: &str) -> Result<(), String> {
    check_text(text, DESCRIPTION_MAX)
}

/// Checks the annotations of a tool.
pub fn check_annotations(value: &Value) -> Result<(), String> {
    if !value.is_object() {
        return Err("is not an object".to_owned());
    }
    if value.to_string().len() > ANNOTATIONS_BYTES_MAX {
        return Err(format!("has more than {ANNOTATIONS_BYTES_MAX} bytes as JSON"));
    }
    Ok(())
}

fn check_text(text: &str, chars_max: usize) -> Result<(), String> {
    if text.chars().count() > chars_max || text.contains('\0') {
        return Err(format!("has more than {chars_max} characters, or a NUL"));
    }
    Ok(())
}

/// The limit of the specification for tool names (MCP 2026-07-28, tools).
const NAME_MAX: usize = 128;

/// A title is one line.
const TITLE_MAX: usize = 256;

/// The description becomes part of a model's context.
const DESCRIPTION_MAX: usize = 16_384;

/// Annotations are a title and a few hints, and part of every list.
const ANNOTATIONS_BYTES_MAX: usize = 4096;
