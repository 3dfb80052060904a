//! Errors of the store. Each message says what failed and what to do.

use std::path::PathBuf;

/// A store operation that failed. Holds no key material: values are bound to statements, never quoted in them.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The row was changed since it was read.
    #[error("it was changed in the meantime: read it again, and apply your change to what is stored now")]
    Conflict,
    /// A value that must be unique is taken.
    #[error("there is one with this {field} already")]
    Exists {
        /// The name of the column.
        field: String,
    },
    #[error("there is no such {0}")]
    NotFound(&'static str),
    /// The row refers to another one that does not exist.
    #[error("it refers to a server or key that does not exist")]
    Dangling,
    /// The sealed value of a row does not open, so its columns are not trusted.
    #[error(
        "the {0} does not open: it was altered outside of keyadm and the gateway, sealed under another ENCRYPTION_KEY, or \
         created before rows were sealed; nothing is built on it: replace all of it, or delete it"
    )]
    Closed(&'static str),
    /// A change of a sealed row through a handle without a sealer.
    #[error(
        "this change has to be sealed with ENCRYPTION_KEY, which is not given here: set it to the gateway's"
    )]
    Unbound,
    /// A value that a constraint of the table refuses.
    #[error("the database refuses a value: {0}")]
    Invalid(String),
    /// The database cannot be reached, or does not answer.
    #[error("the database is not available: {0}")]
    Unavailable(String),
    /// The connection broke after a commit was requested and before it was confirmed.
    #[error(
        "whether this was done is not known: the connection to the database broke during the commit ({0}); look at what is \
         stored before you repeat it"
    )]
    Unsure(String),
    /// Another process held the write lock for too long.
    #[error("the database is locked by another process; try again, or find who holds it with `fuser`")]
    Locked,
    /// A page, an index, or the header of the database is damaged.
    #[error(
        "the database is damaged ({0}); stop every process that uses it and restore it from a backup, \
         or salvage it with `sqlite3 FILE .recover`"
    )]
    Corrupt(String),
    #[error("the disk that holds the database is full; free some space, nothing was changed")]
    DiskFull,
    /// The database was written by a later version of this program.
    #[error(
        "the database has schema version {found}, this program knows versions up to {known}; \
         start a newer metamcp, or restore the backup made before the upgrade"
    )]
    NewerSchema {
        /// The version of the database.
        found: i64,
        /// The newest version that this program knows.
        known: usize,
    },
    /// The file is the database of another program.
    #[error("{0} is a SQLite database of another program; name another data directory")]
    Foreign(PathBuf),
    /// The file or its folder cannot be opened, read or written.
    #[error("cannot open the database {path}: {reason}; check that the path exists and its permissions")]
    Unreadable { path: PathBuf, reason: String },
    /// The database was opened, but cannot be written.
    #[error("the database cannot be written; check who owns it and whether it is read-only")]
    ReadOnly,
    #[error("DATABASE_URL cannot be used: {0}")]
    Url(String),
    /// The database server answers, and refuses the connection.
    #[error("the database refuses the connection: {0}")]
    Refused(String),
    #[error("the store has stopped; restart the program and read its log for the reason")]
    Stopped,
    /// Any other error of the engine.
    #[error("the database failed: {0}")]
    Failed(String),
}

impl StoreError {
    /// Whether the same operation may succeed later without any change to it.
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
