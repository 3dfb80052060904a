//! The embedded engine: one connection on one named thread, spoken to through a bounded channel.
//!
//! Invariants: a transaction begins and ends within one job, so that no caller can leave one open.
//! Does not know: what is stored.

mod error;
pub mod migrate;

use std::fs::OpenOptions;
use std::future::{Future, ready};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::FutureExt;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, OpenFlags, ToSql, TransactionBehavior, params_from_iter};
use tokio::sync::{mpsc, oneshot};

use super::StoreError;
use super::session::{Access, Session};
use super::value::{Row, Value, check as check_values};
use migrate::{migrate, recognise};

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

    /// Runs `work` in a transaction, which is undone when it fails. Cancel safe: once handed over, it runs to its
    /// end.
    pub async fn transact<T, F>(&self, access: Access, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut SqliteSession<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        self.call(move |connection| {
            let behavior = match access {
                Access::Read => TransactionBehavior::Deferred,
                // The lock first: a reader that wants to write later may find that somebody was faster.
                Access::Administer | Access::Count | Access::Retire => TransactionBehavior::Immediate,
            };
            let transaction = connection.transaction_with_behavior(behavior)?;
            let done = work(&mut SqliteSession { connection: &transaction })?;
            transaction.commit()?;
            Ok(done)
        })
        .await
    }

    /// Another one when anything may have been written since, by this process or any other. Costs next to nothing.
    pub async fn stamp(&self) -> Result<(i64, u64), StoreError> {
        self.call(|connection| {
            let others: i64 = connection.pragma_query_value(None, "data_version", |row| row.get(0))?;
            Ok((others, connection.total_changes()))
        })
        .await
    }

    /// Runs `job` on the store's thread. Cancel safe: once handed over, the job runs to its end.
    async fn call<T, F>(&self, job: F) -> Result<T, StoreError>
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

/// A transaction of the embedded engine.
pub struct SqliteSession<'c> {
    connection: &'c Connection,
}

impl Session for SqliteSession<'_> {
    fn execute(
        &mut self,
        sql: &str,
        values: &[Value],
    ) -> impl Future<Output = Result<u64, StoreError>> + Send {
        ready(self.execute_now(sql, values))
    }

    fn query(
        &mut self,
        sql: &str,
        values: &[Value],
    ) -> impl Future<Output = Result<Vec<Row>, StoreError>> + Send {
        ready(self.query_now(sql, values))
    }
}

impl SqliteSession<'_> {
    fn execute_now(&self, sql: &str, values: &[Value]) -> Result<u64, StoreError> {
        check_values(values)?;
        let mut statement = self.connection.prepare_cached(&dialect(sql))?;
        Ok(statement.execute(params_from_iter(values))? as u64)
    }

    fn query_now(&self, sql: &str, values: &[Value]) -> Result<Vec<Row>, StoreError> {
        check_values(values)?;
        let mut statement = self.connection.prepare_cached(&dialect(sql))?;
        let columns = statement.column_count();
        let rows = statement.query_map(params_from_iter(values), |row| {
            (0..columns).map(|column| row.get_ref(column).map(value)).collect::<Result<Vec<_>, _>>()
        })?;
        rows.map(|row| Ok(Row::new(row?))).collect()
    }
}

/// The outcome of an operation on this engine, which never has to wait: its statements are done when they are asked
/// for.
pub fn at_once<T>(operation: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    operation.now_or_never().expect("an operation awaits statements alone, and they are ready")
}

/// `$1` is a name to SQLite, numbered by where it first stands; `?1` is a number.
fn dialect(sql: &str) -> String {
    sql.replace('$', "?")
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            Self::Null => ToSqlOutput::Borrowed(ValueRef::Null),
            Self::Int(number) => ToSqlOutput::Borrowed(ValueRef::Integer(*number)),
            Self::Text(text) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
            Self::Blob(bytes) => ToSqlOutput::Borrowed(ValueRef::Blob(bytes)),
            Self::Uuid(id) => ToSqlOutput::Owned(id.hyphenated().to_string().into()),
        })
    }
}

fn value(found: ValueRef<'_>) -> Value {
    match found {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => Value::Int(number),
        // The tables are STRICT: no column holds one.
        ValueRef::Real(_) => Value::Null,
        // Only a damaged file holds anything but UTF-8.
        ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Blob(bytes) => Value::Blob(bytes.to_owned()),
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

/// Jobs that wait for the thread. The askers are a poll a second, administration and the command line; a
/// longer queue would only hide that the disk hangs. One more waits its turn.
const QUEUE_MAX: usize = 64;

/// How long a write of another process is waited for. Their transactions take milliseconds; beyond this,
/// somebody holds the lock by hand.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
