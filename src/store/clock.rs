//! What time the database says it is.

use super::session::{Access, Session, query_one, transact};
use super::{Engine, Store, StoreError};

impl Store {
    /// Seconds since 1970 by the clock of the database server; `None`: it is embedded, and has none of its own.
    ///
    /// Cancel safe.
    pub async fn clock(&self) -> Result<Option<u64>, StoreError> {
        match &self.engine {
            Engine::Sqlite(_) => Ok(None),
            Engine::Postgres(_) => transact!(self, Access::Read, |session| read(session)).map(Some),
        }
    }
}

async fn read<S: Session>(session: &mut S) -> Result<u64, StoreError> {
    let row = query_one(session, NOW, &[]).await?;
    row.ok_or_else(|| StoreError::Failed("it does not know the time".into()))?.int()
}

const NOW: &str = "SELECT CAST(floor(extract(epoch FROM clock_timestamp())) AS BIGINT)";
