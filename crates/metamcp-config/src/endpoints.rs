//! The `[endpoints]` section.

use std::collections::BTreeSet;

use super::endpoint_members;
use super::mistakes::{Diagnostics, WithLocation};
use super::section::Section;
use super::servers::Servers;
use super::suggest::suggest;
use crate::sections::{EndpointConfig, NamePrefix};
use metamcp_core::base::{EndpointName, ServerName};

/// Reads the endpoints, in the order of the file. An endpoint without a list of servers has every server.
pub(super) fn read(root: &Section<'_>, servers: &Servers, report: &Diagnostics) -> Vec<EndpointConfig> {
    let mut endpoints = Vec::new();
    for (written, section) in root.named("endpoints") {
        let list = section.texts("servers");
        let prefixes = [("always", NamePrefix::Always), ("never", NamePrefix::Never)];
        let prefix = section.word("prefix", &prefixes, NamePrefix::Always);
        match EndpointName::new(written) {
            Ok(name) => {
                let chosen = list.map(|list| choose(&list, servers, report));
                let servers = endpoint_members::read(&section, chosen, servers, report);
                endpoints.push(EndpointConfig { name, servers, prefix });
            }
            Err(invalid) => report.mistake(section.place(), invalid.to_string()),
        }
        section.finish();
    }
    endpoints
}

fn choose(list: &[WithLocation<&str>], servers: &Servers, report: &Diagnostics) -> Vec<ServerName> {
    let mut chosen: Vec<ServerName> = Vec::with_capacity(list.len());
    for WithLocation { value, place } in list {
        match servers.known.get(*value) {
            Some(Some(name)) if chosen.contains(name) => {
                report.mistake(place, format!("{name} is there twice"));
            }
            Some(Some(name)) => chosen.push(name.clone()),
            Some(None) => report.notice(place, "one of its servers was skipped, and is missing here"),
            None => {
                let known: BTreeSet<&str> = servers.known.keys().map(String::as_str).collect();
                report
                    .mistake(place, format!("names a server that is not there; {}", suggest(value, &known)));
            }
        }
    }
    chosen
}
