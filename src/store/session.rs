//! One transaction, whichever engine carries it out: operations are written once, for both.

use std::future::Future;

use super::StoreError;
use super::value::{Row, Value};

/// Statements are written in the SQL that both engines understand, with `$1`, `$2`, ... for values.
pub trait Session {
    /// Rows changed.
    fn execute(
        &mut self,
        sql: &str,
        values: &[Value],
    ) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// Rows found.
    fn query(
        &mut self,
        sql: &str,
        values: &[Value],
    ) -> impl Future<Output = Result<Vec<Row>, StoreError>> + Send;
}

/// What a transaction is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Sees one moment, changes nothing.
    Read,
    /// Changes what is administered. One after the other: no two of them wait for each other crosswise, and the
    /// order of the audit log is the order of the changes.
    Administer,
    /// Adds to counters, beside whatever else goes on.
    Count,
    /// Takes out what is old, beside whatever else goes on; where another process does, it is not begun
    /// ([`StoreError::Locked`]).
    Retire,
}

/// The one row that a statement can give.
pub async fn query_one<S: Session>(
    session: &mut S,
    sql: &str,
    values: &[Value],
) -> Result<Option<Row>, StoreError> {
    Ok(session.query(sql, values).await?.into_iter().next())
}

/// Runs an operation on `$store` in a transaction of its own; `$session` is the name the operation calls it by.
macro_rules! transact {
    ($store:expr, $access:expr, |$session:ident| $work:expr) => {
        match &$store.engine {
            $crate::store::Engine::Sqlite(engine) => {
                engine.transact($access, move |$session| $crate::store::sqlite::at_once($work)).await
            }
            $crate::store::Engine::Postgres(engine) => {
                let mut held = engine.begin($access).await?;
                let $session = &mut held;
                let outcome = $work.await;
                held.end(outcome).await
            }
        }
    };
}
pub(super) use transact;
