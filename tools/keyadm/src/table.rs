//! Renders results: tables for people, JSON lines for programs.

use serde_json::Value;

/// Renders a table whose columns are as wide as their widest cell.
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

/// Renders a list as a table. If it is empty, there is no table, and standard error says that there are no `items`.
pub fn list(items: &str, head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut rows = rows.into_iter().peekable();
    if rows.peek().is_none() {
        eprintln!("keyadm: no {items}");
        return String::new();
    }
    table(head, rows)
}

/// Shortens a cell so that the table stays readable.
fn clip(cell: String) -> String {
    if cell.chars().count() <= CELL_CHARS_MAX {
        return cell;
    }
    cell.chars().take(CELL_CHARS_MAX).chain(['…']).collect()
}

/// Longer than any name that the gateway accepts.
const CELL_CHARS_MAX: usize = 200;

/// Renders one line for each field, with the name on the left.
pub fn fields(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let mut text = String::new();
    for (name, value) in rows {
        text.extend([&format!("{name:width$}  "), printable(value).as_str(), "\n"]);
    }
    text
}

/// Renders a value as one line of JSON.
pub fn line(value: &Value) -> String {
    format!("{value}\n")
}

/// Replaces control characters and invisible ones: other writers of the database may store anything, and terminals obey
/// escape sequences.
pub fn printable(text: &str) -> String {
    // Zero-width characters, and those that change the direction of writing.
    let hidden = |c: char| matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{e0000}'..='\u{e01ef}');
    text.chars().map(|c| if c.is_control() || hidden(c) { '\u{fffd}' } else { c }).collect()
}

/// Returns `-` for an empty cell, so that the row does not look truncated.
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
    fn columns_fit_their_cells_and_control_characters_are_replaced() {
        check(&[], "A  LONG\n");
        check(&[["abc", "x"], ["é", ""]], "A    LONG\nabc  x\né\n");
        check(&[["\x1b[2J", "a\u{202e}b\n"]], "A     LONG\n\u{fffd}[2J  a\u{fffd}b\u{fffd}\n");
    }
}
