//! Tests that both dialects describe the same tables, and that the migrations of each create the tables of its schema file.

use std::collections::BTreeSet;

use rusqlite::Connection;
use tokio_postgres::NoTls;

use crate::store::Store;
use crate::store::postgres::migrate::MIGRATIONS;
use crate::store::sqlite::migrate;
use crate::store::testing::{Folder, sql, with_database};

const SQLITE: &str = include_str!("../../../../../sql/sqlite/schema.sql");
const POSTGRES: &str = include_str!("../../../../../sql/postgres/schema.sql");

#[test]
fn sqlite_migrations_create_the_schema_of_the_file() {
    let migrated = Folder::create();
    let mut by_migrations = Connection::open(migrated.join("a.sqlite")).unwrap();
    migrate::migrate(&mut by_migrations).unwrap();
    let by_schema = Connection::open_in_memory().unwrap();
    by_schema.execute_batch(SQLITE).unwrap();
    let dump = |connection: &Connection| {
        rows(connection, "SELECT coalesce(sql, name) FROM sqlite_schema ORDER BY type, name")
    };
    assert_eq!(dump(&by_schema), dump(&by_migrations));
    assert!(dump(&by_schema).len() > 40);
    let epochs = "SELECT kind || value FROM epochs ORDER BY 1";
    assert_eq!(rows(&by_schema, epochs), rows(&by_migrations, epochs));
}

#[tokio::test]
async fn postgres_migrations_create_the_schema_of_the_file() {
    with_database(async |migrated| {
        drop(Store::open(migrated).await.unwrap());
        with_database(async |written| {
            sql(written, POSTGRES).await;
            sql(migrated, "DROP TABLE metamcp_migrations").await;
            let mut lengths = Vec::new();
            for query in [
                COLUMNS_IN_FULL,
                CONSTRAINTS,
                INDEXES,
                TRIGGERS,
                FUNCTIONS,
                "SELECT kind || value FROM epochs",
            ] {
                let (one, other) = (found(migrated, query).await, found(written, query).await);
                assert_eq!(one, other, "{query}");
                lengths.push(one.len());
            }
            assert!(lengths.iter().all(|length| *length > 2), "{lengths:?}");
        })
        .await;
    })
    .await;
    assert_eq!(MIGRATIONS.len(), 5);
}

#[tokio::test]
async fn both_dialects_describe_the_same_tables() {
    let sqlite = Connection::open_in_memory().unwrap();
    sqlite.execute_batch(SQLITE).unwrap();
    let ours = sqlite_facts(&sqlite);
    assert!(ours.len() > 80, "{}", ours.len());
    with_database(async |url| {
        sql(url, POSTGRES).await;
        let mut theirs = BTreeSet::new();
        for query in [COLUMNS, KEYS, REFERENCES] {
            theirs.extend(found(url, query).await);
        }
        let only = |one: &BTreeSet<String>, other: &BTreeSet<String>| -> Vec<String> {
            one.difference(other).cloned().collect()
        };
        assert_eq!(
            (only(&ours, &theirs), only(&theirs, &ours)),
            (vec![], vec![]),
            "SQLite alone, PostgreSQL alone"
        );
    })
    .await;
}

fn rows(connection: &Connection, query: &str) -> Vec<String> {
    let mut statement = connection.prepare(query).unwrap();
    statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

async fn found(url: &str, query: &str) -> Vec<String> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    let driver = tokio::spawn(connection);
    let mut found: Vec<String> =
        client.query(query, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    drop(client);
    driver.await.unwrap().unwrap();
    found.sort();
    found
}

/// One line for each column with its logical type and nullability, each key, and each reference.
fn sqlite_facts(connection: &Connection) -> BTreeSet<String> {
    let tables = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'";
    let mut facts = BTreeSet::new();
    for table in rows(connection, tables) {
        let text =
            rows(connection, &format!("SELECT sql FROM sqlite_schema WHERE name = '{table}'")).remove(0);
        let columns = format!(
            "SELECT name || ' ' || type || ' ' || iif(\"notnull\", 'always', 'maybe') FROM pragma_table_info('{table}')"
        );
        for column in rows(connection, &columns) {
            let [name, declared, there] = column.split(' ').collect::<Vec<_>>().try_into().unwrap();
            let logical = match declared {
                "TEXT" if text.contains(&format!("json_valid({name})")) => "json",
                // A reference has the type of what it refers to.
                "TEXT" if text.contains(&format!("length({name}) = 36")) => "uuid",
                "TEXT" if ["endpoint_id", "server_id"].contains(&name) => "uuid",
                "TEXT" => "text",
                "INTEGER" => "number",
                "BLOB" => "bytes",
                other => panic!("{table}.{name} is {other}"),
            };
            facts.insert(format!("{table}.{name} {logical} {there}"));
        }
        let primary = format!("SELECT name FROM pragma_table_info('{table}') WHERE pk > 0 ORDER BY pk");
        facts.insert(format!("{table} primary {}", rows(connection, &primary).join(",")));
        let unique =
            format!("SELECT name FROM pragma_index_list('{table}') WHERE \"unique\" AND origin <> 'pk'");
        for index in rows(connection, &unique) {
            let columns =
                rows(connection, &format!("SELECT name FROM pragma_index_info('{index}') ORDER BY seqno"));
            facts.insert(format!("{table} unique {}", columns.join(",")));
        }
        let references = format!(
            "SELECT group_concat(\"from\", ',') || ' to ' || \"table\" || ' ' || group_concat(\"to\", ',') || ' '
                    || lower(on_delete)
             FROM (SELECT * FROM pragma_foreign_key_list('{table}') ORDER BY id, seq) GROUP BY id"
        );
        facts.extend(
            rows(connection, &references).into_iter().map(|fact| format!("{table} refers by {fact}")),
        );
    }
    facts
}

const COLUMNS: &str = "
    SELECT table_name || '.' || column_name || ' '
           || CASE data_type WHEN 'bigint' THEN 'number' WHEN 'bytea' THEN 'bytes' ELSE data_type END
           || CASE is_nullable WHEN 'NO' THEN ' always' ELSE ' maybe' END
    FROM information_schema.columns WHERE table_schema = 'public'";

const KEYS: &str = "
    SELECT t.relname || CASE WHEN i.indisprimary THEN ' primary ' ELSE ' unique ' END
           || (SELECT string_agg(a.attname, ',' ORDER BY k.place)
               FROM unnest(i.indkey) WITH ORDINALITY AS k(number, place)
               JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = k.number)
    FROM pg_index i JOIN pg_class t ON t.oid = i.indrelid
    WHERE i.indisunique AND t.relnamespace = 'public'::regnamespace";

const REFERENCES: &str = "
    SELECT t.relname || ' refers by '
           || (SELECT string_agg(a.attname, ',' ORDER BY k.place)
               FROM unnest(c.conkey) WITH ORDINALITY AS k(number, place)
               JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.number)
           || ' to ' || o.relname || ' '
           || (SELECT string_agg(a.attname, ',' ORDER BY k.place)
               FROM unnest(c.confkey) WITH ORDINALITY AS k(number, place)
               JOIN pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = k.number)
           || CASE c.confdeltype WHEN 'c' THEN ' cascade' WHEN 'n' THEN ' set null' ELSE ' otherwise' END
    FROM pg_constraint c JOIN pg_class t ON t.oid = c.conrelid JOIN pg_class o ON o.oid = c.confrelid
    WHERE c.contype = 'f' AND t.relnamespace = 'public'::regnamespace";

const COLUMNS_IN_FULL: &str = "
    SELECT c::text FROM (SELECT table_name, column_name, ordinal_position, column_default, is_nullable, data_type,
        collation_name, is_identity FROM information_schema.columns WHERE table_schema = 'public') c";

const CONSTRAINTS: &str =
    "SELECT conname || conrelid::regclass || pg_get_constraintdef(oid) FROM pg_constraint
    WHERE connamespace = 'public'::regnamespace";

const INDEXES: &str = "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'";

const TRIGGERS: &str = "SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal";

const FUNCTIONS: &str =
    "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'public'::regnamespace";
