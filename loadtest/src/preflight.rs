//! Before the load: is it there, does it take the key, what are its tools called, does it answer each question
//! rightly. So a mistake in an address is one sentence and not a million errors.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::answer::{Expected, Wrong};
use crate::client::{Client, Target};
use crate::message::{self, Template};
use crate::scenario::{Ask, Era, Ids, Operation, Scenario};

/// A server with more pages has other problems.
const PAGES_MAX: usize = 100;

/// More names are not looked through; the tool that is meant may be written whole.
const NAMES_MAX: usize = 100_000;

/// Names in one sentence.
const NAMES_SHOWN_MAX: usize = 20;

/// Asks each question once in each era; gives the scenario with the names that tools have there.
pub async fn preflight(target: &Arc<Target>, mut scenario: Scenario) -> Result<Scenario, String> {
    let first = scenario.era.of(0);
    let mut client = Client::new(Arc::clone(target), first);
    let failed = |what: &str, wrong: &Wrong| {
        let text = target.without_key(&format!("{what}: {}: {}", wrong.kind, wrong.detail));
        format!("{text}{}", advice(wrong))
    };
    client.open().await.map_err(|wrong| failed("connecting", &wrong))?;
    let calls_tools = scenario.operations.iter().any(|operation| matches!(operation.ask, Ask::Tool(_)));
    if calls_tools && scenario.load.ids == Ids::Unique {
        let tools = tools(&mut client, first).await.map_err(|wrong| failed("tools/list", &wrong))?;
        resolve(&mut scenario.operations, &tools)?;
    }
    drop(client.close().await);
    // Connections 0 and 1 are of both eras, if there are two.
    let eras = [scenario.era.of(0), scenario.era.of(1)];
    for era in if eras[0] == eras[1] { &eras[..1] } else { &eras[..] } {
        let mut client = Client::new(Arc::clone(target), *era);
        for operation in &scenario.operations {
            let name = format!("{} ({era:?})", operation.name);
            let template = Template::of(operation, *era);
            let expected =
                Expected { id: 1, canary: message::canary(0, 0), checks: operation.checks, era: *era };
            client.call(&template, expected).await.map_err(|wrong| failed(&name, &wrong))?;
        }
        drop(client.close().await);
    }
    Ok(scenario)
}

fn advice(wrong: &Wrong) -> &'static str {
    use crate::answer::Kind::{Connect, Status};
    match wrong.kind {
        Connect if wrong.detail.contains("certificate") => {
            "\nIs its certificate signed by an authority that this machine does not know? Name it: --ca FILE"
        }
        Connect => "\nIs it running, and is this its address?",
        Status(401 | 403) => {
            "\nGive a key that it takes: --key-file FILE, or METAMCP_KEY in the environment."
        }
        Status(404 | 405) => "\nIs this the path of an MCP endpoint, as in http://127.0.0.1:12009/mcp?",
        Status(400) => "\nDoes it speak this era? Try the other: --era legacy, or --era modern.",
        _ => "",
    }
}

/// The names of all tools.
async fn tools(client: &mut Client, era: Era) -> Result<BTreeSet<String>, Wrong> {
    use crate::answer::Kind::{Malformed, Rpc};
    let mut names = BTreeSet::new();
    let mut cursor: Option<Value> = None;
    for _ in 0..PAGES_MAX {
        let params: Map<_, _> =
            cursor.take().map(|cursor| ("cursor".to_owned(), cursor)).into_iter().collect();
        let template = Template::new(era, "tools/list", None, params, None);
        let answer = last_message(client.ask(&template, 1).await?);
        let answer: Value = serde_json::from_slice(&answer)
            .map_err(|error| Wrong::with(Malformed, &error.to_string(), &answer))?;
        if let Some(code) = answer["error"]["code"].as_i64() {
            return Err(Wrong::new(Rpc(code), answer["error"]["message"].to_string()));
        }
        let tools = answer["result"]["tools"].as_array().into_iter().flatten();
        names.extend(tools.filter_map(|tool| tool["name"].as_str().map(str::to_owned)));
        match answer["result"].get("nextCursor") {
            Some(next) if !next.is_null() && names.len() < NAMES_MAX => cursor = Some(next.clone()),
            _ => break,
        }
    }
    Ok(names)
}

/// The data of the last event, if it is a stream.
fn last_message(body: Vec<u8>) -> Vec<u8> {
    if body.first() == Some(&b'{') {
        return body;
    }
    let mut last = Vec::new();
    let keep = |data: &[u8]| {
        last = data.to_vec();
        Ok(())
    };
    // One that is no stream leaves nothing, which is then said to be malformed.
    drop(crate::sse::Events::default().feed(&body, keep));
    last
}

/// A tool is called by the name that is written, or by the only one that ends in `__` and that name, as gateways
/// make them.
fn resolve(operations: &mut [Operation], tools: &BTreeSet<String>) -> Result<(), String> {
    for operation in operations {
        let Ask::Tool(name) = &mut operation.ask else { continue };
        if tools.contains(name.as_str()) {
            continue;
        }
        let suffix = format!("__{name}");
        let found: Vec<_> = tools.iter().filter(|tool| tool.ends_with(&suffix)).collect();
        let shown = |names: &mut dyn Iterator<Item = &String>| {
            names.take(NAMES_SHOWN_MAX).map(String::as_str).collect::<Vec<_>>().join(", ")
        };
        match found[..] {
            [only] => {
                operation.params.insert("name".to_owned(), only.as_str().into());
                name.clone_from(only);
            }
            [] => {
                let there = shown(&mut tools.iter());
                return Err(format!("there is no tool {name} here; write one of these: {there}"));
            }
            _ => {
                let there = shown(&mut found.into_iter());
                return Err(format!(
                    "{name} could be any of {there}; write the whole name into the scenario"
                ));
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
        let found = resolve(&mut operations, &tools).map(|()| match &operations[0].ask {
            Ask::Tool(name) => {
                assert_eq!(operations[0].params["name"], name.as_str());
                name.clone()
            }
            other => panic!("{other:?}"),
        });
        assert_eq!(found, expected.map(str::to_owned).map_err(str::to_owned));
    }

    #[test]
    fn names_behind_a_gateway_are_found() {
        check("echo", &["echo", "a__echo", "b__echo"], Ok("echo"));
        check("echo", &["a__echo", "a__echoes"], Ok("a__echo"));
        check("echo", &["b"], Err("there is no tool echo here; write one of these: b"));
        let both = "echo could be any of a__echo, b__echo; write the whole name into the scenario";
        check("echo", &["a__echo", "b__echo"], Err(both));
    }
}
