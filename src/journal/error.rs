//! What can go wrong with a journal, said so that the reader knows what to do.

use std::io;
use std::path::{Path, PathBuf};

use super::Sequence;

/// A journal operation that failed.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another process has the folder.
    #[error(
        "the journal {0} is used by another process; stop that one, or give this one its own data directory"
    )]
    Locked(PathBuf),
    /// The bytes that the journal may have are used up, or no segment was made ready in time.
    #[error(
        "the journal is full; it empties itself when its reader (the store) is back, or give it more bytes"
    )]
    Full,
    /// More than a segment holds.
    #[error("a record of {bytes} bytes does not fit into a segment; at most {max} do")]
    TooLarge {
        /// What was asked for.
        bytes: usize,
        /// What there is.
        max: usize,
    },
    /// No room for a file.
    #[error("the disk that holds {0} is full; free some space, what was counted so far is kept")]
    DiskFull(PathBuf),
    /// A file or its folder cannot be opened, read or written.
    #[error("cannot use the journal's {path}: {reason}; check who may write it, and the disk")]
    Unusable {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system says.
        reason: String,
    },
    /// A segment was good when the journal was opened and is not any more.
    #[error("the journal's {path} was damaged while in use; its records up to {last} are lost")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The last record that was in it: what to release in order to go on.
        last: Sequence,
    },
    /// A configuration that cannot work.
    #[error("the journal cannot be configured so: {0}")]
    Config(&'static str),
    /// The system gives no random numbers.
    #[error("the system gives no random numbers: {0}")]
    Random(String),
}

impl JournalError {
    #[cold]
    pub(super) fn io(path: &Path, error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::StorageFull {
            // The folder, not the file: the same words each time it is tried.
            return Self::DiskFull(path.parent().unwrap_or(path).to_owned());
        }
        Self::Unusable { path: path.to_owned(), reason: error.to_string() }
    }
}
