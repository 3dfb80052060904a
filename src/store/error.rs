//! What can go wrong with the store, said so that the reader knows what to do.

use std::path::PathBuf;

/// A store operation that failed. Holds no key material: statements are bound, never quoted.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// It was changed by somebody else since it was read.
    #[error("it was changed in the meantime: read it again, and apply your change to what is there now")]
    Conflict,
    /// A value that only one row may have.
    #[error("there is one with this {field} already")]
    Exists {
        /// The column.
        field: String,
    },
    /// No such row.
    #[error("there is no such {0}")]
    NotFound(&'static str),
    /// Something it refers to is not there.
    #[error("it refers to a server or key that is not there")]
    Dangling,
    /// A row that does not open: what it says is not what was sealed.
    #[error(
        "the {0} does not open: it was altered outside of keyadm and the gateway, sealed under another ENCRYPTION_KEY, or \
         made before rows were bound to one; nothing is built on it: write the whole of it anew, or delete it"
    )]
    Closed(&'static str),
    /// A change without a binder.
    #[error("what decides is bound to ENCRYPTION_KEY, which is not given here: set it to the gateway's")]
    Unbound,
    /// A value that the table does not take.
    #[error("the database does not take it: {0}")]
    Invalid(String),
    /// The database cannot be reached or does not answer.
    #[error("the database is not available: {0}")]
    Unavailable(String),
    /// The way to the database broke after it had been asked to keep a change, and before it had answered.
    #[error(
        "whether this was done is not known: the way to the database broke when it had been asked to keep the change ({0}); \
         look at what is there before you do it again"
    )]
    Unsure(String),
    /// Another process held the write lock for longer than we wait.
    #[error("the database is locked by another process; try again, or find who holds it with `fuser`")]
    Locked,
    /// A page, an index, or the header is damaged.
    #[error(
        "the database is damaged ({0}); stop every process that uses it and restore it from a backup, \
         or salvage it with `sqlite3 FILE .recover`"
    )]
    Corrupt(String),
    /// No room left for a write.
    #[error("the disk that holds the database is full; free some space, nothing was changed")]
    DiskFull,
    /// Written by a later version of this program.
    #[error(
        "the database has schema version {found}, this program knows versions up to {known}; \
         start a newer metamcp, or restore the backup made before the upgrade"
    )]
    NewerSchema {
        /// In the database.
        found: i64,
        /// The newest one known here.
        known: usize,
    },
    /// A database of some other program.
    #[error("{0} is a SQLite database of another program; name another data directory")]
    Foreign(PathBuf),
    /// The file or its folder cannot be opened, read or written.
    #[error("cannot open the database {path}: {reason}; check that the path exists and who may write it")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        reason: String,
    },
    /// It was opened, and now cannot be written.
    #[error("the database cannot be written; check who owns it and whether it is read-only")]
    ReadOnly,
    /// The address of a database that cannot be one.
    #[error("DATABASE_URL cannot be used: {0}")]
    Url(String),
    /// The server is there and does not let us in.
    #[error("the database refuses the connection: {0}")]
    Refused(String),
    /// The engine has stopped.
    #[error("the store has stopped; restart the program and read its log for the reason")]
    Stopped,
    /// Anything else the engine reports.
    #[error("the database failed: {0}")]
    Failed(String),
}

impl StoreError {
    /// Whether the same may well succeed later, with nobody changing the request.
    pub fn is_away(&self) -> bool {
        match self {
            Self::Unavailable(_)
            | Self::Unsure(_)
            | Self::Locked
            | Self::DiskFull
            | Self::ReadOnly
            | Self::Stopped => true,
            Self::Conflict
            | Self::Exists { .. }
            | Self::NotFound(_)
            | Self::Dangling
            | Self::Closed(_)
            | Self::Unbound
            | Self::Invalid(_)
            | Self::Corrupt(_)
            | Self::NewerSchema { .. }
            | Self::Foreign(_)
            | Self::Unreadable { .. }
            | Self::Url(_)
            | Self::Refused(_)
            | Self::Failed(_) => false,
        }
    }
}
