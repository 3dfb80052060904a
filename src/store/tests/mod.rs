//! The same rows for both engines, and what only one of them can suffer.

mod bound;
mod postgres;
mod schema;
mod sqlite;
mod suite;
mod watch;

use super::testing::{Folder, Notary, with_database};
use super::{Audit, Grants, NewKey, Plain, Store, StoreError, new_id};

/// Runs a test on each engine there is, in a store of its own.
async fn on_each(test: impl AsyncFn(&Store)) {
    let folder = Folder::new();
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
        hash: Plain::new(vec![1, 2, 3]),
        expires_at: None,
    }
}
