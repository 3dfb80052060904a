//! Patterns over names, as keys and endpoints write them.

use std::fmt;

/// A pattern over names: `*` stands for any characters or none, `?` for exactly one, everything else for itself.
///
/// Case counts, and there is no escape: names that hold `*` or `?` are matched by a pattern that stands for more.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Glob(Box<str>);

/// Why a text is no pattern; the `Display` form says what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidGlob(String);

/// As long as the longest name of a tool (MCP 2026-07-28, tools).
pub const GLOB_CHARS_MAX: usize = 128;

impl Glob {
    /// Checks and takes a pattern.
    pub fn new(text: &str) -> Result<Self, InvalidGlob> {
        let fits = (1..=GLOB_CHARS_MAX).contains(&text.chars().take(GLOB_CHARS_MAX + 1).count());
        let plain = text.chars().all(|c| !c.is_control() && !c.is_whitespace());
        if fits && plain {
            Ok(Self(text.into()))
        } else {
            Err(InvalidGlob(text.chars().take(GLOB_CHARS_MAX + 1).collect()))
        }
    }

    /// Whether the whole of `name` is what the pattern stands for. Takes no more than the product of both lengths.
    pub fn matches(&self, name: &str) -> bool {
        matches(self.0.as_bytes(), name.as_bytes())
    }

    /// Whether it stands for itself alone.
    pub fn is_literal(&self) -> bool {
        !self.0.contains(['*', '?'])
    }

    /// As written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl InvalidGlob {
    /// What to write instead, without what was written.
    pub fn redacted(&self) -> String {
        format!(
            "is no pattern: use 1 to {GLOB_CHARS_MAX} characters without spaces, `*` for any and `?` for one"
        )
    }
}

impl fmt::Display for InvalidGlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.0, self.redacted())
    }
}

impl std::error::Error for InvalidGlob {}

/// Only the last `*` ever has to give more: what stands before it has been matched as early as can be.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut seen) = (0, 0);
    // Behind the last `*`, and where in the name it ends for now.
    let mut star: Option<(usize, usize)> = None;
    loop {
        match pattern.get(at) {
            Some(b'*') if at + 1 == pattern.len() => return true,
            Some(b'*') => {
                at += 1;
                star = Some((at, seen));
                continue;
            }
            Some(b'?') if seen < name.len() => {
                at += 1;
                seen += width(name[seen]);
                continue;
            }
            Some(byte) if name.get(seen) == Some(byte) => {
                at += 1;
                seen += 1;
                continue;
            }
            None if seen == name.len() => return true,
            _ => {}
        }
        match star {
            Some((behind, end)) if end < name.len() => {
                let end = end + width(name[end]);
                star = Some((behind, end));
                (at, seen) = (behind, end);
            }
            _ => return false,
        }
    }
}

/// Of the character that begins with this byte of UTF-8.
fn width(first: u8) -> usize {
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
    fn stars_stand_for_any_and_question_marks_for_one() {
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
    fn the_worst_pattern_takes_no_more_than_the_product() {
        check(&"*a".repeat(64), &format!("{}b", "a".repeat(10_000)), false);
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for wrong in ["", " ", "a b", "a\n", "\0", &"a".repeat(129)] {
            assert!(Glob::new(wrong).is_err(), "{wrong:?}");
        }
        assert!(Glob::new(&"é".repeat(128)).is_ok());
        assert!(Glob::new("a").unwrap().is_literal() && !Glob::new("a?").unwrap().is_literal());
    }

    #[test]
    fn it_says_what_a_slow_and_simple_matcher_says() {
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
