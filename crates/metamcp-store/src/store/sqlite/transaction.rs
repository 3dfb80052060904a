//! Transactions of SQLite, and its values.

use std::future::{Future, ready};

use futures_util::FutureExt;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, ToSql, params_from_iter};

use crate::store::error::StoreError;
use crate::store::transaction::Transaction;
use crate::store::value::{Row, Value, check_values};

/// A transaction of the embedded engine.
pub struct SqliteTransaction<'c> {
    pub connection: &'c Connection,
}

impl Transaction for SqliteTransaction<'_> {
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

impl SqliteTransaction<'_> {
    fn execute_now(&self, sql: &str, values: &[Value]) -> Result<u64, StoreError> {
        check_values(values)?;
        let mut statement = self.connection.prepare_cached(&to_dialect(sql))?;
        Ok(statement.execute(params_from_iter(values))? as u64)
    }

    fn query_now(&self, sql: &str, values: &[Value]) -> Result<Vec<Row>, StoreError> {
        check_values(values)?;
        let mut statement = self.connection.prepare_cached(&to_dialect(sql))?;
        let columns = statement.column_count();
        let rows = statement.query_map(params_from_iter(values), |row| {
            (0..columns).map(|column| row.get_ref(column).map(to_value)).collect::<Result<Vec<_>, _>>()
        })?;
        rows.map(|row| Ok(Row::new(row?))).collect()
    }
}

/// The result of an operation on this engine. It never has to wait, since statements are executed when they are issued.
pub fn resolve_now<T>(operation: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    operation.now_or_never().expect("an operation awaits only statements, which are ready")
}

/// Converts `$1`, which SQLite takes for a name and numbers by its first use, to `?1`, which is a number.
fn to_dialect(sql: &str) -> String {
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

fn to_value(found: ValueRef<'_>) -> Value {
    match found {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => Value::Int(number),
        // The tables are STRICT: no column holds a float.
        ValueRef::Real(_) => Value::Null,
        // Only a damaged file holds text that is not UTF-8.
        ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Blob(bytes) => Value::Blob(bytes.to_owned()),
    }
}
