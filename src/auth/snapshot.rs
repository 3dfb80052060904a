//! What was last read of a database, on disk: for a start while it is away.
//!
//! ```text
//! file = header | sealed JSON, of the keyring {written_at, keys, ring}     mode 0600, put in place by renaming
//! ```

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::store::Keys;

use super::ring::KeptRing;
use super::seal::{Purpose, Sealer};
use super::secrets::random_bytes;

/// Where something of the database is kept.
#[derive(Debug)]
pub struct Snapshot {
    path: PathBuf,
    purpose: Purpose,
    /// What the file is, and its version: bound to what is sealed.
    header: &'static [u8],
}

/// What was kept.
#[derive(Debug, Serialize, Deserialize)]
pub struct Kept {
    /// Seconds since 1970.
    pub written_at: u64,
    /// As the store gave them.
    pub keys: Keys,
    /// The keys that sign tokens; `None`: an earlier version of this program wrote it.
    pub ring: Option<KeptRing>,
}

/// Why there is nothing to start from.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// It cannot be read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Of another version, another `ENCRYPTION_KEY`, or altered.
    #[error(
        "{0} does not open with the given ENCRYPTION_KEY, or is damaged; it is replaced once the database answers"
    )]
    Unsealable(PathBuf),
}

impl Snapshot {
    pub(super) fn of_keyring(path: PathBuf) -> Self {
        Self { path, purpose: Purpose::KeyringSnapshot, header: b"metamcp keyring 1\n" }
    }

    /// Of servers and endpoints.
    pub fn of_topology(path: PathBuf) -> Self {
        Self { path, purpose: Purpose::TopologySnapshot, header: b"metamcp fleet 1\n" }
    }

    /// Nobody ever sees half a file: the old one is there until the new one is whole. Waits for the disk.
    pub fn write(&self, sealer: &Sealer, kept: &impl Serialize) -> Result<(), SnapshotError> {
        let json = serde_json::to_vec(kept).map_err(|error| self.io(error.into()))?;
        let sealed = sealer.seal(self.purpose, self.header, &json);
        let draft = self.path.with_extension(format!("{:x}", u64::from_le_bytes(random_bytes())));
        let written = write(&draft, self.header, &sealed).and_then(|()| std::fs::rename(&draft, &self.path));
        if written.is_err() {
            // A full disk: not one half-written file more each second.
            drop(std::fs::remove_file(&draft));
        }
        let written =
            written.and_then(|()| File::open(self.path.parent().unwrap_or(Path::new(".")))?.sync_all());
        written.map_err(|error| self.io(error))
    }

    /// `None`: none was written yet. Waits for the disk.
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
        opened.map(Some).ok_or_else(|| SnapshotError::Unsealable(self.path.clone()))
    }

    fn io(&self, source: std::io::Error) -> SnapshotError {
        SnapshotError::Io { path: self.path.clone(), source }
    }
}

/// Keeps what it is given last, away from whoever gives it: a busy disk may take seconds, and a key that was switched off
/// must not work for so long.
#[derive(Debug)]
pub struct Keeper<T> {
    snapshot: Snapshot,
    sealer: Arc<Sealer>,
    next: Mutex<Next<T>>,
}

/// What is to be written next.
#[derive(Debug)]
struct Next<T> {
    kept: Option<T>,
    /// Somebody writes, or will try again.
    is_under_way: bool,
    /// It was said that it does not succeed.
    is_told: bool,
}

impl<T: Serialize + Send + 'static> Keeper<T> {
    /// In that place.
    pub fn new(snapshot: Snapshot, sealer: Arc<Sealer>) -> Arc<Self> {
        let next = Next { kept: None, is_under_way: false, is_told: false };
        Arc::new(Self { snapshot, sealer, next: Mutex::new(next) })
    }

    /// Where it is kept.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Writes it soon, and until that succeeds. While one is written, of those that come only the newest is. In a runtime,
    /// whose end waits for what is being written.
    pub fn keep(self: &Arc<Self>, kept: T) {
        if self.put(kept) {
            self.begin();
        }
    }

    /// The same, and waits for the disk: before anything else is done.
    pub fn keep_now(self: &Arc<Self>, kept: T) {
        if self.put(kept) {
            self.write();
        }
    }

    /// Whether whoever gives it is to write, too.
    fn put(&self, kept: T) -> bool {
        let mut next = self.next();
        next.kept = Some(kept);
        !std::mem::replace(&mut next.is_under_way, true)
    }

    fn begin(self: &Arc<Self>) {
        let keeper = Arc::clone(self);
        spawn_blocking(move || keeper.write());
    }

    fn write(self: &Arc<Self>) {
        while let Some(kept) = self.take() {
            let Err(error) = self.snapshot.write(&self.sealer, &kept) else {
                self.next().is_told = false;
                continue;
            };
            let mut next = self.next();
            next.kept.get_or_insert(kept);
            // Without it a later start needs the database: worth a word, not an end.
            if !std::mem::replace(&mut next.is_told, true) {
                tracing::warn!(%error, "not kept for a start without the database; it is tried again and again");
            }
            // For as long as anybody wants it kept.
            let keeper = Arc::downgrade(self);
            Handle::current().spawn(async move {
                sleep(RETRY).await;
                if let Some(keeper) = keeper.upgrade() {
                    keeper.begin();
                }
            });
            return;
        }
    }

    fn take(&self) -> Option<T> {
        let mut next = self.next();
        let kept = next.kept.take();
        next.is_under_way = kept.is_some();
        kept
    }

    fn next(&self) -> MutexGuard<'_, Next<T>> {
        // Nothing that may panic is done under it.
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Between two tries to write what is kept: a disk that is full stays so for a while.
const RETRY: Duration = Duration::from_secs(5);

fn write(path: &Path, header: &[u8], sealed: &[u8]) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(header)?;
    file.write_all(sealed)?;
    file.sync_all()
}

/// A key takes under a kilobyte, and nobody has a quarter of a million; servers and endpoints take less.
const FILE_BYTES_MAX: u64 = 256 << 20;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use zeroize::Zeroizing;

    use super::super::EncryptionKey;
    use super::*;
    use crate::store::testing::Folder;

    fn sealer(fill: u8) -> Sealer {
        Sealer::new(&[EncryptionKey { version: 1, key: Zeroizing::new([fill; 32]) }]).unwrap()
    }

    /// Writes one, has it altered, and reads it again.
    fn check(alter: impl FnOnce(&Path), opener: &Sealer, expected: &str) {
        let folder = Folder::new();
        let path = folder.join("keyring.sealed");
        let snapshot = Snapshot::of_keyring(path.clone());
        for epoch in 1..=2 {
            let kept = Kept { written_at: 7, keys: Keys { epoch, rows: Vec::new() }, ring: None };
            snapshot.write(&sealer(1), &kept).unwrap();
        }
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
        alter(&path);
        let seen = match snapshot.read::<Kept>(opener) {
            Ok(Some(kept)) => format!("epoch {} at {}", kept.keys.epoch, kept.written_at),
            Ok(None) => "none".to_owned(),
            Err(error) => error.to_string(),
        };
        assert!(seen.contains(expected), "{expected:?} is not in {seen:?}");
    }

    #[test]
    fn only_what_we_wrote_is_read() {
        let flip = |at: usize| {
            move |path: &Path| {
                let mut bytes = std::fs::read(path).unwrap();
                bytes[at] ^= 1;
                std::fs::write(path, bytes).unwrap();
            }
        };
        check(|_| {}, &sealer(1), "epoch 2 at 7");
        // What was kept for something else is not taken for this.
        let other = |path: &Path| Snapshot::of_topology(path.to_owned()).write(&sealer(1), &7).unwrap();
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
    async fn what_could_not_be_written_is_written_later_and_only_the_newest() {
        let folder = Folder::new();
        let data = folder.join("data");
        let sealer = Arc::new(sealer(1));
        let keeper = Keeper::new(Snapshot::of_topology(data.join("fleet.sealed")), Arc::clone(&sealer));
        let found = || keeper.snapshot().read::<u32>(&sealer).unwrap();
        keeper.keep(1);
        // Time passes only while nothing is written, so it was tried by then.
        sleep(RETRY / 2).await;
        assert_eq!(found(), None, "there is no such directory");
        keeper.keep(2);
        keeper.keep(3);
        std::fs::create_dir(&data).unwrap();
        sleep(RETRY).await;
        assert_eq!(found(), Some(3));
        keeper.keep(4);
        sleep(RETRY / 2).await;
        assert_eq!(found(), Some(4), "without waiting for a next try");
        keeper.keep_now(5);
        assert_eq!(found(), Some(5), "without waiting at all");
    }
}
