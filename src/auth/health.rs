//! Whether keys are what the store says, for whoever asks how the gateway is.

use crate::store::{Away, JwtKeys, Keys, Store};

use super::denied::AuthError;
use super::seal::Sealer;
use super::snapshot::{Kept, Snapshot};

/// How things stand with the keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Since when the store does not answer, and why; `None`: it does.
    pub away: Option<Away>,
    /// Where the keys in use came from.
    pub keys_from: KeysFrom,
}

/// Where the keys in use came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeysFrom {
    /// The store, at some time since the start.
    Store,
    /// The file that an earlier run left: what was changed since is not known yet.
    Snapshot {
        /// Seconds since 1970.
        written_at: u64,
    },
}

impl Health {
    /// Whether everything is as it should be.
    pub fn is_good(&self) -> bool {
        self.away.is_none() && self.keys_from == KeysFrom::Store
    }
}

/// What a start begins with.
pub(super) struct First {
    pub keys: Keys,
    /// With keys from a snapshot the ring as well, unless an earlier version of this program wrote it.
    pub ring: Option<JwtKeys>,
    pub health: Health,
}

/// From the store, or while that is away from the last snapshot.
pub(super) async fn first_keys(
    store: &Store,
    snapshot: Option<&Snapshot>,
    sealer: &Sealer,
) -> Result<First, AuthError> {
    let error = match store.keys().await {
        Ok(keys) => {
            let health = Health { away: None, keys_from: KeysFrom::Store };
            return Ok(First { keys, ring: None, health });
        }
        Err(error) => error,
    };
    let Some(snapshot) = snapshot.filter(|_| error.is_away()) else { return Err(error.into()) };
    match snapshot.read::<Kept>(sealer) {
        Ok(Some(kept)) => {
            tracing::warn!(%error, "started with the keys of an earlier run");
            let health = Health {
                away: Some(Away::now(&error)),
                keys_from: KeysFrom::Snapshot { written_at: kept.written_at },
            };
            Ok(First { keys: kept.keys, ring: kept.ring.map(Into::into), health })
        }
        Ok(None) => Err(error.into()),
        Err(snapshot) => Err(AuthError::NoKeyring { away: error, snapshot }),
    }
}
