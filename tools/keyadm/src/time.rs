//! Points in time as people write them: RFC 3339, a date, or a duration from now.

use std::cmp::Ordering;
use std::fmt;

use jiff::SignedDuration;
use jiff::civil::{DateTime, Time};
use jiff::fmt::temporal::Pieces;
use jiff::tz::Offset;

use crate::failure::Failure;

/// Parses `2027-01-31T12:00:00Z`, `2027-01-31` (its first moment, UTC), or a duration after `now` such as `30d`. Returns
/// seconds since 1970. A time after the year 9999, which RFC 3339 cannot express, is invalid.
pub fn parse_end(text: &str, now: u64) -> Result<u64, InvalidTime> {
    parse_duration(text)
        .map(|seconds| now.saturating_add(seconds))
        .or_else(|| parse_date_time(text))
        .filter(|end| *end <= END_OF_9999)
        .ok_or_else(|| InvalidTime(text.to_owned()))
}

/// The same, but a duration lies before `now`: `24h` is this time yesterday.
pub fn parse_past(text: &str, now: u64) -> Result<u64, InvalidTime> {
    parse_duration(text)
        .map(|seconds| now.saturating_sub(seconds))
        .or_else(|| parse_date_time(text))
        .ok_or_else(|| InvalidTime(text.to_owned()))
}

/// Formats seconds since 1970 as RFC 3339 in UTC. Times after the year 9999, which RFC 3339 cannot express, become the end
/// of that year.
pub fn format(unix_s: u64) -> String {
    let since_epoch = SignedDuration::from_secs(i64::try_from(unix_s).unwrap_or(i64::MAX));
    format!("{:.0}Z", EPOCH.saturating_add(since_epoch))
}

/// The same, followed by how far it is from `now`: `2027-01-31T12:00:00Z (in 12 days)`.
pub fn format_relative(unix_s: u64, now: u64) -> String {
    let distance = unix_s.abs_diff(now);
    let units = [(86_400, "day"), (3600, "hour"), (60, "minute"), (1, "second")];
    // Two of a unit at least, so that rounding down loses little: 47 hours are not "a day".
    let (seconds, unit) = *units.iter().find(|(seconds, _)| distance >= 2 * seconds).unwrap_or(&units[3]);
    let count = distance / seconds;
    let plural = if count == 1 { "" } else { "s" };
    let text = match unix_s.cmp(&now) {
        Ordering::Less => format!("{count} {unit}{plural} ago"),
        Ordering::Equal => "now".into(),
        Ordering::Greater => format!("in {count} {unit}{plural}"),
    };
    format!("{} ({text})", format(unix_s))
}

/// A text that is not a point in time.
#[derive(Debug, PartialEq, Eq)]
pub struct InvalidTime(String);

impl fmt::Display for InvalidTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is not a time before the year 10000; write 30d (s, m, h, d, w), 2027-01-31, or 2027-01-31T12:00:00Z",
            self.0
        )
    }
}

impl InvalidTime {
    /// Converts it to the failure of a flag.
    pub fn for_flag(&self, flag: &str) -> Failure {
        Failure::Usage(format!("{flag}: {self}"))
    }
}

/// Parses a whole number with a unit; returns seconds.
pub fn parse_duration(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        "w" => 7 * 86_400,
        _ => return None,
    };
    // The standard parser also accepts a sign.
    let is_plain = number.bytes().all(|byte| byte.is_ascii_digit());
    is_plain.then(|| number.parse::<u64>().ok())??.checked_mul(unit)
}

/// Parses a date, or a date and a time with `Z` or an offset.
fn parse_date_time(text: &str) -> Option<u64> {
    let text = drop_fraction(text)?;
    // ISO 8601 has many more forms, which are easily mistaken for others: `20270131`, `2027-01-31T12Z`.
    let form = |c: char| match c {
        '0'..='9' => '0',
        't' | ' ' => 'T',
        c => c.to_ascii_uppercase(),
    };
    if !FORMS.contains(&&*text.chars().map(form).collect::<String>()) {
        return None;
    }
    let pieces = Pieces::parse(&text).ok()?;
    let local = pieces.date().to_datetime(pieces.time().unwrap_or(Time::midnight()));
    let offset_s = pieces.to_numeric_offset().map_or(0, Offset::seconds);
    // jiff reads second 60 as 59, and takes offsets of more than a day.
    if text.get(17..19) == Some("60") || offset_s.abs() >= 86_400 {
        return None;
    }
    u64::try_from(local.duration_since(EPOCH).as_secs() - i64::from(offset_s)).ok()
}

/// Removes the fraction of a second, which may be of any length. `None` if what follows the point is none.
fn drop_fraction(text: &str) -> Option<String> {
    let Some((clock, fraction)) = text.split_once('.') else { return Some(text.to_owned()) };
    let zone = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
    let is_fraction = clock.len() == "2027-01-31T12:00:00".len() && zone.len() < fraction.len();
    is_fraction.then(|| format!("{clock}{zone}"))
}

/// The forms of a date and a time, with `0` for every digit.
const FORMS: [&str; 4] =
    ["0000-00-00", "0000-00-00T00:00:00Z", "0000-00-00T00:00:00+00:00", "0000-00-00T00:00:00-00:00"];

/// The last second that RFC 3339 can express.
const END_OF_9999: u64 = 253_402_300_799;

const EPOCH: DateTime = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;
    #[track_caller]
    fn check(text: &str, expected: Option<u64>) {
        assert_eq!(parse_end(text, NOW).ok(), expected, "{text:?}");
    }

    #[test]
    fn accepts_every_form_of_time_and_nothing_else() {
        check("1s", Some(NOW + 1));
        check("90m", Some(NOW + 5400));
        check("12h", Some(NOW + 43_200));
        check("30d", Some(NOW + 2_592_000));
        check("2w", Some(NOW + 1_209_600));
        check("99999999999d", None);
        check("1970-01-01", Some(0));
        check("2027-01-31", Some(1_801_353_600));
        check("2027-01-31T12:00:00Z", Some(1_801_396_800));
        check("2027-01-31t12:00:00z", Some(1_801_396_800));
        check("2027-01-31 12:00:00.250Z", Some(1_801_396_800));
        check("2027-01-31T12:00:00.0123456789Z", Some(1_801_396_800));
        check("2027-01-31T12:00:00+02:00", Some(1_801_389_600));
        check("2027-01-31T23:30:00-05:30", Some(1_801_458_000));
        check("2028-02-29", Some(1_835_395_200));
        check("9999-12-31T23:59:59Z", Some(END_OF_9999));
        for wrong in [
            "",
            "d",
            "30",
            "30 d",
            "-1d",
            "+1d",
            "1.5d",
            "1y",
            "30D",
            "é",
            "99999999999999999999d",
            "99999999999999999d",
            "2027-02-29",
            "2027-13-01",
            "2027-00-01",
            "2027-01-00",
            "2027-1-1",
            "1969-12-31",
            "2027-01-31T",
            "2027-01-31T12:00Z",
            "20270131",
            "2027-01-31T12Z",
            "2027-01-31T12:00:00Z[UTC]",
            "2027-01-31T12:00:00",
            "2027-01-31T24:00:00Z",
            "2027-01-31T12:60:00Z",
            "2027-01-31T12:00:60Z",
            "2027-01-31T12:00:00+24:00",
            "2027-01-31T12:00:00.Z",
            "2027-01-31.5",
            "2027-01-31T12:00:00+2:00",
            "2027-01-31T12:00:00Zx",
            "1970-01-01T00:00:00+01:00",
            "+027-01-31",
            "tomorrow",
            "2027-01-3é",
        ] {
            check(wrong, None);
        }
    }

    #[test]
    fn distances_are_in_the_largest_unit_that_fits_twice() {
        let check = |distance: i64, expected: &str| {
            let text = format_relative(NOW.checked_add_signed(distance).unwrap(), NOW);
            assert_eq!(text.split_once(" (").unwrap().1.strip_suffix(')'), Some(expected));
        };
        check(0, "now");
        check(1, "in 1 second");
        check(-1, "1 second ago");
        check(119, "in 119 seconds");
        check(120, "in 2 minutes");
        check(-7200, "2 hours ago");
        check(47 * 3600 + 3599, "in 47 hours");
        check(30 * 86_400, "in 30 days");
        assert_eq!(format_relative(0, 0), "1970-01-01T00:00:00Z (now)");
        assert!(format_relative(u64::MAX, 0).starts_with("9999-12-31T23:59:59Z (in "));
    }

    #[test]
    fn a_duration_may_lie_in_the_past() {
        assert_eq!(parse_past("1d", NOW), Ok(NOW - 86_400));
        assert_eq!(parse_past("9999w", 5), Ok(0));
        assert_eq!(parse_past("1970-01-02", NOW), Ok(86_400));
        assert!(parse_past("yesterday", NOW).is_err());
    }

    #[test]
    fn truncated_or_altered_text_does_not_panic() {
        for text in ["30d", "2027-01-31", "2027-01-31T12:00:00.5+02:00", "9999-12-31T23:59:59Z"] {
            for at in 0..text.len() {
                for other in ["", "é", "🦀", "9", "-", "\0"] {
                    drop(parse_end(&format!("{}{other}{}", &text[..at], &text[at + 1..]), NOW));
                    drop(parse_end(&format!("{}{other}", &text[..at]), u64::MAX));
                }
            }
        }
    }

    #[test]
    fn formatted_times_parse_again() {
        for unix_s in [0, 951_782_400, 1_709_164_800, NOW, 4_107_542_399, END_OF_9999] {
            check(&format(unix_s), Some(unix_s));
        }
        assert_eq!(format(1_801_396_800), "2027-01-31T12:00:00Z");
        assert_eq!(format(u64::MAX), "9999-12-31T23:59:59Z");
    }
}
