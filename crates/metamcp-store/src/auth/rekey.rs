//! Rekeying: re-sealing everything at rest under the newest version of `ENCRYPTION_KEY`.
//!
//! An interrupted run can be repeated: each value names the version that sealed it, so the next run finds what is
//! left.

use crate::store::{Audit, SealedKind, Store, StoreError};

use super::seal::Sealer;

/// The result of rekeying the values of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RekeyReport {
    pub kind: SealedKind,
    /// Values that this run re-sealed.
    pub resealed: u64,
    /// Values now sealed under the newest version, including those that were before.
    pub current: u64,
    /// Values still sealed under another version.
    pub left: u64,
    /// Names of values that no given version opens, at most `LISTED_MAX` of them.
    pub unsealable: Vec<String>,
}

/// Re-seals all values of a kind under the first version that `sealer` was given. Works in batches, each in its own
/// transaction. Revokes no key, token or stream.
///
/// Cancel safe: batches that are done stay done.
pub async fn rekey(
    store: &Store,
    sealer: &Sealer,
    kind: SealedKind,
    actor: &str,
) -> Result<RekeyReport, StoreError> {
    let store = store.bound_by(sealer.clone());
    let (mut resealed, mut unsealable, mut after) = (0, Vec::new(), None);
    loop {
        let batch = store.rewrap(kind, after, Audit::by(actor)).await?;
        resealed += batch.count;
        let room = LISTED_MAX.saturating_sub(unsealable.len());
        unsealable.extend(batch.closed.into_iter().take(room));
        after = batch.next;
        if after.is_none() {
            break;
        }
    }
    let (mut current, mut left) = (0, 0);
    for (version, count) in store.sealed_versions(kind).await? {
        *if version == sealer.current_version() { &mut current } else { &mut left } += count;
    }
    Ok(RekeyReport { kind, resealed, current, left, unsealable })
}

/// Names listed in one report. The report also says how many there are.
const LISTED_MAX: usize = 8;

#[cfg(test)]
mod tests;
