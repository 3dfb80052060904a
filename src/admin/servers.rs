//! REST handlers for stored servers.

use bytes::Bytes;
use http::header::LOCATION;
use http::{HeaderValue, Response, StatusCode};
use serde_json::{Value, json};

use super::authenticated_request::AuthenticatedRequest;
use super::control_plane::ControlPlane;
use super::entity_tag::EntityTag;
use super::files::{DefinitionSource, ServerListCursor};
use super::problem::Problem;
use super::request::{
    Precondition, QueryReader, conditional_response, json_body, ok_response, page_response, tagged_response,
};
use super::store_status::add_row_status;
use super::views::{ServerApprovalStatus, ServerCondition};
use metamcp_store::definition::import::overlay_definition;
use metamcp_store::definition::{
    FieldError, ServerDefinition, StoredServerError, merge_patch, normalize_patch, server_document,
};
use metamcp_store::store::{Outcome, ServerRow, StoreError, UpsertResult, Uuid, new_id};

/// Attempts to apply a change when others write at the same time.
pub const WRITE_ATTEMPTS_MAX: usize = 5;

/// How a request changes a stored definition.
#[derive(Clone, Copy)]
pub enum DefinitionWrite<'a> {
    Whole(&'a Value),
    /// Applies a merge patch (RFC 7396) to an existing definition.
    Patch(&'a Value),
    /// Replaces single members of an existing definition, or creates a new one.
    Upsert(&'a Value),
}

/// A stored server that is about to be changed.
enum StoredServer<'a> {
    Whole(Box<ServerDefinition>),
    /// This version cannot read the definition.
    Invalid,
    /// The row was altered. This definition replaces all of it.
    Closed(&'a Value),
}

impl StoredServer<'_> {
    fn server(self) -> Option<ServerDefinition> {
        match self {
            Self::Whole(server) => Some(*server),
            Self::Invalid | Self::Closed(_) => None,
        }
    }
}

impl ControlPlane {
    pub(super) async fn list_servers(
        &self,
        call: &AuthenticatedRequest<'_>,
    ) -> Result<Response<Bytes>, Problem> {
        let mut query = QueryReader::new(call.query());
        let page = query.page::<ServerListCursor>();
        query.finish()?;
        let mut items = Vec::new();
        let after = match page.after {
            Some((DefinitionSource::Store, name)) => Some(name),
            begun => {
                let (_, name) = begun.unwrap_or((DefinitionSource::File, String::new()));
                let mut of_files = self.file_servers_after(&name);
                let is_whole = of_files.len() <= page.items;
                of_files.truncate(page.items);
                let last = of_files.last().map(|(name, _)| (DefinitionSource::File, name.clone()));
                items.extend(of_files.into_iter().map(|(_, view)| view));
                if !is_whole {
                    return Ok(page_response(items, last.as_ref()));
                }
                None
            }
        };
        if items.len() == page.items {
            // No name is empty, so this cursor is before all servers of the store.
            return Ok(page_response(items, Some(&(DefinitionSource::Store, String::new()))));
        }
        let found = self.parts.store.server_page(after, page.items - items.len()).await?;
        items.extend(found.items.iter().map(|row| self.server_view(row)));
        Ok(page_response(items, found.next.map(|name| (DefinitionSource::Store, name)).as_ref()))
    }

    pub(super) async fn get_server(
        &self,
        call: &AuthenticatedRequest<'_>,
    ) -> Result<Response<Bytes>, Problem> {
        let stored = self.parts.store.server(call.parameter(0)).await?;
        let seen = match stored {
            Some(row) => Some(self.server_with_etag(&row)),
            None => self.file_server(call.parameter(0)),
        };
        let (view, tag) = seen.ok_or_else(|| Problem::not_found("server"))?;
        Ok(conditional_response(call.headers(), &view, &tag))
    }

    pub(super) async fn create_server(
        &self,
        call: &AuthenticatedRequest<'_>,
    ) -> Result<Response<Bytes>, Problem> {
        let value = json_body(call.headers(), call.body())?;
        let server = ServerDefinition::read(&value, None, &self.rules()).map_err(unprocessable)?;
        self.check_prefixes(&server, None).await?;
        let row = self.insert_server(&server, call).await.map_err(|error| match error {
            StoreError::Exists { .. } => name_conflict("server", "PUT"),
            other => other.into(),
        })?;
        self.wait_until_served().await;
        let (view, tag) = self.server_with_etag(&row);
        Ok(created_response("/api/v1/mcp/servers", row.id, &view, &tag))
    }

    pub(super) async fn put_server(
        &self,
        call: &AuthenticatedRequest<'_>,
    ) -> Result<Response<Bytes>, Problem> {
        let mut value = json_body(call.headers(), call.body())?;
        let reference = call.parameter(0);
        apply_path_name(&mut value, reference)?;
        let precondition = Precondition::from_headers(call.headers())?;
        let put = self.write_server(reference, DefinitionWrite::Whole(&value), precondition, call).await?;
        self.wait_until_served().await;
        let (view, tag) = self.server_with_etag(&put.row);
        Ok(match put.outcome {
            Outcome::Create => created_response("/api/v1/mcp/servers", put.row.id, &view, &tag),
            Outcome::Replace | Outcome::Keep => tagged_response(StatusCode::OK, &view, &tag),
        })
    }

    pub(super) async fn patch_server(
        &self,
        call: &AuthenticatedRequest<'_>,
    ) -> Result<Response<Bytes>, Problem> {
        let mut patch = json_body(call.headers(), call.body())?;
        check_patch(&patch)?;
        normalize_patch(&mut patch);
        let precondition = Precondition::from_headers(call.headers())?;
        let put =
            self.write_server(call.parameter(0), DefinitionWrite::Patch(&patch), precondition, call).await?;
        self.wait_until_served().await;
        let (view, tag) = self.server_with_etag(&put.row);
        Ok(tagged_response(StatusCode::OK, &view, &tag))
    }

    pub(super) async fn delete_server(
        &self,
        call: &AuthenticatedRequest<'_>,
    ) -> Result<Response<Bytes>, Problem> {
        let precondition = Precondition::from_headers(call.headers())?;
        for _ in 0..WRITE_ATTEMPTS_MAX {
            let row = self.server_row(call.parameter(0)).await?;
            let expect = precondition.check(Some((EntityTag::for_server(&row), row.version)))?;
            match self.parts.store.delete_server(row.id, expect, call.audit()).await {
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

    /// Writes until no other writer interferes, or the precondition fails.
    pub(super) async fn write_server(
        &self,
        reference: &str,
        write: DefinitionWrite<'_>,
        precondition: Precondition<'_>,
        call: &AuthenticatedRequest<'_>,
    ) -> Result<UpsertResult<ServerRow>, Problem> {
        let store = &self.parts.store;
        for _ in 0..WRITE_ATTEMPTS_MAX {
            let found = store.server(reference).await?;
            if found.is_none() && write.whole().is_none() {
                return Err(self.explain_not_stored(reference));
            }
            let expect =
                precondition.check(found.as_ref().map(|row| (EntityTag::for_server(row), row.version)))?;
            let was_there = found.is_some();
            let written = if let Some(row) = found {
                let before = self.open_server(&row, write)?;
                let value = match &before {
                    StoredServer::Closed(value) => Value::clone(value),
                    StoredServer::Invalid | StoredServer::Whole(_) => write.merged(server_document(&row)),
                };
                let before = before.server();
                let server =
                    ServerDefinition::read(&value, before.as_ref(), &self.rules()).map_err(unprocessable)?;
                self.check_prefixes(&server, Some(&row)).await?;
                store.replace_server(row.id, expect, server.to_spec(), call.audit()).await.map(|new| {
                    let outcome = if new.version == row.version { Outcome::Keep } else { Outcome::Replace };
                    UpsertResult { outcome, row: new }
                })
            } else {
                let value = write.whole().ok_or_else(|| Problem::not_found("server"))?;
                let server = ServerDefinition::read(value, None, &self.rules()).map_err(unprocessable)?;
                check_creatable(reference, "server")?;
                self.check_prefixes(&server, None).await?;
                self.insert_server(&server, call)
                    .await
                    .map(|row| UpsertResult { outcome: Outcome::Create, row })
            };
            match written {
                // Another writer was faster. Retries, unless the precondition excludes that.
                Err(StoreError::Conflict) if precondition == Precondition::None => {}
                Err(StoreError::Exists { .. }) if was_there => {
                    return Err(name_conflict("server", "another name"));
                }
                Err(StoreError::Exists { .. }) => {}
                Err(error) => return Err(error.into()),
                Ok(put) => {
                    if put.outcome != Outcome::Keep {
                        self.note_change();
                    }
                    return Ok(put);
                }
            }
        }
        Err(StoreError::Conflict.into())
    }

    async fn insert_server(
        &self,
        server: &ServerDefinition,
        call: &AuthenticatedRequest<'_>,
    ) -> Result<ServerRow, StoreError> {
        let row = self.parts.store.insert_server(new_id(), server.to_spec(), call.audit()).await?;
        self.note_change();
        Ok(row)
    }

    /// Opens a stored server. An altered row is never merged with: only a complete definition may replace it.
    fn open_server<'a>(
        &self,
        row: &ServerRow,
        write: DefinitionWrite<'a>,
    ) -> Result<StoredServer<'a>, StoreError> {
        match ServerDefinition::from_row(row, self.parts.auth.sealer()) {
            Ok(server) => Ok(StoredServer::Whole(Box::new(server))),
            Err(error) => {
                tracing::warn!(%error, "replacing a stored server that cannot be read");
                match error {
                    StoredServerError::Invalid(..) => Ok(StoredServer::Invalid),
                    StoredServerError::Unsealable(_) => {
                        write.whole().map(StoredServer::Closed).ok_or(StoreError::Closed("server"))
                    }
                }
            }
        }
    }

    /// Returns a stored server by UUID or name.
    pub(super) async fn server_row(&self, reference: &str) -> Result<ServerRow, Problem> {
        self.parts.store.server(reference).await?.ok_or_else(|| self.explain_not_stored(reference))
    }

    /// Returns the server as shown, and its ETag.
    fn server_with_etag(&self, row: &ServerRow) -> (Value, String) {
        let view = self.server_view(row);
        let tag = EntityTag::for_server(row).to_etag(&view);
        (view, tag)
    }

    fn server_view(&self, row: &ServerRow) -> Value {
        let mut view = server_document(row);
        view["source"] = json!(DefinitionSource::Store);
        let (store_status, topology) = (self.store_status(), self.topology());
        add_row_status(&mut view, &store_status, row.id, [row.version, row.created_at, row.changed_at]);
        let mut upstreams = topology.upstreams().filter(|_| store_status.is_served(row.id));
        if let Some(upstream) = upstreams.find(|upstream| upstream.name().as_str() == row.name) {
            view["condition"] = json!(self.server_condition(upstream, true));
            if let Some(approvals) =
                ServerApprovalStatus::new(self.parts.catalog.approvals().status(&row.name))
            {
                view["vetting"] = json!(approvals);
            }
        } else if row.definition["enabled"] == json!(false) {
            view["condition"] = json!(ServerCondition::disabled());
        }
        view
    }
}

impl<'a> DefinitionWrite<'a> {
    /// Returns the new definition, given the stored one.
    pub fn merged(self, mut stored: Value) -> Value {
        match self {
            Self::Whole(value) => value.clone(),
            Self::Patch(patch) => {
                merge_patch(&mut stored, patch);
                stored
            }
            Self::Upsert(value) => overlay_definition(stored, value),
        }
    }

    /// Returns the definition to create if there is none yet.
    pub fn whole(self) -> Option<&'a Value> {
        match self {
            Self::Whole(value) | Self::Upsert(value) => Some(value),
            Self::Patch(_) => None,
        }
    }
}

/// Responds with 422 and every invalid field.
pub fn unprocessable(errors: Vec<FieldError>) -> Problem {
    Problem::fields(StatusCode::UNPROCESSABLE_ENTITY, errors)
}

/// Adds the name from the path to a definition. Another name in the body is an error: if the request were
/// repeated, it would not find the renamed object, or find another one.
pub fn apply_path_name(value: &mut Value, reference: &str) -> Result<(), Problem> {
    let Some(members) = value.as_object_mut().filter(|_| Uuid::parse_str(reference).is_err()) else {
        return Ok(());
    };
    let name = members.entry("name").or_insert_with(|| reference.into());
    // A name of another type is reported together with the other errors.
    if name.as_str().is_none_or(|name| name == reference) {
        Ok(())
    } else {
        Err(unprocessable(vec![FieldError::new("/name", OTHER_NAME)]))
    }
}

const OTHER_NAME: &str = "is not the name in the path; to rename the object, PATCH {\"name\": ...}, or PUT to its id instead of its name";

/// Only the gateway assigns ids, so nothing is created under an unknown id.
pub fn check_creatable(reference: &str, what: &str) -> Result<(), Problem> {
    if Uuid::parse_str(reference).is_ok() { Err(Problem::not_found(what)) } else { Ok(()) }
}

/// A patch that is not an object would replace the whole definition.
pub fn check_patch(patch: &Value) -> Result<(), Problem> {
    if patch.is_object() {
        return Ok(());
    }
    Err(unprocessable(vec![FieldError::new(
        "",
        "is not an object; write the members to change, and null to remove one",
    )]))
}

/// Responds with 409: the name is in use.
pub fn name_conflict(what: &str, instead: &str) -> Problem {
    let detail = format!("is used by another {what}; use {instead}");
    Problem::fields(StatusCode::CONFLICT, vec![FieldError::new("/name", detail)])
}

/// Responds with 201 Created, the location and the view of the new object.
pub fn created_response(list: &str, id: Uuid, view: &Value, tag: &str) -> Response<Bytes> {
    let mut response = tagged_response(StatusCode::CREATED, view, tag);
    if let Ok(location) = HeaderValue::from_str(&format!("{list}/{id}")) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

/// Responds with 204 No Content.
pub fn no_content_response() -> Response<Bytes> {
    let mut response = ok_response(&json!(null));
    *response.status_mut() = StatusCode::NO_CONTENT;
    *response.body_mut() = Bytes::new();
    response.headers_mut().clear();
    response
}
