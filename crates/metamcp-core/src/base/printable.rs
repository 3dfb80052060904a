//! Texts of others in lines of a log.

use std::fmt::{self, Write as _};

/// Writes a text with escapes for the characters that could begin another line, reverse the direction of writing, or control a
/// terminal.
#[derive(Clone, Copy, Debug)]
pub struct Printable<'a>(pub &'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            if must_be_escaped(character) {
                write!(f, "{}", character.escape_default())?;
            } else {
                f.write_char(character)?;
            }
        }
        Ok(())
    }
}

/// Whether a character is a control character, a separator of lines or paragraphs, or a mark of the direction of writing (UAX #9).
fn must_be_escaped(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_begins_a_line_or_controls_a_terminal() {
        let check = |text: &str, expected: &str| assert_eq!(Printable(text).to_string(), expected);
        check("", "");
        check("größe 貝 \"x\" \\", "größe 貝 \"x\" \\");
        check("a\r\nb\tc\0", "a\\r\\nb\\tc\\u{0}");
        check("\x1b[31m\u{85}\u{7f}", "\\u{1b}[31m\\u{85}\\u{7f}");
        check("\u{2028}\u{202e}\u{2066}\u{200f}", "\\u{2028}\\u{202e}\\u{2066}\\u{200f}");
    }
}
