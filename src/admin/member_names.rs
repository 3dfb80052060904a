//! Checks the member names of JSON text that serde cannot read as a value: it may have strings with a surrogate that has no
//! partner, and numbers of any size.

use std::borrow::Cow;
use std::collections::HashSet;

use memchr::memchr2;

/// Why a member name is refused, with the names and array indexes that lead to it. Its own comes last, if it is text.
#[derive(Debug, PartialEq, Eq)]
pub enum RefusedName {
    /// Readers differ in which of the members they use.
    Duplicate(Vec<String>),
    /// It has a surrogate without a partner, so it cannot be compared with other names.
    Unreadable(Vec<String>),
}

/// An object or array that is being read.
enum Level<'a> {
    Object { names: HashSet<Cow<'a, str>>, current: Cow<'a, str> },
    Array { index: usize },
}

/// Checks text that is one JSON value. Needs memory for the names only, and no recursion.
pub fn check_member_names(text: &str) -> Result<(), RefusedName> {
    let (mut levels, mut at, mut is_name) = (Vec::new(), 0, false);
    while let Some(&byte) = text.as_bytes().get(at) {
        match byte {
            b'{' => {
                levels.push(Level::Object { names: HashSet::new(), current: Cow::default() });
                is_name = true;
            }
            b'[' => {
                levels.push(Level::Array { index: 0 });
                is_name = false;
            }
            b'}' | b']' => {
                levels.pop();
                is_name = false;
            }
            b',' => match levels.last_mut() {
                Some(Level::Array { index }) => *index += 1,
                _ => is_name = true,
            },
            b'"' => {
                let string = &text[at..string_end(text.as_bytes(), at)];
                if std::mem::take(&mut is_name) {
                    add_name(&mut levels, string)?;
                }
                at += string.len();
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    Ok(())
}

/// Adds a name, in quotation marks, to the innermost object.
fn add_name<'a>(levels: &mut [Level<'a>], string: &'a str) -> Result<(), RefusedName> {
    let plain = string.get(1..string.len() - 1).filter(|plain| !plain.contains('\\'));
    let name = match plain {
        Some(plain) => Cow::Borrowed(plain),
        None => match serde_json::from_str::<String>(string) {
            Ok(name) => Cow::Owned(name),
            Err(_) => return Err(RefusedName::Unreadable(path(&levels[..levels.len() - 1]))),
        },
    };
    let Some(Level::Object { names, current }) = levels.last_mut() else { return Ok(()) };
    current.clone_from(&name);
    if names.insert(name) { Ok(()) } else { Err(RefusedName::Duplicate(path(levels))) }
}

/// Where the string that begins at `start` ends: behind its closing quotation mark.
fn string_end(text: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(found) = text.get(at..).and_then(|rest| memchr2(b'"', b'\\', rest)) {
        at += found;
        if text[at] == b'"' {
            return at + 1;
        }
        // What is escaped does not end it.
        at += 2;
    }
    text.len()
}

fn path(levels: &[Level<'_>]) -> Vec<String> {
    let key = |level: &Level<'_>| match level {
        Level::Object { current, .. } => current.to_string(),
        Level::Array { index } => index.to_string(),
    };
    levels.iter().map(key).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::RefusedName::{Duplicate, Unreadable};
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &Result<(), RefusedName>) {
        assert!(serde_json::from_str::<&RawValue>(text).is_ok(), "{text}: it is no JSON");
        assert_eq!(&check_member_names(text), expected, "{text}");
    }

    fn keys(keys: &[&str]) -> Vec<String> {
        keys.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn names() {
        for text in [
            r#""a""#,
            "1e400",
            r#"{"a":"\ud800","b":{"a":1},"c":[{"a":1},{"a":"a"},["a","a"]],"d":"\\","e":"\"a\":","f":"{,"}"#,
            r#"{"A":1,"a":2,"":3,"\u00e9":4}"#,
            r#" { "a" : [ ] , "b" : { } , "c" : -0.0 } "#,
        ] {
            check(text, &Ok(()));
        }
        for (text, path) in [
            (r#"{"a":"\ud800","a":1}"#, &["a"][..]),
            (r#"{"a":1e400,"\u0061":1}"#, &["a"]),
            (r#"{"":1,"":1}"#, &[""]),
            (r#"{"x":[1,{"y":{"é":1,"\u00e9":2}}]}"#, &["x", "1", "y", "é"]),
            (r#"{"x":{"x":1},"y":[],"x":1}"#, &["x"]),
            (r#"{"a\"":1,"a\u0022":1}"#, &["a\""]),
        ] {
            check(text, &Err(Duplicate(keys(path))));
        }
        for (text, path) in [(r#"{"\ud800":1}"#, &[][..]), (r#"{"x":[{"a":1,"\udc00b":2}]}"#, &["x", "0"])] {
            check(text, &Err(Unreadable(keys(path))));
        }
    }
}
