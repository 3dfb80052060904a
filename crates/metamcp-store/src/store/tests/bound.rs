use rusqlite::Connection;
use serde_json::json;

use super::{by, on_each, sample};
use crate::store::handle::transact;
use crate::store::row_sealer::{OptionalSealer, store_sealed};
use crate::store::testing::{Folder, Notary, sql, with_database};
use crate::store::transaction::AccessMode;
use crate::store::{
    EndpointRow, EndpointServer, EndpointSpec, JwtAlgorithm, JwtPhase, KeyStatus, NewJwtKey, OldKeyPolicy,
    Plaintext, PrefixMode, RowSealer, SealedKind, SealedRow, SealedValue, Secrets, ServerKind, ServerSpec,
    Store, StoreError, VersionMatch, new_id,
};

/// Compares the result of an operation, in a word.
#[track_caller]
#[allow(clippy::needless_pass_by_value, reason = "rows read better without a borrow")]
fn check<T: std::fmt::Debug>(result: Result<T, StoreError>, expected: &str) {
    let seen = match &result {
        Ok(_) => "ok",
        Err(StoreError::Closed(_)) => "closed",
        Err(StoreError::Unbound) => "unbound",
        Err(_) => "other",
    };
    assert_eq!(seen, expected, "{result:?}");
}

/// A handle to the same database with another `ENCRYPTION_KEY`: no row opens.
fn stranger(store: &Store) -> Store {
    store.bound_by(Notary(0))
}

fn unbound(store: &Store) -> Store {
    Store { binding: OptionalSealer::default(), ..store.clone() }
}

/// Stores a sealed value in the row of an endpoint.
async fn forge(store: &Store, row: &EndpointRow, sealed: SealedValue) -> Result<(), StoreError> {
    let row = row.clone();
    transact!(store, AccessMode::Administer, |tx| store_sealed(tx, SealedRow::Endpoint(&row), &sealed))
}

fn server(name: &str, secrets: Secrets) -> ServerSpec {
    ServerSpec { name: name.into(), kind: ServerKind::Http, definition: json!({"url": "http://a/"}), secrets }
}

#[tokio::test]
async fn an_unsealable_key_can_be_disabled_and_deleted_and_nothing_else() {
    on_each(async |store| {
        for key_id in ["AAAAAAAAAAAA", "BBBBBBBBBBBB", "CCCCCCCCCCCC"] {
            store.insert_key(sample(key_id), by("test", 1)).await.unwrap();
        }
        let (off, on) = (KeyStatus::Inactive, KeyStatus::Active);
        let opens = async |key_id| {
            let row = store.key(key_id).await.unwrap().unwrap();
            Notary(1).open_row(SealedRow::Key(&row)).is_some()
        };
        let (stranger, unbound) = (stranger(store), unbound(store));
        check(unbound.insert_key(sample("DDDDDDDDDDDD"), by("test", 2)).await, "unbound");
        check(stranger.set_key_status("AAAAAAAAAAAA", on, by("test", 2)).await, "closed");
        check(unbound.set_key_status("AAAAAAAAAAAA", on, by("test", 2)).await, "unbound");
        let old = OldKeyPolicy::Inactivate;
        check(
            stranger.rotate_key("AAAAAAAAAAAA", sample("DDDDDDDDDDDD"), old, by("test", 2)).await,
            "closed",
        );
        assert!(opens("AAAAAAAAAAAA").await);

        // Disabled without a sealer, it can be activated again.
        check(unbound.set_key_status("AAAAAAAAAAAA", off, by("test", 3)).await, "ok");
        check(stranger.set_key_status("BBBBBBBBBBBB", off, by("test", 3)).await, "ok");
        assert!(!opens("AAAAAAAAAAAA").await && !opens("BBBBBBBBBBBB").await);
        check(store.set_key_status("AAAAAAAAAAAA", on, by("test", 4)).await, "ok");
        assert!(opens("AAAAAAAAAAAA").await);
        // Resealed under a newer version, it is sealed with its present columns.
        let newer = store.bound_by(Notary(2));
        check(unbound.set_key_status("AAAAAAAAAAAA", off, by("test", 4)).await, "ok");
        let anew = newer.rewrap(SealedKind::Keys, None, by("test", 4)).await.unwrap();
        assert_eq!((anew.count, anew.closed.len()), (3, 0));
        let row = store.key("AAAAAAAAAAAA").await.unwrap().unwrap();
        assert!(row.status == off && Notary(2).open_row(SealedRow::Key(&row)).is_some());
        check(newer.set_key_status("AAAAAAAAAAAA", on, by("test", 4)).await, "ok");
        let store = &newer;
        let opens = async |key_id| {
            let row = store.key(key_id).await.unwrap().unwrap();
            Notary(2).open_row(SealedRow::Key(&row)).is_some()
        };
        // Disabled with a sealer, it opens.
        check(store.set_key_status("AAAAAAAAAAAA", off, by("test", 5)).await, "ok");
        assert!(opens("AAAAAAAAAAAA").await);
        check(unbound.delete_key("BBBBBBBBBBBB", by("test", 6)).await, "ok");
        check(stranger.delete_key("CCCCCCCCCCCC", by("test", 6)).await, "ok");
    })
    .await;
}

#[tokio::test]
async fn nothing_of_an_unsealable_server_is_kept() {
    on_each(async |store| {
        let id = new_id();
        let whole = server("a", Secrets::Set(Plaintext::new(vec![7])));
        store.insert_server(id, whole.clone(), by("test", 1)).await.unwrap();
        let (stranger, unbound) = (stranger(store), unbound(store));
        let keep = server("a", Secrets::Keep);
        check(unbound.insert_server(new_id(), server("b", Secrets::Keep), by("test", 2)).await, "unbound");
        check(unbound.replace_server(id, VersionMatch::Any, keep.clone(), by("test", 2)).await, "unbound");
        check(stranger.replace_server(id, VersionMatch::Any, keep.clone(), by("test", 2)).await, "closed");
        assert_eq!(
            store.replace_server(id, VersionMatch::Any, keep, by("test", 2)).await.unwrap().version,
            1
        );
        // The same definition, written as a whole, is sealed again.
        let anew = stranger.replace_server(id, VersionMatch::Any, whole, by("test", 2)).await.unwrap();
        assert_eq!((anew.version, anew.secrets.key_version), (2, 0));
        check(unbound.delete_server(id, VersionMatch::Any, by("test", 3)).await, "ok");
    })
    .await;
}

#[tokio::test]
async fn deleting_a_server_reseals_its_endpoints_or_fails() {
    on_each(async |store| {
        let ids = [new_id(), new_id()];
        for (name, id) in ["a", "b"].into_iter().zip(ids) {
            store.insert_server(id, server(name, Secrets::Keep), by("test", 1)).await.unwrap();
        }
        let servers: Vec<_> = ids.into_iter().map(EndpointServer::unfiltered).collect();
        let spec = EndpointSpec { name: "e".into(), prefix: PrefixMode::Always, servers };
        let endpoint = store.insert_endpoint(new_id(), spec.clone(), by("test", 1)).await.unwrap();
        let opens = async || {
            let row = store.endpoint("e").await.unwrap().unwrap();
            (row.servers.len(), Notary(1).open_row(SealedRow::Endpoint(&row)).is_some())
        };
        check(unbound(store).delete_server(ids[0], VersionMatch::Any, by("test", 2)).await, "unbound");
        check(stranger(store).delete_server(ids[0], VersionMatch::Any, by("test", 2)).await, "closed");
        assert_eq!(opens().await, (2, true));
        check(store.delete_server(ids[0], VersionMatch::Any, by("test", 2)).await, "ok");
        assert_eq!(opens().await, (1, true));
        // An altered endpoint stays unsealable.
        let bare = EndpointSpec { servers: vec![EndpointServer::unfiltered(ids[1])], ..spec };
        let row = store
            .replace_endpoint(endpoint.id, VersionMatch::Any, bare.clone(), by("test", 3))
            .await
            .unwrap();
        let forged = EndpointRow { prefix: PrefixMode::Never, ..row };
        let sealed = Notary(1).seal_row(SealedRow::Endpoint(&forged), &Plaintext::nothing());
        forge(store, &forged, sealed).await.unwrap();
        assert_eq!(opens().await, (1, false));
        check(store.delete_server(ids[1], VersionMatch::Any, by("test", 4)).await, "ok");
        assert_eq!(opens().await, (0, false));
        let none = EndpointSpec { servers: Vec::new(), ..bare };
        store.replace_endpoint(endpoint.id, VersionMatch::Any, none, by("test", 5)).await.unwrap();
        assert_eq!(opens().await, (0, true));
    })
    .await;
}

#[tokio::test]
async fn an_unsealable_token_key_retires_and_never_signs() {
    on_each(async |store| {
        let new = |kid: &str, phase| NewJwtKey {
            kid: kid.into(),
            algorithm: JwtAlgorithm::Hs256,
            secret: Plaintext::new(vec![7]),
            phase,
        };
        stranger(store).insert_jwt_key(new("a", JwtPhase::Active), by("test", 1)).await.unwrap();
        stranger(store).insert_jwt_key(new("b", JwtPhase::Next), by("test", 1)).await.unwrap();
        check(store.promote_jwt_key(by("test", 2)).await, "closed");
        check(unbound(store).promote_jwt_key(by("test", 2)).await, "unbound");
        check(unbound(store).delete_jwt_key("b", by("test", 3)).await, "ok");
        store.insert_jwt_key(new("c", JwtPhase::Next), by("test", 4)).await.unwrap();
        check(store.promote_jwt_key(by("test", 5)).await, "ok");
        let rows = store.jwt_keys().await.unwrap().rows;
        let seen: Vec<_> = rows
            .iter()
            .map(|row| (row.kid.as_str(), row.phase, Notary(1).open_row(SealedRow::JwtKey(row)).is_some()))
            .collect();
        assert_eq!(seen, [("a", JwtPhase::Retiring, false), ("c", JwtPhase::Active, true)]);
    })
    .await;
}

/// The contents of a database from before rows were sealed, for either engine.
fn before(blob: &str) -> String {
    let id = |number: u8| format!("'00000000-0000-7000-8000-00000000000{number}'");
    let [key, next, server, bare, endpoint] = [1, 2, 3, 4, 5].map(id);
    format!(
        "INSERT INTO api_keys (id, key_id, name, description, role, status, sealed_hash, key_version, successor,
                               created_at, changed_at)
         VALUES ({next}, 'BBBBBBBBBBBB', 'b', '', 'client', 'active', {blob}, 1, NULL, 1, 1),
                ({key}, 'AAAAAAAAAAAA', 'a', 'd', 'admin', 'active', {blob}, 1, {next}, 2, 2);
         INSERT INTO mcp_servers (id, name, kind, definition, sealed_secrets, key_version, version, created_at, changed_at)
         VALUES ({server}, 'with', 'http', '{{\"url\":\"http://a/\"}}', {blob}, 1, 7, 1, 2),
                ({bare}, 'without', 'sse', '{{}}', NULL, NULL, 1, 1, 1);
         INSERT INTO endpoints (id, name, prefix_mode, version, created_at, changed_at)
         VALUES ({endpoint}, 'e', 'never', 3, 1, 2);
         INSERT INTO endpoint_servers (endpoint_id, server_id, position)
         VALUES ({endpoint}, {bare}, 0), ({endpoint}, {server}, 1);
         INSERT INTO endpoint_tools (endpoint_id, server_id, kind, pattern, position)
         VALUES ({endpoint}, {server}, 'deny', 'x*', 0);
         INSERT INTO jwt_keys (kid, algorithm, sealed_secret, key_version, phase, created_at, changed_at)
         VALUES ('k', 'HS256', {blob}, 1, 'active', 1, 1);"
    )
}

/// Checks that every row is there, and none opens.
async fn check_migrated(store: &Store, epoch: u64) {
    let store = store.bound_by(Notary(1));
    let binder = Notary(1);
    let keys = store.keys().await.unwrap();
    let seen: Vec<_> = keys.rows.iter().map(|row| (row.key_id.as_str(), row.successor, row.epoch)).collect();
    assert_eq!(seen, [("BBBBBBBBBBBB", None, epoch - 1), ("AAAAAAAAAAAA", Some(keys.rows[0].id), epoch)]);
    assert!(keys.rows.iter().all(|row| binder.open_row(SealedRow::Key(row)).is_none()));
    let servers = store.servers().await.unwrap().rows;
    assert!(servers.iter().all(|row| binder.open_row(SealedRow::Server(row)).is_none()));
    let seen: Vec<_> =
        servers.iter().map(|row| (row.name.as_str(), row.version, row.secrets.bytes.len())).collect();
    assert_eq!(seen, [("with", 7, 2), ("without", 1, 0)]);
    let endpoint = store.endpoints().await.unwrap().rows.remove(0);
    assert!(binder.open_row(SealedRow::Endpoint(&endpoint)).is_none());
    let deny: Vec<_> = endpoint.servers.iter().map(|of| (of.server_id, of.deny.len())).collect();
    assert_eq!((endpoint.version, deny), (3, vec![(servers[1].id, 0), (servers[0].id, 1)]));
    assert!(binder.open_row(SealedRow::JwtKey(&store.jwt_keys().await.unwrap().rows[0])).is_none());
    // The rows can be deleted, and a row written as a whole opens.
    check(store.delete_key("BBBBBBBBBBBB", by("test", 3)).await, "ok");
    check(store.delete_server(servers[1].id, VersionMatch::Any, by("test", 3)).await, "ok");
    let anew = server("with", Secrets::Set(Plaintext::nothing()));
    let anew =
        store.replace_server(servers[0].id, VersionMatch::Version(7), anew, by("test", 3)).await.unwrap();
    assert!(binder.open_row(SealedRow::Server(&anew)).is_some());
    let left = store.endpoints().await.unwrap().rows.remove(0);
    assert!(binder.open_row(SealedRow::Endpoint(&left)).is_none() && left.servers.len() == 1);
}

#[tokio::test]
async fn a_database_from_before_sealing_is_migrated_and_not_trusted() {
    let folder = Folder::create();
    let path = folder.join("metamcp.sqlite");
    let first = Connection::open(&path).unwrap();
    first.execute_batch(include_str!("../../../../../sql/sqlite/0001_api_keys.sql")).unwrap();
    first.execute_batch(include_str!("../../../../../sql/sqlite/0002_control_plane.sql")).unwrap();
    first.execute_batch(&before("x'0102'")).unwrap();
    first.execute_batch("PRAGMA user_version = 2; PRAGMA application_id = 0x6d637067").unwrap();
    drop(first);
    check_migrated(&Store::open_sqlite(&path).await.unwrap(), 2).await;
    with_database(async |url| {
        sql(url, include_str!("../../../../../sql/postgres/0001_control_plane.sql")).await;
        sql(url, &before("'\\x0102'")).await;
        let ledger =
            "CREATE TABLE metamcp_migrations (version BIGINT PRIMARY KEY, applied_at BIGINT NOT NULL);
                      INSERT INTO metamcp_migrations VALUES (1, 1)";
        sql(url, ledger).await;
        check_migrated(&Store::open(url).await.unwrap(), 2).await;
    })
    .await;
}
