//! Quotas: how many calls and bytes a key may use in a calendar day and month (UTC).
//!
//! What was used is the sum of two counters: `local` is what was added here, `base` is everything else, as far as the process
//! knows: what others counted, and what it counted itself before the key had a quota, or before it started. A call is added
//! to `local` when it is admitted, so that calls in flight count; bytes when usage counts them. `in_usage` is the part of
//! `local` that usage has too, so that whoever knows what usage has can derive `base`.
//!
//! Does not know: how usage is counted.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use metamcp_store::auth::{DAY_S, KeyTotals, Period, QUOTA_MAX, QuotaKind, Quotas, UsedAmount, format_time};

/// What one key used in the current day and month.
#[derive(Default)]
pub struct QuotaCounters {
    local: PeriodCounters,
    in_usage: PeriodCounters,
    base: PeriodCounters,
}

/// One counter for each kind of quota, by [`QuotaKind`].
#[derive(Default)]
struct PeriodCounters([PeriodCounter; QuotaKind::ALL.len()]);

/// The count of one day or month, which begins anew with the next one: 16 bits for the day on which the period begins,
/// counted from 1970 (until 2149), and 48 bits for the count.
#[derive(Default)]
struct PeriodCounter(AtomicU64);

const COUNT_BITS: u32 = 48;
const COUNT_MAX: u64 = (1 << COUNT_BITS) - 1;

const _: () = assert!(QUOTA_MAX <= COUNT_MAX);

/// A period that begins at most so many seconds later stays: another thread read its clock a moment later. One that begins
/// later than that is from a clock that was ahead and has been corrected. More than any thread waits between reading its clock
/// and counting, for example for the store; and short, because until then a period that is not there yet can refuse calls.
const AHEAD_S_MAX: u64 = 60;

/// A time, and the day, counted from 1970, on which its period begins.
#[derive(Clone, Copy)]
struct PeriodTime {
    unix_s: u64,
    day: u64,
}

impl PeriodTime {
    fn new(period: Period, unix_s: u64) -> Self {
        Self { unix_s, day: (period.begin(unix_s) / DAY_S).min(u64::from(u16::MAX)) }
    }

    /// Whether what was counted in the period that begins on `day` still counts.
    fn is_within(self, day: u64) -> bool {
        day == self.day || (day > self.day && day * DAY_S <= self.unix_s.saturating_add(AHEAD_S_MAX))
    }
}

impl PeriodCounter {
    /// The first day of the period that counts at a time, and its count.
    fn unpack(packed: u64, now: PeriodTime) -> (u64, u64) {
        let (known, count) = (packed >> COUNT_BITS, packed & COUNT_MAX);
        if now.is_within(known) { (known, count) } else { (now.day, 0) }
    }

    fn pack(day: u64, count: u64) -> u64 {
        day << COUNT_BITS | count.min(COUNT_MAX)
    }

    fn count(&self, now: PeriodTime) -> u64 {
        Self::unpack(self.0.load(Ordering::Relaxed), now).1
    }

    /// Adds, unless the count is `limit` already or more.
    fn add_below(&self, now: PeriodTime, amount: u64, limit: u64) -> bool {
        let add = |packed| {
            let (day, count) = Self::unpack(packed, now);
            (count < limit).then(|| Self::pack(day, count.saturating_add(amount)))
        };
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_ok()
    }

    fn add(&self, now: PeriodTime, amount: u64) {
        self.add_below(now, amount, u64::MAX);
    }

    /// Takes back what was added in the same period.
    fn subtract(&self, now: PeriodTime, amount: u64) {
        let subtract = |packed| {
            let (known, count) = Self::unpack(packed, now);
            (known == now.day).then(|| Self::pack(known, count.saturating_sub(amount)))
        };
        // An error means that the next period has begun, and with it a new count.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, subtract);
    }

    fn set(&self, now: PeriodTime, count: u64) {
        self.0.store(Self::pack(now.day, count), Ordering::Relaxed);
    }

    fn raise(&self, now: PeriodTime, count: u64) {
        let raise = |packed| {
            let (known, old) = Self::unpack(packed, now);
            (known == now.day).then(|| Self::pack(known, old.max(count)))
        };
        // An error means that the next period has begun.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, raise);
    }
}

impl PeriodCounters {
    fn of(&self, kind: QuotaKind) -> &PeriodCounter {
        &self.0[kind as usize]
    }
}

/// How a new value of `base` relates to the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BaseUpdate {
    /// The first complete value: what was known before was a part of it, or an estimate.
    Replace,
    /// A later value. Within a period it never falls, whatever happens to the rows of the store.
    Raise,
}

impl QuotaCounters {
    /// Counts a call, unless a quota is used up. The longest wait is reported: months before days.
    pub(super) fn reserve(&self, quotas: &Quotas, unix_s: u64) -> Result<(), QuotaExceeded> {
        use QuotaKind::{BytesPerDay, BytesPerMonth, CallsPerDay, CallsPerMonth};
        self.check_bytes(BytesPerMonth, quotas, unix_s)?;
        self.reserve_call(CallsPerMonth, quotas, unix_s)?;
        let reserve_day = || {
            self.check_bytes(BytesPerDay, quotas, unix_s)?;
            self.reserve_call(CallsPerDay, quotas, unix_s)
        };
        reserve_day().inspect_err(|_| {
            self.local.of(CallsPerMonth).subtract(PeriodTime::new(Period::Month, unix_s), 1);
        })
    }

    /// Fails if the bytes of a quota are used up.
    fn check_bytes(&self, kind: QuotaKind, quotas: &Quotas, unix_s: u64) -> Result<(), QuotaExceeded> {
        let Some(limit) = quotas.limit(kind) else { return Ok(()) };
        let now = PeriodTime::new(kind.period(), unix_s);
        let used = self.base.of(kind).count(now).saturating_add(self.local.of(kind).count(now));
        if used < limit { Ok(()) } else { Err(QuotaExceeded::new(kind, limit, unix_s)) }
    }

    fn reserve_call(&self, kind: QuotaKind, quotas: &Quotas, unix_s: u64) -> Result<(), QuotaExceeded> {
        let now = PeriodTime::new(kind.period(), unix_s);
        let limit = quotas.limit(kind).unwrap_or(u64::MAX);
        let left = limit.saturating_sub(self.base.of(kind).count(now));
        if self.local.of(kind).add_below(now, 1, left) {
            return Ok(());
        }
        Err(QuotaExceeded::new(kind, limit, unix_s))
    }

    /// Adds what usage counts of a call that was reserved at `began_s`. A call that ends in another day or month than it began
    /// in counts in both. `is_in_usage` says that usage counts it under the key; it must do so afterwards.
    pub(super) fn add(&self, began_s: u64, amount: UsedAmount, unix_s: u64, is_in_usage: bool) {
        for kind in QuotaKind::ALL {
            let now = PeriodTime::new(kind.period(), unix_s);
            let began = PeriodTime::new(kind.period(), began_s);
            let (count, is_reserved) = match kind {
                QuotaKind::CallsPerDay | QuotaKind::CallsPerMonth => (amount.calls, now.is_within(began.day)),
                QuotaKind::BytesPerDay | QuotaKind::BytesPerMonth => (amount.bytes, false),
            };
            if !is_reserved {
                self.local.of(kind).add(now, count);
            }
            if is_in_usage {
                self.in_usage.of(kind).add(now, count);
            }
        }
        // Whoever sees the counts of usage that follow sees the additions above.
        fence(Ordering::Release);
    }

    /// Sets what is not in `local`: what others used, and what this process used before the key had a quota.
    pub fn set_base(&self, totals: &KeyTotals, unix_s: u64, update: BaseUpdate) {
        for kind in QuotaKind::ALL {
            let (now, count) = (PeriodTime::new(kind.period(), unix_s), totals.used(kind));
            match update {
                BaseUpdate::Replace => self.base.of(kind).set(now, count),
                BaseUpdate::Raise => self.base.of(kind).raise(now, count),
            }
        }
    }

    /// The part of `local` that usage has. What is counted meanwhile may be in this already and not yet in usage. So if it
    /// is read after usage, the difference is never too great; and it is exact if nothing was added while usage was read.
    pub fn in_usage(&self, unix_s: u64) -> KeyTotals {
        fence(Ordering::Acquire);
        Self::totals(&self.in_usage, unix_s)
    }

    fn totals(counters: &PeriodCounters, unix_s: u64) -> KeyTotals {
        let count = |kind: QuotaKind| counters.of(kind).count(PeriodTime::new(kind.period(), unix_s));
        let amount = |calls, bytes| UsedAmount { calls: count(calls), bytes: count(bytes) };
        KeyTotals {
            day: amount(QuotaKind::CallsPerDay, QuotaKind::BytesPerDay),
            month: amount(QuotaKind::CallsPerMonth, QuotaKind::BytesPerMonth),
        }
    }
}

/// A quota that is used up. The text is sent to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotaExceeded {
    pub kind: QuotaKind,
    pub limit: u64,
    /// When the next day or month begins, in seconds since 1970.
    pub resets_at: u64,
    /// The seconds until then; at least 1.
    pub retry_after_s: u64,
}

impl QuotaExceeded {
    #[cold]
    fn new(kind: QuotaKind, limit: u64, unix_s: u64) -> Self {
        let resets_at = kind.period().end(unix_s);
        Self { kind, limit, resets_at, retry_after_s: resets_at.saturating_sub(unix_s).max(1) }
    }

    /// When the quota is available again, as in RFC 3339.
    pub fn reset_text(&self) -> String {
        format_time(self.resets_at)
    }
}

impl fmt::Display for QuotaExceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, limit, .. } = self;
        write!(f, "this key has used its quota of {limit} {kind}; it resets at {}", self.reset_text())
    }
}

impl std::error::Error for QuotaExceeded {}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2028-02-29, 23:59:58.
    const LEAP_EVENING: u64 = 1_835_481_598;

    fn quotas(calls_per_day: u64, calls_per_month: u64, bytes_per_day: u64, bytes_per_month: u64) -> Quotas {
        let limit = |limit| (limit > 0).then_some(limit);
        Quotas {
            calls_per_day: limit(calls_per_day),
            calls_per_month: limit(calls_per_month),
            bytes_per_day: limit(bytes_per_day),
            bytes_per_month: limit(bytes_per_month),
        }
    }

    /// Makes a call of 10 bytes at each time, in seconds after [`LEAP_EVENING`]. `expected` has for each the seconds until
    /// the quota resets, or zero if it was admitted.
    #[track_caller]
    fn check(quotas: Quotas, calls: &[(u64, u64)]) {
        let counters = QuotaCounters::default();
        let call = |after_s: u64| {
            let now = LEAP_EVENING + after_s;
            if let Err(exceeded) = counters.reserve(&quotas, now) {
                return exceeded.retry_after_s;
            }
            for kind in [QuotaKind::BytesPerDay, QuotaKind::BytesPerMonth] {
                counters.local.of(kind).add(PeriodTime::new(kind.period(), now), 10);
            }
            0
        };
        let outcomes: Vec<_> = calls.iter().map(|(after_s, _)| (*after_s, call(*after_s))).collect();
        assert_eq!(outcomes, calls, "{quotas:?}");
    }

    #[test]
    fn a_quota_admits_so_many_calls_until_the_period_ends() {
        let month = 31 * DAY_S;
        check(quotas(2, 0, 0, 0), &[(0, 0), (1, 0), (1, 1), (2, 0), (3, 0), (3, DAY_S - 1)]);
        check(quotas(0, 1, 0, 0), &[(0, 0), (0, 2), (2, 0), (2, month), (1 + month, 1), (2 + month, 0)]);
        // The month is the longer wait, and a refused call counts in neither.
        check(quotas(1, 2, 0, 0), &[(2, 0), (2, DAY_S), (2 + DAY_S, 0), (2 + DAY_S, month - DAY_S)]);
        check(quotas(0, 0, 20, 0), &[(0, 0), (0, 0), (0, 2), (2, 0)]);
        check(
            quotas(0, 0, 15, 25),
            &[(2, 0), (2, 0), (2, DAY_S), (2 + DAY_S, 0), (2 + DAY_S, month - DAY_S)],
        );
        check(quotas(0, 0, 0, 0), &[(0, 0), (0, 0)]);
    }

    #[test]
    fn what_others_used_counts_and_never_falls_within_a_period() {
        let counters = QuotaCounters::default();
        let quotas = quotas(10, 0, 0, 0);
        let left = |at: u64| (0..100).filter(|_| counters.reserve(&quotas, at).is_ok()).count();
        let local = |at| QuotaCounters::totals(&counters.local, at);
        let base = |calls| KeyTotals { day: UsedAmount { calls, bytes: 0 }, ..KeyTotals::default() };
        counters.set_base(&base(9), LEAP_EVENING, BaseUpdate::Replace);
        counters.set_base(&base(4), LEAP_EVENING, BaseUpdate::Replace);
        assert_eq!(left(LEAP_EVENING), 6);
        counters.set_base(&base(1), LEAP_EVENING, BaseUpdate::Raise);
        assert_eq!(left(LEAP_EVENING), 0, "the base does not fall");
        assert_eq!(local(LEAP_EVENING).day.calls, 6);
        counters.set_base(&base(3), LEAP_EVENING + 2, BaseUpdate::Raise);
        assert_eq!(left(LEAP_EVENING + 2), 7, "a new day");
        counters.set_base(&base(9), LEAP_EVENING, BaseUpdate::Raise);
        assert_eq!(local(LEAP_EVENING + 2).day.calls, 7, "a late value changes nothing");
    }

    #[test]
    fn what_usage_counts_too_is_known() {
        let counters = QuotaCounters::default();
        let one_call = UsedAmount { calls: 1, bytes: 10 };
        // When a call is reserved and when it ends, in seconds after LEAP_EVENING; whether usage counts it; and then what usage
        // and the counters both have of the day, and what the counters have.
        let rows = [
            (0, 0, true, (1, 10), (1, 10)),
            (0, 1, false, (1, 10), (2, 20)),
            (1, 1, true, (2, 20), (3, 30)),
            // In the next day.
            (1, 2, true, (1, 10), (1, 10)),
            (2, 3, true, (2, 20), (2, 20)),
        ];
        for row in rows {
            let (began, ended, is_in_usage, ..) = row;
            let [began_s, now] = [began, ended].map(|after_s| LEAP_EVENING + after_s);
            counters.reserve(&quotas(9, 0, 0, 0), began_s).expect("a call");
            counters.add(began_s, one_call, now, is_in_usage);
            let day = |totals: KeyTotals| (totals.day.calls, totals.day.bytes);
            let in_usage = day(counters.in_usage(now));
            let local = day(QuotaCounters::totals(&counters.local, now));
            assert_eq!((began, ended, is_in_usage, in_usage, local), row);
        }
    }

    #[test]
    fn a_clock_that_was_ahead_blocks_nothing() {
        let noon = LEAP_EVENING + 2 - DAY_S / 2;
        // The time, by how much the clock was ahead, and how many calls are then admitted of one a day, and of one a month.
        let rows = [
            (noon, 3600, 0, 0),
            (LEAP_EVENING, 2, 0, 0),
            // In the last minute of a day, the next day may have begun for others.
            (LEAP_EVENING - 58, DAY_S, 0, 0),
            (LEAP_EVENING - 59, DAY_S, 1, 1),
            (noon - 2 * DAY_S, DAY_S, 1, 0),
        ];
        let days = [1, 2, 7, 31, 32, 400].map(|days| (noon, days * DAY_S, 1, 1));
        for (at, ahead_s, per_day, per_month) in rows.into_iter().chain(days) {
            let admitted = |quotas| {
                let counters = QuotaCounters::default();
                let totals = KeyTotals { day: UsedAmount { calls: 0, bytes: 7 }, ..KeyTotals::default() };
                counters.set_base(&totals, at + ahead_s, BaseUpdate::Replace);
                assert!(counters.reserve(&quotas, at + ahead_s).is_ok());
                (0..2).filter(|_| counters.reserve(&quotas, at).is_ok()).count()
            };
            let both = (admitted(quotas(1, 0, 0, 0)), admitted(quotas(0, 1, 0, 0)));
            assert_eq!(both, (per_day, per_month), "at {at}, {ahead_s} s ahead");
        }
    }

    #[test]
    fn a_thread_whose_clock_is_a_moment_behind_counts_in_the_new_day() {
        let counters = QuotaCounters::default();
        let one = quotas(1, 0, 0, 0);
        // The clock of another thread is a second ahead, on the next day.
        assert!(counters.reserve(&one, LEAP_EVENING + 2).is_ok());
        assert!(counters.reserve(&one, LEAP_EVENING + 1).is_err());
    }

    #[test]
    fn the_longest_wait_is_reported() {
        // Quotas that are used up after one call, at two days before the end of February, and which is reported.
        let before_end = LEAP_EVENING - 2 * DAY_S;
        let rows = [
            (quotas(1, 0, 5, 0), before_end, QuotaKind::BytesPerDay, 0),
            (quotas(1, 1, 0, 0), before_end, QuotaKind::CallsPerMonth, 2 * DAY_S),
            (quotas(0, 1, 5, 0), before_end, QuotaKind::CallsPerMonth, 2 * DAY_S),
            (quotas(1, 0, 0, 5), before_end, QuotaKind::BytesPerMonth, 2 * DAY_S),
            (quotas(1, 1, 5, 5), before_end, QuotaKind::BytesPerMonth, 2 * DAY_S),
            // On the last day of the month, all end at once.
            (quotas(0, 1, 5, 0), LEAP_EVENING, QuotaKind::CallsPerMonth, 0),
        ];
        for (quotas, at, kind, after_s) in rows {
            let counters = QuotaCounters::default();
            counters.reserve(&quotas, at).expect("a call");
            counters.add(at, UsedAmount { calls: 1, bytes: 10 }, at, true);
            for _ in 0..3 {
                let exceeded = counters.reserve(&quotas, at).expect_err("a quota is used up");
                assert_eq!((exceeded.kind, exceeded.retry_after_s), (kind, after_s + 2), "{quotas:?}");
                assert_eq!(exceeded.resets_at, at + after_s + 2);
            }
            let calls = QuotaCounters::totals(&counters.local, at);
            assert_eq!((calls.day.calls, calls.month.calls), (1, 1), "a refused call counts in neither");
        }
    }

    #[test]
    fn a_burst_never_passes_the_quota() {
        let counters = QuotaCounters::default();
        let quotas = quotas(1000, 700, 0, 0);
        let admit = || (0..1000).filter(|_| counters.reserve(&quotas, LEAP_EVENING).is_ok()).count();
        let admitted: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(admit)).collect();
            threads.into_iter().map(|thread| thread.join().expect("a thread")).sum()
        });
        assert_eq!(admitted, 700);
    }

    #[test]
    fn the_client_is_told_which_quota_and_when_it_resets() {
        let exceeded = QuotaExceeded::new(QuotaKind::CallsPerMonth, 20, LEAP_EVENING);
        let text = "this key has used its quota of 20 calls per month; it resets at 2028-03-01T00:00:00Z";
        assert_eq!((exceeded.to_string().as_str(), exceeded.retry_after_s), (text, 2));
    }
}
