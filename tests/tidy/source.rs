//! Source files, read as text: what is code, what is a comment or a string, and what is a test.

use std::fs;
use std::path::{Path, PathBuf};

/// One source file in three forms of the same length, so that an offset means the same place in each.
pub struct Source {
    /// Relative to the root of the repository, with `/`.
    pub path: String,
    /// As it is.
    pub raw: String,
    /// Comments blanked.
    pub text: String,
    /// Comments, strings and characters blanked.
    pub code: String,
    /// Where test code is: whole files of tests, and what stands under `#[cfg(test)]`.
    pub tests: Vec<std::ops::Range<usize>>,
}

impl Source {
    pub fn new(path: String, raw: String) -> Self {
        let (text, code) = blank(&raw);
        let is_of =
            |folder: &str| path.ends_with(&format!("/{folder}.rs")) || path.contains(&format!("/{folder}/"));
        // The bodies of fuzz targets are test code, too.
        let whole = is_of("tests") || is_of("fuzz") || path.starts_with("tests/");
        let tests = if whole { std::iter::once(0..raw.len()).collect() } else { test_ranges(&code) };
        Self { path, raw, text, code, tests }
    }

    /// `admin` of `src/admin/routes.rs`; `app` of `src/app.rs`.
    pub fn module(&self) -> Option<&str> {
        let rest = self.path.strip_prefix("src/").or_else(|| {
            let (_, rest) = self.path.strip_prefix("crates/")?.split_once("/src/")?;
            Some(rest)
        })?;
        Some(rest.split_once('/').map_or_else(|| rest.trim_end_matches(".rs"), |(module, _)| module))
    }

    pub fn is_test(&self, offset: usize) -> bool {
        self.tests.iter().any(|range| range.contains(&offset))
    }

    pub fn at(&self, offset: usize) -> String {
        format!("{}:{}", self.path, 1 + self.raw[..offset].matches('\n').count())
    }

    /// Where `needle` stands outside tests.
    pub fn find<'a>(&'a self, haystack: &'a str, needle: &'a str) -> impl Iterator<Item = usize> + 'a {
        haystack.match_indices(needle).map(|(at, _)| at).filter(|at| !self.is_test(*at))
    }

    /// Where `word` stands as a whole word of code outside tests.
    pub fn words<'a>(&'a self, word: &'a str) -> impl Iterator<Item = usize> + 'a {
        self.find(&self.code, word).filter(move |at| is_whole(&self.code, *at, word.len()))
    }
}

pub fn is_whole(text: &str, at: usize, len: usize) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    !text[..at].ends_with(part) && !text[at + len..].starts_with(part)
}

/// The text without comments, and without comments, strings and characters. Both as long as the input.
fn blank(raw: &str) -> (String, String) {
    let bytes = raw.as_bytes();
    let (mut text, mut code) = (bytes.to_vec(), bytes.to_vec());
    let mut at = 0;
    while at < bytes.len() {
        let rest = &raw[at..];
        let (len, comment) = if rest.starts_with("//") {
            (rest.find('\n').unwrap_or(rest.len()), true)
        } else if rest.starts_with("/*") {
            (block_comment(rest), true)
        } else if let Some(len) = string(raw, at) {
            (len, false)
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
            continue;
        };
        for form in if comment { vec![&mut text, &mut code] } else { vec![&mut code] } {
            form[at..at + len].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
        }
        at += len;
    }
    let whole = |form| String::from_utf8(form).expect("whole tokens were blanked");
    (whole(text), whole(code))
}

fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest[at..].starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// The length of the string or character literal that begins at `at`, if one does.
fn string(raw: &str, at: usize) -> Option<usize> {
    let rest = &raw[at..];
    let word_before = raw[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
    // r"", r#""#, br#""#, cr#""#: the hashes behind the r close it again.
    let prefix = ["br", "cr", "r"].into_iter().find(|prefix| !word_before && rest.starts_with(prefix));
    if let Some(prefix) = prefix {
        let hashes = rest[prefix.len()..].bytes().take_while(|byte| *byte == b'#').count();
        let open = prefix.len() + hashes;
        if rest[open..].starts_with('"') {
            let close = format!("\"{}", "#".repeat(hashes));
            return Some(
                rest[open + 1..].find(&close).map_or(rest.len(), |end| open + 1 + end + close.len()),
            );
        }
    }
    if rest.starts_with('"') {
        return Some(until(rest, '"'));
    }
    // 'a' is a character, 'a a lifetime.
    let mut chars = rest.strip_prefix('\'')?.chars();
    let first = chars.next()?;
    (first == '\\' || chars.next() == Some('\'')).then(|| until(rest, '\''))
}

fn until(rest: &str, close: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == close => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// How the attributes of test code begin. The second is that of the bodies of fuzz targets.
const TEST_ATTRIBUTES: [&str; 2] = ["#[cfg(test)", "#[cfg(any(test, feature ="];

/// What each attribute of test code covers: to the closing brace of the item, or to its semicolon.
fn test_ranges(code: &str) -> Vec<std::ops::Range<usize>> {
    let mut ranges = Vec::new();
    for (start, attribute) in TEST_ATTRIBUTES.iter().flat_map(|begun| code.match_indices(begun)) {
        let body =
            code[start + attribute.len()..].find(']').map_or(code.len(), |end| start + attribute.len() + end);
        let open = code[body..].find(['{', ';']).map_or(code.len(), |n| body + n);
        ranges.push(start..if code[open..].starts_with('{') { closing(code, open) } else { open + 1 });
    }
    ranges
}

/// Behind the brace that closes the one at `open`.
pub fn closing(code: &str, open: usize) -> usize {
    let mut depth = 0;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    code.len()
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file with that ending below the given folders of the repository, in a fixed order.
fn files(folders: &[&str], extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = folders.iter().map(|folder| root().join(folder)).collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.expect("a folder of sources can be read").path();
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

pub fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub fn sources(folders: &[&str]) -> Vec<Source> {
    let relative =
        |path: &Path| path.strip_prefix(root()).unwrap_or(path).display().to_string().replace('\\', "/");
    let sources: Vec<_> =
        files(folders, "rs").into_iter().map(|path| Source::new(relative(&path), read(&path))).collect();
    assert!(!sources.is_empty(), "no sources found below {folders:?}: this test would check nothing");
    sources
}
