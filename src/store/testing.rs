//! A place on disk that a test has to itself, and what may befall the database there.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rusqlite::Connection;

/// A fresh folder, removed with the value.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("metamcp-test-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a temporary folder can be made");
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Left behind in the system's temporary folder if it fails, which harms nobody.
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// From now on the store cannot say anything about the epoch.
pub(crate) fn break_epoch(database: &Path) {
    let shell = Connection::open(database).expect("the database is there");
    shell.execute_batch("ALTER TABLE epochs RENAME TO away").expect("the table is there");
}

/// Replaces what is sealed in a key's row.
pub(crate) fn put_sealed_hash(database: &Path, key_id: &str, sealed_hash: &[u8]) {
    let shell = Connection::open(database).expect("the database is there");
    let changed = shell
        .execute("UPDATE api_keys SET sealed_hash = ?1 WHERE key_id = ?2", (sealed_hash, key_id))
        .expect("the table is there");
    assert_eq!(changed, 1);
}
