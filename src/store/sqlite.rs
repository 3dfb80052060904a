//! The embedded engine: one connection on one named thread, spoken to through a bounded channel.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, named_params};
use tokio::sync::{mpsc, oneshot};

use super::migrate::{migrate, recognise};
use super::{KeyRow, KeyStatus, Keys, NewKey, StoreError};

/// The way to the thread that owns the connection.
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
                        work(connection, inbox);
                    }
                }
                // Whoever asked has gone, so nobody is left to tell.
                Err(error) => drop(opened.send(Err(error))),
            })
            .map_err(|error| StoreError::Failed(format!("no thread for the database: {error}")))?;
        ready.await.map_err(|_| StoreError::Stopped)??;
        Ok(Self { jobs })
    }

    /// Runs `job` on the store's thread. Cancel safe: once handed over, the job runs to its end.
    pub async fn call<T, F>(&self, job: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        // The asker may have gone; what was to be written is written all the same.
        let job: Job = Box::new(move |connection| drop(answer.send(job(connection))));
        self.jobs.send(job).await.map_err(|_| StoreError::Stopped)?;
        answered.await.map_err(|_| StoreError::Stopped)?
    }
}

fn work(mut connection: Connection, mut inbox: mpsc::Receiver<Job>) {
    while let Some(job) = inbox.blocking_recv() {
        job(&mut connection);
    }
}

fn open(path: &Path) -> Result<Connection, StoreError> {
    // Made by us and not by SQLite, so that it is never readable by others, not even for a moment.
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
    check(&connection)?;
    // Before anything is altered, the journal's mode included.
    recognise(&connection, path)?;
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    // A revocation that was confirmed must outlive a power cut; writes are rare enough to wait for the disk.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    migrate(&mut connection)?;
    Ok(connection)
}

fn check(connection: &Connection) -> Result<(), StoreError> {
    let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if verdict == "ok" { Ok(()) } else { Err(StoreError::Corrupt(verdict)) }
}

fn unreadable(path: &Path, reason: &dyn std::fmt::Display) -> StoreError {
    StoreError::Unreadable { path: PathBuf::from(path), reason: reason.to_string() }
}

pub fn insert_key(connection: &mut Connection, key: &NewKey) -> Result<KeyRow, StoreError> {
    let transaction = connection.transaction()?;
    transaction.execute(
        "INSERT INTO api_keys (key_id, name, description, status, sealed_hash, key_version, created_at, expires_at)
         VALUES (:key_id, :name, :description, 'active', :sealed_hash, :key_version, :created_at, :expires_at)",
        named_params! {
            ":key_id": key.key_id,
            ":name": key.name,
            ":description": key.description,
            ":sealed_hash": key.sealed_hash,
            ":key_version": key.key_version,
            ":created_at": key.created_at,
            ":expires_at": key.expires_at,
        },
    )?;
    // Read back within the transaction: the epoch was set by a trigger.
    let row = row_of(&transaction, &key.key_id)?
        .ok_or_else(|| StoreError::Failed("a row just written is not there".into()))?;
    transaction.commit()?;
    Ok(row)
}

/// Both in one transaction: a change between the two reads would be taken for known.
pub fn keys(connection: &mut Connection) -> Result<Keys, StoreError> {
    let transaction = connection.transaction()?;
    let epoch = epoch(&transaction)?;
    let rows = {
        let mut statement = transaction
            .prepare_cached(&format!("SELECT {COLUMNS} FROM api_keys ORDER BY created_at, key_id"))?;
        let rows = statement.query_map([], read_row)?;
        rows.collect::<Result<Vec<_>, _>>()?
    };
    transaction.commit()?;
    Ok(Keys { epoch, rows })
}

pub fn key(connection: &Connection, key_id: &str) -> Result<Option<KeyRow>, StoreError> {
    row_of(connection, key_id)
}

pub fn set_key_status(connection: &Connection, key_id: &str, status: KeyStatus) -> Result<bool, StoreError> {
    let changed = connection.execute(
        "UPDATE api_keys SET status = :status WHERE key_id = :key_id",
        named_params! { ":status": status.as_str(), ":key_id": key_id },
    )?;
    Ok(changed > 0)
}

pub fn epoch(connection: &Connection) -> Result<u64, StoreError> {
    let mut statement = connection.prepare_cached("SELECT value FROM epoch")?;
    Ok(statement.query_row([], |row| row.get(0))?)
}

fn row_of(connection: &Connection, key_id: &str) -> Result<Option<KeyRow>, StoreError> {
    let mut statement =
        connection.prepare_cached(&format!("SELECT {COLUMNS} FROM api_keys WHERE key_id = :key_id"))?;
    Ok(statement.query_row(named_params! { ":key_id": key_id }, read_row).optional()?)
}

fn read_row(row: &Row<'_>) -> rusqlite::Result<KeyRow> {
    let status: String = row.get("status")?;
    Ok(KeyRow {
        key_id: row.get("key_id")?,
        name: row.get("name")?,
        description: row.get("description")?,
        // The table's CHECK allows nothing else; whatever it may be, it does not open the gateway.
        status: KeyStatus::parse(&status).unwrap_or(KeyStatus::Inactive),
        sealed_hash: row.get("sealed_hash")?,
        key_version: row.get("key_version")?,
        created_at: row.get("created_at")?,
        expires_at: row.get("expires_at")?,
        epoch: row.get("epoch")?,
    })
}

const COLUMNS: &str =
    "key_id, name, description, status, sealed_hash, key_version, created_at, expires_at, epoch";

/// Jobs that wait for the thread. The askers are a poll a second, administration and the command line; a
/// longer queue would only hide that the disk hangs. One more waits its turn.
const QUEUE_MAX: usize = 64;

/// How long a write of another process is waited for. Their transactions take milliseconds; beyond this,
/// somebody holds the lock by hand.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
