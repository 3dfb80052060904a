//! The folder in which a process keeps its usage journal.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::sleep;

use crate::journal::usage::{self, UsageSpool, UsageTables};
use crate::journal::{self, FolderUse, JournalError};
use crate::server::ListenTarget;
use metamcp_config::Config;

/// The journal's folder in the data directory.
const FOLDER: &str = "usage";

/// Single-client gateways that may share a data directory: each client starts one, and people run a few
/// clients.
const PRIVATE_MAX: usize = 64;

/// Gateways that use a data directory at once: one, and those that were replaced and complete their calls.
const PUBLIC_MAX: usize = 16;

/// For a process that completes its calls to look after folders of others, which locks them for a moment.
const LOOK_RETRY: Duration = Duration::from_millis(50);

/// Attempts to open a journal beside such processes: a second, which delivering what is left in a folder rarely takes.
const LOOK_RETRIES_MAX: usize = 20;

/// A journal that this process has opened.
pub(super) struct OpenJournal {
    pub(super) tables: UsageTables,
    pub(super) spool: UsageSpool,
    pub(super) folder: PathBuf,
}

/// What the workers count in, what is delivered from, and the folder of both.
type JournalParts = (Option<UsageTables>, Option<UsageSpool>, Option<PathBuf>);

/// Opens the journal. If the disk is full, there is no part of it: the gateway serves and counts nothing.
pub async fn open_journal(
    config: &Config,
    door: &ListenTarget,
    is_successor: bool,
) -> Result<JournalParts, JournalError> {
    let opened = open_for(config, door, is_successor).await?;
    Ok(opened.map_or((None, None, None), |OpenJournal { tables, spool, folder }| {
        (Some(tables), Some(spool), Some(folder))
    }))
}

/// Opens the journal of such a gateway; `None` if the disk is full.
///
/// A journal folder belongs to one process at a time. Single-client gateways run next to each other and next
/// to the public one, so each takes a folder that is free and also delivers what an earlier process left in
/// it. A successor does so too, while its predecessor uses another one. Any other gateway must be the only one, apart
/// from those that have handed over.
async fn open_for(
    config: &Config,
    door: &ListenTarget,
    is_successor: bool,
) -> Result<Option<OpenJournal>, JournalError> {
    let (data_dir, workers) = (&config.data_dir, config.server.workers);
    if *door == ListenTarget::Public {
        if is_successor {
            return open_free_folder(data_dir, public_folders(data_dir), workers);
        }
        for _ in 0..LOOK_RETRIES_MAX {
            match open_only(data_dir, workers) {
                Err(JournalError::Locked { .. }) if has_predecessor(data_dir) => sleep(LOOK_RETRY).await,
                opened => return opened,
            }
        }
        return open_only(data_dir, workers);
    }
    let folders = (0..PRIVATE_MAX).map(|number| data_dir.join(format!("{FOLDER}-stdio-{number}")));
    open_free_folder(data_dir, folders, workers)
}

/// The folders of gateways on the network: `usage`, `usage-2` and so on.
pub(super) fn public_folders(data_dir: &Path) -> impl Iterator<Item = PathBuf> {
    let others = (2..=PUBLIC_MAX).map(|number| data_dir.join(format!("{FOLDER}-{number}")));
    std::iter::once(data_dir.join(FOLDER)).chain(others)
}

/// Whether a process that has handed over still completes its calls.
fn has_predecessor(data_dir: &Path) -> bool {
    let is_handed_over = |folder: PathBuf| matches!(journal::find_use(&folder), Ok(FolderUse::HandedOver));
    public_folders(data_dir).any(is_handed_over)
}

/// Opens the first folder for a gateway that must be the only one. Fails with `Locked` if there is another, apart from those
/// that have handed over.
fn open_only(data_dir: &Path, workers: usize) -> Result<Option<OpenJournal>, JournalError> {
    for folder in public_folders(data_dir) {
        if journal::find_use(&folder)? == FolderUse::HandedOver {
            continue;
        }
        // First the lock, then the look at the others: of two that start at once, each sees the other one, or both want this
        // folder.
        let opened = open_folder(folder.clone(), workers)?;
        for other in public_folders(data_dir).filter(|other| *other != folder) {
            if let FolderUse::InUse { process } = journal::find_use(&other)? {
                return Err(JournalError::Locked { path: other, process });
            }
        }
        return Ok(opened);
    }
    Err(JournalError::Locked { path: data_dir.to_owned(), process: None })
}

/// Opens the first folder that no process uses.
fn open_free_folder(
    data_dir: &Path,
    mut folders: impl Iterator<Item = PathBuf>,
    workers: usize,
) -> Result<Option<OpenJournal>, JournalError> {
    let is_taken = |opened: &Result<_, _>| matches!(opened, Err(JournalError::Locked { .. }));
    let free =
        folders.find_map(|folder| Some(open_folder(folder, workers)).filter(|opened| !is_taken(opened)));
    free.unwrap_or_else(|| Err(JournalError::Locked { path: data_dir.to_owned(), process: None }))
}

/// Opens a folder; `None` if the disk is full.
pub(super) fn open_folder(folder: PathBuf, workers: usize) -> Result<Option<OpenJournal>, JournalError> {
    let config = usage::Config {
        folder: folder.clone(),
        workers,
        slots: usage::SLOTS,
        segment_bytes: journal::SEGMENT_BYTES,
        total_bytes: journal::TOTAL_BYTES,
    };
    match UsageTables::open(&config) {
        Ok((tables, spool, recovery)) => {
            for damage in &recovery.damage {
                tracing::warn!(%damage, "part of the usage journal is lost");
            }
            Ok(Some(OpenJournal { tables, spool, folder }))
        }
        Err(error @ JournalError::DiskFull { .. }) => {
            tracing::error!(%error, "usage is not counted: free disk space and restart");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::{Arc, Barrier};
    use std::thread;

    use metamcp_store::store::new_id;

    use super::*;

    /// A data directory with the folders of other gateways, which are in use until it is dropped.
    struct Others {
        data_dir: PathBuf,
        _journals: Vec<OpenJournal>,
        _marks: Vec<fs::File>,
    }

    impl Others {
        /// The folders in use, and those of them whose processes have handed over.
        fn new(used: &[usize], handed_over: &[usize]) -> Self {
            let data_dir = std::env::temp_dir().join(format!("metamcp-usage-{}", new_id().simple()));
            let folder = |number: &usize| public_folders(&data_dir).nth(*number).unwrap();
            let open = |number| open_folder(folder(number), 1).unwrap().unwrap();
            let journals = used.iter().map(open).collect();
            let marks = handed_over.iter().map(|number| journal::mark_handed_over(&folder(number)).unwrap());
            let marks = marks.collect();
            Self { data_dir, _journals: journals, _marks: marks }
        }
    }

    impl Drop for Others {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.data_dir));
        }
    }

    #[test]
    fn only_gateways_that_have_handed_over_may_be_there() {
        let check = |used: &[usize], handed_over: &[usize], expected: Option<&str>| {
            let others = Others::new(used, handed_over);
            let opened = match open_only(&others.data_dir, 1) {
                Ok(opened) => opened.map(|opened| opened.folder),
                Err(JournalError::Locked { process, .. }) => {
                    assert_eq!(process, Some(std::process::id()));
                    None
                }
                Err(error) => panic!("{error}"),
            };
            let name = opened.as_deref().and_then(Path::file_name).map(|name| name.to_str().unwrap());
            assert_eq!(name, expected, "{used:?} in use, {handed_over:?} handed over");
        };
        check(&[], &[], Some("usage"));
        check(&[0], &[], None);
        check(&[1], &[], None);
        check(&[0], &[0], Some("usage-2"));
        check(&[0, 1], &[0], None);
        check(&[0, 1], &[0, 1], Some("usage-3"));
        check(&[1], &[1], Some("usage"));
    }

    #[test]
    fn of_gateways_that_start_at_once_one_starts_at_most() {
        const ROUNDS: usize = 20;
        for _ in 0..ROUNDS {
            let others = Others::new(&[], &[]);
            let barrier = Arc::new(Barrier::new(2));
            let threads: Vec<_> = (0..2)
                .map(|_| {
                    let (data_dir, barrier) = (others.data_dir.clone(), Arc::clone(&barrier));
                    thread::spawn(move || {
                        barrier.wait();
                        open_only(&data_dir, 1)
                    })
                })
                .collect();
            let opened: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
            assert_eq!(opened.iter().filter(|opened| matches!(opened, Ok(Some(_)))).count(), 1);
        }
    }
}
