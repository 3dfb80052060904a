use std::collections::HashSet;

use rusqlite::Connection;
use serde_json::json;
use tokio_postgres::NoTls;
use zeroize::Zeroizing;

use super::super::config::EncryptionKey;
use super::*;
use crate::store::testing::{Folder, with_database};
use crate::store::{
    Audit, EndpointSpec, Grants, JwtAlgorithm, JwtPhase, NewJwtKey, NewKey, NewToolPins, OldKeyPolicy,
    PrefixMode, Quotas, Rate, Role, Secrets, ServerKind, ServerSpec, Store, new_id,
};

fn sealer() -> Sealer {
    let key = |version| EncryptionKey { version, key: Zeroizing::new([version; 32]) };
    Sealer::new(&[key(1), key(2), key(3)]).unwrap()
}

/// An attacker who can write to the database and has no key. This shell ignores checks and references.
enum Shell {
    Sqlite(Connection),
    Postgres(tokio_postgres::Client),
}

impl Shell {
    /// Returns whether the database accepted the statement.
    async fn run(&self, sql: &str) -> bool {
        match self {
            Self::Sqlite(shell) => shell.execute_batch(sql).is_ok(),
            Self::Postgres(shell) => shell.batch_execute(sql).await.is_ok(),
        }
    }

    /// The stored bytes of one field; `None` for NULL.
    async fn bytes(&self, column: &Column, which: &str) -> Option<Vec<u8>> {
        let Column { table, name, kind } = column;
        let hex: Option<String> = match self {
            Self::Sqlite(shell) => {
                let sql = format!(
                    "SELECT hex(CAST({name} AS BLOB)) FROM {table} WHERE {which} AND {name} IS NOT NULL"
                );
                shell.query_row(&sql, [], |row| row.get(0)).ok()
            }
            Self::Postgres(shell) => {
                let written = match kind {
                    Kind::Bytes => (*name).to_owned(),
                    Kind::Text | Kind::Number | Kind::Uuid | Kind::Json => {
                        format!("convert_to({name}::text, 'UTF8')")
                    }
                };
                let sql = format!(
                    "SELECT encode({written}, 'hex') FROM {table} WHERE {which} AND {name} IS NOT NULL"
                );
                shell.query_opt(&sql, &[]).await.unwrap().map(|row| row.get(0))
            }
        };
        let hex = hex?;
        Some((0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect())
    }

    fn literal(&self, kind: Kind, bytes: &[u8]) -> String {
        let hex = bytes.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
        match (self, kind) {
            (_, Kind::Number) => String::from_utf8(bytes.to_vec()).unwrap(),
            (Self::Sqlite(_), Kind::Bytes) => format!("x'{hex}'"),
            (Self::Sqlite(_), _) => format!("CAST(x'{hex}' AS TEXT)"),
            (Self::Postgres(_), Kind::Bytes) => format!("'\\x{hex}'::bytea"),
            (Self::Postgres(_), Kind::Text) => format!("convert_from('\\x{hex}', 'UTF8')"),
            (Self::Postgres(_), Kind::Uuid) => format!("convert_from('\\x{hex}', 'UTF8')::uuid"),
            (Self::Postgres(_), Kind::Json) => format!("convert_from('\\x{hex}', 'UTF8')::json"),
        }
    }

    async fn put(&self, column: &Column, which: &str, bytes: Option<&[u8]>) -> bool {
        let Column { table, name, kind } = column;
        let value = bytes.map_or_else(|| "NULL".into(), |bytes| self.literal(*kind, bytes));
        self.run(&format!("UPDATE {table} SET {name} = {value} WHERE {which}")).await
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Text,
    Bytes,
    Number,
    Uuid,
    Json,
}

/// A column that is covered by the seal.
struct Column {
    table: &'static str,
    name: &'static str,
    kind: Kind,
}

const fn column(table: &'static str, name: &'static str, kind: Kind) -> Column {
    Column { table, name, kind }
}

const COLUMNS: [Column; 45] = [
    column("tool_pins", "server", Kind::Text),
    column("tool_pins", "pins", Kind::Json),
    column("tool_pins", "seal", Kind::Bytes),
    column("tool_pins", "key_version", Kind::Number),
    column("api_keys", "id", Kind::Uuid),
    column("api_keys", "key_id", Kind::Text),
    column("api_keys", "name", Kind::Text),
    column("api_keys", "role", Kind::Text),
    column("api_keys", "endpoints", Kind::Json),
    column("api_keys", "tools", Kind::Json),
    column("api_keys", "rate_per_second", Kind::Number),
    column("api_keys", "rate_burst", Kind::Number),
    column("api_keys", "concurrency", Kind::Number),
    column("api_keys", "quotas", Kind::Json),
    column("api_keys", "status", Kind::Text),
    column("api_keys", "sealed_hash", Kind::Bytes),
    column("api_keys", "key_version", Kind::Number),
    column("api_keys", "expires_at", Kind::Number),
    column("api_keys", "successor", Kind::Uuid),
    column("api_keys", "grace_until", Kind::Number),
    column("mcp_servers", "id", Kind::Uuid),
    column("mcp_servers", "name", Kind::Text),
    column("mcp_servers", "kind", Kind::Text),
    column("mcp_servers", "definition", Kind::Json),
    column("mcp_servers", "sealed_secrets", Kind::Bytes),
    column("mcp_servers", "key_version", Kind::Number),
    column("endpoints", "id", Kind::Uuid),
    column("endpoints", "name", Kind::Text),
    column("endpoints", "prefix_mode", Kind::Text),
    column("endpoints", "seal", Kind::Bytes),
    column("endpoints", "key_version", Kind::Number),
    column("endpoint_servers", "endpoint_id", Kind::Uuid),
    column("endpoint_servers", "server_id", Kind::Uuid),
    column("endpoint_tools", "kind", Kind::Text),
    column("endpoint_tools", "pattern", Kind::Text),
    column("endpoint_tools", "name", Kind::Text),
    column("endpoint_tools", "title", Kind::Text),
    column("endpoint_tools", "description", Kind::Text),
    column("endpoint_tools", "annotations", Kind::Json),
    column("jwt_keys", "kid", Kind::Text),
    column("jwt_keys", "algorithm", Kind::Text),
    column("jwt_keys", "sealed_secret", Kind::Bytes),
    column("jwt_keys", "phase", Kind::Text),
    column("jwt_keys", "created_at", Kind::Number),
    column("jwt_keys", "changed_at", Kind::Number),
];

/// Stores two rows of each kind, with a value in every field. Tests alter the first row of each.
async fn fill(store: &Store) {
    let by = || Audit { actor: "test".into(), at: 1 };
    for (key_id, letter) in [("AAAAAAAAAAAA", "a"), ("BBBBBBBBBBBB", "b")] {
        let number = u32::from(letter.as_bytes()[0]);
        let grants = Grants {
            role: if letter == "a" { Role::Client } else { Role::Admin },
            endpoints: Some(vec![letter.into(), "c".into()]),
            tools: Some(vec![letter.repeat(2)]),
            rate: Some(Rate { per_second: number, burst: number + 2 }),
            concurrency: Some(number),
            quotas: Quotas { calls_per_day: Some(number.into()), ..Quotas::NONE },
        };
        let key = |key_id: &str| NewKey {
            id: new_id(),
            key_id: key_id.into(),
            name: letter.into(),
            description: String::new(),
            grants: grants.clone(),
            hash: Plaintext::new(letter.into()),
            expires_at: Some(u64::from(number)),
        };
        store.insert_key(key(key_id), by()).await.unwrap();
        let next = key(&key_id.replace(['A', 'B'], if letter == "a" { "C" } else { "D" }));
        store.rotate_key(key_id, next, OldKeyPolicy::KeepUntil(number.into()), by()).await.unwrap();
    }
    for (letter, prefix) in [("a", PrefixMode::Always), ("b", PrefixMode::Never)] {
        let spec = ServerSpec {
            name: letter.into(),
            kind: if letter == "a" { ServerKind::Http } else { ServerKind::Sse },
            definition: json!({"url": format!("http://{letter}/"), "era": "modern"}),
            secrets: Secrets::Set(Plaintext::new(letter.into())),
        };
        let server = store.insert_server(new_id(), spec, by()).await.unwrap();
        let told = ToolOverride {
            tool: "t".into(),
            name: Some(letter.into()),
            title: Some(letter.into()),
            description: Some(letter.into()),
            annotations: Some(json!({"title": letter})),
        };
        let of = EndpointServer {
            server_id: server.id,
            allow: vec![format!("{letter}1"), "x".into()],
            deny: vec![format!("{letter}2")],
            overrides: vec![told],
        };
        let spec = EndpointSpec { name: letter.into(), prefix, servers: vec![of] };
        store.insert_endpoint(new_id(), spec, by()).await.unwrap();
    }
    for (kid, phase, at) in [("a", JwtPhase::Active, 1), ("b", JwtPhase::Next, 2)] {
        let key = NewJwtKey {
            kid: kid.into(),
            algorithm: JwtAlgorithm::Hs256,
            secret: Plaintext::new(kid.into()),
            phase,
        };
        store.insert_jwt_key(key, Audit { at, ..by() }).await.unwrap();
    }
    for server in ["a", "b"] {
        let pins = json!({"tools": {"x": {"approved": [server]}}});
        let new = NewToolPins { server: server.into(), pins, expect: None, told: None };
        store.put_tool_pins(new, by()).await.unwrap();
    }
}

/// The sealed contents of each row, and whether it opens. Reading never fails: one bad row does not affect
/// the others.
async fn rows(store: &Store, table: &str) -> Vec<(Vec<u8>, bool)> {
    let told = |row: SealedRow<'_>| (associated_data(row).1, sealer().open_row(row).is_some());
    match table {
        "api_keys" => store.keys().await.unwrap().rows.iter().map(|row| told(SealedRow::Key(row))).collect(),
        "mcp_servers" => {
            store.servers().await.unwrap().rows.iter().map(|row| told(SealedRow::Server(row))).collect()
        }
        "tool_pins" => {
            store.tool_pins().await.unwrap().iter().map(|row| told(SealedRow::ToolPins(row))).collect()
        }
        "jwt_keys" => {
            store.jwt_keys().await.unwrap().rows.iter().map(|row| told(SealedRow::JwtKey(row))).collect()
        }
        _ => store.endpoints().await.unwrap().rows.iter().map(|row| told(SealedRow::Endpoint(row))).collect(),
    }
}

/// Runs a test over a filled database of each engine.
async fn on_each(test: impl AsyncFn(&Store, &Shell)) {
    let folder = Folder::create();
    let path = folder.join("metamcp.sqlite");
    let store = Store::open_sqlite(&path).await.unwrap().bound_by(sealer());
    fill(&store).await;
    let shell = Connection::open(&path).unwrap();
    let shell = Shell::Sqlite(shell);
    prepare(&shell).await;
    test(&store, &shell).await;
    with_database(async |url| {
        let store = Store::open(url).await.unwrap().bound_by(sealer());
        fill(&store).await;
        let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
        let driver = tokio::spawn(connection);
        let shell = Shell::Postgres(client);
        prepare(&shell).await;
        test(&store, &shell).await;
        drop(shell);
        driver.await.unwrap().unwrap();
    })
    .await;
}

/// For each table, the condition that selects a row by its name. [`prepare`] numbers the two rows in a column
/// outside the seal, and disables the constraints that would reject a write.
const PREPARE: [(&str, &str); 7] = [
    ("tool_pins", "server = '?'"),
    ("api_keys", "key_id = '?'"),
    ("mcp_servers", "name = '?'"),
    ("endpoints", "name = '?'"),
    ("endpoint_servers", "endpoint_id = (SELECT id FROM endpoints WHERE name = '?')"),
    ("endpoint_tools", "kind = 'override' AND name = '?'"),
    ("jwt_keys", "kid = '?'"),
];

const NO_CHECKS: &str = "DO $$ DECLARE found RECORD; BEGIN
    FOR found IN SELECT conname, conrelid::regclass AS place FROM pg_constraint
                 WHERE contype = 'c' AND connamespace = 'public'::regnamespace LOOP
        EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', found.place, found.conname);
    END LOOP; END $$; SET session_replication_role = replica";

async fn prepare(shell: &Shell) {
    let free = match shell {
        Shell::Sqlite(_) => "PRAGMA ignore_check_constraints = ON; PRAGMA foreign_keys = OFF",
        Shell::Postgres(_) => NO_CHECKS,
    };
    assert!(shell.run(free).await);
    for (table, which) in PREPARE {
        assert!(shell.run(&format!("ALTER TABLE {table} ADD COLUMN place INTEGER DEFAULT 0")).await);
        for (place, letter) in [("1", "a"), ("2", "b")] {
            let name = if table == "api_keys" { letter.to_uppercase().repeat(12) } else { letter.into() };
            let which = which.replace('?', &name);
            assert!(shell.run(&format!("UPDATE {table} SET place = {place} WHERE {which}")).await);
        }
    }
}

/// The values to write in place of a field: none, each byte altered, truncations, other numbers.
fn altered(kind: Kind, whole: &[u8]) -> Vec<Option<Vec<u8>>> {
    let mut altered = vec![None];
    if matches!(kind, Kind::Number) {
        let number: i64 = std::str::from_utf8(whole).unwrap().parse().unwrap();
        let others = [number + 1, number - 1, 0, -1, 300].into_iter().filter(|other| *other != number);
        altered.extend(others.map(|other| Some(other.to_string().into_bytes())));
        return altered;
    }
    altered.extend((0..whole.len()).map(|at| {
        let mut one = whole.to_vec();
        one[at] ^= 1;
        Some(one)
    }));
    altered.extend([Some(Vec::new()), Some(whole[..whole.len() - 1].to_vec())]);
    altered
}

/// Writes a value into a row, and checks that it is detected. Returns false if the database rejects it.
async fn check(
    store: &Store,
    shell: &Shell,
    column: &Column,
    value: Option<&[u8]>,
    before: &[(Vec<u8>, bool)],
) -> bool {
    if !shell.put(column, FIRST, value).await {
        return false;
    }
    let after = rows(store, column.table).await;
    let told = format!("{}.{} as {value:?}", column.table, column.name);
    assert!(after.iter().any(|(_, opens)| !opens), "{told} was not noticed");
    assert!(after.iter().all(|row| !row.1 || before.contains(row)), "{told} opens otherwise");
    true
}

const FIRST: &str = "place = 1";
const SECOND: &str = "place = 2";

#[tokio::test]
async fn a_row_with_any_byte_altered_opens_nothing() {
    on_each(async |store, shell| {
        let (mut tried, mut taken) = (0, HashSet::new());
        for column in &COLUMNS {
            let before = rows(store, column.table).await;
            assert!(before.iter().all(|(_, opens)| *opens), "{}", column.table);
            let whole = shell.bytes(column, FIRST).await.unwrap();
            for value in altered(column.kind, &whole) {
                tried += 1;
                if check(store, shell, column, value.as_deref(), &before).await {
                    taken.insert((column.table, column.name));
                    assert!(shell.put(column, FIRST, Some(&whole)).await);
                }
            }
            assert_eq!(rows(store, column.table).await, before);
        }
        assert!(tried > 600, "{tried}");
        assert_eq!(taken.len(), COLUMNS.len(), "every column was altered");
    })
    .await;
}

#[tokio::test]
async fn two_rows_that_have_exchanged_anything_open_nothing() {
    on_each(async |store, shell| {
        let mut exchanged = 0;
        for column in &COLUMNS {
            let before = rows(store, column.table).await;
            let one = shell.bytes(column, FIRST).await.unwrap();
            let other = shell.bytes(column, SECOND).await.unwrap();
            if one == other {
                continue;
            }
            exchanged += 1;
            for (first, second, closed) in [(&other, &one, 2), (&one, &other, 0)] {
                // Writes another value first, because most columns are unique.
                for (which, value) in [(FIRST, between(column.kind)), (SECOND, second), (FIRST, first)] {
                    assert!(shell.put(column, which, Some(value)).await, "{}.{}", column.table, column.name);
                }
                let found = rows(store, column.table).await.iter().filter(|(_, opens)| !opens).count();
                assert_eq!(found, closed, "{}.{}", column.table, column.name);
            }
            assert_eq!(rows(store, column.table).await, before, "{}.{}", column.table, column.name);
        }
        assert!(exchanged > 30, "{exchanged}");
    })
    .await;
}

fn between(kind: Kind) -> &'static [u8] {
    match kind {
        Kind::Text => b"zzzzzzzzzzzz",
        Kind::Bytes => b"z",
        Kind::Number => b"255",
        Kind::Uuid => b"00000000-0000-0000-0000-000000000000",
        Kind::Json => b"[9]",
    }
}
