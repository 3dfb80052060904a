//! The directory for the private socket of `metamcp stdio`: a temporary directory that only this user can enter. Its owner
//! holds a lock in it. A directory left by a killed process has a free lock, and the next process that starts removes it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::process::geteuid;

use metamcp_store::store::new_id;

/// A private directory; removed when dropped.
pub struct PrivateDir {
    path: PathBuf,
    /// Locked for as long as the file is open.
    _lock: File,
}

const PREFIX: &str = "metamcp-";

/// The hexadecimal digits after the prefix.
const ID_CHARS: usize = 32;

const SOCKET: &str = "s";
const LOCK: &str = "lock";

/// Entries of the temporary directory that are checked at one start; further ones wait for another start.
const CHECKED_MAX: usize = 10_000;

/// Orphaned directories that one start removes.
const REMOVED_MAX: usize = 100;

/// The owner of a younger lock file may be about to lock it.
const LOCK_AGE_MIN: Duration = Duration::from_mins(1);

impl PrivateDir {
    /// Creates a directory in `temporary`, and removes the orphaned ones there.
    pub fn new(temporary: &Path) -> io::Result<Self> {
        remove_orphans(temporary);
        let path = temporary.join(format!("{PREFIX}{}", new_id().simple()));
        // Fails if the directory exists, so another user cannot have created it.
        DirBuilder::new().mode(0o700).create(&path)?;
        let lock = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path.join(LOCK))?;
        lock.lock()?;
        Ok(Self { path, _lock: lock })
    }

    /// The path of the socket. It must be short: socket paths have at most 107 bytes.
    pub fn socket(&self) -> PathBuf {
        self.path.join(SOCKET)
    }
}

impl Drop for PrivateDir {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Removes the directories of processes that are gone. What cannot be read or removed belongs to another user.
fn remove_orphans(temporary: &Path) {
    let Ok(entries) = fs::read_dir(temporary) else { return };
    let candidates = entries.take(CHECKED_MAX).flatten().filter(|entry| {
        let name = entry.file_name();
        let id = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        id.is_some_and(|id| id.len() == ID_CHARS && id.bytes().all(|byte| byte.is_ascii_hexdigit()))
    });
    for entry in candidates.filter(|entry| is_orphan(&entry.path())).take(REMOVED_MAX) {
        remove(&entry.path());
    }
}

/// Whether it is a directory of this user whose lock is free. Does not follow links.
fn is_orphan(path: &Path) -> bool {
    let is_own = |metadata: &fs::Metadata| metadata.uid() == geteuid().as_raw();
    if !fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir() && is_own(&metadata)) {
        return false;
    }
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let Ok(lock) = OpenOptions::new().read(true).custom_flags(flags).open(path.join(LOCK)) else {
        return false;
    };
    let is_old = |metadata: &fs::Metadata| {
        metadata.modified().ok().and_then(|at| at.elapsed().ok()).is_some_and(|age| age >= LOCK_AGE_MIN)
    };
    let is_old_lock =
        lock.metadata().is_ok_and(|metadata| metadata.is_file() && is_own(&metadata) && is_old(&metadata));
    is_old_lock && lock.try_lock().is_ok()
}

/// Removes a directory and the two files that may be in it; a directory with other files stays.
fn remove(path: &Path) {
    // At worst an empty temporary directory remains.
    let _ = fs::remove_file(path.join(SOCKET));
    let _ = fs::remove_file(path.join(LOCK));
    let _ = fs::remove_dir(path);
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::time::SystemTime;

    use super::*;

    fn age(folder: &Path) {
        let lock = OpenOptions::new().write(true).open(folder.join(LOCK)).expect("its lock");
        lock.set_modified(SystemTime::now() - 2 * LOCK_AGE_MIN).expect("it is ours");
    }

    /// Creates a directory as a killed process leaves it.
    fn orphan(temporary: &Path) -> PathBuf {
        let path = temporary.join(format!("{PREFIX}{}", new_id().simple()));
        fs::create_dir(&path).expect("made");
        fs::write(path.join(SOCKET), "").expect("made");
        fs::write(path.join(LOCK), "").expect("made");
        path
    }

    #[test]
    fn removes_orphaned_directories_and_nothing_else() {
        let temporary = std::env::temp_dir().join(format!("folder-test-{}", new_id().simple()));
        fs::create_dir(&temporary).expect("made");
        let (live, old, young, foreign) = (
            PrivateDir::new(&temporary).expect("made"),
            orphan(&temporary),
            orphan(&temporary),
            orphan(&temporary),
        );
        let elsewhere = orphan(&temporary);
        let target = temporary.join("target");
        fs::rename(&elsewhere, &target).expect("renamed");
        let link = temporary.join(format!("{PREFIX}{}", new_id().simple()));
        symlink(&target, &link).expect("linked");
        fs::write(foreign.join("precious"), "x").expect("made");
        for path in [&live.path, &old, &foreign, &target] {
            age(path);
        }
        let next = PrivateDir::new(&temporary).expect("made");
        let check = |path: &Path, expected: bool| assert_eq!(path.exists(), expected, "{}", path.display());
        check(&live.path.join(LOCK), true);
        check(&old, false);
        check(&young.join(LOCK), true);
        check(&foreign.join("precious"), true);
        check(&target.join(LOCK), true);
        check(&next.path, true);
        let (one, other) = (live.path.clone(), next.path.clone());
        drop((live, next));
        check(&one, false);
        check(&other, false);
        fs::remove_dir_all(&temporary).expect("removed");
    }
}
