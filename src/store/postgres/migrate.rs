//! Brings a PostgreSQL database to the schema this program knows.

use deadpool_postgres::ClientWrapper;

use crate::store::StoreError;
use metamcp_core::base::unix_seconds;

/// In order; `metamcp_migrations` says which of them a database has had. Only ever appended to.
pub const MIGRATIONS: [&str; 3] = [
    include_str!("../../../sql/postgres/0001_control_plane.sql"),
    include_str!("../../../sql/postgres/0002_bound_rows.sql"),
    include_str!("../../../sql/postgres/0003_tool_pins.sql"),
];

/// Applies what is missing, in one transaction under a lock that other processes wait for.
pub async fn migrate(client: &ClientWrapper) -> Result<(), StoreError> {
    let release: String = client.query_one("SHOW server_version_num", &[]).await?.try_get(0)?;
    if release.parse::<u32>().is_ok_and(|release| release < RELEASE_MIN) {
        let text = format!("it is PostgreSQL {}; metamcp needs 14 or newer", &release[..release.len() - 4]);
        return Err(StoreError::Refused(text));
    }
    // Without the lock when there is nothing to do: starting works beside a long migration of somebody else, and with
    // a user that may not change tables.
    if missing(version(client).await?)?.is_empty() {
        return Ok(());
    }
    client.batch_execute("BEGIN; SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0").await?;
    let applied = apply(client).await;
    client.batch_execute(if applied.is_ok() { "COMMIT" } else { "ROLLBACK" }).await?;
    applied
}

async fn apply(client: &ClientWrapper) -> Result<(), StoreError> {
    client.execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK]).await?;
    // Asked again: another process may just have done it. The table comes first: to a session that once found it
    // missing, a function of the catalog may go on saying so.
    client.batch_execute(LEDGER).await?;
    let version = version(client).await?;
    let now = i64::try_from(unix_seconds()).unwrap_or(i64::MAX);
    for (number, migration) in (version + 1..).zip(missing(version)?) {
        client.batch_execute(migration).await?;
        let sql = "INSERT INTO metamcp_migrations (version, applied_at) VALUES ($1, $2)";
        client.execute(sql, &[&number, &now]).await?;
    }
    Ok(())
}

/// 0: none of ours.
async fn version(client: &ClientWrapper) -> Result<i64, StoreError> {
    let there = "SELECT to_regclass('metamcp_migrations') IS NOT NULL";
    if !client.query_one(there, &[]).await?.try_get::<_, bool>(0)? {
        return Ok(0);
    }
    let latest = "SELECT coalesce(max(version), 0) FROM metamcp_migrations";
    Ok(client.query_one(latest, &[]).await?.try_get(0)?)
}

fn missing(version: i64) -> Result<&'static [&'static str], StoreError> {
    let had = usize::try_from(version).unwrap_or(usize::MAX);
    MIGRATIONS.get(had..).ok_or(StoreError::NewerSchema { found: version, known: MIGRATIONS.len() })
}

const LEDGER: &str =
    "CREATE TABLE IF NOT EXISTS metamcp_migrations (version BIGINT PRIMARY KEY, applied_at BIGINT NOT NULL)";

/// How many there are: one, or none.
pub const LEDGERS: &str = "SELECT count(to_regclass('metamcp_migrations'))";

/// 14.0, as the server counts: the oldest one that its makers still mend.
const RELEASE_MIN: u32 = 140_000;

/// "mcpm": nobody else's lock, it is to be hoped.
const LOCK: i64 = 0x6d63_706d;
