//! Numbers as text, and columns of text.

/// Formats microseconds with a unit and few digits.
pub fn format_duration(us: f64) -> String {
    match us {
        _ if us < 1_000.0 => format!("{us:.0} µs"),
        _ if us < 10_000.0 => format!("{:.2} ms", us / 1e3),
        _ if us < 100_000.0 => format!("{:.1} ms", us / 1e3),
        _ if us < 1_000_000.0 => format!("{:.0} ms", us / 1e3),
        _ => format!("{:.2} s", us / 1e6),
    }
}

/// Formats a count or a rate with few digits.
pub fn format_count(value: f64) -> String {
    match value.abs() {
        size if size >= 1e7 => format!("{:.1} M", value / 1e6),
        size if size >= 1e5 => format!("{:.0} k", value / 1e3),
        size if size >= 1e4 => format!("{:.1} k", value / 1e3),
        size if size >= 100.0 || value.fract() == 0.0 => format!("{value:.0}"),
        _ => format!("{value:.1}"),
    }
}

/// Formats bytes with a binary unit.
pub fn format_bytes(bytes: f64) -> String {
    match bytes.abs() {
        n if n >= 1024.0 * 1024.0 * 1024.0 => format!("{:.2} GiB", bytes / 1024.0 / 1024.0 / 1024.0),
        n if n >= 1024.0 * 1024.0 => format!("{:.1} MiB", bytes / 1024.0 / 1024.0),
        n if n >= 1024.0 => format!("{:.1} KiB", bytes / 1024.0),
        _ => format!("{bytes:.0} B"),
    }
}

/// Aligns the first column left and the others right.
pub fn align_columns<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let space = " ".repeat(widths[column] - cell.chars().count());
            let parts = if column == 0 { [cell.as_str(), &space, ""] } else { ["  ", &space, cell] };
            line.extend(parts);
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(formatted: &str, expected: &str) {
        assert_eq!(formatted, expected);
    }

    #[test]
    fn values_have_few_digits_and_a_unit() {
        check(&format_duration(12.3), "12 µs");
        check(&format_duration(1_234.0), "1.23 ms");
        check(&format_duration(12_345.0), "12.3 ms");
        check(&format_duration(123_456.0), "123 ms");
        check(&format_duration(1_234_567.0), "1.23 s");
        check(&format_count(5.0), "5");
        check(&format_count(5.25), "5.2");
        check(&format_count(1234.0), "1234");
        check(&format_count(12_345.0), "12.3 k");
        check(&format_count(12_345_678.0), "12.3 M");
        check(&format_bytes(945.0), "945 B");
        check(&format_bytes(-2048.0), "-2.0 KiB");
        check(&format_bytes(3.5 * 1024.0 * 1024.0), "3.5 MiB");
        let rows = [[String::new(), "a".to_owned()], ["µ".to_owned(), "bcd".to_owned()]];
        check(&align_columns(&rows), "     a\nµ  bcd\n");
    }
}
