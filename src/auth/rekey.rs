//! Sealing everything at rest anew, under the newest version of `ENCRYPTION_KEY`.
//!
//! Broken off half-way it is run again, and finds what is left: each value says which version sealed it.

use zeroize::Zeroizing;

use crate::store::{Audit, PAGE_ITEMS_MAX, Rewrap, Sealed, SealedKind, SealedRow, Store, StoreError};

use super::seal::{Purpose, Sealer};

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

/// What a value in the store is sealed for, and with which associated data: `name` as [`SealedKind`] says.
pub fn sealed_for(kind: SealedKind, name: &str) -> (Purpose, &[u8]) {
    let purpose = match kind {
        SealedKind::Keys => Purpose::KeyRow,
        SealedKind::Servers => Purpose::ServerSecrets,
        SealedKind::JwtKeys => Purpose::JwtKey,
    };
    (purpose, name.as_bytes())
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
    let (mut rewrapped, mut unopened, mut after) = (0, Vec::new(), None);
    loop {
        let page = store.sealed_otherwise(kind, sealer.version(), after, PAGE_ITEMS_MAX).await?;
        let mut values = Vec::with_capacity(page.items.len());
        for row in page.items {
            match rewrap(kind, &row, sealer) {
                Some(value) => values.push(value),
                None if unopened.len() < NAMED_MAX => unopened.push(row.name),
                None => {}
            }
        }
        rewrapped += store.rewrap(kind, values, Audit::by(actor)).await?;
        after = page.next;
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

fn rewrap(kind: SealedKind, row: &SealedRow, sealer: &Sealer) -> Option<Rewrap> {
    let (purpose, aad) = sealed_for(kind, &row.name);
    let plain = Zeroizing::new(sealer.open(purpose, aad, &row.sealed.bytes).ok()?);
    let to = Sealed { bytes: sealer.seal(purpose, aad, &plain), key_version: sealer.version() };
    Some(Rewrap { name: row.name.clone(), from: row.sealed.bytes.clone(), to })
}

/// Names in one report; the count says how many there are.
const NAMED_MAX: usize = 8;

#[cfg(test)]
mod tests;
