//! The servers of an `mcpServers` file, over HTTP.

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::json;

use super::definition::mcp_json::{self, Entry, Kind, McpJson, Mistake};
use super::definition::{FieldError, below};
use super::problem::Problem;
use super::request::{Precondition, Query, ok, text_body};
use super::servers::{Write, unprocessable};
use super::views::{ImportItem, ImportOutcome, ImportReport};
use super::{Admin, Call};
use crate::store::Outcome;

/// Servers of one file.
const ENTRIES_MAX: usize = 1000;

impl Admin {
    pub(super) async fn import(&self, call: &Call<'_>) -> Result<Response<Bytes>, Problem> {
        let mut query = Query::new(call.query());
        let flag = |text: &str| text.parse::<bool>().ok();
        let replaces = query.word("replace", flag, "true, false").unwrap_or(false);
        query.finish()?;
        let McpJson { mistakes, entries } = mcp_json::parse(text_body(call.headers(), call.body())?);
        if entries.len() > ENTRIES_MAX {
            let detail = format!("has more than {ENTRIES_MAX} servers; send it in parts");
            return Err(unprocessable(vec![FieldError::new("", detail)]));
        }
        if !mistakes.is_empty() {
            return Err(unprocessable(mistakes.into_iter().map(field_error).collect()));
        }
        let mut items = Vec::with_capacity(entries.len());
        for entry in entries {
            items.push(self.import_one(entry, replaces, call).await?);
        }
        Ok(ok(&json!(ImportReport { items })))
    }

    /// One server; an error only when the others would fail as well.
    async fn import_one(&self, entry: Entry, replaces: bool, call: &Call<'_>) -> Result<ImportItem, Problem> {
        let Entry { name: written, path, kind } = entry;
        let (url, headers) = match kind {
            Err(mistakes) => {
                let errors = mistakes.into_iter().map(field_error).collect();
                return Ok(failed(written, unprocessable(errors)));
            }
            Ok(Kind::Skip(why)) => return Ok(item(written, ImportOutcome::Skip, Some(why.to_owned()))),
            Ok(Kind::Stdio { .. }) => {
                let why = "a program is not defined over the network; write it into the gateway's mcp.json";
                return Ok(item(written, ImportOutcome::Skip, Some(why.to_owned())));
            }
            Ok(Kind::Http { url, headers }) => (url, headers),
        };
        let pointer = path.iter().fold(String::new(), |pointer, key| below(&pointer, key));
        let errors = variables(&pointer, &url, &headers);
        if !errors.is_empty() {
            return Ok(failed(written, unprocessable(errors)));
        }
        let value = mcp_json::definition(&written, &url, headers);
        let name = value["name"].as_str().unwrap_or_default().to_owned();
        let precondition = if replaces { Precondition::None } else { Precondition::Absent };
        match self.write_server(&name, Write::Upsert(&value), precondition, call).await {
            Ok(put) => {
                let outcome = match put.outcome {
                    Outcome::Create => ImportOutcome::Create,
                    Outcome::Replace => ImportOutcome::Replace,
                    Outcome::Keep => ImportOutcome::Keep,
                };
                let renamed =
                    (name != written).then(|| format!("is stored as {name}, which is a server name"));
                Ok(ImportItem { id: Some(put.row.id.to_string()), ..item(written, outcome, renamed) })
            }
            Err(problem) if problem.status() == StatusCode::PRECONDITION_FAILED => {
                let detail = "there is a server of that name; import with ?replace=true to replace it";
                Ok(failed(written, Problem::new(StatusCode::CONFLICT, detail)))
            }
            Err(problem) if problem.status().is_client_error() => {
                Ok(failed(written, problem.under(&pointer)))
            }
            Err(problem) => Err(problem),
        }
    }
}

/// The environment of the gateway is not put into what somebody sends: it holds the gateway's own secrets.
fn variables(pointer: &str, url: &str, headers: &[(String, String)]) -> Vec<FieldError> {
    let detail = "names a variable (${...}), which is not put in here; write the value itself";
    let in_headers = headers.iter().filter(|(_, value)| value.contains("${"));
    let mut errors: Vec<_> = in_headers
        .map(|(name, _)| FieldError::new(below(&below(pointer, "headers"), name), detail))
        .collect();
    if url.contains("${") {
        errors.push(FieldError::new(below(pointer, "url"), detail));
    }
    errors
}

fn item(name: String, outcome: ImportOutcome, detail: Option<String>) -> ImportItem {
    ImportItem { name, outcome, id: None, detail, errors: Vec::new() }
}

fn failed(name: String, problem: Problem) -> ImportItem {
    let (detail, errors) = problem.into_parts();
    ImportItem { errors, ..item(name, ImportOutcome::Fail, Some(detail)) }
}

fn field_error(mistake: Mistake) -> FieldError {
    let pointer = mistake.path.iter().fold(String::new(), |pointer, key| below(&pointer, key));
    let line = mistake.line.map_or(String::new(), |line| format!(" (line {line})"));
    FieldError::new(pointer, mistake.text + &line)
}
