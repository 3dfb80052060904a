//! Tests of failures that only a file on disk has.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;

use super::{by, sample};
use crate::store::testing::{Folder, Notary};
use crate::store::{Grants, KeyStatus, Store, StoreError};
use metamcp_config::sections::RetentionPolicy;

const DAY: u64 = 86_400;

async fn open(folder: &Folder) -> Result<Store, StoreError> {
    let store = Store::open_sqlite(&folder.join("metamcp.sqlite")).await?;
    Ok(store.bound_by(Notary(1)))
}

/// Checks how opening a file fails that `prepare` created.
async fn check(prepare: impl FnOnce(&Path), expected: &str) {
    let folder = Folder::create();
    prepare(&folder.join("metamcp.sqlite"));
    let error = open(&folder).await.expect_err(expected).to_string();
    assert!(error.contains(expected), "expected {expected:?} in {error:?}");
}

#[tokio::test]
async fn a_clock_that_jumped_ahead_deletes_nothing() {
    let folder = Folder::create();
    let store = open(&folder).await.unwrap();
    let write = async |day: u64| {
        store.insert_key(sample(&format!("{day:012}")), by("test", day * DAY)).await.unwrap();
    };
    let kept = Duration::from_secs(400 * DAY);
    let check = async |day: u64, taken: u64, doubted: bool| {
        let retired = store.retire(&RetentionPolicy { usage: kept, audit: kept }, day * DAY).await.unwrap();
        assert_eq!((retired.audit, retired.doubted), (taken, doubted), "day {day}");
    };
    for day in [1, 100, 300] {
        write(day).await;
    }
    check(301, 0, false).await;
    check(900, 0, true).await;
    // Not even if something was written since, by the same clock.
    write(901).await;
    check(902, 0, true).await;
    check(60_000, 0, true).await;
    // Without a jump old rows are deleted; a single jump does not keep them forever.
    write(690).await;
    check(702, 3, false).await;
    check(1_200, 1, false).await;
}

#[tokio::test]
async fn data_survives_reopening_and_is_readable_by_its_owner_only() {
    let folder = Folder::create();
    open(&folder).await.unwrap().insert_key(sample("AAAAAAAAAAAA"), by("test", 1)).await.unwrap();
    let store = open(&folder).await.unwrap();
    assert_eq!(store.keys().await.unwrap().rows.len(), 1);
    for name in ["metamcp.sqlite", "metamcp.sqlite-wal", "metamcp.sqlite-shm"] {
        let mode = std::fs::metadata(folder.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[tokio::test]
async fn concurrent_opens_of_a_new_file_succeed() {
    let folder = Folder::create();
    let stores = futures_util::future::join_all((0..16).map(|_| open(&folder))).await;
    for (number, store) in stores.into_iter().enumerate() {
        let store = store.expect("opens");
        store.insert_key(sample(&format!("{number:012}")), by("test", 1)).await.unwrap();
    }
    assert_eq!(open(&folder).await.unwrap().epochs().await.unwrap().keys, 32);
}

#[tokio::test]
async fn unusable_files_are_refused_with_advice() {
    let sql = |path: &Path, sql: &str| Connection::open(path).unwrap().execute_batch(sql).unwrap();
    check(|path| std::fs::write(path, "not a database, only some text".repeat(200)).unwrap(), "backup").await;
    check(|path| std::fs::create_dir(path).unwrap(), "cannot open the database").await;
    check(|path| sql(path, "CREATE TABLE theirs (x)"), "another program").await;
    check(
        |path| sql(path, "PRAGMA application_id = 0x6d637067; PRAGMA user_version = 99; CREATE TABLE x (y)"),
        "schema version 99, this program knows versions up to 6",
    )
    .await;
}

#[tokio::test]
async fn a_damaged_page_is_noticed_on_opening() {
    let folder = Folder::create();
    let path = folder.join("metamcp.sqlite");
    open(&folder).await.unwrap().insert_key(sample("AAAAAAAAAAAA"), by("test", 1)).await.unwrap();
    // Moves the contents of the log into the file, which is damaged next.
    Connection::open(&path).unwrap().execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2 / 4096 * 4096;
    bytes[middle..middle + 2048].fill(0xff);
    std::fs::write(&path, bytes).unwrap();
    assert!(matches!(open(&folder).await, Err(StoreError::Corrupt(_))));
}

#[tokio::test]
async fn keys_of_the_first_schema_version_are_migrated() {
    let folder = Folder::create();
    let path = folder.join("metamcp.sqlite");
    let first = Connection::open(&path).unwrap();
    first.execute_batch(include_str!("../../../../../sql/sqlite/0001_api_keys.sql")).unwrap();
    first
        .execute_batch(
            "INSERT INTO api_keys (key_id, name, description, status, sealed_hash, key_version, created_at)
             VALUES ('AAAAAAAAAAAA', 'laptop', 'd', 'active', x'010203', 1, 5),
                    ('BBBBBBBBBBBB', '', '', 'inactive', x'04', 2, 6);
             PRAGMA user_version = 1; PRAGMA application_id = 0x6d637067",
        )
        .unwrap();
    drop(first);
    let store = open(&folder).await.unwrap();
    let keys = store.keys().await.unwrap();
    let seen: Vec<_> = keys
        .rows
        .iter()
        .map(|row| (row.key_id.as_str(), row.name.as_str(), row.status, row.key_version, row.epoch))
        .collect();
    let expected = [
        ("AAAAAAAAAAAA", "laptop", KeyStatus::Active, 1, 1),
        ("BBBBBBBBBBBB", "BBBBBBBBBBBB", KeyStatus::Inactive, 2, 2),
    ];
    assert_eq!((seen.as_slice(), keys.epoch), (&expected[..], 2));
    assert_eq!(keys.rows[0].grants, Grants::everything());
    assert_eq!((&keys.rows[0].sealed_hash[..], keys.rows[0].created_at), (&[1, 2, 3][..], 5));
    let id = keys.rows[0].id.to_string();
    assert_eq!(store.key(&id).await.unwrap().as_ref(), Some(&keys.rows[0]));
    assert_eq!((&id[14..15], "89ab".contains(&id[19..20])), ("4", true), "{id}");
    assert!(store.set_key_status(&id, KeyStatus::Inactive, by("test", 9)).await.unwrap());
    assert_eq!(store.epochs().await.unwrap().keys, 3);
}

#[tokio::test]
async fn the_database_of_another_program_is_not_changed() {
    let folder = Folder::create();
    let path = folder.join("metamcp.sqlite");
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE theirs (x)").unwrap();
    let before = std::fs::read(&path).unwrap();
    assert!(matches!(open(&folder).await, Err(StoreError::Foreign(_))));
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[tokio::test]
async fn opening_and_reading_do_not_wait_for_a_writer() {
    let folder = Folder::create();
    open(&folder).await.unwrap().insert_key(sample("AAAAAAAAAAAA"), by("test", 1)).await.unwrap();
    let writer = Connection::open(folder.join("metamcp.sqlite")).unwrap();
    writer.execute_batch("BEGIN IMMEDIATE").unwrap();
    let store = open(&folder).await.unwrap();
    assert_eq!(store.keys().await.unwrap().rows.len(), 1);
}
