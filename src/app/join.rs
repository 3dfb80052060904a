//! What is to be served: what the files say and what the store says, as one.
//!
//! A name that both have is the files': whoever can write them decides on this machine. What cannot be read is left out
//! and named, and takes nothing with it. A filter that cannot be read leaves its endpoint out: shown without it, it would
//! show what it was to hide.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::admin::definition::endpoint::{check_annotations, check_listed_name};
use crate::admin::definition::{Server, Serving};
use crate::admin::{Stand, Standing};
use crate::auth::Sealer;
use crate::base::{EndpointName, Glob, ServerName};
use crate::config::Config;
use crate::route::{EndpointConfig, Member, Members, Override, Prefix, Shows};
use crate::store::{Binder, Bound, EndpointRow, EndpointServer, PrefixMode, ServerRow, Uuid};
use crate::topology::{Topology, TopologyError};
use crate::upstream;

/// What the files say.
#[derive(Debug, Clone, Default)]
pub struct Files {
    pub servers: Vec<upstream::Config>,
    pub endpoints: Vec<EndpointConfig>,
    /// Served while there is nothing else.
    pub stand_in: Option<upstream::Config>,
}

/// What the store says.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Stored {
    pub servers: Vec<ServerRow>,
    pub endpoints: Vec<EndpointRow>,
}

impl Stored {
    /// With the rows of `before` in place of those that were only sealed anew, by a version of `ENCRYPTION_KEY` that this
    /// process will get with its next start: what they say is known, and so is what was sealed in them.
    #[must_use]
    pub fn with_known(mut self, before: Option<&Self>, sealer: &Sealer) -> Self {
        let Some(before) = before else { return self };
        let is_foreign = |bound: Bound<'_>| !sealer.knows(bound.sealed().1);
        for row in self.servers.iter_mut().filter(|row| is_foreign(Bound::Server(row))) {
            let same =
                |known: &&ServerRow| ServerRow { secrets: row.secrets.clone(), ..(*known).clone() } == *row;
            if let Some(known) = before.servers.iter().find(same) {
                *row = known.clone();
            }
        }
        for row in self.endpoints.iter_mut().filter(|row| is_foreign(Bound::Endpoint(row))) {
            let same =
                |known: &&EndpointRow| EndpointRow { seal: row.seal.clone(), ..(*known).clone() } == *row;
            if let Some(known) = before.endpoints.iter().find(same) {
                *row = known.clone();
            }
        }
        self
    }
}

/// How rows are read.
#[derive(Clone, Copy)]
pub struct Reading<'a> {
    /// Opens secrets.
    pub sealer: &'a Sealer,
    /// What is done for them here.
    pub serving: &'a Serving,
}

/// What is to be served, and what becomes of every row.
#[derive(Debug, Default, PartialEq)]
pub struct Joined {
    pub servers: Vec<upstream::Config>,
    pub endpoints: Vec<EndpointConfig>,
    rows: Vec<Verdict>,
    /// Those of the files.
    of_files: Vec<ServerName>,
    /// What else is not served as it was asked for.
    missed: Vec<String>,
}

/// The servers of rows.
#[derive(Default)]
struct Names {
    /// What they are called, unless they are switched off.
    served: HashMap<Uuid, ServerName>,
    /// Those in whose place one of the files is served.
    shadowed: HashMap<Uuid, String>,
    /// Those that are left out, and why.
    left_out: HashMap<Uuid, String>,
}

#[derive(Debug, PartialEq)]
struct Verdict {
    id: Uuid,
    version: u64,
    what: What,
    outcome: Outcome,
}

/// Servers by name, since whether one can be connected to is only known later.
#[derive(Debug, PartialEq)]
enum What {
    Server(Option<ServerName>),
    Endpoint,
}

#[derive(Debug, PartialEq)]
enum Outcome {
    Serve,
    /// As it is wanted.
    Rest,
    LeaveOut(String),
}

/// For administration, of an endpoint that does not open.
const CLOSED: &str = "it was altered outside of keyadm and the gateway, sealed under another ENCRYPTION_KEY, or made before \
                      rows were bound to one: give the version that sealed it, or write the whole of it anew (PUT), or \
                      remove it (`keyadm endpoints remove`)";

/// For administration, of a server that is switched off.
const DISABLED: &str = "it is disabled";

impl From<&Config> for Files {
    fn from(config: &Config) -> Self {
        Self {
            servers: config.servers.clone(),
            endpoints: config.endpoints.clone(),
            stand_in: config.stand_in.clone(),
        }
    }
}

/// For administration, while it is not known what there is.
const UNREAD: &str = "servers and endpoints of the store could not be read yet: none of them is served, nor is an \
                      endpoint `default` made of every server, for the store may have one that shows less";

/// Puts both together; `None`: what the store says is not known, which is not the same as nothing. A server's place in lists is that of the files first, then by name.
pub fn join(files: &Files, stored: Option<&Stored>, reading: Reading<'_>) -> Joined {
    let of_files = files.servers.iter().map(|server| server.name.clone()).collect();
    let mut joined = Joined { servers: files.servers.clone(), of_files, ..Joined::default() };
    let Some(stored) = stored else {
        joined.endpoints.clone_from(&files.endpoints);
        joined.missed.push(UNREAD.to_owned());
        return joined;
    };
    let mut names = Names::default();
    let of_files: HashSet<&ServerName> = files.servers.iter().map(|server| &server.name).collect();
    for row in &stored.servers {
        let name = ServerName::new(&row.name).ok();
        let is_of_files = name.as_ref().is_some_and(|name| of_files.contains(name));
        let outcome = if is_of_files {
            Outcome::LeaveOut(in_files("server", &row.name))
        } else {
            match read_server(row, reading) {
                Ok(Some(server)) => {
                    joined.servers.push(server);
                    Outcome::Serve
                }
                Ok(None) => Outcome::Rest,
                Err(why) => {
                    let told = format!("server `{}` of the store is left out: {why}", row.name);
                    names.left_out.insert(row.id, format!("server `{}`: {why}", row.name));
                    Outcome::LeaveOut(told)
                }
            }
        };
        if is_of_files {
            names.shadowed.insert(row.id, row.name.clone());
        } else if let Some(name) = name.clone().filter(|_| outcome == Outcome::Serve) {
            names.served.insert(row.id, name);
        }
        joined.rows.push(Verdict { id: row.id, version: row.version, what: What::Server(name), outcome });
    }
    if joined.servers.is_empty() {
        joined.servers.extend(files.stand_in.clone());
    }
    join_endpoints(files, stored, (&names, reading), &mut joined);
    joined
}

fn join_endpoints(
    files: &Files,
    stored: &Stored,
    (names, reading): (&Names, Reading<'_>),
    joined: &mut Joined,
) {
    joined.endpoints.clone_from(&files.endpoints);
    let mut defined: HashSet<&str> = files.endpoints.iter().map(|endpoint| endpoint.name.as_str()).collect();
    for row in &stored.endpoints {
        let outcome = if defined.insert(&row.name) {
            match read_endpoint(row, &names.served, reading) {
                Ok(endpoint) => {
                    let shadowed = row.servers.iter().filter_map(|of| names.shadowed.get(&of.server_id));
                    joined.missed.extend(shadowed.map(|server| without_shadowed(&row.name, server)));
                    let left_out = row.servers.iter().filter_map(|of| names.left_out.get(&of.server_id));
                    let without =
                        |why| format!("endpoint `{}` of the store is served without {why}", row.name);
                    joined.missed.extend(left_out.map(without));
                    joined.endpoints.push(endpoint);
                    Outcome::Serve
                }
                Err(why) => {
                    Outcome::LeaveOut(format!("endpoint `{}` of the store is left out: {why}", row.name))
                }
            }
        } else {
            Outcome::LeaveOut(in_files("endpoint", &row.name))
        };
        joined.rows.push(Verdict { id: row.id, version: row.version, what: What::Endpoint, outcome });
    }
    // One that is defined and cannot be read is not made up for: it may be there to show less.
    if !defined.contains(EndpointName::DEFAULT)
        && let Ok(name) = EndpointName::new(EndpointName::DEFAULT)
    {
        joined.endpoints.insert(0, EndpointConfig { name, servers: Members::Every, prefix: Prefix::Always });
    }
}

fn in_files(what: &str, name: &str) -> String {
    format!(
        "{what} `{name}` of the store is left out: metamcp.toml or mcp.json has one of that name, which is served"
    )
}

/// What an endpoint says of a server's tools was not written for another one.
fn without_shadowed(endpoint: &str, server: &str) -> String {
    format!(
        "endpoint `{endpoint}` of the store is served without server `{server}`: metamcp.toml or mcp.json has another \
         one of that name"
    )
}

/// `None`: it is switched off.
fn read_server(row: &ServerRow, reading: Reading<'_>) -> Result<Option<upstream::Config>, String> {
    let server = Server::from_row(row, reading.sealer).map_err(|error| error.to_string())?;
    if !server.is_enabled() {
        return Ok(None);
    }
    server.upstream(reading.serving).map(Some).map_err(|unserved| unserved.to_string())
}

fn read_endpoint(
    row: &EndpointRow,
    names: &HashMap<Uuid, ServerName>,
    reading: Reading<'_>,
) -> Result<EndpointConfig, String> {
    if reading.sealer.open_row(Bound::Endpoint(row)).is_none() {
        return Err(CLOSED.to_owned());
    }
    let name = EndpointName::new(&row.name).map_err(|invalid| invalid.to_string())?;
    let prefix = match row.prefix {
        PrefixMode::Always => Prefix::Always,
        PrefixMode::Never => Prefix::Never,
    };
    let mut members = Vec::with_capacity(row.servers.len());
    for of in &row.servers {
        let shows = read_shows(of)?;
        // One that was deleted a moment ago, or is switched off, is not missed.
        if let Some(server) = names.get(&of.server_id).cloned() {
            members.push(Member { server, shows });
        }
    }
    Ok(EndpointConfig { name, servers: Members::These(members), prefix })
}

fn read_shows(of: &EndpointServer) -> Result<Option<std::sync::Arc<Shows>>, String> {
    let globs = |texts: &[String]| {
        texts.iter().map(|text| Glob::new(text).map_err(|invalid| invalid.to_string())).collect()
    };
    let (allow, deny): (Result<Vec<_>, _>, Result<Vec<_>, _>) = (globs(&of.allow), globs(&of.deny));
    let mut overrides = BTreeMap::new();
    for instead in &of.overrides {
        // Other programs store an empty one where there is none.
        let name = instead.name.clone().filter(|name| !name.is_empty());
        let wrong =
            |what: &str, why: String| format!("{what} of an override of tool {:?} {why}", instead.tool);
        name.as_deref().map_or(Ok(()), check_listed_name).map_err(|why| wrong("the name", why))?;
        let annotations = instead.annotations.as_ref();
        annotations
            .map_or(Ok(()), check_annotations)
            .map_err(|why| wrong("the member `annotations`", why))?;
        let told = Override {
            name,
            title: instead.title.clone(),
            description: instead.description.clone(),
            annotations: instead.annotations.clone(),
        };
        if told != Override::default() {
            overrides.insert(instead.tool.clone(), told);
        }
    }
    Ok(Shows::new(allow?, deny?, overrides))
}

impl Joined {
    /// What became of every row in the version that was made of this. `changes`: see [`Standing::changes`].
    pub fn standing(&self, topology: &Topology, changes: u64) -> Standing {
        let mut left_out = Vec::new();
        let mut rows = HashMap::with_capacity(self.rows.len());
        for Verdict { id, version, what, outcome } in &self.rows {
            let served = match outcome {
                Outcome::Serve => what.refused_by(topology),
                Outcome::Rest => Err(DISABLED.to_owned()),
                Outcome::LeaveOut(why) => {
                    left_out.push(why.clone());
                    Err(why.clone())
                }
            };
            rows.insert(*id, Stand { version: *version, served });
        }
        left_out.extend(self.missed.iter().cloned());
        Standing::new(changes, self.of_files.clone(), left_out, rows)
    }
}

impl What {
    /// Why it is not in a version that was asked to serve it, when it is not. The version itself says so aloud.
    fn refused_by(&self, topology: &Topology) -> Result<(), String> {
        let Self::Server(Some(name)) = self else { return Ok(()) };
        let about = |error: &&TopologyError| match error {
            TopologyError::Target { server, .. } | TopologyError::AliasTaken { server, .. } => server == name,
            _ => false,
        };
        topology.left_out.iter().find(about).map_or(Ok(()), |error| Err(error.to_string()))
    }
}

#[cfg(test)]
mod tests;
