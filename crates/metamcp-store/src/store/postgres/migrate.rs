//! Migrates a PostgreSQL database to the schema of this program.

use deadpool_postgres::ClientWrapper;

use crate::store::error::StoreError;
use metamcp_core::base::unix_seconds;

/// What happens at the first start in a database that has tables of other programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForeignTables {
    /// No table is created.
    #[default]
    Refuse,
    /// The tables of metamcp are created beside the others.
    Accept,
}

/// In order. The table `metamcp_migrations` records which of them were applied. New ones may only be appended.
pub const MIGRATIONS: [&str; 5] = [
    include_str!("../../../../../sql/postgres/0001_control_plane.sql"),
    include_str!("../../../../../sql/postgres/0002_bound_rows.sql"),
    include_str!("../../../../../sql/postgres/0003_tool_pins.sql"),
    include_str!("../../../../../sql/postgres/0004_key_uses.sql"),
    include_str!("../../../../../sql/postgres/0005_quotas.sql"),
];

/// Applies the missing migrations in one transaction, under a lock that other processes wait for.
pub async fn migrate(client: &ClientWrapper, foreign_tables: ForeignTables) -> Result<(), StoreError> {
    let release: String = client.query_one("SHOW server_version_num", &[]).await?.try_get(0)?;
    if release.parse::<u32>().is_ok_and(|release| release < SERVER_VERSION_MIN) {
        let text = format!("it is PostgreSQL {}; metamcp needs 14 or newer", &release[..release.len() - 4]);
        return Err(StoreError::Refused(text));
    }
    // Takes no lock when there is nothing to do: a start works during a long migration of another process, and with a user
    // that may not change tables.
    let version = version(client).await?;
    if missing(version)?.is_empty() {
        return Ok(());
    }
    if version == 0 && foreign_tables == ForeignTables::Refuse {
        refuse_foreign_tables(client).await?;
    }
    client.batch_execute("BEGIN; SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0").await?;
    let applied = apply(client).await;
    client.batch_execute(if applied.is_ok() { "COMMIT" } else { "ROLLBACK" }).await?;
    applied
}

async fn apply(client: &ClientWrapper) -> Result<(), StoreError> {
    client.execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK]).await?;
    // Checks again: another process may just have migrated. The table is created first, because in a session that once
    // found it missing, a catalog function may continue to report so.
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

/// Fails if the schema in which tables would be created has others. Most likely `DATABASE_URL` was meant for another program.
async fn refuse_foreign_tables(client: &ClientWrapper) -> Result<(), StoreError> {
    let rows = client.query(FOREIGN_TABLES, &[&TABLES_NAMED_MAX]).await?;
    let names = rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<String>, _>>()?;
    if names.is_empty() {
        return Ok(());
    }
    Err(StoreError::Refused(format!(
        "it has tables of another program ({}), so metamcp creates none of its own: name a database of its own in \
         DATABASE_URL, or, if it shall share this one, set METAMCP_SHARED_DATABASE=true for the first start",
        names.join(", ")
    )))
}

/// Tables of the current schema that no extension made.
const FOREIGN_TABLES: &str = "SELECT relname::text FROM pg_class \
    WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p') \
    AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = pg_class.oid AND deptype = 'e') \
    ORDER BY relname LIMIT $1";

/// Enough to recognise the program that they belong to.
const TABLES_NAMED_MAX: i64 = 3;

/// The version of the schema; 0 without our migrations.
async fn version(client: &ClientWrapper) -> Result<i64, StoreError> {
    let there = "SELECT to_regclass('metamcp_migrations') IS NOT NULL";
    if !client.query_one(there, &[]).await?.try_get::<_, bool>(0)? {
        return Ok(0);
    }
    let latest = "SELECT coalesce(max(version), 0) FROM metamcp_migrations";
    Ok(client.query_one(latest, &[]).await?.try_get(0)?)
}

fn missing(version: i64) -> Result<&'static [&'static str], StoreError> {
    let applied = usize::try_from(version).unwrap_or(usize::MAX);
    MIGRATIONS.get(applied..).ok_or(StoreError::NewerSchema { found: version, known: MIGRATIONS.len() })
}

const LEDGER: &str =
    "CREATE TABLE IF NOT EXISTS metamcp_migrations (version BIGINT PRIMARY KEY, applied_at BIGINT NOT NULL)";

/// Returns 1 if the table of migrations exists, and 0 otherwise.
pub const COUNT_LEDGERS: &str = "SELECT count(to_regclass('metamcp_migrations'))";

/// 14.0 as the server counts: the oldest version that is still maintained.
const SERVER_VERSION_MIN: u32 = 140_000;

/// "mcpm": hopefully no other program uses this lock.
const LOCK: i64 = 0x6d63_706d;
