//! Errors of the journal. Each message says what failed and what to do.

use std::io;
use std::path::{Path, PathBuf};

use super::record::Sequence;

/// A journal operation that failed.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("the journal {} is used by {}; stop it, or give this one its own data directory", path.display(), named(*process))]
    Locked {
        path: PathBuf,
        /// The process that uses it, if the kernel says so.
        process: Option<u32>,
    },
    /// All bytes that the journal may use are used, or no segment was prepared in time.
    #[error(
        "the journal is full; it drains once its reader (the store) is available again, or give it more bytes"
    )]
    Full,
    #[error("a record of {bytes} bytes does not fit into a segment; at most {max} do")]
    TooLarge {
        /// The length that was requested, in bytes.
        bytes: usize,
        max: usize,
    },
    #[error("the disk that holds {0} is full; free some space")]
    DiskFull(PathBuf),
    #[error("cannot use the journal's {path}: {reason}; check its permissions and the disk")]
    Unusable { path: PathBuf, reason: String },
    /// A segment was good when the journal was opened and is damaged now.
    #[error("the journal's {path} was damaged while in use; its records up to {last} are lost")]
    Damaged {
        path: PathBuf,
        /// The last record of the segment: release up to it in order to continue.
        last: Sequence,
    },
    #[error("the journal cannot be configured so: {0}")]
    Config(&'static str),
    #[error("the operating system gives no random bytes: {0}")]
    Random(String),
}

/// Names a process for people.
fn named(process: Option<u32>) -> String {
    process.map_or_else(|| "another process".to_owned(), |id| format!("process {id}"))
}

impl JournalError {
    #[cold]
    pub(super) fn io(path: &Path, error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::StorageFull {
            // Names the folder, not the file, so that retries produce the same message.
            return Self::DiskFull(path.parent().unwrap_or(path).to_owned());
        }
        Self::Unusable { path: path.to_owned(), reason: error.to_string() }
    }
}
