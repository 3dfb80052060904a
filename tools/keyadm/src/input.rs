//! Reads files that the user names, and renders what is wrong in them.

use std::io::{ErrorKind, Read};
use std::path::Path;

use metamcp_config::strict_json::{self, StrictJsonError};
use metamcp_store::definition::FieldError;
use serde_json::Value;

use crate::failure::Failure;
use crate::file_access;

/// Reads a JSON object. An error never quotes a value, which may be a secret.
pub fn read_object(path: &Path) -> Result<Value, Failure> {
    let invalid = |detail: String| Failure::Data(format!("{}: {detail}", path.display()));
    let value = strict_json::parse(read_file(path)?.as_bytes()).map_err(|error| match error {
        StrictJsonError::Malformed { line, column } => {
            invalid(format!("not valid JSON: line {line}, column {column}"))
        }
        StrictJsonError::DuplicateMember(path) => {
            invalid(format!("{} is a duplicate; leave one of them out", path.join("/")))
        }
    })?;
    if value.is_object() { Ok(value) } else { Err(invalid("not a JSON object".into())) }
}

/// Joins all errors, each with the path of its field.
pub fn join_errors(errors: &[FieldError]) -> String {
    let texts: Vec<String> = errors
        .iter()
        .map(|error| format!("{} {}", error.pointer.trim_start_matches('/'), error.detail).trim().to_owned())
        .collect();
    texts.join("; ")
}

/// Reads a whole file; `-` is standard input.
pub fn read_file(path: &Path) -> Result<String, Failure> {
    let unreadable = |error: std::io::Error| {
        if error.kind() == ErrorKind::PermissionDenied {
            return file_access::inaccessible(path, &error);
        }
        let text = format!("cannot read {}: {error}", path.display());
        match error.kind() {
            ErrorKind::NotFound | ErrorKind::IsADirectory => Failure::Usage(text),
            ErrorKind::InvalidData => Failure::Data(text),
            _ => Failure::Unavailable(text),
        }
    };
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().take(FILE_BYTES_MAX + 1).read_to_string(&mut text)
    } else {
        let file = std::fs::File::open(path).map_err(unreadable)?;
        file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)
    };
    read.map_err(unreadable)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(Failure::Data(format!("{} is longer than 4 MiB", path.display())));
    }
    Ok(text)
}

/// The limit of the REST API.
const FILE_BYTES_MAX: u64 = 4 << 20;
