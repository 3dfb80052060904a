//! The operations on keys that a store handle offers.

use uuid::Uuid;

use super::change::{self, OldKeyPolicy, Rotation};
use super::row::{self, KeyRequest, KeyRow, KeyStatus, Keys, NewKey};
use crate::store::audit::Audit;
use crate::store::error::StoreError;
use crate::store::handle::{Store, transact};
use crate::store::transaction::AccessMode;

impl Store {
    /// Adds a key and returns the stored row. [`StoreError::Exists`] when its id is taken.
    ///
    /// Cancel safe: a dropped call takes effect entirely or not at all.
    pub async fn insert_key(&self, key: NewKey, audit: Audit) -> Result<KeyRow, StoreError> {
        let binding = self.binding.clone();
        transact!(self, AccessMode::Administer, |tx| change::insert(tx, &binding, &key, &audit))
    }

    /// Adds a key if there is none. `None` when there was one, and nothing was added. Of several concurrent calls, in one
    /// process or many, one adds its key.
    ///
    /// Cancel safe: a dropped call takes effect entirely or not at all.
    pub async fn insert_first_key(&self, key: NewKey, audit: Audit) -> Result<Option<KeyRow>, StoreError> {
        // Administrative transactions run one at a time, so no key is added between the check and the insert.
        let binding = self.binding.clone();
        transact!(self, AccessMode::Administer, |tx| change::insert_first(tx, &binding, &key, &audit))
    }

    /// All keys and their epoch, read in one transaction. Cancel safe.
    pub async fn keys(&self) -> Result<Keys, StoreError> {
        transact!(self, AccessMode::Read, |tx| row::all(tx))
    }

    /// One key, by its key id or its UUID. Cancel safe.
    pub async fn key(&self, reference: &str) -> Result<Option<KeyRow>, StoreError> {
        let reference = reference.to_owned();
        transact!(self, AccessMode::Read, |tx| row::find(tx, &reference))
    }

    /// Activates or disables a key; a key that has the status already is unchanged. `false` when there is no such key. A
    /// key can be disabled without a sealer, and even if its row does not open. It can be activated only if the row
    /// opens: otherwise [`StoreError::Closed`] or [`StoreError::Unbound`].
    ///
    /// Cancel safe: a dropped call takes effect entirely or not at all.
    pub async fn set_key_status(
        &self,
        reference: &str,
        status: KeyStatus,
        audit: Audit,
    ) -> Result<bool, StoreError> {
        let (binding, reference) = (self.binding.clone(), reference.to_owned());
        let change = transact!(self, AccessMode::Administer, |tx| change::set_status(
            tx, &binding, &reference, status, &audit
        ));
        match change {
            Ok(_) => Ok(true),
            Err(StoreError::NotFound(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Changes a key from `expect` to `request`, and returns its row. Revokes its tokens; a key that is `request` already
    /// is unchanged. Validates nothing. [`StoreError::NotFound`]; [`StoreError::Conflict`] when the key is not `expect`;
    /// [`StoreError::Closed`]; [`StoreError::Unbound`].
    ///
    /// Cancel safe: a dropped call takes effect entirely or not at all.
    pub async fn update_key(
        &self,
        reference: &str,
        expect: KeyRequest,
        request: KeyRequest,
        audit: Audit,
    ) -> Result<KeyRow, StoreError> {
        let (binding, reference) = (self.binding.clone(), reference.to_owned());
        let by = (request, audit);
        transact!(self, AccessMode::Administer, |tx| change::update(tx, &binding, &reference, &expect, &by))
    }

    /// Deletes a key and returns its last row. Needs no sealer. [`StoreError::NotFound`].
    ///
    /// Cancel safe: a dropped call takes effect entirely or not at all.
    pub async fn delete_key(&self, reference: &str, audit: Audit) -> Result<KeyRow, StoreError> {
        let reference = reference.to_owned();
        transact!(self, AccessMode::Administer, |tx| change::delete(tx, &reference, &audit))
    }

    /// Adds a key as the successor of another, in one transaction. [`StoreError::NotFound`]; [`StoreError::Conflict`]
    /// when the old key is disabled or has a successor; [`StoreError::Closed`].
    ///
    /// Cancel safe: a dropped call takes effect entirely or not at all.
    pub async fn rotate_key(
        &self,
        reference: &str,
        new: NewKey,
        old: OldKeyPolicy,
        audit: Audit,
    ) -> Result<Rotation, StoreError> {
        let (binding, reference) = (self.binding.clone(), reference.to_owned());
        let rotation = (new, old, audit);
        transact!(self, AccessMode::Administer, |tx| change::rotate(tx, &binding, &reference, &rotation))
    }

    /// Disables the rotated keys whose grace period was over at `audit.at`, and returns their ids.
    ///
    /// Cancel safe: a dropped call takes effect entirely or not at all.
    pub async fn end_grace(&self, audit: Audit) -> Result<Vec<Uuid>, StoreError> {
        // Usually there are none, and then no administrative transaction is needed.
        let at = audit.at;
        if transact!(self, AccessMode::Read, |tx| change::expired_grace(tx, at))?.is_empty() {
            return Ok(Vec::new());
        }
        let binding = self.binding.clone();
        transact!(self, AccessMode::Administer, |tx| change::end_grace(tx, &binding, &audit))
    }
}
