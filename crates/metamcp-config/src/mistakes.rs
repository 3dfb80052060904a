//! Errors and notices of the configuration, each with the location of the value.

use std::cell::RefCell;
use std::fmt;

/// Where a value comes from: a file with line and key, a variable, or a flag.
///
/// `Display`: `metamcp.toml:12: server.port`, `environment: SERVER_PORT`, `command line: --host`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceLocation {
    source: String,
    line: Option<usize>,
    key: String,
}

/// An error in the configuration. Says what to write instead, and never quotes a value that may be a secret:
/// an address, a header, a variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    place: SourceLocation,
    text: String,
}

/// Something that was skipped or changed while reading, and does not prevent a start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigNotice {
    place: SourceLocation,
    text: String,
}

/// Every error, in the order of reading. Never empty. `Display` prints one error per line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(Vec<ConfigError>);

/// Collects errors and notices. Shared by reference, so that every reader can add to it.
#[derive(Debug, Default)]
pub(super) struct Diagnostics {
    mistakes: RefCell<Vec<ConfigError>>,
    notices: RefCell<Vec<ConfigNotice>>,
}

/// A value with its location.
#[derive(Debug, Clone)]
pub(super) struct WithLocation<T> {
    pub value: T,
    pub place: SourceLocation,
}

impl SourceLocation {
    pub(super) fn file(source: &str, line: Option<usize>, key: &str) -> Self {
        Self { source: printable(source), line, key: printable(key) }
    }

    /// A variable of the environment.
    pub(super) fn variable(name: &str) -> Self {
        Self::file("environment", None, name)
    }

    /// An argument of the command line.
    pub(super) fn flag(name: &str) -> Self {
        Self::file("command line", None, name)
    }

    /// A key below this one, in the same file and line.
    pub(super) fn below(&self, key: &str) -> Self {
        let key = if self.key.is_empty() { key.to_owned() } else { format!("{}.{key}", self.key) };
        Self::file(&self.source, self.line, &key)
    }

    /// The name of the value within its source.
    pub(super) fn key(&self) -> &str {
        &self.key
    }

    pub(super) fn on_line(self, line: usize) -> Self {
        Self { line: Some(line), ..self }
    }
}

impl Diagnostics {
    pub fn mistake(&self, place: &SourceLocation, text: impl Into<String>) {
        self.mistakes.borrow_mut().push(ConfigError { place: place.clone(), text: text.into() });
    }

    pub fn notice(&self, place: &SourceLocation, text: impl Into<String>) {
        self.notices.borrow_mut().push(ConfigNotice { place: place.clone(), text: text.into() });
    }

    /// Returns the notices, or the errors if there are any.
    pub fn finish(self) -> Result<Vec<ConfigNotice>, ConfigErrors> {
        let mistakes = self.mistakes.into_inner();
        if mistakes.is_empty() { Ok(self.notices.into_inner()) } else { Err(ConfigErrors(mistakes)) }
    }
}

impl ConfigErrors {
    pub fn iter(&self) -> std::slice::Iter<'_, ConfigError> {
        self.0.iter()
    }

    /// The number of errors, at least one.
    #[expect(clippy::len_without_is_empty, reason = "it never is")]
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl<'a> IntoIterator for &'a ConfigErrors {
    type Item = &'a ConfigError;
    type IntoIter = std::slice::Iter<'a, ConfigError>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for SourceLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if self.key.is_empty() { Ok(()) } else { write!(f, ": {}", self.key) }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.text)
    }
}

impl fmt::Display for ConfigNotice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.text)
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for mistake in self.0.iter().take(SHOWN_MAX) {
            writeln!(f, "{mistake}")?;
        }
        match self.0.len() {
            1 => f.write_str("1 mistake; nothing was started"),
            n if n > SHOWN_MAX => write!(f, "... {n} mistakes in all; nothing was started"),
            n => write!(f, "{n} mistakes; nothing was started"),
        }
    }
}

impl std::error::Error for ConfigErrors {}

/// Quotes a name: shortened, and without control characters, because it is printed to a terminal or a log.
pub(super) fn quote(text: &str) -> String {
    format!("\"{}\"", printable(text))
}

/// Shortens a text and escapes control characters.
pub(super) fn printable(text: &str) -> String {
    let mut clipped: String = text.chars().take(PLACE_CHARS_MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(PLACE_CHARS_MAX).is_some() {
        clipped.push_str("...");
    }
    clipped
}

/// A longer list does not help: a file with a hundred errors is not a configuration.
const SHOWN_MAX: usize = 100;

/// Enough for a path and a key.
const PLACE_CHARS_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_place() {
        let check = |place: SourceLocation, expected: &str| assert_eq!(place.to_string(), expected);
        check(SourceLocation::file("metamcp.toml", Some(12), "server.port"), "metamcp.toml:12: server.port");
        check(SourceLocation::variable("SERVER_PORT"), "environment: SERVER_PORT");
        check(SourceLocation::flag("--host"), "command line: --host");
        check(SourceLocation::file("mcp.json", None, "").below("a").below("b"), "mcp.json: a.b");
        check(SourceLocation::file("mcp.json", None, "a\u{1b}[31m"), "mcp.json: a\\u{1b}[31m");
    }

    #[test]
    fn shows_a_bounded_number() {
        let report = Diagnostics::default();
        for _ in 0..1000 {
            report.mistake(&SourceLocation::flag("--x"), "wrong");
        }
        let text = report.finish().unwrap_err().to_string();
        assert_eq!(text.lines().count(), SHOWN_MAX + 1);
        assert!(text.ends_with("... 1000 mistakes in all; nothing was started"), "{text}");
    }
}
