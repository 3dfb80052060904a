//! Tests of the watcher, in real time: databases do not honor a paused clock.

use std::time::{Duration, Instant};

use tokio::sync::watch::Receiver;
use tokio::time::timeout;

use super::{by, on_each, sample};
use crate::store::testing::{Folder, Notary, break_epoch, sql, with_database};
use crate::store::{KeyStatus, Store, WatchState};

/// Waits for a status, and returns how long that took.
async fn check(
    watch: &mut Receiver<WatchState>,
    within: Duration,
    wanted: impl FnMut(&WatchState) -> bool,
) -> Duration {
    let begun = Instant::now();
    let seen = timeout(within, watch.wait_for(wanted)).await.map(|seen| seen.is_ok());
    assert_eq!(seen, Ok(true), "not seen within {within:?}");
    begun.elapsed()
}

/// Longer than a poll.
const SOON: Duration = Duration::from_millis(1_500);

#[tokio::test]
async fn a_change_by_another_process_is_seen() {
    on_each(async |store| {
        let mut watch = store.watch();
        let key = store.insert_key(sample("AAAAAAAAAAAA"), by("test", 1)).await.unwrap();
        check(&mut watch, SOON, |seen| seen.epochs.keys == 2 && seen.away.is_none()).await;
        store.set_key_status(&key.key_id, KeyStatus::Inactive, by("test", 2)).await.unwrap();
        check(&mut watch, SOON, |seen| seen.epochs.keys == 4).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_file_is_still_watched() {
    let folder = Folder::create();
    let store = Store::open_sqlite(&folder.join("metamcp.sqlite")).await.unwrap().bound_by(Notary(1));
    let mut watch = store.watch();
    for number in 1..=3_u64 {
        tokio::time::sleep(SOON * 3).await;
        store.insert_key(sample(&format!("{number:012}")), by("test", 1)).await.unwrap();
        watch.wait_for(|seen| seen.epochs.keys == 2 * number).await.unwrap();
    }
}

#[tokio::test]
async fn an_unreadable_file_is_an_outage_until_it_is_readable_again() {
    let folder = Folder::create();
    let path = folder.join("metamcp.sqlite");
    let store = Store::open_sqlite(&path).await.unwrap();
    let mut watch = store.watch();
    break_epoch(&path);
    check(&mut watch, SOON, |seen| seen.away.is_some()).await;
    let shell = rusqlite::Connection::open(&path).unwrap();
    shell.execute_batch("ALTER TABLE away RENAME TO epochs; UPDATE epochs SET value = 9").unwrap();
    check(&mut watch, SOON, |seen| seen.away.is_none() && seen.epochs.jwt_keys == 9).await;
}

#[tokio::test]
async fn a_notification_is_faster_than_the_poll_and_a_lost_one_is_made_up_by_it() {
    with_database(async |url| {
        let (writer, store) =
            (Store::open(url).await.unwrap().bound_by(Notary(1)), Store::open(url).await.unwrap());
        let mut watch = store.watch();
        let listens = "DO $$ BEGIN WHILE NOT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE 'LISTEN%'
            AND datname = current_database()) LOOP PERFORM pg_sleep(0.01); PERFORM pg_stat_clear_snapshot();
            END LOOP; END $$";
        sql(url, listens).await;
        let mut taken = Vec::new();
        for number in 1..=9_u64 {
            writer.insert_key(sample(&format!("{number:012}")), by("test", 1)).await.unwrap();
            taken.push(check(&mut watch, SOON, |seen| seen.epochs.keys == 2 * number).await);
        }
        taken.sort_unstable();
        assert!(taken[4] < Duration::from_millis(250), "{taken:?}");

        // This change sends no notification, and the listener is disconnected.
        let silent = "ALTER TABLE api_keys DISABLE TRIGGER api_keys_deleted; DELETE FROM api_keys;
            UPDATE epochs SET value = 77 WHERE kind = 'keys';
            SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid()";
        sql(url, silent).await;
        check(&mut watch, SOON, |seen| seen.epochs.keys == 77).await;
        // The database goes back to an older copy: that counts as a change.
        sql(url, "UPDATE epochs SET value = 70 WHERE kind = 'keys'").await;
        check(&mut watch, SOON, |seen| seen.epochs.keys == 78).await;
    })
    .await;
}

#[tokio::test]
async fn thousands_of_notifications_cause_few_reads() {
    with_database(async |url| {
        let store = Store::open(url).await.unwrap().bound_by(Notary(1));
        let mut watch = store.watch();
        let flood = "DO $$ BEGIN FOR i IN 1..10000 LOOP
            PERFORM pg_notify('metamcp_epochs', 'keys ' || i); END LOOP; END $$;
            UPDATE epochs SET value = 5 WHERE kind = 'servers'";
        sql(url, flood).await;
        check(&mut watch, SOON, |seen| seen.epochs.servers == 5).await;
    })
    .await;
}
