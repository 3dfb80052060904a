//! The connection and its thread.

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};
use rustix::fs::Access;
use tokio::sync::{mpsc, oneshot};

use super::migrate::{check_ownership, migrate};
use super::transaction::SqliteTransaction;
use crate::store::error::StoreError;
use crate::store::transaction::AccessMode;

/// The SQLite engine of a store: a channel to the thread that owns the connection. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Sqlite {
    jobs: mpsc::Sender<Job>,
}

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// Whether one of the tables in the database file has a row. A table that does not exist has none. Migrates nothing.
pub fn has_rows(path: &Path, tables: impl IntoIterator<Item = &'static str>) -> Result<bool, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    for table in tables {
        let has_table = "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE name = ?1)";
        if !connection.query_row(has_table, [table], |row| row.get::<_, bool>(0))? {
            continue;
        }
        let has_row = format!("SELECT EXISTS (SELECT 1 FROM {table})");
        if connection.query_row(&has_row, [], |row| row.get(0))? {
            return Ok(true);
        }
    }
    Ok(false)
}

impl Sqlite {
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let (jobs, inbox) = mpsc::channel(QUEUE_MAX);
        let (opened, ready) = oneshot::channel();
        let path = path.to_owned();
        std::thread::Builder::new()
            .name("store-sqlite".into())
            .spawn(move || match open(&path) {
                Ok(connection) => {
                    if opened.send(Ok(())).is_ok() {
                        run_jobs(connection, inbox);
                    }
                }
                // If the caller is gone, the error is not needed.
                Err(error) => drop(opened.send(Err(error))),
            })
            .map_err(|error| {
                StoreError::Failed(format!("cannot start a thread for the database: {error}"))
            })?;
        ready.await.map_err(|_| StoreError::Stopped)??;
        Ok(Self { jobs })
    }

    /// Runs `work` in a transaction, which is rolled back on an error. Cancel safe: once queued, it runs to
    /// its end.
    pub async fn transact<T, F>(&self, access: AccessMode, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut SqliteTransaction<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        self.call(move |connection| {
            let behavior = match access {
                AccessMode::Read => TransactionBehavior::Deferred,
                // Takes the lock at once: upgrading a read transaction later may fail.
                AccessMode::Administer | AccessMode::Count | AccessMode::Retire => {
                    TransactionBehavior::Immediate
                }
            };
            let transaction = connection.transaction_with_behavior(behavior)?;
            let done = work(&mut SqliteTransaction { connection: &transaction })?;
            transaction.commit()?;
            Ok(done)
        })
        .await
    }

    /// Writes a consistent copy of the database to an empty file.
    pub async fn copy_to(&self, path: &Path) -> Result<(), StoreError> {
        let Some(path) = path.to_str().map(str::to_owned) else {
            return Err(StoreError::Failed(format!("the path {} is not UTF-8", path.display())));
        };
        self.call(move |connection| {
            connection.execute("VACUUM INTO ?1", [path])?;
            Ok(())
        })
        .await
    }

    /// A value that changes when this process or another one has written anything. Costs next to nothing.
    pub async fn change_stamp(&self) -> Result<(i64, u64), StoreError> {
        self.call(|connection| {
            let others: i64 = connection.pragma_query_value(None, "data_version", |row| row.get(0))?;
            Ok((others, connection.total_changes()))
        })
        .await
    }

    /// Runs `job` on the thread of the connection. Cancel safe: once queued, the job runs to its end.
    async fn call<T, F>(&self, job: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let (reply, response) = oneshot::channel();
        // The job runs even if the caller is gone.
        let job: Job = Box::new(move |connection| drop(reply.send(job(connection))));
        self.jobs.send(job).await.map_err(|_| StoreError::Stopped)?;
        response.await.map_err(|_| StoreError::Stopped)?
    }
}

fn run_jobs(mut connection: Connection, mut inbox: mpsc::Receiver<Job>) {
    while let Some(job) = inbox.blocking_recv() {
        job(&mut connection);
    }
}

fn open(path: &Path) -> Result<Connection, StoreError> {
    create(path).map_err(|error| unreadable(path, &error))?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection =
        Connection::open_with_flags(path, flags).map_err(|error| unreadable(path, &error))?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    check_integrity(&connection)?;
    // Before anything is changed, including the journal mode.
    check_ownership(&connection, path)?;
    enable_write_ahead_log(&connection)?;
    // A confirmed revocation must survive a power cut; writes are rare enough to wait for the disk.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // After each transaction, so that a copy of this file alone has what was confirmed, and not only its `-wal`. Writes are
    // rare enough for that, too.
    connection.pragma_update(None, "wal_autocheckpoint", 1)?;
    migrate(&mut connection)?;
    Ok(connection)
}

/// Creates the file if there is none, readable by its owner only from the first moment on. A file that exists
/// is not opened here: closing it again would release the locks of every other connection of this process
/// (SQLite, "How To Corrupt An SQLite Database File", 2.2).
fn create(path: &Path) -> std::io::Result<()> {
    // The new file is closed before another thread of this process can open it, for the same reason.
    static CREATING: Mutex<()> = Mutex::new(());
    let _creating = CREATING.lock().unwrap_or_else(PoisonError::into_inner);
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            Ok(rustix::fs::access(path, Access::READ_OK | Access::WRITE_OK)?)
        }
        created => created.map(drop),
    }
}

/// Switches the file to a write-ahead log, which needs it alone for a moment. SQLite does not wait for that as
/// it waits for other locks: where two connections read and one wants to write, waiting would be a deadlock.
#[expect(clippy::disallowed_methods, reason = "runs on the thread of the connection, not on a worker")]
fn enable_write_ahead_log(connection: &Connection) -> Result<(), StoreError> {
    let deadline = Instant::now() + BUSY_TIMEOUT;
    loop {
        let switched =
            connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0));
        match switched {
            Err(error)
                if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
                    && Instant::now() < deadline =>
            {
                std::thread::sleep(RETRY_PAUSE);
            }
            switched => {
                let mode = switched?;
                if mode != "wal" {
                    // The store works without one, as some network file systems require; reads then wait for writes.
                    tracing::warn!(
                        mode,
                        "the file system of the database does not support a write-ahead log"
                    );
                }
                return Ok(());
            }
        }
    }
}

fn check_integrity(connection: &Connection) -> Result<(), StoreError> {
    let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if verdict == "ok" { Ok(()) } else { Err(StoreError::Corrupt(verdict)) }
}

fn unreadable(path: &Path, reason: &dyn std::fmt::Display) -> StoreError {
    StoreError::Unreadable { path: PathBuf::from(path), reason: reason.to_string() }
}

/// Queued jobs. They come from a poll every second, administration and the command line; a longer queue would
/// only hide a hanging disk. When the queue is full, callers wait.
const QUEUE_MAX: usize = 64;

/// How long to wait for the write of another process. Transactions take milliseconds; if it takes longer,
/// somebody holds the lock by hand.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Between two tries to get the file alone, which its other users need for microseconds.
const RETRY_PAUSE: Duration = Duration::from_millis(2);
