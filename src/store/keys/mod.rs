//! API keys: who may do what, and what recognises a key.
//!
//! Invariants: the raw key never comes here. A row's own epoch moves with what takes back its tokens and streams,
//! and not when it is only sealed anew or gets a successor. All that decides what a key may do is bound; one that does not
//! open can be switched off and deleted, and nothing else. Does not know: what a sealed hash holds.

mod change;
mod row;

use uuid::Uuid;

pub(super) use change::hash;
pub(super) use row::find;
pub use row::{Grants, KeyRow, KeyStatus, Keys, NewKey, Rate, Role};

use super::audit::Audit;
use super::session::{Access, transact};
use super::{Store, StoreError};

/// What becomes of a key that gets a successor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Predecessor {
    /// It is switched off in the same transaction.
    Inactivate,
    /// It goes on until this second since 1970.
    KeepUntil(u64),
}

/// A key and its successor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotation {
    /// As it is now.
    pub old: KeyRow,
    /// What was added.
    pub new: KeyRow,
}

impl Store {
    /// Adds a key and gives the row as stored. [`StoreError::Exists`]: its id is taken.
    ///
    /// Cancel safe: a dropped call is either wholly done or not at all.
    pub async fn insert_key(&self, key: NewKey, audit: Audit) -> Result<KeyRow, StoreError> {
        let binding = self.binding.clone();
        transact!(self, Access::Administer, |session| change::insert(session, &binding, &key, &audit))
    }

    /// The same where there is no key yet; `None`: there is one, and nothing was added. Of several that ask at once, in
    /// one process or many, one adds its key.
    ///
    /// Cancel safe: a dropped call is either wholly done or not at all.
    pub async fn insert_first_key(&self, key: NewKey, audit: Audit) -> Result<Option<KeyRow>, StoreError> {
        // Administration is one after the other: nobody adds a key between the look and the addition.
        let binding = self.binding.clone();
        transact!(self, Access::Administer, |session| change::insert_first(session, &binding, &key, &audit))
    }

    /// All keys, and the epoch they show, read in one transaction. Cancel safe.
    pub async fn keys(&self) -> Result<Keys, StoreError> {
        transact!(self, Access::Read, |session| row::all(session))
    }

    /// One key, by its key id or its UUID. Cancel safe.
    pub async fn key(&self, reference: &str) -> Result<Option<KeyRow>, StoreError> {
        let reference = reference.to_owned();
        transact!(self, Access::Read, |session| row::find(session, &reference))
    }

    /// Switches a key on or off; one that is so already is left alone. `false`: there is no such key. Off it goes without
    /// a binder too, and when it does not open; on again, only what was sealed. [`StoreError::Closed`],
    /// [`StoreError::Unbound`].
    ///
    /// Cancel safe: a dropped call is either wholly done or not at all.
    pub async fn set_key_status(
        &self,
        reference: &str,
        status: KeyStatus,
        audit: Audit,
    ) -> Result<bool, StoreError> {
        let (binding, reference) = (self.binding.clone(), reference.to_owned());
        let change = transact!(self, Access::Administer, |session| change::set_status(
            session, &binding, &reference, status, &audit
        ));
        match change {
            Ok(_) => Ok(true),
            Err(StoreError::NotFound(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Takes a key out and gives what it was; that takes no binder. [`StoreError::NotFound`].
    ///
    /// Cancel safe: a dropped call is either wholly done or not at all.
    pub async fn delete_key(&self, reference: &str, audit: Audit) -> Result<KeyRow, StoreError> {
        let reference = reference.to_owned();
        transact!(self, Access::Administer, |session| change::delete(session, &reference, &audit))
    }

    /// Adds a key and makes it the successor of another, in one transaction. [`StoreError::NotFound`];
    /// [`StoreError::Conflict`]: the old one is off, or has a successor that is there; [`StoreError::Closed`].
    ///
    /// Cancel safe: a dropped call is either wholly done or not at all.
    pub async fn rotate_key(
        &self,
        reference: &str,
        new: NewKey,
        old: Predecessor,
        audit: Audit,
    ) -> Result<Rotation, StoreError> {
        let (binding, reference) = (self.binding.clone(), reference.to_owned());
        let by = (new, old, audit);
        transact!(self, Access::Administer, |session| change::rotate(session, &binding, &reference, &by))
    }

    /// Switches off the rotated keys whose grace was over at `audit.at`, and gives their ids.
    ///
    /// Cancel safe: a dropped call is either wholly done or not at all.
    pub async fn end_grace(&self, audit: Audit) -> Result<Vec<Uuid>, StoreError> {
        // Most often there is none, and then nobody has to wait for anybody.
        let at = audit.at;
        if transact!(self, Access::Read, |session| change::over(session, at))?.is_empty() {
            return Ok(Vec::new());
        }
        let binding = self.binding.clone();
        transact!(self, Access::Administer, |session| change::end_grace(session, &binding, &audit))
    }
}
