//! Quotas of keys: calls and bytes in a calendar day and month (UTC), and what is compared with them.

use std::fmt;

use jiff::SignedDuration;
use jiff::civil::{Date, date};
use serde::{Deserialize, Serialize};

use super::error::StoreError;
use super::value::{Row, Value, column_enum};

column_enum! {
    /// The interval of a quota.
    Period {
        Day = "day",
        Month = "month",
    }
}

/// Seconds of a day. Unix time has no leap seconds.
pub const DAY_S: u64 = 86_400;

/// 1970-01-01, at which Unix time begins.
const EPOCH: Date = date(1970, 1, 1);

impl Period {
    pub const ALL: [Self; 2] = [Self::Day, Self::Month];

    /// The first second of the day or month that `unix_s` lies in. Times after the year 9999 lie in its last month.
    pub fn begin(self, unix_s: u64) -> u64 {
        match self {
            Self::Day => unix_s - unix_s % DAY_S,
            Self::Month => to_seconds(to_date(unix_s).first_of_month()),
        }
    }

    /// The first second after that day or month: when the quota is available again.
    pub fn end(self, unix_s: u64) -> u64 {
        match self {
            Self::Day => self.begin(unix_s).saturating_add(DAY_S),
            Self::Month => to_seconds(to_date(unix_s).last_of_month()).saturating_add(DAY_S),
        }
    }
}

fn to_date(unix_s: u64) -> Date {
    EPOCH.saturating_add(SignedDuration::from_secs(i64::try_from(unix_s).unwrap_or(i64::MAX)))
}

fn to_seconds(date: Date) -> u64 {
    u64::try_from(EPOCH.duration_until(date).as_secs()).unwrap_or(0)
}

/// How much a key may use in a day and in a month; `None` for no quota. Part of the row's seal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quotas {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calls_per_day: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calls_per_month: Option<u64>,
    /// Bytes of request and response bodies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_day: Option<u64>,
    /// Bytes of request and response bodies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_month: Option<u64>,
}

/// One of the quotas of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuotaKind {
    CallsPerDay,
    CallsPerMonth,
    BytesPerDay,
    BytesPerMonth,
}

impl QuotaKind {
    pub const ALL: [Self; 4] =
        [Self::CallsPerDay, Self::CallsPerMonth, Self::BytesPerDay, Self::BytesPerMonth];

    /// The name in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CallsPerDay => "calls_per_day",
            Self::CallsPerMonth => "calls_per_month",
            Self::BytesPerDay => "bytes_per_day",
            Self::BytesPerMonth => "bytes_per_month",
        }
    }

    pub const fn period(self) -> Period {
        match self {
            Self::CallsPerDay | Self::BytesPerDay => Period::Day,
            Self::CallsPerMonth | Self::BytesPerMonth => Period::Month,
        }
    }
}

/// For people: `1000 calls per day`.
impl fmt::Display for QuotaKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CallsPerDay => "calls per day",
            Self::CallsPerMonth => "calls per month",
            Self::BytesPerDay => "bytes per day",
            Self::BytesPerMonth => "bytes per month",
        })
    }
}

impl Quotas {
    pub const NONE: Self =
        Self { calls_per_day: None, calls_per_month: None, bytes_per_day: None, bytes_per_month: None };

    pub fn is_none(&self) -> bool {
        *self == Self::NONE
    }

    pub fn limit(&self, kind: QuotaKind) -> Option<u64> {
        match kind {
            QuotaKind::CallsPerDay => self.calls_per_day,
            QuotaKind::CallsPerMonth => self.calls_per_month,
            QuotaKind::BytesPerDay => self.bytes_per_day,
            QuotaKind::BytesPerMonth => self.bytes_per_month,
        }
    }

    pub fn limit_mut(&mut self, kind: QuotaKind) -> &mut Option<u64> {
        match kind {
            QuotaKind::CallsPerDay => &mut self.calls_per_day,
            QuotaKind::CallsPerMonth => &mut self.calls_per_month,
            QuotaKind::BytesPerDay => &mut self.bytes_per_day,
            QuotaKind::BytesPerMonth => &mut self.bytes_per_month,
        }
    }

    pub(super) fn to_column(self) -> Value {
        if self.is_none() { Value::Null } else { Value::from(&serde_json::json!(self)) }
    }
}

/// Reads the column. A value that this version does not know is an error.
pub(super) fn read_quotas(row: &mut Row) -> Result<Quotas, StoreError> {
    let text = row.optional_text()?;
    let malformed = |_| StoreError::Failed("a key's quotas are not what this version knows".into());
    text.map_or(Ok(Quotas::NONE), |text| serde_json::from_str(&text).map_err(malformed))
}

/// What a key used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsedAmount {
    pub calls: u64,
    /// Of request and response bodies.
    pub bytes: u64,
}

impl UsedAmount {
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { calls: self.calls.saturating_add(other.calls), bytes: self.bytes.saturating_add(other.bytes) }
    }

    /// The difference to a smaller amount; zero if the other one is greater.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self { calls: self.calls.saturating_sub(other.calls), bytes: self.bytes.saturating_sub(other.bytes) }
    }
}

/// What a key used in the day and the month that a time lies in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyTotals {
    pub day: UsedAmount,
    pub month: UsedAmount,
}

impl KeyTotals {
    pub fn of(&self, period: Period) -> UsedAmount {
        match period {
            Period::Day => self.day,
            Period::Month => self.month,
        }
    }

    pub fn of_mut(&mut self, period: Period) -> &mut UsedAmount {
        match period {
            Period::Day => &mut self.day,
            Period::Month => &mut self.month,
        }
    }

    /// The part that a quota limits.
    pub fn used(&self, kind: QuotaKind) -> u64 {
        let amount = self.of(kind.period());
        match kind {
            QuotaKind::CallsPerDay | QuotaKind::CallsPerMonth => amount.calls,
            QuotaKind::BytesPerDay | QuotaKind::BytesPerMonth => amount.bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks in which interval a time lies. All times are written as in RFC 3339, without the zone, which is UTC.
    #[track_caller]
    fn check(period: Period, at: &str, begin: &str, end: &str) {
        let seconds = |text: &str| {
            let time: jiff::civil::DateTime = text.parse().expect("a time");
            u64::try_from(EPOCH.to_datetime(jiff::civil::Time::midnight()).duration_until(time).as_secs())
                .expect("a time after 1970")
        };
        let at_s = seconds(at);
        assert_eq!((period.begin(at_s), period.end(at_s)), (seconds(begin), seconds(end)), "{at}");
        assert_eq!(period.begin(period.end(at_s) - 1), period.begin(at_s), "the last second of {at}");
        assert_eq!(period.begin(period.end(at_s)), period.end(at_s), "the first second after {at}");
    }

    #[test]
    fn days_and_months_begin_and_end_in_utc() {
        check(Period::Day, "1970-01-01T00:00:00", "1970-01-01T00:00:00", "1970-01-02T00:00:00");
        check(Period::Day, "2027-03-28T23:59:59", "2027-03-28T00:00:00", "2027-03-29T00:00:00");
        check(Period::Day, "2028-02-29T12:00:00", "2028-02-29T00:00:00", "2028-03-01T00:00:00");
        check(Period::Month, "1970-01-31T23:59:59", "1970-01-01T00:00:00", "1970-02-01T00:00:00");
        check(Period::Month, "2027-02-28T23:59:59", "2027-02-01T00:00:00", "2027-03-01T00:00:00");
        check(Period::Month, "2028-02-29T23:59:59", "2028-02-01T00:00:00", "2028-03-01T00:00:00");
        check(Period::Month, "2000-02-29T00:00:00", "2000-02-01T00:00:00", "2000-03-01T00:00:00");
        check(Period::Month, "2100-02-28T23:59:59", "2100-02-01T00:00:00", "2100-03-01T00:00:00");
        check(Period::Month, "2027-12-31T23:59:59", "2027-12-01T00:00:00", "2028-01-01T00:00:00");
        check(Period::Month, "2027-04-01T00:00:00", "2027-04-01T00:00:00", "2027-05-01T00:00:00");
    }

    #[test]
    fn any_time_has_a_period() {
        for period in Period::ALL {
            assert!(period.begin(u64::MAX) <= period.end(u64::MAX));
        }
    }
}
