//! Expansion of variable references such as `${NAME}`.

use std::path::Path;

use super::mistakes::{Diagnostics, WithLocation};
use super::raw::{NotUnicode, Variables};

/// What readers of values with variable references share.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub variables: &'a Variables<'a>,
    pub report: &'a Diagnostics,
    /// The folder that editors call the workspace, in a file that is written for editors.
    pub workspace: Option<&'a Path>,
}

impl Context<'_> {
    /// Expands variable references. Reports errors and returns `None` if there are any.
    pub(super) fn expand(&self, written: &WithLocation<&str>) -> Option<String> {
        match expand(written.value, self.variables, self.workspace) {
            Ok(text) => Some(text),
            Err(mistakes) => {
                for text in mistakes {
                    self.report.mistake(&written.place, text);
                }
                None
            }
        }
    }
}

/// Expands variable references: `${NAME}`, `${env:NAME}` (as VS Code writes it), and `${NAME:-default}`,
/// whose default applies if the variable is unset or empty. `$${` stands for `${` itself. An unset variable
/// is an error, and all errors are returned. They name variables, never values.
///
/// In a file for editors, also those of their variables whose values are known ([`editor_variable`]).
pub(super) fn expand(
    text: &str,
    variables: &Variables<'_>,
    workspace: Option<&Path>,
) -> Result<String, Vec<String>> {
    let mut expanded = String::with_capacity(text.len());
    let mut mistakes = Vec::new();
    for part in parts(text) {
        match part {
            Part::Text(text) => expanded.push_str(text),
            Part::Reference(written) => match variable(written, variables, workspace) {
                Ok(value) => expanded.push_str(&value),
                Err(mistake) => mistakes.push(mistake),
            },
            Part::Unclosed => {
                mistakes.push("has a ${ without its }; write $${ if you mean the characters".to_owned());
            }
        }
        if expanded.len() > EXPANDED_BYTES_MAX {
            mistakes.push("is longer than 64 KiB with its variables put in".to_owned());
            break;
        }
    }
    if mistakes.is_empty() { Ok(expanded) } else { Err(mistakes) }
}

/// A part of a text with references.
enum Part<'a> {
    /// Text that stands for itself.
    Text(&'a str),
    /// What is between `${` and `}`.
    Reference(&'a str),
    /// A `${` without its `}`, and the rest of the text.
    Unclosed,
}

fn parts(mut rest: &str) -> impl Iterator<Item = Part<'_>> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (part, after) = match (rest.strip_prefix("${"), rest.find("${")) {
            (Some(inner), _) => match inner.split_once('}') {
                Some((written, after)) => (Part::Reference(written), after),
                None => (Part::Unclosed, ""),
            },
            // `$${` stands for `${`: the second dollar is left out, and without it the brace begins no reference.
            (None, Some(start)) if rest[..start].ends_with('$') => {
                (Part::Text(&rest[..start]), &rest[start + 1..])
            }
            (None, Some(start)) => (Part::Text(&rest[..start]), &rest[start..]),
            (None, None) => (Part::Text(rest), ""),
        };
        rest = after;
        Some(part)
    })
}

fn variable(written: &str, variables: &Variables<'_>, workspace: Option<&Path>) -> Result<String, String> {
    if is_filled_in_by_editor(written) {
        return Err(format!("has ${{{written}}}, {FILLED_IN_BY_EDITOR}"));
    }
    if let Some(value) = workspace.and_then(|workspace| editor_variable(written, workspace, variables)) {
        return Ok(value);
    }
    let written = written.strip_prefix("env:").unwrap_or(written);
    let (name, default) = match written.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (written, None),
    };
    if !is_name(name) {
        return Err("has a ${...} that names no variable; write ${NAME} or ${NAME:-default}".into());
    }
    match (variables.lookup(name), default) {
        (Err(NotUnicode), _) => Err(format!("the variable {name} is not UTF-8")),
        (Ok(Some(value)), Some(default)) if value.is_empty() => Ok(default.to_owned()),
        (Ok(Some(value)), _) => Ok(value),
        (Ok(None), Some(default)) => Ok(default.to_owned()),
        (Ok(None), None) => {
            Err(format!("the variable {name} is not set; set it, or write ${{{name}:-default}}"))
        }
    }
}

/// The value of a variable that editors define, for those that are the same outside of an editor.
fn editor_variable(written: &str, workspace: &Path, variables: &Variables<'_>) -> Option<String> {
    let text = |path: &Path| path.to_str().map(str::to_owned);
    match written {
        "workspaceFolder" | "workspaceRoot" | "cwd" => text(workspace),
        "workspaceFolderBasename" => text(Path::new(workspace.file_name()?)),
        "userHome" => variables.lookup_process("HOME").ok()?,
        "pathSeparator" | "/" => Some(std::path::MAIN_SEPARATOR_STR.to_owned()),
        _ => None,
    }
}

/// Whether the value of a reference is known only to an editor: it asks a person, or it means what is open in the editor.
fn is_filled_in_by_editor(written: &str) -> bool {
    const PREFIXES: [&str; 4] = ["input:", "config:", "command:", "workspaceFolder:"];
    const NAMES: [&str; 11] = [
        "columnNumber",
        "defaultBuildTask",
        "execPath",
        "extensionInstallFolder",
        "file",
        "fileBasename",
        "fileDirname",
        "lineNumber",
        "relativeFile",
        "selectedText",
        "relativeFileDirname",
    ];
    PREFIXES.iter().any(|prefix| written.starts_with(prefix)) || NAMES.contains(&written)
}

/// The first reference in a text whose value is known only to an editor.
pub(super) fn find_filled_in_by_editor(text: &str) -> Option<&str> {
    parts(text).find_map(|part| match part {
        Part::Reference(written) if is_filled_in_by_editor(written) => Some(written),
        _ => None,
    })
}

pub(super) const FILLED_IN_BY_EDITOR: &str =
    "which an editor fills in; write ${NAME} instead, and set that variable";

/// Whether a name follows POSIX: letters, digits and underscores, not beginning with a digit.
fn is_name(name: &str) -> bool {
    name.len() <= NAME_BYTES_MAX
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Eight times the longest header value that servers accept.
const EXPANDED_BYTES_MAX: usize = 64 << 10;

/// Longer than any variable name in use, and short enough to print.
const NAME_BYTES_MAX: usize = 128;

#[cfg(test)]
mod tests {
    use super::super::tests::env;
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<&str, &str>) {
        let env = env(&[("A", "one"), ("B_2", "two"), ("EMPTY", ""), ("DOLLAR", "$")]);
        let found = expand(text, &Variables::process(&env), Some(Path::new("/work space")));
        match (found, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{text:?}"),
            (Err(found), Err(expected)) => assert!(found.join("|").contains(expected), "{text:?}: {found:?}"),
            (found, expected) => panic!("{text:?}: {found:?}, not {expected:?}"),
        }
    }

    #[test]
    fn puts_variables_in() {
        check("", Ok(""));
        check("plain $A {A} $ ä", Ok("plain $A {A} $ ä"));
        check("${A}", Ok("one"));
        check("Bearer ${A}-${B_2}!", Ok("Bearer one-two!"));
        check("${env:A}", Ok("one"));
        check("${MISSING:-other}", Ok("other"));
        check("${MISSING:-}", Ok(""));
        check("${A:-other}", Ok("one"));
        check("${EMPTY:-other}", Ok("other"));
        check("${EMPTY}", Ok(""));
        check("$${A} ${A}", Ok("${A} one"));
        check("$$${A} $$$${A}", Ok("$${A} $$${A}"));
        check("$${$${A}}", Ok("${${A}}"));
        // A value is not read again.
        check("${DOLLAR}${A} ${DOLLAR}{A}", Ok("$one ${A}"));
        check("${workspaceFolder}${/}x${pathSeparator}", Ok("/work space/x/"));
        check("${workspaceFolderBasename}", Ok("work space"));
    }

    #[test]
    fn tells_every_mistake() {
        check("${MISSING}", Err("MISSING is not set"));
        check("${X}${Y}", Err("X is not set; set it, or write ${X:-default}|the variable Y"));
        check("${A", Err("without its }"));
        check("${}", Err("names no variable"));
        check("${1A}", Err("names no variable"));
        check("${input:token}", Err("which an editor fills in"));
        check("${file}", Err("which an editor fills in"));
    }

    #[test]
    fn finds_what_an_editor_fills_in() {
        let check = |text: &str, expected| assert_eq!(find_filled_in_by_editor(text), expected, "{text:?}");
        check("${A}-${input:token} ${file}", Some("input:token"));
        check("${file}", Some("file"));
        check("${A} $file {file} ${file", None);
        check("$${input:token}", None);
        check("$${file} ${input:x}", Some("input:x"));
    }

    #[test]
    fn is_bounded() {
        let long = "x".repeat(10_000);
        let env = env(&[("LONG", &long)]);
        let text = "${LONG}".repeat(100_000);
        assert!(expand(&text, &Variables::process(&env), None).is_err());
    }
}
