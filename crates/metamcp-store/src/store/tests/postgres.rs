//! Tests of failures that only a database server has.

use std::time::{Duration, Instant};

use tokio::net::TcpListener;

use super::{by, sample};
use crate::store::postgres::migrate::MIGRATIONS;
use crate::store::testing::{Notary, server, server_ca, sql, with_database};
use crate::store::{Store, StoreError};
use metamcp_config::sections::RetentionPolicy;

/// Checks how opening fails, and that the error holds no password.
async fn check(url: &str, away: bool, expected: &str) {
    let error = Store::open(url).await.expect_err(expected);
    assert_eq!(error.is_away(), away, "{error:?}");
    let text = format!("{error} {error:?}");
    assert!(text.contains(expected), "{expected:?} is not in {text:?}");
    assert!(!text.contains("hunter2"), "{text}");
}

#[tokio::test]
async fn permanent_and_transient_errors_are_told_apart() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = listener.local_addr().unwrap();
    drop(listener);
    check(&format!("postgres://u:hunter2@{nobody}/d"), true, "not available").await;
    check("postgres://u:hunter2@127.0.0.1:x/d", false, "DATABASE_URL").await;
    check("postgres://u@127.0.0.1/d?sslmode=verify-full&sslrootcert=/none.pem", false, "/none.pem").await;
    with_database(async |url| {
        check(&url.replace("/test_", "/none_"), false, "does not exist").await;
        sql(url, "CREATE TABLE mcp_servers (theirs TEXT)").await;
        check(url, false, "another program").await;
        sql(url, "DROP TABLE mcp_servers").await;
        drop(Store::open(url).await.unwrap());
        sql(url, "INSERT INTO metamcp_migrations VALUES (99, 0)").await;
        check(url, false, "schema version 99, this program knows versions up to 5").await;
    })
    .await;
}

#[tokio::test]
async fn a_server_that_accepts_and_does_not_answer_is_a_timeout() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hangs = listener.local_addr().unwrap();
    let begun = Instant::now();
    check(&format!("postgres://u:hunter2@{hangs}/d"), true, "does not answer").await;
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn terminated_connections_are_replaced() {
    with_database(async |url| {
        let store = Store::open(url).await.unwrap().bound_by(Notary(1));
        let keys = (0..8).map(|_| store.keys());
        for keys in futures_util::future::join_all(keys).await {
            keys.unwrap();
        }
        let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                   WHERE datname = current_database() AND pid <> pg_backend_pid()";
        sql(url, cut).await;
        store.insert_key(sample("AAAAAAAAAAAA"), by("test", 1)).await.unwrap();
        assert_eq!(store.keys().await.unwrap().rows.len(), 1);
    })
    .await;
}

#[tokio::test]
async fn concurrent_migrations_succeed() {
    with_database(async |url| {
        let stores = futures_util::future::join_all((0..8).map(|_| Store::open(url))).await;
        for (number, store) in stores.into_iter().enumerate() {
            let key = sample(&format!("{number:012}"));
            store.expect("opens").bound_by(Notary(1)).insert_key(key, by("test", 1)).await.unwrap();
        }
        assert_eq!(Store::open(url).await.unwrap().epochs().await.unwrap().keys, 16);
    })
    .await;
}

#[tokio::test]
async fn one_process_at_a_time_deletes_old_rows() {
    with_database(async |url| {
        let store = Store::open(url).await.unwrap().bound_by(Notary(1));
        let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
        let driver = tokio::spawn(connection);
        // Another process holds the lock.
        client.batch_execute("BEGIN; SELECT pg_advisory_xact_lock(x'6d637072'::bigint)").await.unwrap();
        let retention = RetentionPolicy { usage: Duration::from_secs(1), audit: Duration::from_secs(1) };
        assert!(matches!(store.retire(&retention, 0).await, Err(StoreError::Locked)));
        // Other changes do not wait for it.
        store.insert_key(sample("AAAAAAAAAAAA"), by("test", 1)).await.unwrap();
        client.batch_execute("ROLLBACK").await.unwrap();
        // A clock that is ahead deletes nothing: the clock of the server counts.
        let far = 100_000 * 86_400;
        let years = Duration::from_hours(100 * 365 * 24);
        let kept = RetentionPolicy { usage: years, audit: years };
        assert_eq!(store.retire(&kept, far).await.unwrap().audit, 0);
        assert_eq!(store.retire(&retention, far).await.unwrap().audit, 1);
        drop(client);
        driver.await.unwrap().unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_dropped_operation_is_rolled_back_and_blocks_no_other() {
    with_database(async |url| {
        let store = Store::open(url).await.unwrap().bound_by(Notary(1));
        for number in 0..40_u32 {
            let key = sample(&format!("{number:012}"));
            let wait = Duration::from_micros(u64::from(number) * 100);
            drop(tokio::time::timeout(wait, store.insert_key(key, by("test", 1))).await);
        }
        store.insert_key(sample("AAAAAAAAAAAA"), by("test", 1)).await.unwrap();
        let keys = store.keys().await.unwrap();
        assert_eq!(keys.epoch, 2 * keys.rows.len() as u64);
    })
    .await;
}

#[tokio::test]
async fn a_locked_table_times_out_and_a_read_only_server_is_reported() {
    with_database(async |url| {
        let store = Store::open(url).await.unwrap().bound_by(Notary(1));
        let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
        let driver = tokio::spawn(connection);
        client.batch_execute("BEGIN; LOCK TABLE api_keys").await.unwrap();
        let begun = Instant::now();
        assert!(matches!(store.keys().await, Err(StoreError::Locked)));
        assert!(begun.elapsed() < Duration::from_secs(6));
        client.batch_execute("ROLLBACK").await.unwrap();
        store.keys().await.unwrap();
        drop(client);
        driver.await.unwrap().unwrap();

        sql(
            url,
            "DO $$ BEGIN EXECUTE 'ALTER DATABASE ' || current_database()
                  || ' SET default_transaction_read_only = on'; END $$",
        )
        .await;
        let store = Store::open(url).await.unwrap().bound_by(Notary(1));
        store.keys().await.unwrap();
        let refused = store.insert_key(sample("AAAAAAAAAAAA"), by("test", 1)).await;
        assert!(matches!(refused, Err(StoreError::ReadOnly)), "{refused:?}");
    })
    .await;
}

/// Waits until another session waits for the table of usage.
async fn wait_for_lock(client: &tokio_postgres::Client) {
    let waiting = "SELECT 1 FROM pg_locks WHERE relation = 'usage'::regclass AND NOT granted";
    let deadline = Instant::now() + Duration::from_secs(10);
    while client.query(waiting, &[]).await.unwrap().is_empty() {
        assert!(Instant::now() < deadline, "nobody waits for the table");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn usage_is_totalled_before_a_migration_locks_the_keys() {
    with_database(async |url| {
        let before = MIGRATIONS[..4].concat();
        sql(url, &before).await;
        sql(
            url,
            "CREATE TABLE metamcp_migrations (version BIGINT PRIMARY KEY, applied_at BIGINT NOT NULL);
             INSERT INTO metamcp_migrations SELECT version, 1 FROM generate_series(1, 4) AS version;
             INSERT INTO usage SELECT hour, 'AAAAAAAAAAAA', 's', tool, 1, 0, 10, 100, 0
             FROM (SELECT n, now - now % 86400 - n * 86400 AS hour
                   FROM generate_series(0, 400) AS n, CAST(extract(epoch FROM now()) AS BIGINT) AS now) AS hours,
                  (VALUES ('x'), ('y')) AS tools (tool)",
        )
        .await;
        let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
        let driver = tokio::spawn(connection);
        // The migration waits in the middle of what it does with usage.
        client.batch_execute("BEGIN; LOCK TABLE usage").await.unwrap();
        let address = url.to_owned();
        let migration = tokio::spawn(async move { Store::open(&address).await.map(drop) });
        wait_for_lock(&client).await;
        sql(url, "SET lock_timeout = '2s'; UPDATE api_keys SET name = name; SELECT * FROM api_keys").await;
        client.batch_execute("COMMIT").await.unwrap();
        migration.await.unwrap().unwrap();
        drop(client);
        driver.await.unwrap().unwrap();
        // Each day of this month and of the one before, and these months; each with all that usage has.
        sql(
            url,
            "DO $$ BEGIN
                ASSERT (SELECT count(*) FROM key_totals WHERE period = 'day') BETWEEN 29 AND 62;
                ASSERT (SELECT count(*) FROM key_totals WHERE period = 'month') = 2;
                ASSERT (SELECT bool_and(calls = 2 AND bytes = 220) FROM key_totals WHERE period = 'day');
                ASSERT (SELECT sum(calls) FROM key_totals WHERE period = 'month')
                    = (SELECT sum(calls) FROM key_totals WHERE period = 'day');
            END $$",
        )
        .await;
    })
    .await;
}

#[tokio::test]
async fn certificates_are_verified_as_the_address_requires() {
    let Some(server) = server() else { return };
    let with = |tls: &str| format!("{server}{}{tls}", if server.contains('?') { "&" } else { "?" });
    if let Err(error) = Store::open(&with("sslmode=require")).await {
        panic!("the server for tests has no TLS: {error}");
    }
    check(&with("sslmode=verify-full&sslrootcert=system"), false, "certificate").await;
    let Some(ca) = server_ca() else { return };
    // By its signer, or by the certificate itself.
    for root in [&ca, &ca.replace("/ca.crt", "/server.crt")] {
        for mode in ["require", "verify-ca", "verify-full"] {
            Store::open(&with(&format!("sslmode={mode}&sslrootcert={root}"))).await.expect(mode);
        }
        let named = with(&format!("sslrootcert={root}")).replace("@127.0.0.1:", "@localhost:");
        Store::open(&format!("{named}&sslmode=verify-ca")).await.expect("the name is not looked at");
        check(&format!("{named}&sslmode=verify-full"), false, "certificate").await;
    }
}
