//! Stored servers over HTTP.

use bytes::Bytes;
use http::header::LOCATION;
use http::{HeaderValue, Response, StatusCode};
use serde_json::{Value, json};

use super::definition::import::upsert;
use super::definition::{FieldError, Server, Unreadable, merge_patch, server_document};
use super::files::{Place, Source};
use super::problem::Problem;
use super::request::{Precondition, Query, json_body, ok, page, tagged, unless_known};
use super::tag::Tag;
use super::views::{ServerCondition, ServerVetting};
use super::{Admin, Call, show_row};
use crate::store::{Outcome, Put, ServerRow, StoreError, Uuid, new_id};

/// A change that meets another one is made again to what is there then. Whoever loses that often is refused.
pub const TRIES: usize = 5;

/// How a definition comes to what is stored.
#[derive(Clone, Copy)]
pub enum Write<'a> {
    /// It is the whole of it.
    Whole(&'a Value),
    /// Merged into what is there, which has to be there (RFC 7396).
    Patch(&'a Value),
    /// Its members take the place of those that are there; or else it is the whole.
    Upsert(&'a Value),
}

/// A stored server, to be written.
enum Found<'a> {
    /// It can be used.
    Whole(Box<Server>),
    /// This version cannot read it.
    Invalid,
    /// It was altered; this takes its place.
    Closed(&'a Value),
}

impl Found<'_> {
    fn server(self) -> Option<Server> {
        match self {
            Self::Whole(server) => Some(*server),
            Self::Invalid | Self::Closed(_) => None,
        }
    }
}

impl Admin {
    pub(super) async fn list_servers(&self, call: &Call<'_>) -> Result<Response<Bytes>, Problem> {
        let mut query = Query::new(call.query());
        let asked = query.page::<Place>();
        query.finish()?;
        let mut items = Vec::new();
        let after = match asked.after {
            Some((Source::Store, name)) => Some(name),
            begun => {
                let (_, name) = begun.unwrap_or((Source::File, String::new()));
                let mut of_files = self.servers_of_files(&name);
                let is_whole = of_files.len() <= asked.items;
                of_files.truncate(asked.items);
                let last = of_files.last().map(|(name, _)| (Source::File, name.clone()));
                items.extend(of_files.into_iter().map(|(_, view)| view));
                if !is_whole {
                    return Ok(page(items, last.as_ref()));
                }
                None
            }
        };
        if items.len() == asked.items {
            // No name is empty: all of the store are behind it.
            return Ok(page(items, Some(&(Source::Store, String::new()))));
        }
        let found = self.parts.store.server_page(after, asked.items - items.len()).await?;
        items.extend(found.items.iter().map(|row| self.server_view(row)));
        Ok(page(items, found.next.map(|name| (Source::Store, name)).as_ref()))
    }

    pub(super) async fn get_server(&self, call: &Call<'_>) -> Result<Response<Bytes>, Problem> {
        let stored = self.parts.store.server(call.parameter(0)).await?;
        let seen = match stored {
            Some(row) => Some(self.seen_server(&row)),
            None => self.server_of_file(call.parameter(0)),
        };
        let (view, tag) = seen.ok_or_else(|| Problem::not_found("server"))?;
        Ok(unless_known(call.headers(), &view, &tag))
    }

    pub(super) async fn create_server(&self, call: &Call<'_>) -> Result<Response<Bytes>, Problem> {
        let value = json_body(call.headers(), call.body())?;
        let server = Server::read(&value, None, &self.rules).map_err(unprocessable)?;
        self.check_prefixes(&server, None).await?;
        let row = self.insert_server(&server, call).await.map_err(|error| match error {
            StoreError::Exists { .. } => taken("server", "PUT"),
            other => other.into(),
        })?;
        self.taken_up().await;
        let (view, tag) = self.seen_server(&row);
        Ok(created("/api/v1/mcp/servers", row.id, &view, &tag))
    }

    pub(super) async fn put_server(&self, call: &Call<'_>) -> Result<Response<Bytes>, Problem> {
        let mut value = json_body(call.headers(), call.body())?;
        let reference = call.parameter(0);
        named_by_path(&mut value, reference)?;
        let precondition = Precondition::of(call.headers())?;
        let put = self.write_server(reference, Write::Whole(&value), precondition, call).await?;
        self.taken_up().await;
        let (view, tag) = self.seen_server(&put.row);
        Ok(match put.outcome {
            Outcome::Create => created("/api/v1/mcp/servers", put.row.id, &view, &tag),
            Outcome::Replace | Outcome::Keep => tagged(StatusCode::OK, &view, &tag),
        })
    }

    pub(super) async fn patch_server(&self, call: &Call<'_>) -> Result<Response<Bytes>, Problem> {
        let mut patch = json_body(call.headers(), call.body())?;
        check_patch(&patch)?;
        lower_header_names(&mut patch);
        let precondition = Precondition::of(call.headers())?;
        let put = self.write_server(call.parameter(0), Write::Patch(&patch), precondition, call).await?;
        self.taken_up().await;
        let (view, tag) = self.seen_server(&put.row);
        Ok(tagged(StatusCode::OK, &view, &tag))
    }

    pub(super) async fn delete_server(&self, call: &Call<'_>) -> Result<Response<Bytes>, Problem> {
        let precondition = Precondition::of(call.headers())?;
        for _ in 0..TRIES {
            let row = self.server_row(call.parameter(0)).await?;
            let expect = precondition.check(Some((Tag::of_server(&row), row.version)))?;
            match self.parts.store.delete_server(row.id, expect, call.audit()).await {
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

    /// Writes until nobody else has written in between, or the precondition does not hold.
    pub(super) async fn write_server(
        &self,
        reference: &str,
        write: Write<'_>,
        precondition: Precondition<'_>,
        call: &Call<'_>,
    ) -> Result<Put<ServerRow>, Problem> {
        let store = &self.parts.store;
        for _ in 0..TRIES {
            let found = store.server(reference).await?;
            if found.is_none() && write.whole().is_none() {
                return Err(self.not_stored(reference));
            }
            let expect = precondition.check(found.as_ref().map(|row| (Tag::of_server(row), row.version)))?;
            let was_there = found.is_some();
            let written = if let Some(row) = found {
                let before = self.open(&row, write)?;
                let value = match &before {
                    Found::Closed(value) => Value::clone(value),
                    Found::Invalid | Found::Whole(_) => write.merged(server_document(&row)),
                };
                let before = before.server();
                let server = Server::read(&value, before.as_ref(), &self.rules).map_err(unprocessable)?;
                self.check_prefixes(&server, Some(&row)).await?;
                store.replace_server(row.id, expect, server.spec(), call.audit()).await.map(|new| {
                    let outcome = if new.version == row.version { Outcome::Keep } else { Outcome::Replace };
                    Put { outcome, row: new }
                })
            } else {
                let value = write.whole().ok_or_else(|| Problem::not_found("server"))?;
                let server = Server::read(value, None, &self.rules).map_err(unprocessable)?;
                check_makeable(reference, "server")?;
                self.check_prefixes(&server, None).await?;
                self.insert_server(&server, call).await.map(|row| Put { outcome: Outcome::Create, row })
            };
            match written {
                // Another one was faster. It is looked at again, unless that is what was not to happen.
                Err(StoreError::Conflict) if precondition == Precondition::None => {}
                Err(StoreError::Exists { .. }) if was_there => return Err(taken("server", "another name")),
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

    async fn insert_server(&self, server: &Server, call: &Call<'_>) -> Result<ServerRow, StoreError> {
        let row = self.parts.store.insert_server(new_id(), server.spec(), call.audit()).await?;
        self.note_change();
        Ok(row)
    }

    /// What is stored. Of what was altered nothing is built on: only the whole of it, written anew, takes its place.
    fn open<'a>(&self, row: &ServerRow, write: Write<'a>) -> Result<Found<'a>, StoreError> {
        match Server::from_row(row, self.parts.auth.sealer()) {
            Ok(server) => Ok(Found::Whole(Box::new(server))),
            Err(error) => {
                tracing::warn!(%error, "a stored server is written anew");
                match error {
                    Unreadable::Invalid(..) => Ok(Found::Invalid),
                    Unreadable::Closed(_) => {
                        write.whole().map(Found::Closed).ok_or(StoreError::Closed("server"))
                    }
                }
            }
        }
    }

    /// A stored server, by UUID or name.
    pub(super) async fn server_row(&self, reference: &str) -> Result<ServerRow, Problem> {
        self.parts.store.server(reference).await?.ok_or_else(|| self.not_stored(reference))
    }

    /// As it is shown, and its ETag.
    fn seen_server(&self, row: &ServerRow) -> (Value, String) {
        let view = self.server_view(row);
        let tag = Tag::of_server(row).with(&view);
        (view, tag)
    }

    fn server_view(&self, row: &ServerRow) -> Value {
        let mut view = server_document(row);
        view["source"] = json!(Source::Store);
        let (standing, topology) = (self.standing(), self.topology());
        show_row(&mut view, &standing, row.id, [row.version, row.created_at, row.changed_at]);
        let mut upstreams = topology.upstreams().filter(|_| standing.serves(row.id));
        if let Some(upstream) = upstreams.find(|upstream| upstream.name().as_str() == row.name) {
            view["condition"] = json!(ServerCondition::new(upstream.condition(), true));
            if let Some(vetting) = ServerVetting::new(self.parts.catalog.vetting().vetted(&row.name)) {
                view["vetting"] = json!(vetting);
            }
        }
        view
    }
}

impl<'a> Write<'a> {
    /// What is to be there in place of `stored`.
    pub fn merged(self, mut stored: Value) -> Value {
        match self {
            Self::Whole(value) => value.clone(),
            Self::Patch(patch) => {
                merge_patch(&mut stored, patch);
                stored
            }
            Self::Upsert(value) => upsert(stored, value),
        }
    }

    /// What is to be there where nothing is.
    pub fn whole(self) -> Option<&'a Value> {
        match self {
            Self::Whole(value) | Self::Upsert(value) => Some(value),
            Self::Patch(_) => None,
        }
    }
}

/// Headers are shown in lower case, and a patch has to meet them. Two that differ only by case are left to be told.
fn lower_header_names(patch: &mut Value) {
    let Some(headers) = patch.get_mut("headers").and_then(Value::as_object_mut) else { return };
    let names: Vec<String> = headers.keys().cloned().collect();
    for name in names {
        let lower = name.to_ascii_lowercase();
        if !headers.contains_key(&lower)
            && let Some(value) = headers.remove(&name)
        {
            headers.insert(lower, value);
        }
    }
}

/// 422 with every wrong field.
pub fn unprocessable(errors: Vec<FieldError>) -> Problem {
    Problem::fields(StatusCode::UNPROCESSABLE_ENTITY, errors)
}

/// Whoever puts something under its name need not say it again, and cannot say another one: sent twice, the second would
/// find nothing under the old one, or something else.
pub fn named_by_path(value: &mut Value, reference: &str) -> Result<(), Problem> {
    let Some(members) = value.as_object_mut().filter(|_| Uuid::parse_str(reference).is_err()) else {
        return Ok(());
    };
    let name = members.entry("name").or_insert_with(|| reference.into());
    // What is no name at all is told with all else that is wrong.
    if name.as_str().is_none_or(|name| name == reference) {
        Ok(())
    } else {
        Err(unprocessable(vec![FieldError::new("/name", OTHER_NAME)]))
    }
}

const OTHER_NAME: &str =
    "is not the name in the path; to rename it, PATCH {\"name\": ...}, or PUT to its id in place of its name";

/// Ids are given by the gateway: nothing is made under one that it does not know.
pub fn check_makeable(reference: &str, what: &str) -> Result<(), Problem> {
    if Uuid::parse_str(reference).is_ok() { Err(Problem::not_found(what)) } else { Ok(()) }
}

/// A patch that is no object would replace the whole.
pub fn check_patch(patch: &Value) -> Result<(), Problem> {
    if patch.is_object() {
        return Ok(());
    }
    Err(unprocessable(vec![FieldError::new(
        "",
        "is not an object; write the members to change, null to take one out",
    )]))
}

/// 409.
pub fn taken(what: &str, instead: &str) -> Problem {
    let detail = format!("is taken by another {what}; take {instead}");
    Problem::fields(StatusCode::CONFLICT, vec![FieldError::new("/name", detail)])
}

/// 201.
pub fn created(list: &str, id: Uuid, view: &Value, tag: &str) -> Response<Bytes> {
    let mut response = tagged(StatusCode::CREATED, view, tag);
    if let Ok(location) = HeaderValue::from_str(&format!("{list}/{id}")) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

/// 204.
pub fn no_content() -> Response<Bytes> {
    let mut response = ok(&json!(null));
    *response.status_mut() = StatusCode::NO_CONTENT;
    *response.body_mut() = Bytes::new();
    response.headers_mut().clear();
    response
}
