//! What binds a row to whoever holds `ENCRYPTION_KEY`: each is sealed together with all that it says.
//!
//! A change to a bound row seals it anew in the same transaction, from what the tables give back of it, so that what is
//! read later is what was sealed. A row that does not open is nobody's word: nothing is built on it but its end.

use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::sealed::{Sealed, put};
use super::session::Session;
use super::{EndpointRow, JwtKeyRow, KeyRow, PinsRow, ServerRow, Store, StoreError};

/// What is sealed, in the clear. Wiped when dropped, and never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Plain(Zeroizing<Vec<u8>>);

/// A row that is bound.
#[derive(Debug, Clone, Copy)]
pub enum Bound<'a> {
    /// With the hash of the key's secret.
    Key(&'a KeyRow),
    /// With the server's secrets, which may be none.
    Server(&'a ServerRow),
    /// With nothing more.
    Endpoint(&'a EndpointRow),
    /// With the secret that signs.
    JwtKey(&'a JwtKeyRow),
    /// With nothing more.
    ToolPins(&'a PinsRow),
}

/// Seals rows and opens them. What of a row is bound is said where it is done.
pub trait Binder: fmt::Debug + Send + Sync {
    /// Seals with what the row says, but for what is sealed in it now.
    fn seal_row(&self, row: Bound<'_>, plain: &Plain) -> Sealed;

    /// What is sealed in the row, if that was done by us and with what the row says now.
    fn open_row(&self, row: Bound<'_>) -> Option<Plain>;

    /// Whether it has that version of `ENCRYPTION_KEY`.
    fn has_version(&self, version: u8) -> bool;

    /// The version that seals.
    fn sealing_version(&self) -> u8;
}

/// The binder of a store, if it was given one.
#[derive(Debug, Clone, Default)]
pub(super) struct Binding(Option<Arc<dyn Binder>>);

impl Plain {
    /// Of these bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Of a row that has no secret.
    pub fn nothing() -> Self {
        Self::new(Vec::new())
    }

    /// To be shown to nobody.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Plain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Plain(..)")
    }
}

impl Bound<'_> {
    /// The bytes that are sealed in it, and the version of `ENCRYPTION_KEY` they name.
    pub fn sealed(&self) -> (&[u8], u8) {
        match self {
            Self::Key(row) => (&row.sealed_hash, row.key_version),
            Self::Server(row) => (&row.secrets.bytes, row.secrets.key_version),
            Self::Endpoint(row) => (&row.seal.bytes, row.seal.key_version),
            Self::JwtKey(row) => (&row.secret.bytes, row.secret.key_version),
            Self::ToolPins(row) => (&row.seal.bytes, row.seal.key_version),
        }
    }
}

impl Binding {
    /// `None` too where there is nothing to open it with.
    pub fn open(&self, row: Bound<'_>) -> Option<Plain> {
        self.0.as_ref()?.open_row(row)
    }

    /// The same, where nothing can go on without.
    pub fn opened(&self, row: Bound<'_>, what: &'static str) -> Result<Plain, StoreError> {
        self.binder()?.open_row(row).ok_or(StoreError::Closed(what))
    }

    pub fn binder(&self) -> Result<&dyn Binder, StoreError> {
        self.0.as_deref().ok_or(StoreError::Unbound)
    }

    /// Seals a row as the tables have it, puts that there, and gives it.
    pub async fn bind<S: Session>(
        &self,
        session: &mut S,
        row: Bound<'_>,
        plain: &Plain,
    ) -> Result<Sealed, StoreError> {
        let sealed = self.binder()?.seal_row(row, plain);
        put(session, row, &sealed).await?;
        Ok(sealed)
    }
}

impl Store {
    /// The same store, for changes too: every row that they touch is sealed by `binder`.
    #[must_use]
    pub fn bound_by(&self, binder: impl Binder + 'static) -> Self {
        Self { binding: Binding(Some(Arc::new(binder))), ..self.clone() }
    }
}
