//! The pool of connections, the migration of the schema, and the beginning of transactions.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::connector::{Connector, PoolConnector};
use super::migrate::{self, ForeignTables};
use super::tls::Tls;
use super::transaction::{PgTransaction, discard};
use super::url::Settings;
use crate::store::error::StoreError;
use crate::store::transaction::{AccessMode, Transaction};
use crate::store::value::Value;

/// The PostgreSQL engine of a store: a pool of connections, and the state of the schema. Cheap to clone.
#[derive(Clone)]
pub struct Postgres {
    pool: Pool,
    pub(super) connector: Arc<Connector>,
    schema: Arc<Schema>,
    foreign_tables: ForeignTables,
}

/// Whether the schema is migrated.
#[derive(Default)]
struct Schema {
    is_ready: AtomicBool,
    /// Attempts to migrate that failed.
    failures: AtomicU64,
    /// The error of the last one. Held while the next one runs.
    last_error: Mutex<Option<StoreError>>,
}

impl Postgres {
    /// Parses the address and reads the certificates it names. Does not connect yet.
    pub fn new(url: &str) -> Result<Self, StoreError> {
        let Settings { config, check } = Settings::parse(url)?;
        let runtime = Handle::try_current().map_err(|_| StoreError::Stopped)?;
        let connector = Arc::new(Connector { config, tls: Tls::new(&check)?, runtime });
        let manager = Manager::from_connect(
            connector.config.clone(),
            PoolConnector(Arc::clone(&connector)),
            // The first statement finds out whether a connection is alive.
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
        Ok(Self { pool, connector, schema: Arc::default(), foreign_tables: ForeignTables::default() })
    }

    /// Checks what can be checked of an address without connecting: its form, its options and its certificates.
    pub fn check_url(url: &str) -> Result<(), StoreError> {
        let Settings { check, .. } = Settings::parse(url)?;
        Tls::new(&check).map(drop)
    }

    /// Changes what happens in a database that has tables of other programs.
    pub fn with_foreign_tables(self, foreign_tables: ForeignTables) -> Self {
        Self { foreign_tables, ..self }
    }

    /// Connects and migrates the schema. Costs nothing once that is done.
    ///
    /// Concurrent callers share one attempt and its error: otherwise each would wait for a hanging server in turn.
    pub async fn prepare(&self) -> Result<(), StoreError> {
        let schema = &self.schema;
        if schema.is_ready.load(Ordering::Acquire) {
            return Ok(());
        }
        let failures = schema.failures.load(Ordering::Acquire);
        let mut last_error = schema.last_error.lock().await;
        if schema.is_ready.load(Ordering::Acquire) {
            return Ok(());
        }
        if let Some(error) =
            last_error.as_ref().filter(|_| schema.failures.load(Ordering::Acquire) > failures)
        {
            return Err(error.clone());
        }
        match self.migrate().await {
            Ok(()) => schema.is_ready.store(true, Ordering::Release),
            Err(error) => {
                *last_error = Some(error.clone());
                schema.failures.fetch_add(1, Ordering::Release);
                return Err(error);
            }
        }
        Ok(())
    }

    async fn migrate(&self) -> Result<(), StoreError> {
        let client = self.pool.get().await?;
        match timeout(MIGRATION_TIMEOUT, migrate::migrate(&client, self.foreign_tables)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                discard(client);
                Err(error)
            }
            Err(_) => {
                discard(client);
                Err(StoreError::Unavailable("the migration of the schema takes too long".into()))
            }
        }
    }

    /// Begins a transaction. A transaction that is dropped without [`PgTransaction::end`] is rolled back.
    pub async fn begin(&self, access: AccessMode) -> Result<PgTransaction, StoreError> {
        self.prepare().await?;
        let begin = match access {
            AccessMode::Read => BEGIN_READ_ONLY,
            // Not `READ WRITE`, so that a standby reports the usual read-only error.
            AccessMode::Administer | AccessMode::Count | AccessMode::Retire => {
                "BEGIN ISOLATION LEVEL READ COMMITTED"
            }
        };
        let mut tx = self.begin_with(begin).await?;
        tx.may_change = access != AccessMode::Read;
        match access {
            AccessMode::Administer => {
                tx.query("SELECT pg_advisory_xact_lock($1) IS NULL", &[Value::Int(LOCK)]).await?;
            }
            AccessMode::Retire => {
                let sql = "SELECT 1 WHERE pg_try_advisory_xact_lock($1)";
                if tx.query(sql, &[Value::Int(RETIRE_LOCK)]).await?.is_empty() {
                    return tx.end(Err(StoreError::Locked)).await;
                }
            }
            AccessMode::Read | AccessMode::Count => {}
        }
        Ok(tx)
    }

    /// Begins a read-only transaction in a database that is not ours: migrates nothing.
    pub async fn begin_read_only(&self) -> Result<PgTransaction, StoreError> {
        self.begin_with(BEGIN_READ_ONLY).await
    }

    /// Whether the database has none of our migrations.
    pub async fn is_new(&self) -> Result<bool, StoreError> {
        let mut tx = self.begin_read_only().await?;
        let found = tx.query(migrate::COUNT_LEDGERS, &[]).await;
        let found =
            found.and_then(|rows| rows.into_iter().map(|mut row| row.int::<u64>()).sum::<Result<u64, _>>());
        tx.end(found).await.map(|ledgers| ledgers == 0)
    }

    /// Begins a transaction on a connection of the pool. After a restart of the server all pooled connections may be dead,
    /// so there are as many attempts as the pool has connections. If one hangs, all are discarded, since they hang too.
    async fn begin_with(&self, begin: &str) -> Result<PgTransaction, StoreError> {
        let started = Instant::now();
        for _ in 0..CONNECTIONS_MAX {
            let tx = PgTransaction::new(self.pool.get().await?);
            match tx.command(begin, BEGIN_TIMEOUT).await {
                Err(StoreError::Unavailable(_)) if started.elapsed() < BEGIN_TIMEOUT => {}
                Err(error) => {
                    self.pool.retain(|_, _| false);
                    return Err(error);
                }
                Ok(()) => return Ok(tx),
            }
        }
        Err(StoreError::Unavailable("its connections break".into()))
    }
}

impl fmt::Debug for Postgres {
    /// Without the address, which may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres").finish_non_exhaustive()
    }
}

/// Sees the database at one moment.
const BEGIN_READ_ONLY: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// The pool of one process. It serves a poll every second, administration, and usage batches. Ten replicas stay below the
/// server's usual limit of 100 connections.
const CONNECTIONS_MAX: usize = 8;

/// The wait for a free connection of the pool.
const CHECKOUT_TIMEOUT: Duration = Duration::from_secs(5);

/// The limit for a new connection: all addresses of the server together, with TLS and authentication.
pub const CREATE_TIMEOUT: Duration = Duration::from_secs(6);

/// The limit for the beginning of a transaction. It waits for nothing, so a connection that takes longer hangs.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(3);

/// The limit for all migrations, including those of other processes that hold the lock.
const MIGRATION_TIMEOUT: Duration = Duration::from_mins(10);

/// "mcpa": held by an administrative transaction until it ends.
const LOCK: i64 = 0x6d63_7061;

/// "mcpr": held by a transaction that deletes old rows until it ends.
const RETIRE_LOCK: i64 = 0x6d63_7072;
