//! The engine for more than one replica: a small pool of connections to PostgreSQL 14 or newer.
//!
//! Invariants: every wait has an end, on this side too, since a server that hangs keeps no timeout of its own. A
//! connection that was given up in the middle of something is closed and never used again. Connections are driven on
//! the runtime that opened the store, whoever uses them.
//! Does not know: what is stored.

mod error;
mod listen;
pub mod migrate;
mod tls;
mod url;
mod value;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use deadpool_postgres::{ClientWrapper, Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime};
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::{Client, Config, Connection, Socket};

use self::tls::{Stream, Tls};
use self::url::Settings;
use super::StoreError;
use super::session::{Access, Session};
use super::value::{Row, Value, check};

/// A pool, and how its connections are made.
#[derive(Clone)]
pub struct Postgres {
    pool: Pool,
    connector: Arc<Connector>,
    schema: Arc<Schema>,
}

/// Whether the schema is what this program knows.
#[derive(Default)]
struct Schema {
    is_ready: AtomicBool,
    /// Tries to make it so that have failed.
    failures: AtomicU64,
    /// Why the last of them did. Held while the next one goes on.
    last: Mutex<Option<StoreError>>,
}

impl Postgres {
    /// Reads the address and the certificates it names; connects to nothing yet.
    pub fn new(url: &str) -> Result<Self, StoreError> {
        let Settings { config, check } = Settings::parse(url)?;
        let home = Handle::try_current().map_err(|_| StoreError::Stopped)?;
        let connector = Arc::new(Connector { config, tls: Tls::new(&check)?, home });
        let manager = Manager::from_connect(
            connector.config.clone(),
            Maker(Arc::clone(&connector)),
            // Whether a connection is alive is found out by its first statement.
            ManagerConfig { recycling_method: RecyclingMethod::Fast },
        );
        let pool = Pool::builder(manager)
            .max_size(CONNECTIONS_MAX)
            .wait_timeout(Some(CHECKOUT_TIMEOUT))
            .create_timeout(Some(CREATE_TIMEOUT))
            .recycle_timeout(Some(CREATE_TIMEOUT))
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| StoreError::Failed(error.to_string()))?;
        Ok(Self { pool, connector, schema: Arc::default() })
    }

    /// Connects, and brings the schema up to date. Done already, it costs nothing.
    ///
    /// Those who wait while one tries share what comes of it: of a server that hangs each would else find out for
    /// itself, one after the other.
    pub async fn prepare(&self) -> Result<(), StoreError> {
        let schema = &self.schema;
        if schema.is_ready.load(Ordering::Acquire) {
            return Ok(());
        }
        let failures = schema.failures.load(Ordering::Acquire);
        let mut last = schema.last.lock().await;
        if schema.is_ready.load(Ordering::Acquire) {
            return Ok(());
        }
        if let Some(error) = last.as_ref().filter(|_| schema.failures.load(Ordering::Acquire) > failures) {
            return Err(error.clone());
        }
        match self.migrate().await {
            Ok(()) => schema.is_ready.store(true, Ordering::Release),
            Err(error) => {
                *last = Some(error.clone());
                schema.failures.fetch_add(1, Ordering::Release);
                return Err(error);
            }
        }
        Ok(())
    }

    async fn migrate(&self) -> Result<(), StoreError> {
        let client = self.pool.get().await?;
        match timeout(MIGRATION_TIMEOUT, migrate::migrate(&client)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                discard(client);
                Err(error)
            }
            Err(_) => {
                discard(client);
                Err(StoreError::Unavailable("bringing the schema up to date takes too long".into()))
            }
        }
    }

    /// Begins a transaction. One that is dropped without [`PgSession::end`] is undone.
    pub async fn begin(&self, access: Access) -> Result<PgSession, StoreError> {
        self.prepare().await?;
        let begin = match access {
            Access::Read => LOOK,
            // Not `READ WRITE`: a standby then says what it says to everybody, that it is read-only.
            Access::Administer | Access::Count | Access::Retire => "BEGIN ISOLATION LEVEL READ COMMITTED",
        };
        let mut session = self.started(begin).await?;
        session.changes = access != Access::Read;
        match access {
            Access::Administer => {
                session.query("SELECT pg_advisory_xact_lock($1) IS NULL", &[Value::Int(LOCK)]).await?;
            }
            Access::Retire => {
                let sql = "SELECT 1 WHERE pg_try_advisory_xact_lock($1)";
                if session.query(sql, &[Value::Int(RETIRE_LOCK)]).await?.is_empty() {
                    return session.end(Err(StoreError::Locked)).await;
                }
            }
            Access::Read | Access::Count => {}
        }
        Ok(session)
    }

    /// Begins a look into a database that is not ours: nothing is brought up to date, and nothing can be changed.
    pub async fn look(&self) -> Result<PgSession, StoreError> {
        self.started(LOOK).await
    }

    /// Whether it has had none of our migrations.
    pub async fn is_new(&self) -> Result<bool, StoreError> {
        let mut session = self.look().await?;
        let found = session.query(migrate::LEDGERS, &[]).await;
        let found =
            found.and_then(|rows| rows.into_iter().map(|mut row| row.int::<u64>()).sum::<Result<u64, _>>());
        session.end(found).await.map(|ledgers| ledgers == 0)
    }

    /// After a restart of the server the pool may hold connections that died: as many tries as it can hold. Where one
    /// hangs, the others do too, and are made anew.
    async fn started(&self, begin: &str) -> Result<PgSession, StoreError> {
        let begun = Instant::now();
        for _ in 0..CONNECTIONS_MAX {
            let session = PgSession { client: Some(self.pool.get().await?), changes: false };
            match session.command(begin, BEGIN_TIMEOUT).await {
                Err(StoreError::Unavailable(_)) if begun.elapsed() < BEGIN_TIMEOUT => {}
                Err(error) => {
                    self.pool.retain(|_, _| false);
                    return Err(error);
                }
                Ok(()) => return Ok(session),
            }
        }
        Err(StoreError::Unavailable("the connections to it break".into()))
    }
}

impl fmt::Debug for Postgres {
    /// Not the address: it may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres").finish_non_exhaustive()
    }
}

/// How a connection is made.
pub struct Connector {
    config: Config,
    tls: Tls,
    home: Handle,
}

impl Connector {
    async fn open(&self) -> Result<(Client, Connection<Socket, Stream>), tokio_postgres::Error> {
        self.config.connect(self.tls.clone()).await
    }
}

/// Makes the pool's connections, on the runtime that opened the store.
struct Maker(Arc<Connector>);

impl deadpool_postgres::Connect for Maker {
    fn connect(&self, _: &Config) -> Made<'_> {
        let connector = Arc::clone(&self.0);
        Box::pin(async move {
            let making = Arc::clone(&connector);
            let made = connector.home.spawn(async move {
                let (client, connection) = making.open().await?;
                // Its end is seen by whoever uses the client.
                let driver = tokio::spawn(async move { drop(connection.await) });
                client.batch_execute(SETTINGS).await?;
                Ok((client, driver))
            });
            match made.await {
                Ok(made) => made,
                // That runtime is shutting down. The pool's own timeout ends the wait.
                Err(_) => std::future::pending().await,
            }
        })
    }
}

type Made<'a> = std::pin::Pin<
    Box<dyn Future<Output = Result<(Client, JoinHandle<()>), tokio_postgres::Error>> + Send + 'a>,
>;

/// A transaction of PostgreSQL.
pub struct PgSession {
    /// `None` once it has ended.
    client: Option<Object>,
    /// Whether there may be a change to keep.
    changes: bool,
}

impl PgSession {
    /// Ends the transaction as the outcome wants it: kept when it is good, undone when it is not.
    pub async fn end<T>(mut self, outcome: Result<T, StoreError>) -> Result<T, StoreError> {
        match &outcome {
            Ok(_) => self.commit().await?,
            // The connection is not trusted any more: dropped with `self`.
            Err(error) if error.is_away() => return outcome,
            Err(_) if self.command("ROLLBACK", ANSWER_TIMEOUT).await.is_err() => return outcome,
            Err(_) => {}
        }
        // Back to the pool.
        drop(self.client.take());
        outcome
    }

    /// Where no answer comes, the server may have kept the change all the same.
    async fn commit(&self) -> Result<(), StoreError> {
        if self.client()?.is_closed() {
            return Err(StoreError::Unavailable("the connection was closed".into()));
        }
        let kept = self.command("COMMIT", ANSWER_TIMEOUT).await;
        kept.map_err(|error| match error {
            StoreError::Unavailable(why) if self.changes => StoreError::Unsure(why),
            other => other,
        })
    }

    async fn command(&self, sql: &str, patience: Duration) -> Result<(), StoreError> {
        within(patience, async { Ok(self.client()?.batch_execute(sql).await?) }).await
    }

    fn client(&self) -> Result<&ClientWrapper, StoreError> {
        self.client.as_deref().ok_or(StoreError::Stopped)
    }

    async fn execute_in_time(&self, sql: &str, values: &[Value]) -> Result<u64, StoreError> {
        check(values)?;
        let client = self.client()?;
        within(ANSWER_TIMEOUT, async {
            let statement = client.prepare_cached(sql).await?;
            Ok(client.execute_raw(&statement, values).await?)
        })
        .await
    }

    async fn query_in_time(&self, sql: &str, values: &[Value]) -> Result<Vec<Row>, StoreError> {
        check(values)?;
        let client = self.client()?;
        let rows = within(ANSWER_TIMEOUT, async {
            let statement = client.prepare_cached(sql).await?;
            let bound: Vec<&(dyn tokio_postgres::types::ToSql + Sync)> =
                values.iter().map(|value| value as _).collect();
            Ok(client.query(&statement, &bound).await?)
        })
        .await?;
        let row = |row: &tokio_postgres::Row| -> Result<Row, StoreError> {
            let values = (0..row.len()).map(|column| row.try_get(column)).collect::<Result<Vec<Value>, _>>();
            Ok(Row::new(values?))
        };
        rows.iter().map(row).collect()
    }
}

impl Session for PgSession {
    async fn execute(&mut self, sql: &str, values: &[Value]) -> Result<u64, StoreError> {
        self.execute_in_time(sql, values).await
    }

    async fn query(&mut self, sql: &str, values: &[Value]) -> Result<Vec<Row>, StoreError> {
        self.query_in_time(sql, values).await
    }
}

impl Drop for PgSession {
    /// Somewhere in a transaction, and nobody knows where: the server undoes it when the connection closes.
    fn drop(&mut self) {
        if let Some(client) = self.client.take() {
            discard(client);
        }
    }
}

fn discard(client: Object) {
    drop(Object::take(client));
}

async fn within<T>(
    patience: Duration,
    statement: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    timeout(patience, statement)
        .await
        .unwrap_or_else(|_| Err(StoreError::Unavailable("it does not answer".into())))
}

/// One moment, and no change.
const LOOK: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// Of one process. Its users are a poll a second, administration, and batches of usage; with ten replicas the server's
/// usual 100 connections are not reached.
const CONNECTIONS_MAX: usize = 8;

/// For one of the pool's connections to come free.
const CHECKOUT_TIMEOUT: Duration = Duration::from_secs(5);

/// For a new connection, all addresses of the server together, with TLS and the password.
const CREATE_TIMEOUT: Duration = Duration::from_secs(6);

/// For an answer. A little more than the server gives a statement, so that it is the one to end it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(7);

/// For the beginning of a transaction, which waits for nothing: a connection that takes longer hangs.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(3);

/// For all migrations, with those of other processes that are waited for.
const MIGRATION_TIMEOUT: Duration = Duration::from_mins(10);

/// Of each session. A statement takes milliseconds; what takes longer waits for somebody's lock. A transaction that
/// nobody goes on with holds the lock that administration waits for.
const SETTINGS: &str = "SET statement_timeout = '5s'; SET lock_timeout = '4s'; \
                        SET idle_in_transaction_session_timeout = '10s'; SET synchronous_commit = on";

/// "mcpa": held by whoever administers, to the end of the transaction.
const LOCK: i64 = 0x6d63_7061;

/// "mcpr": held by whoever takes out what is old, likewise.
const RETIRE_LOCK: i64 = 0x6d63_7072;
