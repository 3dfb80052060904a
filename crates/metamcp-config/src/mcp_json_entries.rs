//! Reads `mcp.json` from disk and locates its errors.

use super::mistakes::{Diagnostics, SourceLocation, quote};
use crate::mcp_json::{self, Diagnostic, EntryKind};

/// A valid entry of the file, with its location.
#[derive(Debug)]
pub(super) struct Entry {
    pub name: String,
    pub place: SourceLocation,
    pub kind: EntryKind,
}

/// Reads the entries in the order of the file. Errors in one entry do not affect the others.
pub(super) fn parse(source: &str, text: &str, report: &Diagnostics) -> Vec<Entry> {
    let file = mcp_json::parse(text);
    let place = |line, path: &[String]| {
        path.iter().fold(SourceLocation::file(source, line, ""), |place, key| place.below(key))
    };
    let tell = |Diagnostic { line, path, text }: Diagnostic| report.mistake(&place(line, &path), text);
    let read = |mcp_json::McpJsonEntry { name, path, kind, notices }: mcp_json::McpJsonEntry| {
        for Diagnostic { line, path, text } in notices {
            report.notice(&place(line, &path), text);
        }
        match kind {
            Ok(kind) => Some(Entry { name, place: place(None, &path), kind }),
            Err(mistakes) => {
                mistakes.into_iter().for_each(tell);
                None
            }
        }
    };
    let entries = file.entries.into_iter().filter_map(read).collect();
    file.errors.into_iter().for_each(tell);
    for Diagnostic { line, path, text } in file.notices {
        report.notice(&place(line, &path), text);
    }
    entries
}

/// The notice about an entry whose name is not a valid server name.
pub(crate) fn renamed(written: &str, name: &str) -> String {
    format!(
        "{} is no server name (letters, digits, - and single _); it is served as {}",
        quote(written),
        quote(name)
    )
}
