//! Sealing everything at rest anew, under the newest version of `ENCRYPTION_KEY`.
//!
//! Broken off half-way it is run again, and finds what is left: each value says which version sealed it.

use crate::store::{Audit, SealedKind, Store, StoreError};

use super::seal::Sealer;

/// What became of the values of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rekeyed {
    /// What holds them.
    pub kind: SealedKind,
    /// Sealed anew by this run.
    pub rewrapped: u64,
    /// Under the newest version now, those that were before included.
    pub current: u64,
    /// Under another version still.
    pub left: u64,
    /// Names of some that no given version opens: at most `NAMED_MAX`.
    pub unopened: Vec<String>,
}

/// Seals all values of a kind with the first version that `sealer` was given, in batches, each in a transaction of
/// its own. No key, token or stream is taken back by it.
///
/// Cancel safe: what was done stays done.
pub async fn rekey(
    store: &Store,
    sealer: &Sealer,
    kind: SealedKind,
    actor: &str,
) -> Result<Rekeyed, StoreError> {
    let store = store.bound_by(sealer.clone());
    let (mut rewrapped, mut unopened, mut after) = (0, Vec::new(), None);
    loop {
        let batch = store.rewrap(kind, after, Audit::by(actor)).await?;
        rewrapped += batch.count;
        let room = NAMED_MAX.saturating_sub(unopened.len());
        unopened.extend(batch.closed.into_iter().take(room));
        after = batch.next;
        if after.is_none() {
            break;
        }
    }
    let (mut current, mut left) = (0, 0);
    for (version, count) in store.sealed_versions(kind).await? {
        *if version == sealer.version() { &mut current } else { &mut left } += count;
    }
    Ok(Rekeyed { kind, rewrapped, current, left, unopened })
}

/// Names in one report; the count says how many there are.
const NAMED_MAX: usize = 8;

#[cfg(test)]
mod tests;
