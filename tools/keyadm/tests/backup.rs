//! Copies of the embedded database.

#![allow(clippy::unwrap_used, reason = "a test that fails by panicking is a test that fails")]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use metamcp_store::store::Store;
use support::Place;

/// Whether the file is a database with the key.
async fn has_key(file: &Path, key_id: &str) -> bool {
    let keys = Store::open_sqlite(file).await.unwrap().keys().await.unwrap();
    keys.rows.iter().any(|row| row.key_id == key_id)
}

#[tokio::test]
async fn a_database_in_use_is_copied() {
    let place = Place::new();
    place.key("first");
    let in_use = place.store().await;
    let (key_id, _) = place.key("laptop");
    let file = place.path().join("copy");
    let text = file.to_str().unwrap();
    let run = place.run(&["backup", text]);
    assert_eq!(run.code, 0, "{}", run.err);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let before = fs::read(&file).unwrap();
    place.run(&["backup", text]).check(64, "File exists");
    assert_eq!(fs::read(&file).unwrap(), before, "a file that exists is not touched");
    place.run(&["backup", "absent/copy"]).check(69, "cannot create");
    assert!(has_key(&file, &key_id).await);
    drop(in_use);
}

/// Who copies the file and not its `-wal` loses nothing that was confirmed.
#[tokio::test]
async fn the_file_alone_has_what_was_written_last() {
    let place = Place::new();
    place.key("first");
    let in_use = place.store().await;
    let (key_id, _) = place.key("laptop");
    let file = place.path().join("copy");
    fs::copy(place.data_dir().join("metamcp.sqlite"), &file).unwrap();
    assert!(has_key(&file, &key_id).await);
    drop(in_use);
}
