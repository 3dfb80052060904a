//! Tests of the store: the same cases for both engines, and failures of a single engine.

mod bound;
mod postgres;
mod quotas;
mod schema;
mod sqlite;
mod suite;
mod watch;

use super::testing::{Folder, Notary, with_database};
use super::{Audit, Grants, NewKey, Plaintext, Store, StoreError, new_id};

/// Runs a test on each engine, in a new store.
async fn on_each(test: impl AsyncFn(&Store)) {
    let folder = Folder::create();
    let bound = |store: Result<Store, StoreError>| store.unwrap().bound_by(Notary(1));
    test(&bound(Store::open_sqlite(&folder.join("metamcp.sqlite")).await)).await;
    with_database(async |url| test(&bound(Store::open(url).await)).await).await;
}

fn by(actor: &str, at: u64) -> Audit {
    Audit { actor: actor.into(), at }
}

fn sample(key_id: &str) -> NewKey {
    NewKey {
        id: new_id(),
        key_id: key_id.into(),
        name: "laptop".into(),
        description: String::new(),
        grants: Grants::everything(),
        hash: Plaintext::new(vec![1, 2, 3]),
        expires_at: None,
    }
}
