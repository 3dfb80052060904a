//! REST handlers for stored endpoints.

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::Value;

use super::authenticated_request::AuthenticatedRequest;
use super::control_plane::ControlPlane;
use super::entity_tag::EntityTag;
use super::problem::Problem;
use super::request::{
    Precondition, QueryReader, conditional_response, json_body, page_response, tagged_response,
};
use super::servers::{
    DefinitionWrite, WRITE_ATTEMPTS_MAX, apply_path_name, check_creatable, check_patch, created_response,
    name_conflict, no_content_response, unprocessable,
};
use super::store_status::add_row_status;
use metamcp_store::definition::{EndpointDefinition, endpoint_document};
use metamcp_store::store::{
    EndpointRow, EndpointSpec, Outcome, RowSealer, SealedRow, ServerRow, StoreError, UpsertResult, new_id,
};

impl ControlPlane {
    pub(super) async fn list_endpoints(
        &self,
        call: &AuthenticatedRequest<'_>,
    ) -> Result<Response<Bytes>, Problem> {
        let mut query = QueryReader::new(call.query());
        let page = query.page::<String>();
        query.finish()?;
        let found = self.parts.store.endpoint_page(page.after, page.items).await?;
        let servers = self.parts.store.servers().await?.rows;
        let items = found.items.iter().map(|row| self.endpoint_view(row, &servers)).collect();
        Ok(page_response(items, found.next.as_ref()))
    }

    pub(super) async fn get_endpoint(
        &self,
        call: &AuthenticatedRequest<'_>,
    ) -> Result<Response<Bytes>, Problem> {
        let row = self.endpoint_row(call.parameter(0)).await?;
        let servers = self.parts.store.servers().await?.rows;
        let (view, tag) = self.endpoint_with_etag(&row, &servers);
        Ok(conditional_response(call.headers(), &view, &tag))
    }

    pub(super) async fn create_endpoint(
        &self,
        call: &AuthenticatedRequest<'_>,
    ) -> Result<Response<Bytes>, Problem> {
        let value = json_body(call.headers(), call.body())?;
        let servers = self.parts.store.servers().await?.rows;
        let spec = read(&value, &servers)?;
        let row = self.insert_endpoint(spec, call).await.map_err(|error| match error {
            StoreError::Exists { .. } => name_conflict("endpoint", "PUT"),
            other => other.into(),
        })?;
        self.wait_until_served().await;
        let (view, tag) = self.endpoint_with_etag(&row, &servers);
        Ok(created_response("/api/v1/mcp/endpoints", row.id, &view, &tag))
    }

    pub(super) async fn put_endpoint(
        &self,
        call: &AuthenticatedRequest<'_>,
    ) -> Result<Response<Bytes>, Problem> {
        let mut value = json_body(call.headers(), call.body())?;
        apply_path_name(&mut value, call.parameter(0))?;
        let (put, servers) = self.write_endpoint(DefinitionWrite::Whole(&value), call).await?;
        self.wait_until_served().await;
        let (view, tag) = self.endpoint_with_etag(&put.row, &servers);
        Ok(match put.outcome {
            Outcome::Create => created_response("/api/v1/mcp/endpoints", put.row.id, &view, &tag),
            Outcome::Replace | Outcome::Keep => tagged_response(StatusCode::OK, &view, &tag),
        })
    }

    pub(super) async fn patch_endpoint(
        &self,
        call: &AuthenticatedRequest<'_>,
    ) -> Result<Response<Bytes>, Problem> {
        let patch = json_body(call.headers(), call.body())?;
        check_patch(&patch)?;
        let (put, servers) = self.write_endpoint(DefinitionWrite::Patch(&patch), call).await?;
        self.wait_until_served().await;
        let (view, tag) = self.endpoint_with_etag(&put.row, &servers);
        Ok(tagged_response(StatusCode::OK, &view, &tag))
    }

    pub(super) async fn delete_endpoint(
        &self,
        call: &AuthenticatedRequest<'_>,
    ) -> Result<Response<Bytes>, Problem> {
        let precondition = Precondition::from_headers(call.headers())?;
        for _ in 0..WRITE_ATTEMPTS_MAX {
            let row = self.endpoint_row(call.parameter(0)).await?;
            let servers = self.parts.store.servers().await?.rows;
            let expect = precondition.check(Some((EntityTag::for_endpoint(&row, &servers), row.version)))?;
            match self.parts.store.delete_endpoint(row.id, expect, call.audit()).await {
                Err(StoreError::Conflict) if precondition == Precondition::None => {}
                Err(error) => return Err(error.into()),
                Ok(_) => {
                    self.note_change();
                    self.wait_until_served().await;
                    return Ok(no_content_response());
                }
            }
        }
        Err(StoreError::Conflict.into())
    }

    /// Writes an endpoint in the same way as a server. Also returns the servers of the store at that time.
    async fn write_endpoint(
        &self,
        write: DefinitionWrite<'_>,
        call: &AuthenticatedRequest<'_>,
    ) -> Result<(UpsertResult<EndpointRow>, Vec<ServerRow>), Problem> {
        let (store, reference) = (&self.parts.store, call.parameter(0));
        let precondition = Precondition::from_headers(call.headers())?;
        for _ in 0..WRITE_ATTEMPTS_MAX {
            let found = store.endpoint(reference).await?;
            if found.is_none() && write.whole().is_none() {
                return Err(Problem::not_found("endpoint"));
            }
            let servers = store.servers().await?.rows;
            let tagged = found.as_ref().map(|row| (EntityTag::for_endpoint(row, &servers), row.version));
            let expect = precondition.check(tagged)?;
            let was_there = found.is_some();
            let written = if let Some(row) = found {
                // An altered row is never merged with.
                let is_closed = self.parts.auth.sealer().open_row(SealedRow::Endpoint(&row)).is_none();
                if is_closed && write.whole().is_none() {
                    return Err(StoreError::Closed("endpoint").into());
                }
                let spec = read(&write.merged(document(&row, &servers)), &servers)?;
                store.replace_endpoint(row.id, expect, spec, call.audit()).await.map(|new| {
                    let outcome = if new.version == row.version { Outcome::Keep } else { Outcome::Replace };
                    UpsertResult { outcome, row: new }
                })
            } else {
                let value = write.whole().ok_or_else(|| Problem::not_found("endpoint"))?;
                let spec = read(value, &servers)?;
                check_creatable(reference, "endpoint")?;
                self.insert_endpoint(spec, call)
                    .await
                    .map(|row| UpsertResult { outcome: Outcome::Create, row })
            };
            match written {
                Err(StoreError::Conflict | StoreError::Dangling) if precondition == Precondition::None => {}
                Err(StoreError::Exists { .. }) if was_there => {
                    return Err(name_conflict("endpoint", "another name"));
                }
                Err(StoreError::Exists { .. }) => {}
                Err(error) => return Err(error.into()),
                Ok(put) => {
                    if put.outcome != Outcome::Keep {
                        self.note_change();
                    }
                    return Ok((put, servers));
                }
            }
        }
        Err(StoreError::Conflict.into())
    }

    async fn insert_endpoint(
        &self,
        spec: EndpointSpec,
        call: &AuthenticatedRequest<'_>,
    ) -> Result<EndpointRow, StoreError> {
        let row = self.parts.store.insert_endpoint(new_id(), spec, call.audit()).await?;
        self.note_change();
        Ok(row)
    }

    /// Returns the endpoint as shown, and its ETag.
    fn endpoint_with_etag(&self, row: &EndpointRow, servers: &[ServerRow]) -> (Value, String) {
        let view = self.endpoint_view(row, servers);
        let tag = EntityTag::for_endpoint(row, servers).to_etag(&view);
        (view, tag)
    }

    fn endpoint_view(&self, row: &EndpointRow, servers: &[ServerRow]) -> Value {
        let mut view = document(row, servers);
        add_row_status(
            &mut view,
            &self.store_status(),
            row.id,
            [row.version, row.created_at, row.changed_at],
        );
        view
    }

    async fn endpoint_row(&self, reference: &str) -> Result<EndpointRow, Problem> {
        self.parts.store.endpoint(reference).await?.ok_or_else(|| Problem::not_found("endpoint"))
    }
}

fn read(value: &Value, servers: &[ServerRow]) -> Result<EndpointSpec, Problem> {
    EndpointDefinition::read(value).and_then(|endpoint| endpoint.into_spec(servers)).map_err(unprocessable)
}

fn document(row: &EndpointRow, servers: &[ServerRow]) -> Value {
    endpoint_document(row, |id| {
        servers.iter().find(|server| server.id == id).map(|server| server.name.clone())
    })
}
