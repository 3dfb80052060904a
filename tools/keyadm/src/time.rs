//! Points in time as people write them: RFC 3339, a date, or a duration from now.

use std::fmt;

use crate::failure::Failure;

/// Parses `2027-01-31T12:00:00Z`, `2027-01-31` (its first moment, UTC), or a duration after `now` such as `30d`. Returns
/// seconds since 1970.
pub fn parse_end(text: &str, now: u64) -> Result<u64, InvalidTime> {
    parse_duration(text)
        .map(|seconds| now.saturating_add(seconds))
        .or_else(|| parse_date_time(text))
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
    let unix_s = unix_s.min(END_OF_9999);
    let (year, month, day) = civil_date(unix_s / DAY);
    let second = unix_s % DAY;
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

/// A text that is not a point in time.
#[derive(Debug, PartialEq, Eq)]
pub struct InvalidTime(String);

impl fmt::Display for InvalidTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is not a time; write 30d (s, m, h, d, w), 2027-01-31, or 2027-01-31T12:00:00Z",
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
        "d" => DAY,
        "w" => 7 * DAY,
        _ => return None,
    };
    parse_digits(number)?.checked_mul(unit)
}

fn parse_date_time(text: &str) -> Option<u64> {
    let (date, time) = text.split_at_checked(10)?;
    let [year, month, day] = parse_fields(date, '-', [4, 2, 2])?;
    if !(1..=12).contains(&month) || day < 1 || day > days_in_month(year, month) || year < 1970 {
        return None;
    }
    let days = days_since_epoch(year, month, day);
    let seconds = if time.is_empty() { 0 } else { parse_time_of_day(time.strip_prefix(['T', 't', ' '])?)? };
    u64::try_from(i64::try_from(days * DAY).ok()? + seconds).ok()
}

/// Parses `12:00:00`, a fraction that is dropped, and `Z` or an offset. Returns seconds since midnight UTC of the date in
/// front of it; an offset can move the result before or after that day.
fn parse_time_of_day(text: &str) -> Option<i64> {
    let (clock, rest) = text.split_at_checked(8)?;
    let [hour, minute, second] = parse_fields(clock, ':', [2, 2, 2])?;
    let rest = match rest.strip_prefix('.') {
        Some(fraction) => {
            let zone = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
            (zone.len() < fraction.len()).then_some(zone)?
        }
        None => rest,
    };
    let offset = match rest.split_at_checked(1)? {
        ("Z" | "z", "") => 0,
        ("+", offset) => parse_offset(offset)?,
        ("-", offset) => -parse_offset(offset)?,
        _ => return None,
    };
    let in_range = hour < 24 && minute < 60 && second < 60;
    in_range.then_some(i64::try_from(hour * 3600 + minute * 60 + second).ok()? - offset)
}

fn parse_offset(text: &str) -> Option<i64> {
    let [hour, minute] = parse_fields(text, ':', [2, 2])?;
    (hour < 24 && minute < 60).then_some(i64::try_from(hour * 3600 + minute * 60).ok()?)
}

/// Parses exactly `N` numbers with exactly `widths` digits.
fn parse_fields<const N: usize>(text: &str, separator: char, widths: [usize; N]) -> Option<[u64; N]> {
    let mut parts = text.split(separator);
    let mut numbers = [0; N];
    for (number, width) in numbers.iter_mut().zip(widths) {
        *number = parts.next().filter(|part| part.len() == width).and_then(parse_digits)?;
    }
    parts.next().is_none().then_some(numbers)
}

/// Accepts digits only, while the standard parser also accepts a sign.
fn parse_digits(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_in_month(year: u64, month: u64) -> u64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Counts the days from 1970-01-01 to a date.
fn days_since_epoch(year: u64, month: u64, day: u64) -> u64 {
    let years: u64 = (1970..year).map(|year| if is_leap(year) { 366 } else { 365 }).sum();
    let months: u64 = (1..month).map(|month| days_in_month(year, month)).sum();
    years + months + day - 1
}

/// The inverse: year, month and day. Loops over at most 8,029 years and 11 months.
fn civil_date(mut days: u64) -> (u64, u64, u64) {
    let mut year = 1970;
    while days >= if is_leap(year) { 366 } else { 365 } {
        days -= if is_leap(year) { 366 } else { 365 };
        year += 1;
    }
    let mut month = 1;
    while days >= days_in_month(year, month) {
        days -= days_in_month(year, month);
        month += 1;
    }
    (year, month, days + 1)
}

const DAY: u64 = 86_400;
const END_OF_9999: u64 = 253_402_300_799;

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
        check("1970-01-01", Some(0));
        check("2027-01-31", Some(1_801_353_600));
        check("2027-01-31T12:00:00Z", Some(1_801_396_800));
        check("2027-01-31t12:00:00z", Some(1_801_396_800));
        check("2027-01-31 12:00:00.250Z", Some(1_801_396_800));
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
            "2027-01-31T12:00:00",
            "2027-01-31T24:00:00Z",
            "2027-01-31T12:60:00Z",
            "2027-01-31T12:00:00.Z",
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
