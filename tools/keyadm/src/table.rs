//! Lists, for people and for programs.

use serde_json::Value;

/// Columns as wide as what stands in them; the last one as it is.
pub fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let head: Vec<String> = head.iter().map(ToString::to_string).collect();
    let rows = rows.into_iter().map(|row| row.iter().map(|cell| clip(printable(cell))).collect());
    let lines: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
    let mut widths = vec![0; lines[0].len()];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for line in &lines {
        let cells: Vec<String> =
            line.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// A cell of a table that stays one on a screen.
fn clip(cell: String) -> String {
    if cell.chars().count() <= CELL_CHARS_MAX {
        return cell;
    }
    cell.chars().take(CELL_CHARS_MAX).chain(['…']).collect()
}

/// Longer than any name that the gateway itself takes.
const CELL_CHARS_MAX: usize = 200;

/// Names on the left, what they stand for on the right.
pub fn fields(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let mut text = String::new();
    for (name, value) in rows {
        text.extend([&format!("{name:width$}  "), printable(value).as_str(), "\n"]);
    }
    text
}

/// One line of JSON.
pub fn line(value: &Value) -> String {
    format!("{value}\n")
}

/// Another writer of the database may have put anything there, and a terminal obeys what it is shown.
pub fn printable(text: &str) -> String {
    // Besides what moves the cursor, what turns the direction of writing or is not seen at all.
    let hidden = |c: char| matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{e0000}'..='\u{e01ef}');
    text.chars().map(|c| if c.is_control() || hidden(c) { '\u{fffd}' } else { c }).collect()
}

/// What a list says when it holds nothing, so that nobody takes it for cut off.
pub fn or_none(text: String) -> String {
    if text.is_empty() { "-".into() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(rows: &[[&str; 2]], expected: &str) {
        let rows = rows.iter().map(|row| row.map(String::from).to_vec());
        assert_eq!(table(&["A", "LONG"], rows), expected);
    }

    #[test]
    fn columns_are_as_wide_as_they_must_be_and_terminals_are_safe() {
        check(&[], "A  LONG\n");
        check(&[["abc", "x"], ["é", ""]], "A    LONG\nabc  x\né\n");
        check(&[["\x1b[2J", "a\u{202e}b\n"]], "A     LONG\n\u{fffd}[2J  a\u{fffd}b\u{fffd}\n");
    }
}
