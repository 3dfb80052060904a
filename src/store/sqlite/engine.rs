//! The connection and its thread.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, TransactionBehavior};
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
    // Created here and not by SQLite, so that others cannot read it even for a moment.
    OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| unreadable(path, &error))?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection =
        Connection::open_with_flags(path, flags).map_err(|error| unreadable(path, &error))?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    check_integrity(&connection)?;
    // Before anything is changed, including the journal mode.
    check_ownership(&connection, path)?;
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    // A confirmed revocation must survive a power cut; writes are rare enough to wait for the disk.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    migrate(&mut connection)?;
    Ok(connection)
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
