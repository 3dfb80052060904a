//! The clock of the database server.

use super::error::StoreError;
use super::handle::{Engine, Store, transact};
use super::transaction::{AccessMode, Transaction, query_one};

impl Store {
    /// Seconds since 1970 by the clock of the database server. `None` for an embedded database, which has no clock of its
    /// own.
    ///
    /// Cancel safe.
    pub async fn clock(&self) -> Result<Option<u64>, StoreError> {
        match &self.engine {
            Engine::Sqlite(_) => Ok(None),
            Engine::Postgres(_) => transact!(self, AccessMode::Read, |tx| read(tx)).map(Some),
        }
    }
}

async fn read<T: Transaction>(tx: &mut T) -> Result<u64, StoreError> {
    let row = query_one(tx, NOW, &[]).await?;
    row.ok_or_else(|| StoreError::Failed("it returned no time".into()))?.int()
}

const NOW: &str = "SELECT CAST(floor(extract(epoch FROM clock_timestamp())) AS BIGINT)";
