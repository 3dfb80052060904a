//! Durations and sizes with units, as in the configuration.

use std::time::Duration;

/// Parses a duration such as `250ms`, `30s`, `5m`, `24h` or `7d`. The error says how to write one.
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

/// Parses a size such as `512`, `16KiB`, `4MiB` or `1GiB`. The error says how to write one.
pub fn parse_size(text: &str) -> Result<usize, &'static str> {
    let (number, unit) = split(text).ok_or(SIZE_SYNTAX)?;
    let bytes: u64 = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return Err(SIZE_SYNTAX),
    };
    number.checked_mul(bytes).and_then(|n| usize::try_from(n).ok()).ok_or(SIZE_SYNTAX)
}

/// Formats a duration as the shortest text that [`parse_duration`] accepts.
pub fn format_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    let (unit, name) = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s")]
        .into_iter()
        .find(|(unit, _)| millis >= *unit && millis.is_multiple_of(*unit))
        .unwrap_or((1, "ms"));
    format!("{}{name}", millis / unit)
}

/// Formats a size as the shortest text that [`parse_size`] accepts.
pub fn format_size(bytes: usize) -> String {
    // A usize of 32 bits has no room for the largest unit.
    let bytes = bytes as u64;
    let (unit, name) = [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")]
        .into_iter()
        .find(|(unit, _)| bytes >= *unit && bytes.is_multiple_of(*unit))
        .unwrap_or((1, "B"));
    format!("{}{name}", bytes / unit)
}

/// Splits a text into its leading number and the rest.
fn split(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    Some((number.parse().ok()?, unit))
}

pub const DURATION_SYNTAX: &str = "write a number with a unit: \"250ms\", \"30s\", \"5m\", \"24h\" or \"7d\"";
pub const SIZE_SYNTAX: &str =
    "write bytes as a number, or with a unit: \"512\", \"16KiB\", \"4MiB\", \"1GiB\", \"1TiB\"";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_parsed() {
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
    fn sizes_are_parsed() {
        let check =
            |text: &str, expected: Option<usize>| assert_eq!(parse_size(text).ok(), expected, "{text:?}");
        check("512", Some(512));
        check("512B", Some(512));
        check("16KiB", Some(16 << 10));
        check("2TiB", Some(2 << 40));
        check("4MiB", Some(4 << 20));
        check("1GiB", Some(1 << 30));
        for wrong in ["", "MiB", "4MB", "4mib", "4 MiB", "-1", "1.5MiB", "18446744073709551615GiB"] {
            check(wrong, None);
        }
    }

    #[test]
    fn formatted_texts_parse() {
        for millis in [0, 1, 999, 1000, 1500, 60_000, 90_000, 3_600_000, 86_400_000, 604_800_000] {
            let given = Duration::from_millis(millis);
            assert_eq!(parse_duration(&format_duration(given)), Ok(given));
        }
        for bytes in [0, 1, 1023, 1024, 1536, 4 << 20, 1 << 30, (1 << 30) + 1] {
            assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
        }
    }
}
