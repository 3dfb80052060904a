//! Transactions of PostgreSQL, with a time limit on every wait.

use std::time::Duration;

use deadpool_postgres::{ClientWrapper, Object};
use tokio::time::timeout;

use crate::store::error::StoreError;
use crate::store::transaction::Transaction;
use crate::store::value::{Row, Value, check_values};

/// A transaction of PostgreSQL.
pub struct PgTransaction {
    /// `None` once the transaction has ended.
    client: Option<Object>,
    /// Whether there may be a change to commit.
    pub may_change: bool,
}

impl PgTransaction {
    pub fn new(client: Object) -> Self {
        Self { client: Some(client), may_change: false }
    }

    /// Ends the transaction: commits it if the outcome is `Ok`, and rolls it back otherwise.
    pub async fn end<T>(mut self, outcome: Result<T, StoreError>) -> Result<T, StoreError> {
        match &outcome {
            Ok(_) => self.commit().await?,
            // The connection is not trusted any more and is dropped with `self`.
            Err(error) if error.is_away() => return outcome,
            Err(_) if self.command("ROLLBACK", RESPONSE_TIMEOUT).await.is_err() => return outcome,
            Err(_) => {}
        }
        // Returns the connection to the pool.
        drop(self.client.take());
        outcome
    }

    /// Without a response it is unknown whether the server committed.
    async fn commit(&self) -> Result<(), StoreError> {
        if self.client()?.is_closed() {
            return Err(StoreError::Unavailable("the connection was closed".into()));
        }
        let committed = self.command("COMMIT", RESPONSE_TIMEOUT).await;
        committed.map_err(|error| match error {
            StoreError::Unavailable(reason) if self.may_change => StoreError::Unsure(reason),
            other => other,
        })
    }

    pub async fn command(&self, sql: &str, limit: Duration) -> Result<(), StoreError> {
        within(limit, async { Ok(self.client()?.batch_execute(sql).await?) }).await
    }

    fn client(&self) -> Result<&ClientWrapper, StoreError> {
        self.client.as_deref().ok_or(StoreError::Stopped)
    }

    async fn execute_within_limit(&self, sql: &str, values: &[Value]) -> Result<u64, StoreError> {
        check_values(values)?;
        let client = self.client()?;
        within(RESPONSE_TIMEOUT, async {
            let statement = client.prepare_cached(sql).await?;
            Ok(client.execute_raw(&statement, values).await?)
        })
        .await
    }

    async fn query_within_limit(&self, sql: &str, values: &[Value]) -> Result<Vec<Row>, StoreError> {
        check_values(values)?;
        let client = self.client()?;
        let rows = within(RESPONSE_TIMEOUT, async {
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

impl Transaction for PgTransaction {
    async fn execute(&mut self, sql: &str, values: &[Value]) -> Result<u64, StoreError> {
        self.execute_within_limit(sql, values).await
    }

    async fn query(&mut self, sql: &str, values: &[Value]) -> Result<Vec<Row>, StoreError> {
        self.query_within_limit(sql, values).await
    }
}

impl Drop for PgTransaction {
    /// Closes a connection that is in an unknown state of its transaction. The server then rolls it back.
    fn drop(&mut self) {
        if let Some(client) = self.client.take() {
            discard(client);
        }
    }
}

/// Removes a connection from the pool and closes it.
pub fn discard(client: Object) {
    drop(Object::take(client));
}

async fn within<T>(
    limit: Duration,
    statement: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    timeout(limit, statement)
        .await
        .unwrap_or_else(|_| Err(StoreError::Unavailable("it does not answer".into())))
}

/// The limit for a response. A little more than the statement timeout of the server, so that the server ends the statement.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(7);
