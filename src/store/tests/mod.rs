//! The same rows for both engines, and what only one of them can suffer.

mod suite;
mod sqlite;

use super::testing::Folder;
use super::{Audit, Grants, NewKey, Store, new_id};

/// A store of its own for a test, on either engine.
struct Place {
    store: Store,
    _folder: Option<Folder>,
}

impl Place {
    async fn sqlite() -> Self {
        let folder = Folder::new();
        let store = Store::open_sqlite(&folder.join("metamcp.sqlite")).await.unwrap();
        Self { store, _folder: Some(folder) }
    }
}

/// Runs a test on each engine there is.
async fn on_each(test: impl AsyncFn(&Store)) {
    let place = Place::sqlite().await;
    test(&place.store).await;
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
