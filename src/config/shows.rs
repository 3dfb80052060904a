use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::mistakes::{Report, Written};
use super::section::Section;
use super::servers::Servers;
use crate::admin::definition::endpoint::{check_description, check_listed_name, check_own_name, check_title};
use crate::base::{Glob, ServerName};
use crate::route::{Member, Members, Override, Shows};

/// The servers of an endpoint, with what it says of their tools. `chosen`: those that were written, `None` for every
/// server, of which nothing can be said: nobody knows them all.
pub(super) fn read(
    endpoint: &Section<'_>,
    chosen: Option<Vec<ServerName>>,
    servers: &Servers,
    report: &Report,
) -> Members {
    let said = endpoint.named("tools");
    let Some(chosen) = chosen else {
        if let Some((_, section)) = said.first() {
            report
                .mistake(section.place(), "is of one of the endpoint's servers; name them: servers = [...]");
        }
        for (_, section) in said {
            read_server(section, report);
        }
        return Members::Every;
    };
    let mut members: Vec<Member> = chosen.into_iter().map(|server| Member { server, shows: None }).collect();
    for (written, section) in said {
        let place = section.place().clone();
        let shows = read_server(section, report);
        let name = servers.known.get(written);
        match members.iter_mut().find(|member| name == Some(&Some(member.server.clone()))) {
            Some(member) => member.shows = shows,
            // That it was skipped is said where the endpoint names it.
            None if name == Some(&None) => {}
            None => {
                report.mistake(&place, "is no server of this endpoint; add it to servers, or leave this out");
            }
        }
    }
    Members::These(members)
}

fn read_server(section: Section<'_>, report: &Report) -> Option<std::sync::Arc<Shows>> {
    let globs = |key| -> Vec<Glob> {
        let mut globs = Vec::new();
        for Written { value, place } in section.texts(key).unwrap_or_default() {
            match Glob::new(value) {
                Ok(glob) => globs.push(glob),
                Err(invalid) => report.mistake(&place, invalid.to_string()),
            }
        }
        globs
    };
    let (allow, deny) = (globs("allow"), globs("deny"));
    let mut overrides = BTreeMap::new();
    for (tool, section) in section.named("overrides") {
        if let Err(wrong) = check_own_name(tool) {
            report.mistake(section.place(), wrong);
        }
        overrides.insert(tool.to_owned(), read_override(section, report));
    }
    section.finish();
    Shows::new(allow, deny, overrides)
}

fn read_override(section: Section<'_>, report: &Report) -> Override {
    let text = |key, check: fn(&str) -> Result<(), String>| {
        let Written { value, place } = section.text(key)?;
        check(value).map_err(|wrong| report.mistake(&place, wrong)).ok()?;
        Some(value.to_owned())
    };
    let instead = Override {
        name: text("name", check_listed_name),
        title: text("title", check_title),
        description: text("description", check_description),
        annotations: annotations(section.child("annotations"), report),
    };
    section.finish();
    instead
}

/// Those that MCP has (2026-07-28, `ToolAnnotations`).
fn annotations(section: Section<'_>, report: &Report) -> Option<Value> {
    let is_written = section.is_written();
    let mut members = Map::new();
    if let Some(Written { value, place }) = section.text("title") {
        match check_title(value) {
            Ok(()) => drop(members.insert("title".to_owned(), value.into())),
            Err(wrong) => report.mistake(&place, wrong),
        }
    }
    for key in HINTS {
        if let Some(flag) = section.flag(key) {
            members.insert(key.to_owned(), flag.into());
        }
    }
    section.finish();
    is_written.then_some(Value::Object(members))
}

const HINTS: [&str; 4] = ["readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint"];
