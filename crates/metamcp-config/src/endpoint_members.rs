//! Filters and overrides for the tools of an endpoint: `[endpoints.NAME.tools]`.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::mistakes::{Diagnostics, WithLocation};
use super::section::Section;
use super::servers::Servers;
use crate::sections::{EndpointMember, EndpointMembers, ToolOverride, ToolView};
use crate::server::tool_metadata::{
    check_description, check_listed_name, check_server_tool_name, check_title,
};
use metamcp_core::base::{Glob, ServerName};

/// Reads the members of an endpoint with their filters and overrides. `chosen` lists the servers of the
/// endpoint; `None` stands for every server, including stored ones, so filters cannot be given for them.
pub(super) fn read(
    endpoint: &Section<'_>,
    chosen: Option<Vec<ServerName>>,
    servers: &Servers,
    report: &Diagnostics,
) -> EndpointMembers {
    let tools = endpoint.named("tools");
    let Some(chosen) = chosen else {
        if let Some((_, section)) = tools.first() {
            report.mistake(
                section.place(),
                "is for one server, but the endpoint names none; name its servers: servers = [...]",
            );
        }
        for (_, section) in tools {
            read_server(section, report);
        }
        return EndpointMembers::All;
    };
    let mut members: Vec<EndpointMember> =
        chosen.into_iter().map(|server| EndpointMember { server, tool_view: None }).collect();
    for (written, section) in tools {
        let place = section.place().clone();
        let tool_view = read_server(section, report);
        let name = servers.known.get(written);
        match members.iter_mut().find(|member| name == Some(&Some(member.server.clone()))) {
            Some(member) => member.tool_view = tool_view,
            // The notice about the skipped server is given where `servers` names it.
            None if name == Some(&None) => {}
            None => {
                report.mistake(&place, "is no server of this endpoint; add it to servers, or leave this out");
            }
        }
    }
    EndpointMembers::Listed(members)
}

fn read_server(section: Section<'_>, report: &Diagnostics) -> Option<std::sync::Arc<ToolView>> {
    let globs = |key| -> Vec<Glob> {
        let mut globs = Vec::new();
        for WithLocation { value, place } in section.texts(key).unwrap_or_default() {
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
        if let Err(wrong) = check_server_tool_name(tool) {
            report.mistake(section.place(), wrong);
        }
        overrides.insert(tool.to_owned(), read_override(section, report));
    }
    section.finish();
    ToolView::new(allow, deny, overrides)
}

fn read_override(section: Section<'_>, report: &Diagnostics) -> ToolOverride {
    let text = |key, check: fn(&str) -> Result<(), String>| {
        let WithLocation { value, place } = section.text(key)?;
        check(value).map_err(|wrong| report.mistake(&place, wrong)).ok()?;
        Some(value.to_owned())
    };
    let instead = ToolOverride {
        name: text("name", check_listed_name),
        title: text("title", check_title),
        description: text("description", check_description),
        annotations: annotations(section.child("annotations"), report),
    };
    section.finish();
    instead
}

/// Reads the annotations of MCP (2026-07-28, `ToolAnnotations`).
fn annotations(section: Section<'_>, report: &Diagnostics) -> Option<Value> {
    let is_written = section.is_written();
    let mut members = Map::new();
    if let Some(WithLocation { value, place }) = section.text("title") {
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
