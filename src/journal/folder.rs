//! The folder of a journal: its lock, its identity, and the names of its files.

use std::fs::{DirBuilder, File, Metadata, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{major, minor};

use super::error::JournalError;
use super::header::{FILE_HEADER_BYTES, FileHeader};
use super::map::crash_point;

/// The locked folder of a journal. Invariant: while it, or a clone of its lock, lives, no other process uses the folder.
pub(super) struct Folder {
    path: PathBuf,
    lock: Arc<File>,
    /// Random, created with the folder. Distinguishes its files from those of another journal.
    directory: u64,
    next_number: u64,
}

/// The name of a journal file, and the number in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct NumberedFile {
    pub number: u64,
    pub name: String,
}

pub(super) const SEGMENT: &str = "segment";
pub(super) const TABLE: &str = "table";

const LOCK: &str = "lock";

/// Locked by a process that has handed over, as long as it uses the folder. A lock, and not only a file: it ends with the
/// process, also at a kill.
const HANDED_OVER: &str = "handed-over";

/// Who uses a folder.
#[derive(Debug, PartialEq, Eq)]
pub enum FolderUse {
    Unused,
    /// A process that has handed over, and completes what it has.
    HandedOver,
    InUse {
        /// The process, if the kernel says so.
        process: Option<u32>,
    },
}

/// Counting never gets there, so a file with a greater number is not ours.
const NUMBER_MAX: u64 = u64::MAX / 2;

impl Folder {
    /// Locks the folder, and creates it if it does not exist.
    pub fn open(path: &Path) -> Result<Self, JournalError> {
        let io = |error: io::Error| JournalError::io(path, &error);
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io)?;
        std::fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(io)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let lock = options.open(path.join(LOCK)).map_err(io)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(JournalError::Locked { path: path.to_owned(), process: lock_holder(&lock) });
            }
            Err(TryLockError::Error(error)) => return Err(io(error)),
        }
        let identity = read_identity(&lock);
        let mut folder = Self { path: path.to_owned(), lock: Arc::new(lock), directory: 0, next_number: 1 };
        let numbers = folder.list(SEGMENT)?.into_iter().chain(folder.list(TABLE)?).map(|file| file.number);
        folder.next_number = numbers.max().unwrap_or(0) + 1;
        folder.directory = match identity {
            Some(directory) => directory,
            None => folder.restore_identity()?,
        };
        Ok(folder)
    }

    /// The identity is missing in a new folder, or when the lock file was lost. In that case the newest file has it too.
    fn restore_identity(&mut self) -> Result<u64, JournalError> {
        let headers = |extension, kind| {
            let files = self.list(extension)?.into_iter().rev();
            Ok(files.map(|file| self.path.join(file.name)).find_map(|path| read_header(&path, kind)))
        };
        let found = headers(SEGMENT, FileHeader::SEGMENT)?.or(headers(TABLE, FileHeader::TABLE)?);
        let directory = found.map_or_else(random_u64, |header| Ok(header.directory))?;
        let text = identity_text(directory);
        let mut file: &File = &self.lock;
        let written =
            file.rewind().and_then(|()| file.set_len(0)).and_then(|()| file.write_all(text.as_bytes()));
        written.map_err(|error| JournalError::io(&self.path.join(LOCK), &error))?;
        Ok(directory)
    }

    pub fn directory(&self) -> u64 {
        self.directory
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A clone of the lock: it keeps other processes out while it lives.
    pub fn lock(&self) -> Arc<File> {
        Arc::clone(&self.lock)
    }

    /// A new file name: no file has it, or has had it since the folder was opened.
    pub fn next_file(&mut self, extension: &str) -> NumberedFile {
        let number = self.next_number;
        self.next_number += 1;
        NumberedFile { number, name: format!("{number:016x}.{extension}") }
    }

    /// The journal's files with this extension, oldest first.
    pub fn list(&self, extension: &str) -> Result<Vec<NumberedFile>, JournalError> {
        let io = |error: io::Error| JournalError::io(&self.path, &error);
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.path).map_err(io)? {
            // A name that is not UTF-8 is not ours.
            let Ok(name) = entry.map_err(io)?.file_name().into_string() else { continue };
            let number = name.strip_suffix(extension).and_then(|stem| stem.strip_suffix('.'));
            let number = number.filter(|number| number.len() == 16);
            let number = number.and_then(|number| u64::from_str_radix(number, 16).ok());
            if let Some(number) = number.filter(|number| *number <= NUMBER_MAX) {
                found.push(NumberedFile { number, name });
            }
        }
        found.sort();
        Ok(found)
    }

    pub fn remove(&self, name: &str) -> Result<(), JournalError> {
        crash_point();
        let path = self.path.join(name);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(JournalError::io(&path, &error)),
            _ => Ok(()),
        }
    }

    /// Waits until file creations and removals are on disk.
    pub fn sync(&self) -> Result<(), JournalError> {
        let synced = File::open(&self.path).and_then(|folder| folder.sync_all());
        synced.map_err(|error| JournalError::io(&self.path, &error))
    }
}

/// Finds out who uses a folder. One that does not exist is not used.
pub fn find_use(path: &Path) -> Result<FolderUse, JournalError> {
    let Some(lock) = open_if_locked(&path.join(LOCK)).map_err(|error| JournalError::io(path, &error))? else {
        return Ok(FolderUse::Unused);
    };
    let marked = open_if_locked(&path.join(HANDED_OVER)).map_err(|error| JournalError::io(path, &error))?;
    Ok(match marked {
        Some(_) => FolderUse::HandedOver,
        None => FolderUse::InUse { process: lock_holder(&lock) },
    })
}

/// The file, if a process has locked it for itself.
fn open_if_locked(path: &Path) -> io::Result<Option<File>> {
    let file = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    // Shared, so that two processes that look at once do not see each other.
    match file.try_lock_shared() {
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => Ok(Some(file)),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Tells other processes that this one, which uses the folder, has handed over: until it ends.
pub fn mark_handed_over(path: &Path) -> Result<File, JournalError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let opened = options.open(path.join(HANDED_OVER));
    let mark = opened.map_err(|error| JournalError::io(path, &error))?;
    // Waits at most for a process that looks at it.
    mark.lock().map_err(|error| JournalError::io(path, &error))?;
    Ok(mark)
}

/// The process that holds the lock of a file, if the kernel says so (`proc_locks(5)`). It does not in another PID namespace.
fn lock_holder(file: &File) -> Option<u32> {
    let metadata = file.metadata().ok()?;
    let device = (major(metadata.dev()), minor(metadata.dev()));
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    let holder = flocks(&locks).find(|lock| {
        // Files of two file systems may have the same inode. On overlayfs and btrfs, the kernel names another device here
        // than `stat` does; what the process has open tells.
        lock.inode == metadata.ino() && (lock.device == device || has_open(lock.process, &metadata))
    })?;
    Some(holder.process)
}

/// A lock of a whole file.
#[derive(Debug, PartialEq, Eq)]
struct Flock {
    process: u32,
    /// Major and minor number.
    device: (u32, u32),
    inode: u64,
}

/// Reads the lines of `/proc/locks`: `1: FLOCK  ADVISORY  WRITE 4711 fe:00:1234 0 EOF`, where only the inode is decimal. After
/// `->`, a process waits.
fn flocks(locks: &str) -> impl Iterator<Item = Flock> {
    locks.lines().filter_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        if fields.next() != Some("FLOCK") {
            return None;
        }
        let process = fields.nth(2)?.parse().ok().filter(|process| *process > 0)?;
        let mut place = fields.next()?.split(':');
        let mut number = || u32::from_str_radix(place.next()?, 16).ok();
        let device = (number()?, number()?);
        Some(Flock { process, device, inode: place.next()?.parse().ok()? })
    })
}

/// Whether a process has a file open, as far as this process may know.
fn has_open(process: u32, file: &Metadata) -> bool {
    // At most as many entries as the process may have files open.
    let Ok(descriptors) = std::fs::read_dir(format!("/proc/{process}/fd")) else { return false };
    let is_same = |open: Metadata| (open.dev(), open.ino()) == (file.dev(), file.ino());
    descriptors.flatten().any(|descriptor| std::fs::metadata(descriptor.path()).is_ok_and(is_same))
}

/// 64 random bits: unique in practice.
pub(super) fn random_u64() -> Result<u64, JournalError> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|error| JournalError::Random(error.to_string()))?;
    Ok(u64::from_le_bytes(bytes))
}

pub(super) fn read_header(path: &Path, kind: u16) -> Option<FileHeader> {
    let mut bytes = [0; FILE_HEADER_BYTES];
    File::open(path).and_then(|mut file| file.read_exact(&mut bytes)).ok()?;
    FileHeader::read(&bytes, kind).ok()
}

fn identity_text(directory: u64) -> String {
    format!("{directory:016x} {:08x}\n", crc32fast::hash(&directory.to_le_bytes()))
}

fn read_identity(file: &File) -> Option<u64> {
    let mut text = String::new();
    // An unreadable identity counts as a missing one: it is restored.
    file.take(64).read_to_string(&mut text).ok()?;
    let directory = u64::from_str_radix(text.get(..16)?, 16).ok()?;
    (text == identity_text(directory)).then_some(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_locks_of_whole_files() {
        let check = |line: &str, expected: Option<(u32, (u32, u32), u64)>| {
            let expected = expected.map(|(process, device, inode)| Flock { process, device, inode });
            assert_eq!(flocks(line).next(), expected, "{line:?}");
        };
        check("1: FLOCK  ADVISORY  WRITE 4711 fe:00:1234 0 EOF", Some((4711, (0xfe, 0), 1234)));
        check("12: FLOCK  ADVISORY  READ  1 103:0a:99 0 EOF", Some((1, (0x103, 10), 99)));
        check("1: POSIX  ADVISORY  WRITE 4711 fe:00:1234 0 EOF", None);
        check("1: -> FLOCK  ADVISORY  WRITE 4711 fe:00:1234 0 EOF", None);
        // In another PID namespace.
        check("1: FLOCK  ADVISORY  WRITE 0 fe:00:1234 0 EOF", None);
        check("1: FLOCK  ADVISORY  WRITE 4711 1234 0 EOF", None);
        check("", None);
    }

    #[test]
    fn another_file_with_the_same_inode_is_not_ours() {
        let path = std::env::temp_dir().join(format!("metamcp-lock-{}", std::process::id()));
        let file = File::create(&path).unwrap();
        let ours = file.metadata().unwrap();
        assert!(has_open(std::process::id(), &ours));
        assert!(!has_open(1, &ours) && !has_open(u32::MAX, &ours));
        drop(file);
        assert!(!has_open(std::process::id(), &ours));
        std::fs::remove_file(path).unwrap();
    }
}
