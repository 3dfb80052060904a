//! The same rows for both engines, and what only one of them can suffer.

mod postgres;
mod schema;
mod sqlite;
mod suite;
mod watch;

use super::testing::{Folder, with_database};
use super::{Audit, Grants, NewKey, Store, new_id};

/// Runs a test on each engine there is, in a store of its own.
async fn on_each(test: impl AsyncFn(&Store)) {
    let folder = Folder::new();
    test(&Store::open_sqlite(&folder.join("metamcp.sqlite")).await.unwrap()).await;
    with_database(async |url| test(&Store::open(url).await.unwrap()).await).await;
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
        sealed_hash: vec![1, 2, 3],
        key_version: 1,
        expires_at: None,
    }
}
