//! Imports an `mcpServers` file over REST.

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::json;

use super::authenticated_request::AuthenticatedRequest;
use super::control_plane::ControlPlane;
use super::problem::Problem;
use super::request::{Precondition, QueryReader, ok_response, text_body};
use super::servers::{DefinitionWrite, unprocessable};
use super::views::{ImportItem, ImportOutcome, ImportReport};
use metamcp_config::mcp_json::McpJsonEntry;
use metamcp_store::definition::import::{ImportAction, plan_import, read_entries};
use metamcp_store::store::Outcome;

impl ControlPlane {
    pub(super) async fn import(&self, call: &AuthenticatedRequest<'_>) -> Result<Response<Bytes>, Problem> {
        let mut query = QueryReader::new(call.query());
        let flag = |text: &str| text.parse::<bool>().ok();
        let replaces = query.keyword("replace", flag, "true, false").unwrap_or(false);
        query.finish()?;
        let entries = read_entries(text_body(call.headers(), call.body())?).map_err(unprocessable)?;
        let mut items = Vec::with_capacity(entries.len());
        for entry in entries {
            let name = entry.name.clone();
            match self.import_one(entry, replaces, call).await {
                Ok(item) => items.push(item),
                // The entries before it are already stored, so their outcome is reported.
                Err(problem) if !items.is_empty() => items.push(failed(name, problem)),
                Err(problem) => return Err(problem),
            }
        }
        self.wait_until_served().await;
        Ok(ok_response(&json!(ImportReport { items })))
    }

    /// Imports one server. An error is returned only if the other servers are likely to fail as well.
    async fn import_one(
        &self,
        entry: McpJsonEntry,
        replaces: bool,
        call: &AuthenticatedRequest<'_>,
    ) -> Result<ImportItem, Problem> {
        let (value, pointer) = match plan_import(&entry) {
            ImportAction::Define { value, pointer } => (value, pointer),
            ImportAction::Skip(why) => {
                return Ok(item(entry.name, ImportOutcome::Skip, Some(why.to_owned())));
            }
            ImportAction::Reject(errors) => return Ok(failed(entry.name, unprocessable(errors))),
        };
        let written = entry.name;
        let name = value["name"].as_str().unwrap_or_default().to_owned();
        let precondition = if replaces { Precondition::None } else { Precondition::Absent };
        match self.write_server(&name, DefinitionWrite::Upsert(&value), precondition, call).await {
            Ok(put) => {
                let outcome = match put.outcome {
                    Outcome::Create => ImportOutcome::Create,
                    Outcome::Replace => ImportOutcome::Replace,
                    Outcome::Keep => ImportOutcome::Keep,
                };
                let renamed = (name != written).then(|| {
                    format!("is stored as {name}, because the written name is not a valid server name")
                });
                Ok(ImportItem { id: Some(put.row.id.to_string()), ..item(written, outcome, renamed) })
            }
            Err(problem) if problem.status() == StatusCode::PRECONDITION_FAILED => {
                let detail = "a server of that name exists; import with ?replace=true to replace it";
                Ok(failed(written, Problem::new(StatusCode::CONFLICT, detail)))
            }
            Err(problem) if problem.status().is_client_error() => {
                Ok(failed(written, problem.below_pointer(&pointer)))
            }
            Err(problem) => Err(problem),
        }
    }
}

fn item(name: String, outcome: ImportOutcome, detail: Option<String>) -> ImportItem {
    ImportItem { name, outcome, id: None, detail, errors: Vec::new() }
}

fn failed(name: String, problem: Problem) -> ImportItem {
    let (detail, errors) = problem.into_parts();
    ImportItem { errors, ..item(name, ImportOutcome::Fail, Some(detail)) }
}
