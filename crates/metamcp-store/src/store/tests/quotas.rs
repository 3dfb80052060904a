//! The totals that quotas are compared with.

use super::{by, on_each, sample};
use crate::store::{
    ApplyOutcome, DAY_S, Grants, KeyTotals, NewKey, Quotas, Store, UsageBatch, UsageCounts, UsageKey,
    UsageRow, UsedAmount,
};
use metamcp_config::sections::RetentionPolicy;
use std::time::Duration;

/// 2024-02-29, 00:00.
const LEAP_DAY: u64 = 1_709_164_800;

fn batch(sequence: u64, at: u64, rows: &[(&str, &str, u64)]) -> UsageBatch {
    let row = |(key_id, tool, calls): &(&str, &str, u64)| UsageRow {
        key: UsageKey { hour: at, key_id: (*key_id).into(), server: "s".into(), tool: (*tool).into() },
        counts: UsageCounts { calls: *calls, bytes_in: 10, bytes_out: 100, ..UsageCounts::default() },
    };
    UsageBatch { source: "a".into(), sequence, at, rows: rows.iter().map(row).collect() }
}

fn used(calls: u64, bytes: u64) -> UsedAmount {
    UsedAmount { calls, bytes }
}

/// Checks what the keys with a quota used at a time.
async fn check(store: &Store, at: u64, expected: &[(&str, UsedAmount, UsedAmount)]) {
    let found = store.key_totals(at).await.unwrap();
    let expected: Vec<_> = expected
        .iter()
        .map(|(key_id, day, month)| ((*key_id).to_owned(), KeyTotals { day: *day, month: *month }))
        .collect();
    assert_eq!(found, expected, "{at}");
}

#[tokio::test]
async fn totals_are_of_the_day_and_the_month_and_of_keys_with_a_quota() {
    on_each(async |store| {
        let quotas = Quotas { calls_per_day: Some(5), ..Quotas::NONE };
        let grants = Grants { quotas, ..Grants::everything() };
        for key_id in ["AAAAAAAAAAAA", "BBBBBBBBBBBB"] {
            let key = NewKey { grants: grants.clone(), ..sample(key_id) };
            store.insert_key(key, by("test", 1)).await.unwrap();
        }
        store.insert_key(sample("CCCCCCCCCCCC"), by("test", 1)).await.unwrap();
        let (a, b, c) = ("AAAAAAAAAAAA", "BBBBBBBBBBBB", "CCCCCCCCCCCC");
        let batches = [
            batch(1, LEAP_DAY - 1, &[(a, "x", 1)]),
            batch(2, LEAP_DAY, &[(a, "x", 2), (a, "y", 3), (b, "x", 4), (c, "x", 5)]),
            batch(3, LEAP_DAY + DAY_S - 1, &[(a, "x", 10)]),
            batch(4, LEAP_DAY + DAY_S, &[(b, "x", 20)]),
        ];
        for batch in &batches {
            assert_eq!(store.apply_usage(batch.clone()).await.unwrap(), ApplyOutcome::Now);
        }
        assert_eq!(store.apply_usage(batches[3].clone()).await.unwrap(), ApplyOutcome::Before);
        check(store, LEAP_DAY - 1, &[(a, used(1, 110), used(16, 440)), (b, used(0, 0), used(4, 110))]).await;
        check(store, LEAP_DAY, &[(a, used(15, 330), used(16, 440)), (b, used(4, 110), used(4, 110))]).await;
        check(store, LEAP_DAY + DAY_S, &[(b, used(20, 110), used(20, 110))]).await;
        check(store, LEAP_DAY + 40 * DAY_S, &[]).await;
        let kept = Duration::from_hours(24 * 365);
        let retention = RetentionPolicy { usage: kept, audit: kept };
        // So that the clock is not in doubt.
        store.apply_usage(batch(5, LEAP_DAY + 30 * DAY_S, &[(c, "x", 1)])).await.unwrap();
        let report = store.retire(&retention, LEAP_DAY + 70 * DAY_S).await.unwrap();
        assert_eq!((report.totals, report.usage), (10, 0), "all but the day of the last batch");
    })
    .await;
}
