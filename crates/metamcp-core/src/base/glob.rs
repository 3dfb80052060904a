//! Patterns over names, in keys and endpoints.

use std::fmt;

/// A pattern over names: `*` matches any number of characters, `?` matches exactly one.
///
/// Matching is case-sensitive. There is no escape; a name with `*` or `?` is matched by a pattern that matches others, too.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Glob(Box<str>);

/// A text is not a pattern. `Display` says what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidGlob(String);

/// The length of the longest tool name (MCP 2026-07-28, tools).
pub const GLOB_CHARS_MAX: usize = 128;

impl Glob {
    pub fn new(text: &str) -> Result<Self, InvalidGlob> {
        Self::parse(text, |c| !c.is_whitespace())
    }

    /// A pattern over names that may contain spaces, such as the common names of certificates.
    pub fn with_spaces(text: &str) -> Result<Self, InvalidGlob> {
        Self::parse(text, |_| true)
    }

    fn parse(text: &str, is_allowed: fn(char) -> bool) -> Result<Self, InvalidGlob> {
        let fits = (1..=GLOB_CHARS_MAX).contains(&text.chars().take(GLOB_CHARS_MAX + 1).count());
        if fits && text.chars().all(|c| !c.is_control() && is_allowed(c)) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidGlob(text.chars().take(GLOB_CHARS_MAX + 1).collect()))
        }
    }

    /// Whether the pattern matches the whole name. Takes at most the product of both lengths in steps.
    pub fn matches(&self, name: &str) -> bool {
        matches(self.0.as_bytes(), name.as_bytes())
    }

    /// Whether the pattern has no wildcard.
    pub fn is_literal(&self) -> bool {
        !self.0.contains(['*', '?'])
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl InvalidGlob {
    /// The error without the text, which may be a secret.
    pub fn redacted(&self) -> String {
        format!(
            "is not a pattern: use 1 to {GLOB_CHARS_MAX} characters without spaces, `*` for any and `?` for one"
        )
    }
}

impl fmt::Display for InvalidGlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.0, self.redacted())
    }
}

impl std::error::Error for InvalidGlob {}

/// Backtracks only to the last `*`: the part before it was matched as early as possible.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut next, mut matched) = (0, 0);
    // The position behind the last `*`, and where in the name that `*` ends for now.
    let mut star: Option<(usize, usize)> = None;
    loop {
        match pattern.get(next) {
            Some(b'*') if next + 1 == pattern.len() => return true,
            Some(b'*') => {
                next += 1;
                star = Some((next, matched));
                continue;
            }
            Some(b'?') if matched < name.len() => {
                next += 1;
                matched += utf8_width(name[matched]);
                continue;
            }
            Some(byte) if name.get(matched) == Some(byte) => {
                next += 1;
                matched += 1;
                continue;
            }
            None if matched == name.len() => return true,
            _ => {}
        }
        match star {
            Some((behind, end)) if end < name.len() => {
                let end = end + utf8_width(name[end]);
                star = Some((behind, end));
                (next, matched) = (behind, end);
            }
            _ => return false,
        }
    }
}

/// The length of the UTF-8 character that begins with this byte.
fn utf8_width(first: u8) -> usize {
    match first {
        0..=0xbf => 1,
        0xc0..=0xdf => 2,
        0xe0..=0xef => 3,
        _ => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, name: &str, expected: bool) {
        let glob = Glob::new(pattern).unwrap();
        assert_eq!(glob.matches(name), expected, "{pattern:?} {name:?}");
    }

    #[test]
    fn wildcards_match() {
        check("echo", "echo", true);
        check("echo", "Echo", false);
        check("echo", "echo2", false);
        check("echo", "", false);
        check("*", "", true);
        check("*", "anything", true);
        check("b0__*", "b0__echo", true);
        check("b0__*", "b0__", true);
        check("b0__*", "b1__echo", false);
        check("*__read", "files__read", true);
        check("*__read", "files__read_all", false);
        check("*read*", "files__read_all", true);
        check("a*b*c", "a-b-b-c", true);
        check("a*b*c", "a-c-b", false);
        check("a*a", "a", false);
        check("**", "x", true);
        check("?", "é", true);
        check("?", "🦀", true);
        check("?", "", false);
        check("??", "é", false);
        check("*é", "caféé", true);
        check("*?", "", false);
        check("a?c", "a?c", true);
        check("[ab]", "a", false);
        check("[ab]", "[ab]", true);
    }

    #[test]
    fn the_worst_pattern_is_fast_enough() {
        check(&"*a".repeat(64), &format!("{}b", "a".repeat(10_000)), false);
    }

    #[test]
    fn invalid_patterns_are_rejected() {
        for wrong in ["", " ", "a b", "a\n", "\0", &"a".repeat(129)] {
            assert!(Glob::new(wrong).is_err(), "{wrong:?}");
        }
        assert!(Glob::with_spaces("Jane Doe").is_ok_and(|glob| glob.matches("Jane Doe")));
        assert!(Glob::with_spaces("").is_err() && Glob::with_spaces("a\n").is_err());
        assert!(Glob::new(&"é".repeat(128)).is_ok());
        assert!(Glob::new("a").unwrap().is_literal() && !Glob::new("a?").unwrap().is_literal());
    }

    #[test]
    fn it_agrees_with_a_simple_matcher() {
        fn simple(pattern: &[char], name: &[char]) -> bool {
            match (pattern.split_first(), name.split_first()) {
                (None, None) => true,
                (Some(('*', rest)), _) => (0..=name.len()).any(|taken| simple(rest, &name[taken..])),
                (Some(('?', rest)), Some((_, left))) => simple(rest, left),
                (Some((one, rest)), Some((other, left))) => one == other && simple(rest, left),
                _ => false,
            }
        }
        proptest::proptest!(|(pattern in "[ab*?é]{1,8}", name in "[abé]{0,8}")| {
            let chars = |text: &str| text.chars().collect::<Vec<_>>();
            check(&pattern, &name, simple(&chars(&pattern), &chars(&name)));
        });
    }
}
