//! Test support: temporary folders and databases, and damage to them.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use futures_util::FutureExt;
use rusqlite::Connection;
use tokio_postgres::NoTls;

use super::{KeyRow, Plaintext, RowSealer, SealedRow, SealedValue};

/// Names a PostgreSQL server on which databases may be created; `tools/check` starts one.
const SERVER: &str = "METAMCP_TEST_DATABASE_URL";

/// Test sealer: writes the columns in the clear next to the plaintext.
#[derive(Debug, Clone)]
pub struct Notary(pub u8);

impl RowSealer for Notary {
    fn seal_row(&self, row: SealedRow<'_>, plain: &Plaintext) -> SealedValue {
        let columns = columns(row).into_bytes();
        let length = u32::try_from(columns.len()).expect("a row is short").to_le_bytes();
        let bytes = [&[self.0][..], &length, &columns, plain.expose()].concat();
        SealedValue { bytes, key_version: self.0 }
    }

    fn open_row(&self, row: SealedRow<'_>) -> Option<Plaintext> {
        let (bytes, version) = row.sealed();
        let rest = bytes.strip_prefix(&[version])?;
        let (length, rest) = rest.split_first_chunk()?;
        let (sealed_columns, plain) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        (self.has_version(version) && sealed_columns == columns(row).as_bytes())
            .then(|| Plaintext::new(plain.to_vec()))
    }

    /// Its own version and all earlier ones.
    fn has_version(&self, version: u8) -> bool {
        (1..=self.0).contains(&version)
    }

    fn sealing_version(&self) -> u8 {
        self.0
    }
}

fn columns(row: SealedRow<'_>) -> String {
    match row {
        SealedRow::Key(row) => {
            let KeyRow { id, key_id, name, grants, status, expires_at, successor, grace_until, .. } = row;
            format!("{:?}", (id, key_id, name, grants, status, expires_at, successor, grace_until))
        }
        SealedRow::Server(row) => format!("{:?}", (row.id, &row.name, row.kind, &row.definition)),
        SealedRow::Endpoint(row) => format!("{:?}", (row.id, &row.name, row.prefix, &row.servers)),
        SealedRow::JwtKey(row) => {
            format!("{:?}", (&row.kid, row.algorithm, row.phase, row.created_at, row.changed_at))
        }
        SealedRow::ToolPins(row) => format!("{:?}", (&row.server, &row.pins)),
    }
}

/// A new folder, deleted when dropped.
pub struct Folder(PathBuf);

impl Folder {
    pub fn create() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("metamcp-test-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a temporary folder can be made");
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // If it fails, the folder is left in the system's temporary folder, which does no harm.
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// Makes the epochs unreadable.
pub fn break_epoch(database: &Path) {
    let shell = Connection::open(database).expect("the database is there");
    shell.execute_batch("ALTER TABLE epochs RENAME TO away").expect("the table is there");
}

/// Replaces the sealed value in a key's row.
pub fn put_sealed_hash(database: &Path, key_id: &str, sealed_hash: &[u8]) {
    let shell = Connection::open(database).expect("the database is there");
    let changed = shell
        .execute("UPDATE api_keys SET sealed_hash = ?1 WHERE key_id = ?2", (sealed_hash, key_id))
        .expect("the table is there");
    assert_eq!(changed, 1);
}

/// The PostgreSQL server for tests, if there is one. Prints a note otherwise.
pub fn server() -> Option<String> {
    variable(SERVER)
}

/// The file of the certificate that signed the server's.
pub fn server_ca() -> Option<String> {
    variable("METAMCP_TEST_DATABASE_CA")
}

#[allow(clippy::disallowed_methods, reason = "a test has no other place to be told of a server")]
fn variable(name: &str) -> Option<String> {
    let value = std::env::var(name).ok().filter(|value| !value.is_empty());
    if value.is_none() {
        println!("{name} is not set: NOT tested with PostgreSQL (tools/check sets it)");
    }
    value
}

/// Runs a test with the address of a new database, which is deleted afterwards.
pub async fn with_database(test: impl AsyncFnOnce(&str)) {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let Some(server) = server() else { return };
    let name = format!("test_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    sql(&server, &format!("CREATE DATABASE {name}")).await;
    let (base, query) = server.split_once('?').unwrap_or((&server, ""));
    let (host, _) = base.rsplit_once('/').expect("an address ends in a database");
    let url = format!("{host}/{name}?{query}");
    let outcome = std::panic::AssertUnwindSafe(test(&url)).catch_unwind().await;
    sql(&server, &format!("DROP DATABASE {name} WITH (FORCE)")).await;
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

/// Executes statements as psql would.
pub async fn sql(url: &str, statements: &str) {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("the server lets us in");
    let driver = tokio::spawn(connection);
    client.batch_execute(statements).await.expect(statements);
    drop(client);
    driver.await.expect("does not panic").expect("ends in peace");
}
