//! Points in time as people write them: RFC 3339, a date, or a span from now.

use std::fmt;

use crate::failure::Failure;

/// Reads `2027-01-31T12:00:00Z`, `2027-01-31` (its first moment, UTC), or a span from `now` such as `30d`.
/// Gives seconds since 1970.
pub fn parse_end(text: &str, now: u64) -> Result<u64, NoTime> {
    span(text)
        .map(|seconds| now.saturating_add(seconds))
        .or_else(|| date_time(text))
        .ok_or_else(|| NoTime(text.to_owned()))
}

/// The same, but a span is one until `now`: `24h` is this time yesterday.
pub fn parse_past(text: &str, now: u64) -> Result<u64, NoTime> {
    span(text)
        .map(|seconds| now.saturating_sub(seconds))
        .or_else(|| date_time(text))
        .ok_or_else(|| NoTime(text.to_owned()))
}

/// Seconds since 1970 as RFC 3339 in UTC. What lies beyond the year 9999, which RFC 3339 cannot say, is shown
/// as that year's end.
pub fn format(unix_s: u64) -> String {
    let unix_s = unix_s.min(END_OF_9999);
    let (year, month, day) = civil(unix_s / DAY);
    let second = unix_s % DAY;
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

/// A text that names no point in time.
#[derive(Debug, PartialEq, Eq)]
pub struct NoTime(String);

impl fmt::Display for NoTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no time; write 30d (s, m, h, d, w), 2027-01-31, or 2027-01-31T12:00:00Z", self.0)
    }
}

impl NoTime {
    /// Which flag it was given to.
    pub fn of(&self, flag: &str) -> Failure {
        Failure::Usage(format!("{flag}: {self}"))
    }
}

/// A whole number and a unit, in seconds.
pub fn span(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => DAY,
        "w" => 7 * DAY,
        _ => return None,
    };
    digits(number)?.checked_mul(unit)
}

fn date_time(text: &str) -> Option<u64> {
    let (date, time) = text.split_at_checked(10)?;
    let [year, month, day] = fields(date, '-', [4, 2, 2])?;
    if !(1..=12).contains(&month) || day < 1 || day > days_of(year, month) || year < 1970 {
        return None;
    }
    let days = days_before(year, month, day);
    let seconds = if time.is_empty() { 0 } else { time_of_day(time.strip_prefix(['T', 't', ' '])?)? };
    u64::try_from(i64::try_from(days * DAY).ok()? + seconds).ok()
}

/// `12:00:00`, a fraction that is dropped, and `Z` or an offset. Seconds since midnight UTC of the date before
/// it, which an offset can put before or after that day.
fn time_of_day(text: &str) -> Option<i64> {
    let (clock, rest) = text.split_at_checked(8)?;
    let [hour, minute, second] = fields(clock, ':', [2, 2, 2])?;
    let rest = match rest.strip_prefix('.') {
        Some(fraction) => {
            let zone = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
            (zone.len() < fraction.len()).then_some(zone)?
        }
        None => rest,
    };
    let offset = match rest.split_at_checked(1)? {
        ("Z" | "z", "") => 0,
        ("+", offset) => offset_of(offset)?,
        ("-", offset) => -offset_of(offset)?,
        _ => return None,
    };
    let in_range = hour < 24 && minute < 60 && second < 60;
    in_range.then_some(i64::try_from(hour * 3600 + minute * 60 + second).ok()? - offset)
}

fn offset_of(text: &str) -> Option<i64> {
    let [hour, minute] = fields(text, ':', [2, 2])?;
    (hour < 24 && minute < 60).then_some(i64::try_from(hour * 3600 + minute * 60).ok()?)
}

/// Exactly as many numbers, of exactly as many digits.
fn fields<const N: usize>(text: &str, separator: char, widths: [usize; N]) -> Option<[u64; N]> {
    let mut parts = text.split(separator);
    let mut numbers = [0; N];
    for (number, width) in numbers.iter_mut().zip(widths) {
        *number = parts.next().filter(|part| part.len() == width).and_then(digits)?;
    }
    parts.next().is_none().then_some(numbers)
}

/// Digits alone: the standard parser takes a sign as well.
fn digits(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_of(year: u64, month: u64) -> u64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Since 1970-01-01.
fn days_before(year: u64, month: u64, day: u64) -> u64 {
    let years: u64 = (1970..year).map(|year| if is_leap(year) { 366 } else { 365 }).sum();
    let months: u64 = (1..month).map(|month| days_of(year, month)).sum();
    years + months + day - 1
}

/// The inverse. Counts years and months: at most 8,029 of the one and 11 of the other.
fn civil(mut days: u64) -> (u64, u64, u64) {
    let mut year = 1970;
    while days >= if is_leap(year) { 366 } else { 365 } {
        days -= if is_leap(year) { 366 } else { 365 };
        year += 1;
    }
    let mut month = 1;
    while days >= days_of(year, month) {
        days -= days_of(year, month);
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
    fn times_are_read_in_every_form_and_nothing_else_is() {
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
    fn a_span_may_also_lie_behind() {
        assert_eq!(parse_past("1d", NOW), Ok(NOW - 86_400));
        assert_eq!(parse_past("9999w", 5), Ok(0));
        assert_eq!(parse_past("1970-01-02", NOW), Ok(86_400));
        assert!(parse_past("yesterday", NOW).is_err());
    }

    #[test]
    fn no_text_however_cut_or_altered_panics() {
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
    fn what_is_written_reads_back() {
        for unix_s in [0, 951_782_400, 1_709_164_800, NOW, 4_107_542_399, END_OF_9999] {
            check(&format(unix_s), Some(unix_s));
        }
        assert_eq!(format(1_801_396_800), "2027-01-31T12:00:00Z");
        assert_eq!(format(u64::MAX), "9999-12-31T23:59:59Z");
    }
}
