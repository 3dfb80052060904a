//! Named sets of servers, with the filters and overrides of their tools.
//!
//! Invariants: an endpoint and all that hangs on it have one version and one seal, and change in one transaction.
//! Does not know: what a glob matches, or which tools there are.

mod change;
mod row;

use uuid::Uuid;

pub(super) use change::{bind_anew, with_server};
pub(super) use row::find;
pub use row::{EndpointRow, EndpointServer, EndpointSpec, Endpoints, PrefixMode, ToolOverride};

use super::audit::Audit;
use super::page::{Paged, limit, paged};
use super::session::{Access, transact};
use super::{Match, Store, StoreError};

impl Store {
    /// All endpoints, and the epoch they show, read in one transaction. Cancel safe.
    pub async fn endpoints(&self) -> Result<Endpoints, StoreError> {
        transact!(self, Access::Read, |session| row::all(session))
    }

    /// Endpoints by name, beginning behind the one named `after`. Cancel safe.
    pub async fn endpoint_page(
        &self,
        after: Option<String>,
        items: usize,
    ) -> Result<Paged<EndpointRow, String>, StoreError> {
        let limit = limit(items);
        let rows = transact!(self, Access::Read, |session| row::page(session, after.as_deref(), limit))?;
        Ok(paged(rows, limit, |row| row.name.clone()))
    }

    /// One endpoint, by its UUID or its name. Cancel safe.
    pub async fn endpoint(&self, reference: &str) -> Result<Option<EndpointRow>, StoreError> {
        let reference = reference.to_owned();
        transact!(self, Access::Read, |session| row::find(session, &reference))
    }

    /// Adds an endpoint. [`StoreError::Exists`]: the name or the id is taken, or a server or pattern stands
    /// there twice. [`StoreError::Dangling`]: a server is not there. [`StoreError::Unbound`].
    ///
    /// Cancel safe: a dropped call is either wholly done or not at all.
    pub async fn insert_endpoint(
        &self,
        id: Uuid,
        spec: EndpointSpec,
        audit: Audit,
    ) -> Result<EndpointRow, StoreError> {
        let binding = self.binding.clone();
        transact!(self, Access::Administer, |session| change::insert(session, &binding, id, &spec, &audit))
    }

    /// Makes an endpoint what `spec` says; one that is so already keeps its version. [`StoreError::NotFound`],
    /// [`StoreError::Conflict`], and what [`Store::insert_endpoint`] says.
    ///
    /// Cancel safe: a dropped call is either wholly done or not at all.
    pub async fn replace_endpoint(
        &self,
        id: Uuid,
        expect: Match,
        spec: EndpointSpec,
        audit: Audit,
    ) -> Result<EndpointRow, StoreError> {
        let (binding, by) = (self.binding.clone(), (spec, audit));
        transact!(self, Access::Administer, |session| change::replace(session, &binding, id, expect, &by))
    }

    /// Takes an endpoint out and gives what it was. [`StoreError::NotFound`], [`StoreError::Conflict`].
    ///
    /// Cancel safe: a dropped call is either wholly done or not at all.
    pub async fn delete_endpoint(
        &self,
        id: Uuid,
        expect: Match,
        audit: Audit,
    ) -> Result<EndpointRow, StoreError> {
        transact!(self, Access::Administer, |session| change::delete(session, id, expect, &audit))
    }
}
