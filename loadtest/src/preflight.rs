//! Checks before the load: that the target is reachable, accepts the key, has the tools, and responds correctly to each
//! operation. A wrong address is then one message instead of a million errors.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::client::{Client, Target};
use crate::error::{ErrorKind, RequestError};
use crate::message::{self, RequestTemplate};
use crate::response::ExpectedResponse;
use crate::scenario::{Era, Operation, RequestIds, RequestKind, Scenario};
use crate::sse::EventParser;

/// Pages of `tools/list` that are read.
const PAGES_MAX: usize = 100;

/// Tool names that are searched. Beyond it, write the full name of the tool into the scenario.
const NAMES_MAX: usize = 100_000;

/// Names in one error message.
const NAMES_SHOWN_MAX: usize = 20;

/// Sends each operation once per era. Returns the scenario with the tool names of the target.
pub async fn preflight(target: &Arc<Target>, mut scenario: Scenario) -> Result<Scenario, String> {
    let first_era = scenario.era.era_of(0);
    let mut client = Client::new(Arc::clone(target), first_era);
    let failed = |step: &str, error: &RequestError| {
        let text = target.redact(&format!("{step}: {}: {}", error.kind, error.detail));
        format!("{text}{}", advice(error))
    };
    client.open().await.map_err(|error| failed("connecting", &error))?;
    let calls_tools =
        scenario.operations.iter().any(|operation| matches!(operation.request, RequestKind::Tool(_)));
    if calls_tools && scenario.load.ids == RequestIds::Unique {
        let tools = list_tools(&mut client, first_era).await.map_err(|error| failed("tools/list", &error))?;
        resolve_tool_names(&mut scenario.operations, &tools)?;
    }
    drop(client.close().await);
    // Connections 0 and 1 have different eras if both are selected.
    let eras = [scenario.era.era_of(0), scenario.era.era_of(1)];
    for era in if eras[0] == eras[1] { &eras[..1] } else { &eras[..] } {
        let mut client = Client::new(Arc::clone(target), *era);
        for operation in &scenario.operations {
            let name = format!("{} ({era:?})", operation.name);
            let template = RequestTemplate::for_operation(operation, *era);
            let expected = ExpectedResponse {
                id: 1,
                canary: message::canary(0, 0),
                checks: operation.checks,
                era: *era,
            };
            client.call(&template, expected).await.map_err(|error| failed(&name, &error))?;
        }
        drop(client.close().await);
    }
    Ok(scenario)
}

fn advice(error: &RequestError) -> &'static str {
    use ErrorKind::{Connect, Status};
    match error.kind {
        Connect if error.detail.contains("certificate") => {
            "\nIf its certificate is signed by a private authority, pass the authority's certificate: --ca FILE"
        }
        Connect => "\nIs it running, and is this its address?",
        Status(401 | 403) => "\nPass a valid key: --key-file FILE, or METAMCP_KEY in the environment.",
        Status(404 | 405) => "\nIs this the path of an MCP endpoint, as in http://127.0.0.1:12009/mcp?",
        Status(400) => "\nIt may not support this era. Try the other one: --era legacy, or --era modern.",
        _ => "",
    }
}

/// Returns the names of all tools.
async fn list_tools(client: &mut Client, era: Era) -> Result<BTreeSet<String>, RequestError> {
    use ErrorKind::{Malformed, Rpc};
    let mut names = BTreeSet::new();
    let mut cursor: Option<Value> = None;
    for _ in 0..PAGES_MAX {
        let params: Map<_, _> =
            cursor.take().map(|cursor| ("cursor".to_owned(), cursor)).into_iter().collect();
        let template = RequestTemplate::new(era, "tools/list", None, params, None);
        let body = last_message(client.fetch(&template, 1).await?);
        let response: Value = serde_json::from_slice(&body)
            .map_err(|error| RequestError::with_excerpt(Malformed, &error.to_string(), &body))?;
        if let Some(code) = response["error"]["code"].as_i64() {
            return Err(RequestError::new(Rpc(code), response["error"]["message"].to_string()));
        }
        let tools = response["result"]["tools"].as_array().into_iter().flatten();
        names.extend(tools.filter_map(|tool| tool["name"].as_str().map(str::to_owned)));
        match response["result"].get("nextCursor") {
            Some(next) if !next.is_null() && names.len() < NAMES_MAX => cursor = Some(next.clone()),
            _ => break,
        }
    }
    Ok(names)
}

/// Returns the data of the last event if the body is an event stream.
fn last_message(body: Vec<u8>) -> Vec<u8> {
    if body.first() == Some(&b'{') {
        return body;
    }
    let mut last = Vec::new();
    let keep = |data: &[u8]| {
        last = data.to_vec();
        Ok(())
    };
    // Any other body leaves no data, which the caller reports as malformed.
    drop(EventParser::default().feed(&body, keep));
    last
}

/// Replaces the name of a tool by the only name that ends in `__` and that name, as gateways prefix them. An exact match
/// takes precedence.
fn resolve_tool_names(operations: &mut [Operation], tools: &BTreeSet<String>) -> Result<(), String> {
    for operation in operations {
        let RequestKind::Tool(name) = &mut operation.request else { continue };
        if tools.contains(name.as_str()) {
            continue;
        }
        let suffix = format!("__{name}");
        let matches: Vec<_> = tools.iter().filter(|tool| tool.ends_with(&suffix)).collect();
        let list = |names: &mut dyn Iterator<Item = &String>| {
            names.take(NAMES_SHOWN_MAX).map(String::as_str).collect::<Vec<_>>().join(", ")
        };
        match matches[..] {
            [only] => {
                operation.params.insert("name".to_owned(), only.as_str().into());
                name.clone_from(only);
            }
            [] => {
                let names = list(&mut tools.iter());
                return Err(format!("the target has no tool {name}; write one of: {names}"));
            }
            _ => {
                let names = list(&mut matches.into_iter());
                return Err(format!("{name} could be any of {names}; write the full name into the scenario"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, tools: &[&str], expected: Result<&str, &str>) {
        let text = format!("name = \"x\"\n[[calls]]\ntool = {name:?}\n");
        let mut operations = Scenario::parse("s", &text).unwrap().operations;
        let tools = tools.iter().map(|tool| (*tool).to_owned()).collect();
        let found = resolve_tool_names(&mut operations, &tools).map(|()| match &operations[0].request {
            RequestKind::Tool(name) => {
                assert_eq!(operations[0].params["name"], name.as_str());
                name.clone()
            }
            other => panic!("{other:?}"),
        });
        assert_eq!(found, expected.map(str::to_owned).map_err(str::to_owned));
    }

    #[test]
    fn prefixed_names_are_resolved() {
        check("echo", &["echo", "a__echo", "b__echo"], Ok("echo"));
        check("echo", &["a__echo", "a__echoes"], Ok("a__echo"));
        check("echo", &["b"], Err("the target has no tool echo; write one of: b"));
        let both = "echo could be any of a__echo, b__echo; write the full name into the scenario";
        check("echo", &["a__echo", "b__echo"], Err(both));
    }
}
