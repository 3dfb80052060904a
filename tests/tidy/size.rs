//! How long functions and files may be.

use crate::none;
use crate::source::{Source, closing, sources};

/// Nobody keeps more in mind.
const FUNCTION_LINES_MAX: usize = 70;
const FILE_LINES_MAX: usize = 500;

/// What is over a limit and may stay for now, as `path` or `path::function`, with the lines it has. It only
/// shrinks: an entry that is no longer needed, or could be lower, fails.
const RATCHET: &[(&str, usize)] = &[];

/// The functions of a file outside tests: name, where, lines.
pub fn functions(source: &Source) -> Vec<(String, usize, usize)> {
    let mut found = Vec::new();
    for at in source.words("fn") {
        let rest = &source.code[at + 2..];
        let name: String =
            rest.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        // Without a name it is a type, with a semicolon first only a signature.
        let Some(open) = end_of_signature(rest).filter(|n| !name.is_empty() && rest[*n..].starts_with('{'))
        else {
            continue;
        };
        let open = at + 2 + open;
        let lines = source.raw[open..closing(&source.code, open)].matches('\n').count();
        found.push((name, at, lines.saturating_sub(1)));
    }
    found
}

/// Where the body of a function begins, or the semicolon in its place stands. `[u8; 4]` in the signature is neither.
fn end_of_signature(rest: &str) -> Option<usize> {
    let mut brackets = 0_usize;
    rest.char_indices().find_map(|(at, c)| {
        match c {
            '[' => brackets += 1,
            ']' => brackets = brackets.saturating_sub(1),
            _ => {}
        }
        (brackets == 0 && matches!(c, '{' | ';')).then_some(at)
    })
}

/// Lines outside tests.
pub fn file_lines(source: &Source) -> usize {
    let offsets = source.raw.match_indices('\n').map(|(at, _)| at);
    offsets.filter(|at| !source.is_test(*at)).count()
}

#[test]
pub fn functions_and_files_are_short() {
    let mut found = Vec::new();
    let mut sizes = Vec::new();
    for source in sources(&["src", "crates", "tools"]) {
        sizes.push((source.path.clone(), source.path.clone(), file_lines(&source), FILE_LINES_MAX));
        for (name, at, lines) in functions(&source) {
            sizes.push((format!("{}::{name}", source.path), source.at(at), lines, FUNCTION_LINES_MAX));
        }
    }
    for (key, at, lines, max) in &sizes {
        let max = RATCHET.iter().find(|(name, _)| name == key).map_or(*max, |(_, lines)| *lines);
        if *lines > max {
            found.push(format!("{at}: {key} has {lines} lines, {max} are allowed"));
        }
    }
    for (name, lines) in RATCHET {
        if !sizes.iter().any(|(key, _, found, max)| key == name && found == lines && found > max) {
            found.push(format!("RATCHET: {name} is shorter now or gone: lower the entry, or take it out"));
        }
    }
    none(&found, "part it into pieces that have names:");
}
