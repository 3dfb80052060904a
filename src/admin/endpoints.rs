//! REST handlers for stored endpoints.

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::Value;

use super::definition::{EndpointDefinition, endpoint_document};
use super::problem::Problem;
use super::request::{Precondition, Query, json_body, page, tagged, unless_known};
use super::servers::{
    TRIES, Write, check_makeable, check_patch, created, named_by_path, no_content, taken, unprocessable,
};
use super::tag::Tag;
use super::{Admin, Call, show_row};
use crate::store::{Binder, Bound, EndpointRow, EndpointSpec, Outcome, Put, ServerRow, StoreError, new_id};

impl Admin {
    pub(super) async fn list_endpoints(&self, call: &Call<'_>) -> Result<Response<Bytes>, Problem> {
        let mut query = Query::new(call.query());
        let asked = query.page::<String>();
        query.finish()?;
        let found = self.parts.store.endpoint_page(asked.after, asked.items).await?;
        let servers = self.parts.store.servers().await?.rows;
        let items = found.items.iter().map(|row| self.endpoint_view(row, &servers)).collect();
        Ok(page(items, found.next.as_ref()))
    }

    pub(super) async fn get_endpoint(&self, call: &Call<'_>) -> Result<Response<Bytes>, Problem> {
        let row = self.endpoint_row(call.parameter(0)).await?;
        let servers = self.parts.store.servers().await?.rows;
        let (view, tag) = self.seen_endpoint(&row, &servers);
        Ok(unless_known(call.headers(), &view, &tag))
    }

    pub(super) async fn create_endpoint(&self, call: &Call<'_>) -> Result<Response<Bytes>, Problem> {
        let value = json_body(call.headers(), call.body())?;
        let servers = self.parts.store.servers().await?.rows;
        let spec = read(&value, &servers)?;
        let row = self.insert_endpoint(spec, call).await.map_err(|error| match error {
            StoreError::Exists { .. } => taken("endpoint", "PUT"),
            other => other.into(),
        })?;
        self.taken_up().await;
        let (view, tag) = self.seen_endpoint(&row, &servers);
        Ok(created("/api/v1/mcp/endpoints", row.id, &view, &tag))
    }

    pub(super) async fn put_endpoint(&self, call: &Call<'_>) -> Result<Response<Bytes>, Problem> {
        let mut value = json_body(call.headers(), call.body())?;
        named_by_path(&mut value, call.parameter(0))?;
        let (put, servers) = self.write_endpoint(Write::Whole(&value), call).await?;
        self.taken_up().await;
        let (view, tag) = self.seen_endpoint(&put.row, &servers);
        Ok(match put.outcome {
            Outcome::Create => created("/api/v1/mcp/endpoints", put.row.id, &view, &tag),
            Outcome::Replace | Outcome::Keep => tagged(StatusCode::OK, &view, &tag),
        })
    }

    pub(super) async fn patch_endpoint(&self, call: &Call<'_>) -> Result<Response<Bytes>, Problem> {
        let patch = json_body(call.headers(), call.body())?;
        check_patch(&patch)?;
        let (put, servers) = self.write_endpoint(Write::Patch(&patch), call).await?;
        self.taken_up().await;
        let (view, tag) = self.seen_endpoint(&put.row, &servers);
        Ok(tagged(StatusCode::OK, &view, &tag))
    }

    pub(super) async fn delete_endpoint(&self, call: &Call<'_>) -> Result<Response<Bytes>, Problem> {
        let precondition = Precondition::of(call.headers())?;
        for _ in 0..TRIES {
            let row = self.endpoint_row(call.parameter(0)).await?;
            let servers = self.parts.store.servers().await?.rows;
            let expect = precondition.check(Some((Tag::of_endpoint(&row, &servers), row.version)))?;
            match self.parts.store.delete_endpoint(row.id, expect, call.audit()).await {
                Err(StoreError::Conflict) if precondition == Precondition::None => {}
                Err(error) => return Err(error.into()),
                Ok(_) => {
                    self.note_change();
                    self.taken_up().await;
                    return Ok(no_content());
                }
            }
        }
        Err(StoreError::Conflict.into())
    }

    /// Writes an endpoint in the same way as a server. Also returns the servers of the store at that time.
    async fn write_endpoint(
        &self,
        write: Write<'_>,
        call: &Call<'_>,
    ) -> Result<(Put<EndpointRow>, Vec<ServerRow>), Problem> {
        let (store, reference) = (&self.parts.store, call.parameter(0));
        let precondition = Precondition::of(call.headers())?;
        for _ in 0..TRIES {
            let found = store.endpoint(reference).await?;
            if found.is_none() && write.whole().is_none() {
                return Err(Problem::not_found("endpoint"));
            }
            let servers = store.servers().await?.rows;
            let tagged = found.as_ref().map(|row| (Tag::of_endpoint(row, &servers), row.version));
            let expect = precondition.check(tagged)?;
            let was_there = found.is_some();
            let written = if let Some(row) = found {
                // An altered row is never merged with.
                let is_closed = self.parts.auth.sealer().open_row(Bound::Endpoint(&row)).is_none();
                if is_closed && write.whole().is_none() {
                    return Err(StoreError::Closed("endpoint").into());
                }
                let spec = read(&write.merged(document(&row, &servers)), &servers)?;
                store.replace_endpoint(row.id, expect, spec, call.audit()).await.map(|new| {
                    let outcome = if new.version == row.version { Outcome::Keep } else { Outcome::Replace };
                    Put { outcome, row: new }
                })
            } else {
                let value = write.whole().ok_or_else(|| Problem::not_found("endpoint"))?;
                let spec = read(value, &servers)?;
                check_makeable(reference, "endpoint")?;
                self.insert_endpoint(spec, call).await.map(|row| Put { outcome: Outcome::Create, row })
            };
            match written {
                Err(StoreError::Conflict | StoreError::Dangling) if precondition == Precondition::None => {}
                Err(StoreError::Exists { .. }) if was_there => return Err(taken("endpoint", "another name")),
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

    async fn insert_endpoint(&self, spec: EndpointSpec, call: &Call<'_>) -> Result<EndpointRow, StoreError> {
        let row = self.parts.store.insert_endpoint(new_id(), spec, call.audit()).await?;
        self.note_change();
        Ok(row)
    }

    /// Returns the endpoint as shown, and its ETag.
    fn seen_endpoint(&self, row: &EndpointRow, servers: &[ServerRow]) -> (Value, String) {
        let view = self.endpoint_view(row, servers);
        let tag = Tag::of_endpoint(row, servers).with(&view);
        (view, tag)
    }

    fn endpoint_view(&self, row: &EndpointRow, servers: &[ServerRow]) -> Value {
        let mut view = document(row, servers);
        show_row(&mut view, &self.standing(), row.id, [row.version, row.created_at, row.changed_at]);
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
