//! Converts the errors of PostgreSQL, its driver and the pool to those of the store.

use std::error::Error as _;
use std::io;

use deadpool_postgres::{PoolError, TimeoutType};
use tokio_postgres::error::{DbError, SqlState};

use crate::store::error::StoreError;

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            Some(error) => from_server(error),
            None => from_connection(&error),
        }
    }
}

impl From<PoolError> for StoreError {
    fn from(error: PoolError) -> Self {
        let text = match error {
            PoolError::Backend(error) => return error.into(),
            PoolError::Timeout(TimeoutType::Wait) => "all connections to it are busy",
            PoolError::Timeout(_) => "it does not answer",
            PoolError::Closed => return Self::Stopped,
            PoolError::PostCreateHook(_) | PoolError::NoRuntimeSpecified => "no connection could be made",
        };
        Self::Unavailable(text.into())
    }
}

/// Converts an error reported by the server. Its message holds names and values of columns, but never a password. The
/// details, which quote rows, are left out.
fn from_server(error: &DbError) -> StoreError {
    let text = || error.message().to_owned();
    let code = error.code();
    match code.code() {
        "23505" => StoreError::Exists { field: field(error) },
        "23503" => StoreError::Dangling,
        "25006" => StoreError::ReadOnly,
        "53100" => StoreError::DiskFull,
        "55P03" => StoreError::Locked,
        // This process, or its machine, was suspended in the middle of a transaction.
        "25P03" => StoreError::Unavailable(text()),
        "57014" => StoreError::Unavailable("a statement took too long and was cancelled".into()),
        "42P07" => StoreError::Refused(format!(
            "{}; it holds the tables of another program: give metamcp a database of its own",
            error.message()
        )),
        "42501" => StoreError::Refused(format!(
            "{}; let the user create tables in the schema and change what it made",
            error.message()
        )),
        _ if *code == SqlState::T_R_SERIALIZATION_FAILURE || *code == SqlState::T_R_DEADLOCK_DETECTED => {
            StoreError::Locked
        }
        other => match &other[..2] {
            "28" | "3D" => StoreError::Refused(text()),
            // Classes of connections, resources, operator intervention and system errors.
            "08" | "53" | "57" | "58" => StoreError::Unavailable(text()),
            "22" | "23" => StoreError::Invalid(text()),
            _ => StoreError::Failed(text()),
        },
    }
}

/// The column of a violated constraint: `key_id` for `api_keys_key_id_key` of the table `api_keys`, the last column for a
/// primary key.
fn field(error: &DbError) -> String {
    let (table, constraint) = (error.table().unwrap_or_default(), error.constraint().unwrap_or_default());
    let rest = constraint.strip_prefix(table).unwrap_or(constraint).trim_start_matches('_');
    match (table, rest) {
        ("jwt_keys", "pkey") => "kid",
        ("jwt_keys", "one_of_a_phase") => "phase",
        ("endpoint_servers", "pkey") => "server_id",
        ("endpoint_servers", _) => "position",
        ("endpoint_tools", _) => "pattern",
        (_, "pkey") => "id",
        (_, rest) => rest.strip_suffix("_key").unwrap_or("value"),
    }
    .to_owned()
}

/// Converts an error of the connection.
fn from_connection(error: &tokio_postgres::Error) -> StoreError {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let message = inner.to_string();
        if !text.contains(&message) {
            text = format!("{text}: {message}");
        }
        cause = inner.source();
    }
    let io = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    match io {
        // TLS reports a certificate it refuses in this way too.
        Some(io) if io.kind() == io::ErrorKind::InvalidData => StoreError::Refused(text),
        Some(_) => StoreError::Unavailable(text),
        None if error.is_closed() => StoreError::Unavailable("the connection was closed".into()),
        None if ["error performing TLS", "authentication error", "invalid configuration"]
            .iter()
            .any(|kind| text.starts_with(kind)) =>
        {
            StoreError::Refused(text)
        }
        None if ["error connecting", "timeout", "error communicating"]
            .iter()
            .any(|kind| text.starts_with(kind)) =>
        {
            StoreError::Unavailable(text)
        }
        None => StoreError::Failed(text),
    }
}
