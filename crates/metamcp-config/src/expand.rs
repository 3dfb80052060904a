//! Expansion of variable references such as `${NAME}`.

use super::mistakes::{Diagnostics, WithLocation};
use super::raw::{NotUnicode, Variables};

/// What readers of values with variable references share.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub variables: &'a Variables<'a>,
    pub report: &'a Diagnostics,
}

impl Context<'_> {
    /// Expands variable references. Reports errors and returns `None` if there are any.
    pub(super) fn expand(&self, written: &WithLocation<&str>) -> Option<String> {
        match expand(written.value, self.variables) {
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
pub(super) fn expand(text: &str, variables: &Variables<'_>) -> Result<String, Vec<String>> {
    let mut expanded = String::with_capacity(text.len());
    let mut mistakes = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        expanded.push_str(&rest[..start]);
        let inner = &rest[start + 2..];
        if expanded.ends_with('$') {
            expanded.push('{');
            rest = inner;
            continue;
        }
        let Some(end) = inner.find('}') else {
            mistakes.push("has a ${ without its }; write $${ if you mean the characters".to_owned());
            break;
        };
        match variable(&inner[..end], variables) {
            Ok(value) => expanded.push_str(&value),
            Err(mistake) => mistakes.push(mistake),
        }
        rest = &inner[end + 1..];
        if expanded.len() > EXPANDED_BYTES_MAX {
            mistakes.push("is longer than 64 KiB with its variables put in".to_owned());
            break;
        }
    }
    if mistakes.is_empty() {
        expanded.push_str(rest);
        Ok(expanded)
    } else {
        Err(mistakes)
    }
}

fn variable(written: &str, variables: &Variables<'_>) -> Result<String, String> {
    if written.starts_with("input:") {
        return Err(
            "has ${input:...}, which an editor asks a person for; write ${NAME} and set that variable".into(),
        );
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
        let env = env(&[("A", "one"), ("B_2", "two"), ("EMPTY", "")]);
        let found = expand(text, &Variables::process(&env));
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
    }

    #[test]
    fn tells_every_mistake() {
        check("${MISSING}", Err("MISSING is not set"));
        check("${X}${Y}", Err("X is not set; set it, or write ${X:-default}|the variable Y"));
        check("${A", Err("without its }"));
        check("${}", Err("names no variable"));
        check("${1A}", Err("names no variable"));
        check("${input:token}", Err("asks a person"));
        check("${workspaceFolder}", Err("workspaceFolder is not set"));
    }

    #[test]
    fn is_bounded() {
        let long = "x".repeat(10_000);
        let env = env(&[("LONG", &long)]);
        let text = "${LONG}".repeat(100_000);
        assert!(expand(&text, &Variables::process(&env)).is_err());
    }
}
