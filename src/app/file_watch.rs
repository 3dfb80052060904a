//! Notices when files change. Polls their metadata, which works on every file system, through symbolic links, and
//! for files that do not exist yet; notifications of the kernel do none of the three.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::runtime::run_blocking;

/// Between two polls. A change is reported after two of them; a poll costs one `stat` for each file.
const POLL: Duration = Duration::from_secs(1);

/// Watches a fixed list of files for changes.
pub struct FileWatch {
    paths: Arc<[PathBuf]>,
    /// What was last reported, or found by `new`.
    reported: Vec<Option<FileVersion>>,
    /// What the last poll found, if that differs from `reported`.
    candidate: Option<Vec<Option<FileVersion>>>,
}

/// What differs between two versions of a file. The path may be a symbolic link: this is the file that it leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
struct FileVersion {
    device: u64,
    inode: u64,
    bytes: u64,
    /// The time, in seconds and nanoseconds.
    modified: (i64, i64),
    /// Changes with the access mode too: a file that could not be read may be readable now.
    status_changed: (i64, i64),
}

impl FileWatch {
    /// Remembers the files as they are. Create the watch before reading the files, so that no change is missed. Files
    /// may be missing.
    pub async fn new(paths: Vec<PathBuf>) -> Self {
        let paths: Arc<[PathBuf]> = paths.into();
        let reported = find_versions(&paths).await.unwrap_or_default();
        Self { paths, reported, candidate: None }
    }

    /// Completes when a file has changed, appeared or vanished since `new` or since the last completion, and two
    /// polls in a row found the same: a file that is being written is not reported until the writer pauses. Never
    /// completes if there are no files. Cancel safe.
    pub async fn changed(&mut self) {
        loop {
            sleep(POLL).await;
            let Some(found) = find_versions(&self.paths).await else { continue };
            if found == self.reported {
                self.candidate = None;
            } else if self.candidate.as_ref() == Some(&found) {
                self.reported = found;
                self.candidate = None;
                return;
            } else {
                self.candidate = Some(found);
            }
        }
    }
}

/// Looks on a blocking thread, because a network file system may take long to answer. `None` if the runtime shuts down.
async fn find_versions(paths: &Arc<[PathBuf]>) -> Option<Vec<Option<FileVersion>>> {
    let paths = Arc::clone(paths);
    run_blocking(move || read_versions(&paths)).await.ok()
}

fn read_versions(paths: &[PathBuf]) -> Vec<Option<FileVersion>> {
    let version = |path: &PathBuf| {
        let metadata = fs::metadata(path).ok()?;
        Some(FileVersion {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            status_changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    };
    paths.iter().map(version).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use metamcp_store::store::testing::Folder;
    use tokio::time::timeout;

    use super::*;

    /// Far longer than two polls; the clock is paused.
    const WAIT: Duration = Duration::from_mins(1);

    /// Whether each of the changes to the folder is reported once. `watched/a` is a file, `watched` a symbolic link.
    async fn check(change: impl Fn(&Path), expected: bool) {
        let folder = Folder::create();
        for (version, content) in [("v1", "one"), ("v2", "two")] {
            fs::create_dir(folder.join(version)).unwrap();
            fs::write(folder.join(version).join("a"), content).unwrap();
        }
        symlink("v1", folder.join("watched")).unwrap();
        let paths = ["watched/a", "watched/missing"].map(|name| folder.join(name)).to_vec();
        let mut watch = FileWatch::new(paths).await;
        change(folder.path());
        assert_eq!(timeout(WAIT, watch.changed()).await.is_ok(), expected);
        assert!(timeout(WAIT, watch.changed()).await.is_err(), "it is reported once");
    }

    #[tokio::test(start_paused = true)]
    async fn changes_are_reported_once() {
        check(|_| {}, false).await;
        check(|folder| fs::write(folder.join("v2/a"), "not watched").unwrap(), false).await;
        // The same size.
        check(|folder| fs::write(folder.join("v1/a"), "eno").unwrap(), true).await;
        check(|folder| fs::rename(folder.join("v2/a"), folder.join("v1/a")).unwrap(), true).await;
        check(|folder| fs::remove_file(folder.join("v1/a")).unwrap(), true).await;
        check(|folder| fs::write(folder.join("v1/missing"), "").unwrap(), true).await;
        // As Kubernetes replaces a secret.
        check(
            |folder| {
                symlink("v2", folder.join("next")).unwrap();
                fs::rename(folder.join("next"), folder.join("watched")).unwrap();
            },
            true,
        )
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_is_being_written_is_not_reported() {
        let folder = Folder::create();
        let mut watch = FileWatch::new(vec![folder.join("a")]).await;
        for length in 1..10 {
            fs::write(folder.join("a"), "a".repeat(length)).unwrap();
            // Cancelled after each poll: what it found is kept.
            assert!(timeout(POLL + POLL / 2, watch.changed()).await.is_err(), "{length}");
        }
        timeout(WAIT, watch.changed()).await.expect("the writer has paused");
    }
}
