//! What is to be served: what the files say and what the store says, as one.
//!
//! A name that both have is the files': whoever can write them decides on this machine. What cannot be read is left out
//! and named, and takes nothing with it. A filter that cannot be read leaves its endpoint out: shown without it, it would
//! show what it was to hide.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::admin::definition::Server;
use crate::admin::{Stand, Standing};
use crate::auth::Sealer;
use crate::backend;
use crate::base::{EndpointName, Glob, ServerName};
use crate::config::Config;
use crate::fleet::{Fleet, FleetError};
use crate::route::{EndpointConfig, Member, Members, Override, Prefix, Shows};
use crate::store::{EndpointRow, EndpointServer, PrefixMode, ServerRow, Uuid};

/// What the files say.
#[derive(Debug, Clone, Default)]
pub struct Files {
    pub servers: Vec<backend::Config>,
    pub endpoints: Vec<EndpointConfig>,
    /// Served while there is nothing else.
    pub stand_in: Option<backend::Config>,
}

/// What the store says.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Stored {
    pub servers: Vec<ServerRow>,
    pub endpoints: Vec<EndpointRow>,
}

/// How rows are read.
#[derive(Clone, Copy)]
pub struct Reading<'a> {
    /// Opens secrets.
    pub sealer: &'a Sealer,
    /// What holds where a server says nothing of private addresses.
    pub allow_private: bool,
}

/// What is to be served, and what becomes of every row.
#[derive(Debug, Default, PartialEq)]
pub struct Joined {
    pub servers: Vec<backend::Config>,
    pub endpoints: Vec<EndpointConfig>,
    rows: Vec<Verdict>,
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

/// Puts both together. A server's place in lists is that of the files first, then by name.
pub fn join(files: &Files, stored: &Stored, reading: Reading<'_>) -> Joined {
    let mut joined = Joined { servers: files.servers.clone(), ..Joined::default() };
    // By row, for endpoints: what their servers are called, unless they are switched off.
    let mut names: HashMap<Uuid, ServerName> = HashMap::new();
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
                    Outcome::LeaveOut(format!("server `{}` of the store is left out: {why}", row.name))
                }
            }
        };
        if let Some(name) = name.clone().filter(|_| outcome != Outcome::Rest) {
            names.insert(row.id, name);
        }
        joined.rows.push(Verdict { id: row.id, version: row.version, what: What::Server(name), outcome });
    }
    if joined.servers.is_empty() {
        joined.servers.extend(files.stand_in.clone());
    }
    join_endpoints(files, stored, &names, &mut joined);
    joined
}

fn join_endpoints(files: &Files, stored: &Stored, names: &HashMap<Uuid, ServerName>, joined: &mut Joined) {
    joined.endpoints.clone_from(&files.endpoints);
    let mut defined: HashSet<&str> = files.endpoints.iter().map(|endpoint| endpoint.name.as_str()).collect();
    for row in &stored.endpoints {
        let outcome = if defined.insert(&row.name) {
            match read_endpoint(row, names) {
                Ok(endpoint) => {
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

/// `None`: it is switched off.
fn read_server(row: &ServerRow, reading: Reading<'_>) -> Result<Option<backend::Config>, String> {
    let server = Server::from_row(row, reading.sealer).map_err(|error| error.to_string())?;
    if !server.is_enabled() {
        return Ok(None);
    }
    let config = server.backend(reading.allow_private);
    let unserved = || format!("servers of the kind {} are not served by this version", row.kind.as_str());
    config.map(Some).ok_or_else(unserved)
}

fn read_endpoint(row: &EndpointRow, names: &HashMap<Uuid, ServerName>) -> Result<EndpointConfig, String> {
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
        if instead.annotations.as_ref().is_some_and(|value| !value.is_object()) {
            return Err("the annotations of one of its overrides are not an object".to_owned());
        }
        let told = Override {
            // Other programs store an empty one where there is none.
            name: instead.name.clone().filter(|name| !name.is_empty()),
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
    pub fn standing(&self, fleet: &Fleet, changes: u64) -> Standing {
        let mut left_out = Vec::new();
        let mut rows = HashMap::with_capacity(self.rows.len());
        for Verdict { id, version, what, outcome } in &self.rows {
            let served = match outcome {
                Outcome::Serve => what.refused_by(fleet),
                Outcome::Rest => Err(DISABLED.to_owned()),
                Outcome::LeaveOut(why) => {
                    left_out.push(why.clone());
                    Err(why.clone())
                }
            };
            rows.insert(*id, Stand { version: *version, served });
        }
        Standing::new(changes, left_out, rows)
    }
}

impl What {
    /// Why it is not in a version that was asked to serve it, when it is not. The version itself says so aloud.
    fn refused_by(&self, fleet: &Fleet) -> Result<(), String> {
        let Self::Server(Some(name)) = self else { return Ok(()) };
        let about =
            |error: &&FleetError| matches!(error, FleetError::Target { server, .. } if server == name);
        fleet.left_out.iter().find(about).map_or(Ok(()), |error| Err(error.to_string()))
    }
}

#[cfg(test)]
mod tests;
