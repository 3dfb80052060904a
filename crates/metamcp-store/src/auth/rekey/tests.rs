use serde_json::json;
use zeroize::Zeroizing;

use super::super::{EncryptionKey, KeyRequest, create_key, generate_jwt_key};
use super::*;
use crate::store::testing::{Folder, put_sealed_hash};
use crate::store::{
    EndpointServer, EndpointSpec, Grants, NewToolPins, Plaintext, PrefixMode, RowSealer, SealedRow, Secrets,
    ServerKind, ServerSpec, new_id,
};

fn key(version: u8) -> EncryptionKey {
    EncryptionKey { version, key: Zeroizing::new([version; 32]) }
}

/// Three keys, a server with secrets and one without, an endpoint, and a key for tokens, all sealed by version 1.
async fn filled(folder: &Folder) -> Store {
    let sealer = Sealer::new(&[key(1)]).unwrap();
    let store = Store::open_sqlite(&folder.join("metamcp.sqlite")).await.unwrap().bound_by(sealer.clone());
    let audit = || Audit::by("test");
    for name in ["a", "b", "c"] {
        let request = KeyRequest {
            name: name.into(),
            description: String::new(),
            grants: Grants::everything(),
            expires_at: None,
        };
        create_key(&store, &sealer, request, audit()).await.unwrap();
    }
    let ids = [new_id(), new_id()];
    for (name, id) in ["with", "without"].into_iter().zip(ids) {
        let plain = if name == "with" { Plaintext::new(b"s".to_vec()) } else { Plaintext::nothing() };
        let spec = ServerSpec {
            name: name.into(),
            kind: ServerKind::Http,
            definition: json!({}),
            secrets: Secrets::Set(plain),
        };
        store.insert_server(id, spec, audit()).await.unwrap();
    }
    let servers = ids.into_iter().map(EndpointServer::unfiltered).collect();
    let spec = EndpointSpec { name: "e".into(), prefix: PrefixMode::Never, servers };
    store.insert_endpoint(new_id(), spec, audit()).await.unwrap();
    store.insert_jwt_key(generate_jwt_key(), audit()).await.unwrap();
    let new = NewToolPins { server: "with".into(), pins: json!({}), expect: None, told: None };
    store.put_tool_pins(new, audit()).await.unwrap();
    store
}

/// Rekeys a kind with these versions, the first of which seals.
#[track_caller]
fn check(found: &RekeyReport, expected: (u64, u64, u64, usize)) {
    assert_eq!((found.resealed, found.current, found.left, found.unsealable.len()), expected, "{found:?}");
}

#[tokio::test]
async fn everything_is_sealed_anew_once_and_opens_with_the_new_version_alone() {
    let folder = Folder::create();
    let store = filled(&folder).await;
    let both = Sealer::new(&[key(2), key(1)]).unwrap();
    let before = store.keys().await.unwrap().rows;
    for (kind, count) in KINDS {
        check(&rekey(&store, &both, kind, "test").await.unwrap(), (count, count, 0, 0));
        check(&rekey(&store, &both, kind, "test").await.unwrap(), (0, count, 0, 0));
    }
    let new = Sealer::new(&[key(2)]).unwrap();
    for (row, old) in store.keys().await.unwrap().rows.iter().zip(before) {
        assert!(new.open_row(SealedRow::Key(row)).is_some());
        assert_eq!((row.epoch, row.key_version), (old.epoch, 2), "no token is taken back");
    }
    let servers = store.servers().await.unwrap().rows;
    let plain = servers.iter().map(|row| new.open_row(SealedRow::Server(row)).unwrap().expose().to_vec());
    assert_eq!(plain.collect::<Vec<_>>(), [b"s".to_vec(), Vec::new()]);
    assert!(new.open_row(SealedRow::Endpoint(&store.endpoints().await.unwrap().rows[0])).is_some());
    assert!(new.open_row(SealedRow::JwtKey(&store.jwt_keys().await.unwrap().rows[0])).is_some());
}

const KINDS: [(SealedKind, u64); 5] = [
    (SealedKind::Keys, 3),
    (SealedKind::Servers, 2),
    (SealedKind::Endpoints, 1),
    (SealedKind::JwtKeys, 1),
    (SealedKind::ToolPins, 1),
];

#[tokio::test]
async fn broken_off_half_way_it_goes_on_where_it_stopped() {
    let folder = Folder::create();
    let store = filled(&folder).await;
    let both = Sealer::new(&[key(2), key(1)]).unwrap();
    let bound = store.bound_by(both.clone());
    let one = bound.rewrap_some(SealedKind::Keys, None, 1, Audit::by("test")).await.unwrap();
    assert_eq!((one.count, one.next.is_some()), (1, true));
    assert_eq!(store.sealed_versions(SealedKind::Keys).await.unwrap(), [(1, 2), (2, 1)]);
    check(&rekey(&store, &both, SealedKind::Keys, "test").await.unwrap(), (2, 3, 0, 0));
}

#[tokio::test]
async fn what_no_given_version_opens_is_left_alone_and_named() {
    let folder = Folder::create();
    let store = filled(&folder).await;
    let rows = store.keys().await.unwrap().rows;
    put_sealed_hash(&folder.join("metamcp.sqlite"), &rows[0].key_id, &rows[1].sealed_hash);
    let both = Sealer::new(&[key(2), key(1)]).unwrap();
    let found = rekey(&store, &both, SealedKind::Keys, "test").await.unwrap();
    check(&found, (2, 2, 1, 1));
    assert_eq!(found.unsealable, [rows[0].key_id.clone()]);
    let wrong = Sealer::new(&[key(3), key(1)]).unwrap();
    check(&rekey(&store, &wrong, SealedKind::Keys, "test").await.unwrap(), (0, 0, 3, 3));
}
