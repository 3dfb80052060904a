//! The `mcpServers` file, as far as its place on disk matters: what is wrong with it, said with where.

use super::mistakes::{Place, Report, quote};
use crate::admin::definition::mcp_json::{self, Kind, Mistake};

/// One server as the file has it, without mistakes.
#[derive(Debug)]
pub(super) struct Entry {
    pub name: String,
    pub place: Place,
    pub kind: Kind,
}

/// Every server of the file, in the order written. Mistakes in one do not hide the others.
pub(super) fn parse(source: &str, text: &str, report: &Report) -> Vec<Entry> {
    let file = mcp_json::parse(text);
    let place = |line, path: &[String]| {
        path.iter().fold(Place::file(source, line, ""), |place, key| place.below(key))
    };
    let tell = |Mistake { line, path, text }: Mistake| report.mistake(&place(line, &path), text);
    let read = |mcp_json::Entry { name, path, kind, notices }: mcp_json::Entry| {
        for Mistake { line, path, text } in notices {
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
    file.mistakes.into_iter().for_each(tell);
    entries
}

/// `"my server" is served as "my-server"`.
pub(crate) fn renamed(written: &str, name: &str) -> String {
    format!(
        "{} is no server name (letters, digits, - and single _); it is served as {}",
        quote(written),
        quote(name)
    )
}
