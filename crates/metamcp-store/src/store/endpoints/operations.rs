//! The operations on endpoints that a store handle offers.

use uuid::Uuid;

use super::change;
use super::row::{self, EndpointRow, EndpointSpec, Endpoints};
use crate::store::audit::Audit;
use crate::store::error::StoreError;
use crate::store::handle::{Store, transact};
use crate::store::page::{PagedRows, page_size, to_page};
use crate::store::transaction::AccessMode;
use crate::store::version::VersionMatch;

impl Store {
    /// All endpoints and their epoch, read in one transaction. Cancel safe.
    pub async fn endpoints(&self) -> Result<Endpoints, StoreError> {
        transact!(self, AccessMode::Read, |tx| row::all(tx))
    }

    /// A page of endpoints by name, starting after the one named `after`. Cancel safe.
    pub async fn endpoint_page(
        &self,
        after: Option<String>,
        items: usize,
    ) -> Result<PagedRows<EndpointRow, String>, StoreError> {
        let limit = page_size(items);
        let rows = transact!(self, AccessMode::Read, |tx| row::page(tx, after.as_deref(), limit))?;
        Ok(to_page(rows, limit, |row| row.name.clone()))
    }

    /// One endpoint, by its UUID or its name. Cancel safe.
    pub async fn endpoint(&self, reference: &str) -> Result<Option<EndpointRow>, StoreError> {
        let reference = reference.to_owned();
        transact!(self, AccessMode::Read, |tx| row::find(tx, &reference))
    }

    /// Adds an endpoint. [`StoreError::Exists`] when its name or id is taken, or it names a server or pattern twice;
    /// [`StoreError::Dangling`] when a server does not exist; [`StoreError::Unbound`].
    ///
    /// Cancel safe: a dropped call takes effect entirely or not at all.
    pub async fn insert_endpoint(
        &self,
        id: Uuid,
        spec: EndpointSpec,
        audit: Audit,
    ) -> Result<EndpointRow, StoreError> {
        let binding = self.binding.clone();
        transact!(self, AccessMode::Administer, |tx| change::insert(tx, &binding, id, &spec, &audit))
    }

    /// Replaces an endpoint by `spec`. An endpoint that is the same already keeps its version. [`StoreError::NotFound`],
    /// [`StoreError::Conflict`], and the errors of [`Store::insert_endpoint`].
    ///
    /// Cancel safe: a dropped call takes effect entirely or not at all.
    pub async fn replace_endpoint(
        &self,
        id: Uuid,
        expect: VersionMatch,
        spec: EndpointSpec,
        audit: Audit,
    ) -> Result<EndpointRow, StoreError> {
        let (binding, by) = (self.binding.clone(), (spec, audit));
        transact!(self, AccessMode::Administer, |tx| change::replace(tx, &binding, id, expect, &by))
    }

    /// Deletes an endpoint and returns its last row. [`StoreError::NotFound`], [`StoreError::Conflict`].
    ///
    /// Cancel safe: a dropped call takes effect entirely or not at all.
    pub async fn delete_endpoint(
        &self,
        id: Uuid,
        expect: VersionMatch,
        audit: Audit,
    ) -> Result<EndpointRow, StoreError> {
        transact!(self, AccessMode::Administer, |tx| change::delete(tx, id, expect, &audit))
    }
}
