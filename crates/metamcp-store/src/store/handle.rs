//! The handle to the store, and the macro that runs an operation in a transaction of its engine.

use std::path::Path;
use std::sync::Arc;

use super::epochs::{self, Epochs};
use super::error::StoreError;
use super::postgres::{ForeignTables, Postgres};
use super::row_sealer::{OptionalSealer, RowSealer};
use super::sqlite::Sqlite;
use super::transaction::AccessMode;

/// A handle to the store. Cheap to clone; the engine stops when the last handle is dropped.
///
/// Reading and deleting need nothing else. Changes to sealed rows need a handle from [`Store::bound_by`].
#[derive(Debug, Clone)]
pub struct Store {
    pub(super) engine: Engine,
    pub(super) binding: OptionalSealer,
}

#[derive(Debug, Clone)]
pub(super) enum Engine {
    Sqlite(Sqlite),
    Postgres(Postgres),
}

/// Runs an operation on `$store` in its own transaction, which the operation calls `$tx`.
macro_rules! transact {
    ($store:expr, $access:expr, |$tx:ident| $work:expr) => {
        match &$store.engine {
            $crate::store::handle::Engine::Sqlite(engine) => {
                engine.transact($access, move |$tx| $crate::store::sqlite::resolve_now($work)).await
            }
            $crate::store::handle::Engine::Postgres(engine) => {
                let mut transaction = engine.begin($access).await?;
                let $tx = &mut transaction;
                let outcome = $work.await;
                transaction.end(outcome).await
            }
        }
    };
}
pub(super) use transact;

impl Store {
    /// Opens the SQLite file at `path`, creates it (mode 0600) if it does not exist, and migrates its schema.
    ///
    /// Cancel safe.
    pub async fn open_sqlite(path: &Path) -> Result<Self, StoreError> {
        Ok(Self::with_engine(Engine::Sqlite(Sqlite::open(path).await?)))
    }

    /// Opens the PostgreSQL database at `url` (`postgres://...`) and migrates its schema.
    ///
    /// Cancel safe.
    pub async fn open(url: &str) -> Result<Self, StoreError> {
        let store = Self::postgres(url)?;
        store.prepare().await?;
        Ok(store)
    }

    /// Like [`Store::open`], but connects and migrates later: in [`Store::prepare`], or in the first operation. Must be
    /// called in the runtime that is to drive the connections. Fails only for an invalid address.
    pub fn postgres(url: &str) -> Result<Self, StoreError> {
        Ok(Self::with_engine(Engine::Postgres(Postgres::new(url)?)))
    }

    /// Changes what happens at the first start in a PostgreSQL database that has tables of other programs.
    #[must_use]
    pub fn with_foreign_tables(self, foreign_tables: ForeignTables) -> Self {
        match self.engine {
            Engine::Sqlite(_) => self,
            Engine::Postgres(engine) => {
                Self { engine: Engine::Postgres(engine.with_foreign_tables(foreign_tables)), ..self }
            }
        }
    }

    /// Connects to the database and migrates its schema. Costs nothing once that is done.
    ///
    /// Cancel safe.
    pub async fn prepare(&self) -> Result<(), StoreError> {
        match &self.engine {
            Engine::Sqlite(_) => Ok(()),
            Engine::Postgres(engine) => engine.prepare().await,
        }
    }

    /// Writes a consistent copy of the embedded database to an empty file, while it is in use. Fails for PostgreSQL, which has
    /// tools for that.
    pub async fn copy_to(&self, path: &Path) -> Result<(), StoreError> {
        match &self.engine {
            Engine::Sqlite(engine) => engine.copy_to(path).await,
            Engine::Postgres(_) => {
                Err(StoreError::Failed("a PostgreSQL database is copied with pg_dump".into()))
            }
        }
    }

    /// A handle to the same store that seals with `binder` every row it changes.
    #[must_use]
    pub fn bound_by(&self, binder: impl RowSealer + 'static) -> Self {
        Self { binding: OptionalSealer::new(Arc::new(binder)), ..self.clone() }
    }

    /// All epochs at one moment. Cancel safe.
    pub async fn epochs(&self) -> Result<Epochs, StoreError> {
        transact!(self, AccessMode::Read, |tx| epochs::read(tx))
    }

    fn with_engine(engine: Engine) -> Self {
        Self { engine, binding: OptionalSealer::default() }
    }
}

/// Checks what can be checked of the address of a PostgreSQL database without connecting.
pub fn check_postgres_url(url: &str) -> Result<(), StoreError> {
    Postgres::check_url(url)
}

/// Whether the PostgreSQL database at `url` has none of our migrations. Changes nothing, and creates no schema.
///
/// Cancel safe.
pub async fn is_new_postgres(url: &str) -> Result<bool, StoreError> {
    Postgres::new(url)?.is_new().await
}
