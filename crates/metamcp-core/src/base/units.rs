//! Durations and sizes as people write them.

use std::time::Duration;

/// Reads `250ms`, `30s`, `5m`, `24h`, `7d`; the error says how to write one.
pub fn parse_duration(text: &str) -> Result<Duration, &'static str> {
    let (number, unit) = split(text).ok_or(DURATION_SYNTAX)?;
    let millis: u64 = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(DURATION_SYNTAX),
    };
    number.checked_mul(millis).map(Duration::from_millis).ok_or(DURATION_SYNTAX)
}

/// Reads `512`, `16KiB`, `4MiB`, `1GiB` as bytes; the error says how to write one.
pub fn parse_size(text: &str) -> Result<usize, &'static str> {
    let (number, unit) = split(text).ok_or(SIZE_SYNTAX)?;
    let bytes: u64 = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(SIZE_SYNTAX),
    };
    number.checked_mul(bytes).and_then(|n| usize::try_from(n).ok()).ok_or(SIZE_SYNTAX)
}

/// The shortest text that [`duration`] reads back.
pub fn format_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    let (unit, name) = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s")]
        .into_iter()
        .find(|(unit, _)| millis >= *unit && millis.is_multiple_of(*unit))
        .unwrap_or((1, "ms"));
    format!("{}{name}", millis / unit)
}

/// The shortest text that [`size`] reads back.
pub fn format_size(bytes: usize) -> String {
    let (unit, name) = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")]
        .into_iter()
        .find(|(unit, _)| bytes >= *unit && bytes.is_multiple_of(*unit))
        .unwrap_or((1, "B"));
    format!("{}{name}", bytes / unit)
}

/// Digits, and what follows them.
fn split(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    Some((number.parse().ok()?, unit))
}

/// How to write a duration.
pub const DURATION_SYNTAX: &str = "write a number with a unit: \"250ms\", \"30s\", \"5m\", \"24h\" or \"7d\"";
/// How to write a size.
pub const SIZE_SYNTAX: &str =
    "write bytes as a number, or with a unit: \"512\", \"16KiB\", \"4MiB\", \"1GiB\"";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let check = |text: &str, expected: Option<u64>| {
            assert_eq!(parse_duration(text).ok(), expected.map(Duration::from_millis), "{text:?}");
        };
        check("250ms", Some(250));
        check("30s", Some(30_000));
        check("5m", Some(300_000));
        check("24h", Some(86_400_000));
        check("7d", Some(604_800_000));
        check("0s", Some(0));
        for wrong in
            ["", "5", "s", "-5s", "+5s", "1.5s", "5 s", "5S", "5min", "1m30s", "99999999999999999999s"]
        {
            check(wrong, None);
        }
        check("18446744073709551615d", None);
        check("٣s", None);
    }

    #[test]
    fn sizes() {
        let check =
            |text: &str, expected: Option<usize>| assert_eq!(parse_size(text).ok(), expected, "{text:?}");
        check("512", Some(512));
        check("512B", Some(512));
        check("16KiB", Some(16 << 10));
        check("4MiB", Some(4 << 20));
        check("1GiB", Some(1 << 30));
        for wrong in ["", "MiB", "4MB", "4mib", "4 MiB", "-1", "1.5MiB", "18446744073709551615GiB"] {
            check(wrong, None);
        }
    }

    #[test]
    fn texts_read_back() {
        for millis in [0, 1, 999, 1000, 1500, 60_000, 90_000, 3_600_000, 86_400_000, 604_800_000] {
            let given = Duration::from_millis(millis);
            assert_eq!(parse_duration(&format_duration(given)), Ok(given));
        }
        for bytes in [0, 1, 1023, 1024, 1536, 4 << 20, 1 << 30, (1 << 30) + 1] {
            assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
        }
    }
}
