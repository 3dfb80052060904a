//! The keys that a process starts with: from the store, or from the snapshot of an earlier run.

use crate::store::{JwtKeys, Keys, Store, StoreOutage};

use super::error::AuthError;
use super::health::{AuthHealth, KeySource};
use super::keyring_snapshot::KeyringSnapshot;
use super::seal::Sealer;
use super::snapshot::SnapshotFile;

pub struct InitialKeys {
    pub keys: Keys,
    /// The token signing keys of the snapshot. `None` when the keys came from the store, or when an earlier version of
    /// this program, which did not write them, wrote the snapshot.
    pub jwt_keys: Option<JwtKeys>,
    pub health: AuthHealth,
}

impl InitialKeys {
    /// Reads the keys from the store or, when the store is unavailable, from the snapshot.
    pub async fn load(
        store: &Store,
        snapshot: Option<&SnapshotFile>,
        sealer: &Sealer,
    ) -> Result<Self, AuthError> {
        let error = match store.keys().await {
            Ok(keys) => {
                let health = AuthHealth { outage: None, key_source: KeySource::Store };
                return Ok(Self { keys, jwt_keys: None, health });
            }
            Err(error) => error,
        };
        let Some(snapshot) = snapshot.filter(|_| error.is_away()) else { return Err(error.into()) };
        match snapshot.read::<KeyringSnapshot>(sealer) {
            Ok(Some(stored)) => {
                tracing::warn!(%error, "store unavailable, started with the keys of an earlier run");
                let health = AuthHealth {
                    outage: Some(StoreOutage::now(&error)),
                    key_source: KeySource::Snapshot { written_at: stored.written_at },
                };
                Ok(Self { keys: stored.keys, jwt_keys: stored.jwt_keys.map(Into::into), health })
            }
            Ok(None) => Err(error.into()),
            Err(snapshot) => Err(AuthError::NoKeyring { outage: error, snapshot }),
        }
    }
}
