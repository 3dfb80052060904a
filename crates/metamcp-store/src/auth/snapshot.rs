//! Snapshots on disk of the rows last read from the database, for a start while the database is unavailable.
//!
//! ```text
//! file = header | sealed JSON          mode 0600, replaced atomically by renaming
//! ```

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use metamcp_core::base::OutageLog;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::seal::{Purpose, Sealer};
use super::secrets::random_bytes;

/// A sealed file that holds one snapshot of a part of the database.
#[derive(Debug)]
pub struct SnapshotFile {
    path: PathBuf,
    purpose: Purpose,
    /// The kind of snapshot and its format version. Authenticated together with the sealed JSON.
    header: &'static [u8],
}

/// Why a snapshot cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    /// The file has another format version, was sealed with another `ENCRYPTION_KEY`, or was altered.
    #[error(
        "{0} does not open with the given ENCRYPTION_KEY, or is damaged; it is replaced once the database answers"
    )]
    Unseal(PathBuf),
}

impl SnapshotFile {
    pub(super) fn for_keyring(path: PathBuf) -> Self {
        Self { path, purpose: Purpose::KeyringSnapshot, header: b"metamcp keyring 1\n" }
    }

    /// The snapshot of servers and endpoints.
    pub fn for_topology(path: PathBuf) -> Self {
        Self { path, purpose: Purpose::TopologySnapshot, header: b"metamcp fleet 1\n" }
    }

    /// The snapshot of what keys with a quota used.
    pub fn for_quotas(path: PathBuf) -> Self {
        Self { path, purpose: Purpose::QuotaSnapshot, header: b"metamcp quotas 1\n" }
    }

    /// Replaces the snapshot atomically: a reader sees the old file or the whole new one. Blocks on the disk.
    pub fn write(&self, sealer: &Sealer, snapshot: &impl Serialize) -> Result<(), SnapshotError> {
        let json = serde_json::to_vec(snapshot).map_err(|error| self.io(error.into()))?;
        let sealed = sealer.seal(self.purpose, self.header, &json);
        let draft = self.path.with_extension(format!("{:x}", u64::from_le_bytes(random_bytes())));
        let written = write(&draft, self.header, &sealed).and_then(|()| std::fs::rename(&draft, &self.path));
        if written.is_err() {
            // Retries on a full disk must not leave one partial file each.
            drop(std::fs::remove_file(&draft));
        }
        let written =
            written.and_then(|()| File::open(self.path.parent().unwrap_or(Path::new(".")))?.sync_all());
        written.map_err(|error| self.io(error))
    }

    /// Reads the snapshot; `None` when none was written yet. Blocks on the disk.
    pub fn read<T: DeserializeOwned>(&self, sealer: &Sealer) -> Result<Option<T>, SnapshotError> {
        let file = match File::open(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|error| self.io(error))?,
        };
        let mut bytes = Vec::new();
        file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(|error| self.io(error))?;
        let opened = bytes
            .strip_prefix(self.header)
            .and_then(|sealed| sealer.open(self.purpose, self.header, sealed).ok())
            .and_then(|json| serde_json::from_slice(&json).ok());
        opened.map(Some).ok_or_else(|| SnapshotError::Unseal(self.path.clone()))
    }

    fn io(&self, source: std::io::Error) -> SnapshotError {
        SnapshotError::Io { path: self.path.clone(), source }
    }
}

/// Writes the newest of the snapshots it is given, in the background: a busy disk may take seconds, and publishing a
/// revoked key must not wait for that.
#[derive(Debug)]
pub struct SnapshotWriter<T> {
    file: SnapshotFile,
    sealer: Arc<Sealer>,
    state: Mutex<WriterState<T>>,
}

#[derive(Debug)]
struct WriterState<T> {
    /// The next snapshot to write.
    pending: Option<T>,
    /// A write is in progress, or a retry is scheduled.
    is_writing: bool,
    outage: OutageLog,
}

impl<T: Serialize + Send + 'static> SnapshotWriter<T> {
    pub fn new(file: SnapshotFile, sealer: Arc<Sealer>) -> Arc<Self> {
        let state = WriterState { pending: None, is_writing: false, outage: OutageLog::default() };
        Arc::new(Self { file, sealer, state: Mutex::new(state) })
    }

    pub fn file(&self) -> &SnapshotFile {
        &self.file
    }

    /// Schedules a write and retries it until it succeeds. Of the snapshots that arrive during a write only the newest
    /// is written. Must be called in a runtime; its shutdown waits for the write in progress.
    pub fn enqueue(self: &Arc<Self>, snapshot: T) {
        if self.set_pending(snapshot) {
            self.spawn_write();
        }
    }

    /// Writes before it returns, unless a write is in progress already. Blocks on the disk.
    pub fn write_now(self: &Arc<Self>, snapshot: T) {
        if self.set_pending(snapshot) {
            self.write_pending();
        }
    }

    /// Whether the caller is to start the write: none is in progress.
    fn set_pending(&self, snapshot: T) -> bool {
        let mut state = self.lock_state();
        state.pending = Some(snapshot);
        !std::mem::replace(&mut state.is_writing, true)
    }

    fn spawn_write(self: &Arc<Self>) {
        let writer = Arc::clone(self);
        spawn_blocking(move || writer.write_pending());
    }

    fn write_pending(self: &Arc<Self>) {
        while let Some(snapshot) = self.take_pending() {
            let Err(error) = self.file.write(&self.sealer, &snapshot) else {
                // Nobody waits for a snapshot, so its recovery is not worth a line.
                self.lock_state().outage.succeed(Instant::now());
                continue;
            };
            let mut state = self.lock_state();
            state.pending.get_or_insert(snapshot);
            // Without a snapshot a later start needs the database: worth a warning, no reason to stop.
            if state.outage.fail(Instant::now()).is_some() {
                tracing::warn!(%error, "cannot write the snapshot for starts without the database; retrying");
            }
            // The retry ends when the writer is dropped.
            let writer = Arc::downgrade(self);
            Handle::current().spawn(async move {
                sleep(RETRY_INTERVAL).await;
                if let Some(writer) = writer.upgrade() {
                    writer.spawn_write();
                }
            });
            return;
        }
    }

    fn take_pending(&self) -> Option<T> {
        let mut state = self.lock_state();
        let snapshot = state.pending.take();
        state.is_writing = snapshot.is_some();
        snapshot
    }

    fn lock_state(&self) -> MutexGuard<'_, WriterState<T>> {
        // Nothing under this lock panics.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Time between two attempts to write: a full disk stays full for a while.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

fn write(path: &Path, header: &[u8], sealed: &[u8]) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(header)?;
    file.write_all(sealed)?;
    file.sync_all()
}

/// A key takes under a kilobyte, and no installation has a quarter of a million keys. Servers and endpoints take less.
const FILE_BYTES_MAX: u64 = 256 << 20;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use zeroize::Zeroizing;

    use super::super::config::EncryptionKey;
    use super::super::keyring_snapshot::KeyringSnapshot;
    use super::*;
    use crate::store::Keys;
    use crate::store::testing::Folder;

    fn sealer(fill: u8) -> Sealer {
        Sealer::new(&[EncryptionKey { version: 1, key: Zeroizing::new([fill; 32]) }]).unwrap()
    }

    /// Writes two snapshots, alters the file, and reads it back.
    fn check(alter: impl FnOnce(&Path), opener: &Sealer, expected: &str) {
        let folder = Folder::create();
        let path = folder.join("keyring.sealed");
        let file = SnapshotFile::for_keyring(path.clone());
        for epoch in 1..=2 {
            let keys = Keys { epoch, rows: Vec::new() };
            let snapshot = KeyringSnapshot { written_at: 7, keys, jwt_keys: None };
            file.write(&sealer(1), &snapshot).unwrap();
        }
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
        alter(&path);
        let seen = match file.read::<KeyringSnapshot>(opener) {
            Ok(Some(snapshot)) => format!("epoch {} at {}", snapshot.keys.epoch, snapshot.written_at),
            Ok(None) => "none".to_owned(),
            Err(error) => error.to_string(),
        };
        assert!(seen.contains(expected), "{expected:?} is not in {seen:?}");
    }

    #[test]
    fn only_an_unaltered_snapshot_of_the_same_kind_is_read() {
        let flip = |at: usize| {
            move |path: &Path| {
                let mut bytes = std::fs::read(path).unwrap();
                bytes[at] ^= 1;
                std::fs::write(path, bytes).unwrap();
            }
        };
        check(|_| {}, &sealer(1), "epoch 2 at 7");
        // A snapshot of another kind is refused.
        let other = |path: &Path| SnapshotFile::for_topology(path.to_owned()).write(&sealer(1), &7).unwrap();
        check(other, &sealer(1), "does not open");
        check(|_| {}, &sealer(2), "does not open");
        check(|path| std::fs::remove_file(path).unwrap(), &sealer(1), "none");
        check(|path| std::fs::write(path, "").unwrap(), &sealer(1), "does not open");
        for at in [0, 17, 18, 30, 60, 80] {
            check(flip(at), &sealer(1), "does not open");
        }
        check(
            |path| {
                std::fs::remove_file(path).unwrap();
                std::fs::create_dir(path).unwrap();
            },
            &sealer(1),
            "directory",
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_write_is_retried_and_only_the_newest_snapshot_is_written() {
        let folder = Folder::create();
        let data = folder.join("data");
        let sealer = Arc::new(sealer(1));
        let writer =
            SnapshotWriter::new(SnapshotFile::for_topology(data.join("fleet.sealed")), Arc::clone(&sealer));
        let found = || writer.file().read::<u32>(&sealer).unwrap();
        writer.enqueue(1);
        // The paused clock advances only while nothing is written, so the first attempt is over by then.
        sleep(RETRY_INTERVAL / 2).await;
        assert_eq!(found(), None, "there is no such directory");
        writer.enqueue(2);
        writer.enqueue(3);
        std::fs::create_dir(&data).unwrap();
        sleep(RETRY_INTERVAL).await;
        assert_eq!(found(), Some(3));
        writer.enqueue(4);
        sleep(RETRY_INTERVAL / 2).await;
        assert_eq!(found(), Some(4), "without waiting for a retry");
        writer.write_now(5);
        assert_eq!(found(), Some(5), "without waiting at all");
    }
}
