//! Times as text.

use jiff::SignedDuration;
use jiff::civil::date;

/// A time as in RFC 3339, in UTC. Times after the year 9999, which it cannot express, become the end of that year.
pub fn format_time(unix_s: u64) -> String {
    let since_epoch = SignedDuration::from_secs(i64::try_from(unix_s).unwrap_or(i64::MAX));
    format!("{:.0}Z", date(1970, 1, 1).at(0, 0, 0, 0).saturating_add(since_epoch))
}
