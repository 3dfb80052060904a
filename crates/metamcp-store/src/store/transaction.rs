//! The interface of a transaction. Both engines implement it, so that operations are written once.

use std::future::Future;

use super::error::StoreError;
use super::value::{Row, Value};

/// A transaction in progress. Statements are written in SQL that both engines understand, with `$1`, `$2`, ... for values.
pub trait Transaction {
    /// Executes a statement and returns the number of rows it changed.
    fn execute(
        &mut self,
        sql: &str,
        values: &[Value],
    ) -> impl Future<Output = Result<u64, StoreError>> + Send;

    fn query(
        &mut self,
        sql: &str,
        values: &[Value],
    ) -> impl Future<Output = Result<Vec<Row>, StoreError>> + Send;
}

/// What a transaction may do, and which others it excludes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessMode {
    /// Sees the database at one moment and changes nothing.
    Read,
    /// Changes what is administered. Runs one at a time, so that no two deadlock and the audit log has the order of the
    /// changes.
    Administer,
    /// Adds to counters, concurrently with everything else.
    Count,
    /// Deletes old rows, concurrently with everything else but itself: fails with [`StoreError::Locked`] while another
    /// process does the same.
    Retire,
}

/// The first row of a query that returns at most one.
pub async fn query_one<T: Transaction>(
    tx: &mut T,
    sql: &str,
    values: &[Value],
) -> Result<Option<Row>, StoreError> {
    Ok(tx.query(sql, values).await?.into_iter().next())
}
