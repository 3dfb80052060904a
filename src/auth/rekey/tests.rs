use serde_json::json;

use super::super::{EncryptionKey, KeyRequest, create_key, new_jwt_key};
use super::*;
use crate::store::testing::{Folder, put_sealed_hash};
use crate::store::{Grants, Secrets, ServerKind, ServerSpec, new_id};

fn key(version: u8) -> EncryptionKey {
    EncryptionKey { version, key: Zeroizing::new([version; 32]) }
}

/// Three keys, a server with secrets and one without, and a key for tokens, all sealed by version 1.
async fn filled(folder: &Folder) -> Store {
    let store = Store::open_sqlite(&folder.join("metamcp.sqlite")).await.unwrap();
    let (sealer, audit) = (Sealer::new(&[key(1)]).unwrap(), || Audit::by("test"));
    for name in ["a", "b", "c"] {
        let request = KeyRequest {
            name: name.into(),
            description: String::new(),
            grants: Grants::everything(),
            expires_at: None,
        };
        create_key(&store, &sealer, request, audit()).await.unwrap();
    }
    for (name, secret) in [("with", true), ("without", false)] {
        let id = new_id();
        let (purpose, aad) = (Purpose::ServerSecrets, id.to_string());
        let sealed = Sealed { bytes: sealer.seal(purpose, aad.as_bytes(), b"s"), key_version: 1 };
        let secrets = if secret { Secrets::Set(sealed) } else { Secrets::Clear };
        let spec = ServerSpec { name: name.into(), kind: ServerKind::Http, definition: json!({}), secrets };
        store.insert_server(id, spec, audit()).await.unwrap();
    }
    store.insert_jwt_key(new_jwt_key(&sealer), audit()).await.unwrap();
    store
}

/// Rekeys a kind with these versions, the first of which seals.
#[track_caller]
fn check(found: &Rekeyed, expected: (u64, u64, u64, usize)) {
    assert_eq!((found.rewrapped, found.current, found.left, found.unopened.len()), expected, "{found:?}");
}

#[tokio::test]
async fn everything_is_sealed_anew_once_and_opens_with_the_new_version_alone() {
    let folder = Folder::new();
    let store = filled(&folder).await;
    let both = Sealer::new(&[key(2), key(1)]).unwrap();
    let before = store.keys().await.unwrap().rows;
    for (kind, count) in [(SealedKind::Keys, 3), (SealedKind::Servers, 1), (SealedKind::JwtKeys, 1)] {
        check(&rekey(&store, &both, kind, "test").await.unwrap(), (count, count, 0, 0));
        check(&rekey(&store, &both, kind, "test").await.unwrap(), (0, count, 0, 0));
    }
    let new = Sealer::new(&[key(2)]).unwrap();
    for (row, old) in store.keys().await.unwrap().rows.iter().zip(before) {
        let (purpose, aad) = sealed_for(SealedKind::Keys, &row.key_id);
        assert!(new.open(purpose, aad, &row.sealed_hash).is_ok());
        assert_eq!((row.epoch, row.key_version), (old.epoch, 2), "no token is taken back");
    }
}

#[tokio::test]
async fn broken_off_half_way_it_goes_on_where_it_stopped() {
    let folder = Folder::new();
    let store = filled(&folder).await;
    let both = Sealer::new(&[key(2), key(1)]).unwrap();
    let first = store.sealed_otherwise(SealedKind::Keys, 2, None, 1).await.unwrap().items.remove(0);
    let value = rewrap(SealedKind::Keys, &first, &both).unwrap();
    store.rewrap(SealedKind::Keys, vec![value], Audit::by("test")).await.unwrap();
    assert_eq!(store.sealed_versions(SealedKind::Keys).await.unwrap(), [(1, 2), (2, 1)]);
    check(&rekey(&store, &both, SealedKind::Keys, "test").await.unwrap(), (2, 3, 0, 0));
}

#[tokio::test]
async fn what_no_given_version_opens_is_left_alone_and_named() {
    let folder = Folder::new();
    let store = filled(&folder).await;
    let rows = store.keys().await.unwrap().rows;
    put_sealed_hash(&folder.join("metamcp.sqlite"), &rows[0].key_id, &rows[1].sealed_hash);
    let both = Sealer::new(&[key(2), key(1)]).unwrap();
    let found = rekey(&store, &both, SealedKind::Keys, "test").await.unwrap();
    check(&found, (2, 2, 1, 1));
    assert_eq!(found.unopened, [rows[0].key_id.clone()]);
    let wrong = Sealer::new(&[key(3), key(1)]).unwrap();
    check(&rekey(&store, &wrong, SealedKind::Keys, "test").await.unwrap(), (0, 0, 3, 3));
}
