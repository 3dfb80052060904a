//! The directory of the private socket of `metamcp stdio`, among temporary files, closed to others. Whoever has one
//! holds its lock; what is left of a process that was killed is found by its lock being free, and removed by the next
//! one that starts.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::process::geteuid;

use crate::store::new_id;

/// A directory, gone when dropped.
pub struct Folder {
    path: PathBuf,
    /// Locked, as long as it is open.
    _lock: File,
}

const PREFIX: &str = "metamcp-";

/// Behind that, as hexadecimal digits.
const ID_CHARS: usize = 32;

const SOCKET: &str = "s";
const LOCK: &str = "lock";

/// Entries among the temporary files that are looked at. Where there are more, some leftovers wait for another start.
const LOOKED_AT_MAX: usize = 10_000;

/// Leftovers that one start removes.
const REMOVED_MAX: usize = 100;

/// A lock that is younger may be about to be taken.
const LOCK_AGE_MIN: Duration = Duration::from_mins(1);

impl Folder {
    /// Among the files of `temporary`, from which what earlier ones left is removed.
    pub fn new(temporary: &Path) -> io::Result<Self> {
        remove_left(temporary);
        let path = temporary.join(format!("{PREFIX}{}", new_id().simple()));
        // Nobody else may have made it: that fails.
        DirBuilder::new().mode(0o700).create(&path)?;
        let lock = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path.join(LOCK))?;
        lock.lock()?;
        Ok(Self { path, _lock: lock })
    }

    /// Short: the path of a socket has 107 bytes.
    pub fn socket(&self) -> PathBuf {
        self.path.join(SOCKET)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Removes what is left of processes that are gone. What cannot be looked at or removed is somebody else's.
fn remove_left(temporary: &Path) {
    let Ok(entries) = fs::read_dir(temporary) else { return };
    let ours = entries.take(LOOKED_AT_MAX).flatten().filter(|entry| {
        let name = entry.file_name();
        let id = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        id.is_some_and(|id| id.len() == ID_CHARS && id.bytes().all(|byte| byte.is_ascii_hexdigit()))
    });
    for entry in ours.filter(|entry| is_left(&entry.path())).take(REMOVED_MAX) {
        remove(&entry.path());
    }
}

/// Whether it is a directory of this user's with a lock that nobody holds. No link is followed.
fn is_left(path: &Path) -> bool {
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

/// Removes a directory and the two files that may be in it; one with anything else in it stays.
fn remove(path: &Path) {
    // What cannot be removed is an empty directory among temporary files.
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

    /// As a process leaves it that is killed.
    fn left(temporary: &Path) -> PathBuf {
        let path = temporary.join(format!("{PREFIX}{}", new_id().simple()));
        fs::create_dir(&path).expect("made");
        fs::write(path.join(SOCKET), "").expect("made");
        fs::write(path.join(LOCK), "").expect("made");
        path
    }

    #[test]
    fn what_the_dead_left_is_removed_and_nothing_else() {
        let temporary = std::env::temp_dir().join(format!("folder-test-{}", new_id().simple()));
        fs::create_dir(&temporary).expect("made");
        let (live, old, young, foreign) =
            (Folder::new(&temporary).expect("made"), left(&temporary), left(&temporary), left(&temporary));
        let elsewhere = left(&temporary);
        let target = temporary.join("target");
        fs::rename(&elsewhere, &target).expect("renamed");
        let link = temporary.join(format!("{PREFIX}{}", new_id().simple()));
        symlink(&target, &link).expect("linked");
        fs::write(foreign.join("precious"), "x").expect("made");
        for path in [&live.path, &old, &foreign, &target] {
            age(path);
        }
        let next = Folder::new(&temporary).expect("made");
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
