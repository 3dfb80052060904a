//! Scenarios: what to send, how often, and what a correct response contains. Read from a TOML file; all errors in it are
//! reported at once.
//!
//! Invariant: a [`Scenario`] is valid and can be run without further checks. Does not know the target, its key, or the names
//! that a gateway gives to tools.

mod builtin;
mod section;

use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value};

pub use builtin::{BUILTIN_SCENARIOS, builtin_scenario};
pub use section::ScenarioErrors;
use section::SectionReader;

/// A larger file is not a scenario.
const FILE_BYTES_MAX: usize = 1 << 20;

/// Operations per scenario. Each has a histogram and a row in the report.
const OPERATIONS_MAX: usize = 32;

/// Connections: about as many as one machine has ports for towards one address.
pub const CONNECTIONS_MAX: u64 = 60_000;

/// Requests per second. Beyond it, the load generator itself would be measured.
pub const RATE_MAX: f64 = 1_000_000.0;

/// A month, for soak tests.
pub const SECONDS_MAX: f64 = 31.0 * 86_400.0;

/// The largest N of `{fill:N}`. A gateway accepts a few MiB.
const FILL_BYTES_MAX: usize = 16 << 20;

/// The placeholder for a text that is unique to each request.
pub const CANARY: &str = "{canary}";

/// A load and the requests that it consists of.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// One word, for reports.
    pub name: String,
    /// One sentence, for people.
    pub about: String,
    pub era: EraSelection,
    pub load: LoadProfile,
    /// Connections and streams that stay idle during the load.
    pub idle: Option<IdleProfile>,
    /// Never empty: at least one.
    pub operations: Vec<Operation>,
}

/// The eras that the connections of a run use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EraSelection {
    /// 2026-07-28: no handshake, no session.
    Modern,
    /// 2025-11-25: `initialize`, a session, and DELETE.
    Legacy,
    /// Connections alternate between the eras.
    Both,
}

/// The era of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Era {
    /// Revision 2026-07-28, without sessions.
    Modern,
    /// Revision 2025-11-25, with sessions.
    Legacy,
}

impl EraSelection {
    /// Returns the era of a connection.
    pub fn era_of(self, connection: usize) -> Era {
        match self {
            Self::Modern => Era::Modern,
            Self::Legacy => Era::Legacy,
            Self::Both if connection.is_multiple_of(2) => Era::Modern,
            Self::Both => Era::Legacy,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Modern => "modern",
            Self::Legacy => "legacy",
            Self::Both => "both",
        }
    }

    /// Parses the name of a selection.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Modern, Self::Legacy, Self::Both].into_iter().find(|era| era.name() == text)
    }
}

/// How many requests are sent, and for how long.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadProfile {
    /// Concurrent connections. Each has one request in flight at a time.
    pub connections: usize,
    /// Requests per second over all connections, sent when they are due (open loop). `None`: each connection sends the next
    /// request when it has the response to the last one (closed loop).
    pub rate: Option<f64>,
    /// The time before the measurement.
    pub warm_up: Duration,
    /// The time of the measurement.
    pub measure: Duration,
    /// Time for one response, and for connecting.
    pub timeout: Duration,
    /// Ends the run after this many requests, if that is earlier.
    pub requests: Option<u64>,
    /// The calls after which a connection closes its session and opens another.
    pub calls_per_session: Option<u64>,
    pub ids: RequestIds,
}

/// The JSON-RPC ids of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestIds {
    /// A number that is unique within the run.
    Unique,
    /// Always 1, for servers that answer with fixed bytes.
    Fixed,
}

/// Connections and event streams that stay idle during the load.
#[derive(Debug, Clone, PartialEq)]
pub struct IdleProfile {
    /// Connections that are used once before the load, and once after it.
    pub connections: usize,
    /// Event streams: `subscriptions/listen`, or GET in a Legacy session.
    pub streams: usize,
    /// The rate at which they are opened before the load begins.
    pub open_per_second: f64,
}

/// One kind of request.
#[derive(Debug, Clone, PartialEq)]
pub struct Operation {
    /// The name in reports.
    pub name: String,
    /// The frequency, relative to the other operations.
    pub weight: u32,
    pub request: RequestKind,
    /// `params` without `_meta`. Texts in it may contain [`CANARY`].
    pub params: Map<String, Value>,
    pub checks: ResponseChecks,
}

/// The method of an operation, with the name that it is called on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestKind {
    /// `tools/call`. A gateway may prefix the name.
    Tool(String),
    Prompt(String),
    Resource(String),
    Method(String),
}

impl RequestKind {
    pub fn method(&self) -> &str {
        match self {
            Self::Tool(_) => "tools/call",
            Self::Prompt(_) => "prompts/get",
            Self::Resource(_) => "resources/read",
            Self::Method(method) => method,
        }
    }
}

/// What a correct response contains, apart from its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ResponseChecks {
    /// It contains the canary of the request.
    pub echoes: bool,
    /// The least number of bytes of the message.
    pub answer_bytes_min: u64,
    /// The least number of progress notifications before it. If not 0, the request has a progress token.
    pub progress_min: u64,
    /// The least number of entries in its list.
    pub items_min: u64,
}

impl Scenario {
    /// Reads a file, or a built-in scenario by its name.
    pub fn read(path: &Path) -> Result<Self, ScenarioErrors> {
        let name = path.display().to_string();
        if let Some(text) = builtin_scenario(&name).filter(|_| !path.is_file()) {
            return Self::parse(&name, text);
        }
        let text = match std::fs::read_to_string(path) {
            Ok(text) if text.len() > FILE_BYTES_MAX => {
                return Err(ScenarioErrors::single(&name, &format!("is larger than {FILE_BYTES_MAX} bytes")));
            }
            Ok(text) => text,
            Err(error) => {
                let names = BUILTIN_SCENARIOS.map(|(name, _)| name).join(", ");
                let text = format!("cannot be read: {error}; write a file, or one of {names}");
                return Err(ScenarioErrors::single(&name, &text));
            }
        };
        Self::parse(&name, &text)
    }

    /// Parses a text. `file` is the name in errors.
    pub fn parse(file: &str, text: &str) -> Result<Self, ScenarioErrors> {
        let table = match text.parse::<toml::Table>() {
            Ok(table) => table,
            Err(error) => return Err(ScenarioErrors::single(file, error.to_string().trim_end())),
        };
        let mut errors = ScenarioErrors::new(file);
        let scenario = read_scenario(SectionReader::new("", table), &mut errors);
        if errors.is_empty() { Ok(scenario) } else { Err(errors) }
    }
}

/// A default replaces a value that is missing or invalid; the error prevents the use of the result.
fn read_scenario(mut section: SectionReader, errors: &mut ScenarioErrors) -> Scenario {
    let name = section.text("name", errors).unwrap_or_else(|| {
        errors.add("name", "is missing; write one word, as in name = \"small\"");
        String::new()
    });
    let about = section.text("about", errors).unwrap_or_default();
    let era = section.choice("era", &["modern", "legacy", "both"], errors);
    let era = era.and_then(|era| EraSelection::parse(&era)).unwrap_or(EraSelection::Modern);
    let load = read_load(section.section("load", errors).unwrap_or_default(), errors);
    let idle = section.section("idle", errors).map(|section| read_idle(section, errors));
    let sections = section.sections("calls", errors);
    if sections.is_empty() && !errors.has_key("calls") {
        errors.add("calls", "is missing; write at least one [[calls]] with a tool or a method");
    }
    if sections.len() > OPERATIONS_MAX {
        errors.add("calls", &format!("there are {}; write at most {OPERATIONS_MAX}", sections.len()));
    }
    let operations: Vec<_> = sections.into_iter().map(|section| read_operation(section, errors)).collect();
    for (index, operation) in operations.iter().enumerate() {
        if operations[..index].iter().any(|other| other.name == operation.name) {
            let path = format!("calls[{index}].name");
            errors.add(&path, &format!("{:?} is used twice; write a unique name", operation.name));
        }
        if load.ids == RequestIds::Fixed && operation.checks.echoes {
            let path = format!("calls[{index}].echoes");
            errors.add(&path, "cannot hold with load.ids = \"fixed\"; write echoes = false");
        }
    }
    section.finish(errors);
    Scenario { name, about, era, load, idle, operations }
}

fn read_load(mut section: SectionReader, errors: &mut ScenarioErrors) -> LoadProfile {
    let seconds = |value: Option<f64>, default: f64| Duration::from_secs_f64(value.unwrap_or(default));
    let load = LoadProfile {
        connections: section.count("connections", 1..=CONNECTIONS_MAX, errors).unwrap_or(16),
        rate: section.number("rate", 0.01..=RATE_MAX, errors),
        warm_up: seconds(section.number("warm_up_s", 0.0..=SECONDS_MAX, errors), 2.0),
        measure: seconds(section.number("seconds", 0.1..=SECONDS_MAX, errors), 10.0),
        timeout: seconds(section.number("timeout_s", 0.001..=3600.0, errors), 10.0),
        requests: section.integer("requests", 1..=u64::MAX >> 1, errors),
        calls_per_session: section.integer("calls_per_session", 1..=u64::MAX >> 1, errors),
        ids: match section.choice("ids", &["unique", "fixed"], errors).as_deref() {
            Some("fixed") => RequestIds::Fixed,
            _ => RequestIds::Unique,
        },
    };
    section.finish(errors);
    load
}

fn read_idle(mut section: SectionReader, errors: &mut ScenarioErrors) -> IdleProfile {
    let idle = IdleProfile {
        connections: section.count("connections", 0..=CONNECTIONS_MAX, errors).unwrap_or(0),
        streams: section.count("streams", 0..=CONNECTIONS_MAX, errors).unwrap_or(0),
        open_per_second: section.number("open_per_second", 1.0..=RATE_MAX, errors).unwrap_or(1000.0),
    };
    section.finish(errors);
    idle
}

fn read_operation(mut section: SectionReader, errors: &mut ScenarioErrors) -> Operation {
    let request = read_request(&mut section, errors);
    let arguments = section.json("arguments", errors);
    let mut params = section.json("params", errors).unwrap_or_default();
    match &request {
        RequestKind::Tool(name) | RequestKind::Prompt(name) => {
            params.insert("name".into(), name.as_str().into());
            params.insert("arguments".into(), arguments.unwrap_or_default().into());
        }
        RequestKind::Resource(uri) => drop(params.insert("uri".into(), uri.as_str().into())),
        RequestKind::Method(_) if arguments.is_some() => {
            errors.add(&section.path("arguments"), "belongs to a tool or a prompt; write it in params");
        }
        RequestKind::Method(_) => {}
    }
    for reserved in ["_meta", "inputResponses"] {
        if params.contains_key(reserved) {
            let text = format!("{reserved} is written by mcpload; take it out");
            errors.add(&section.path("params"), &text);
        }
    }
    if let Err(text) = expand_fills(&mut params) {
        errors.add(&section.path("arguments"), &text);
    }
    let has_canary = Value::Object(params.clone()).to_string().contains(CANARY);
    let echoes = section.flag("echoes", errors);
    if echoes == Some(true) && !has_canary {
        let text = format!("needs a text that the server returns; write {CANARY} into one of the arguments");
        errors.add(&section.path("echoes"), &text);
    }
    let checks = ResponseChecks {
        echoes: echoes.unwrap_or(has_canary),
        answer_bytes_min: section.integer("answer_bytes_min", 0..=1 << 30, errors).unwrap_or(0),
        progress_min: section.integer("progress_min", 0..=1 << 30, errors).unwrap_or(0),
        items_min: section.integer("items_min", 0..=1 << 30, errors).unwrap_or(0),
    };
    let name = section.text("name", errors).unwrap_or_else(|| match &request {
        RequestKind::Tool(name)
        | RequestKind::Prompt(name)
        | RequestKind::Resource(name)
        | RequestKind::Method(name) => name.clone(),
    });
    let weight = section.integer("weight", 1..=1_000_000, errors).unwrap_or(1);
    section.finish(errors);
    Operation { name, weight: u32::try_from(weight).unwrap_or(1), request, params, checks }
}

fn read_request(section: &mut SectionReader, errors: &mut ScenarioErrors) -> RequestKind {
    let kinds = [
        ("tool", RequestKind::Tool as fn(String) -> RequestKind),
        ("prompt", RequestKind::Prompt),
        ("resource", RequestKind::Resource),
        ("method", RequestKind::Method),
    ];
    let mut found = Vec::new();
    for (key, kind) in kinds {
        found.extend(section.text(key, errors).map(kind));
    }
    if found.len() != 1 {
        let text = "write exactly one of tool, prompt, resource and method, as in tool = \"echo\"";
        errors.add(&section.path("tool"), text);
    }
    found.pop().unwrap_or_else(|| RequestKind::Method("ping".to_owned()))
}

/// Replaces `{fill:N}` with N letters in all texts.
fn expand_fills(params: &mut Map<String, Value>) -> Result<(), String> {
    let mut pending: Vec<&mut Value> = params.values_mut().collect();
    while let Some(value) = pending.pop() {
        match value {
            Value::String(text) => *text = expand_fill(text)?,
            Value::Array(values) => pending.extend(values),
            Value::Object(members) => pending.extend(members.values_mut()),
            _ => {}
        }
    }
    Ok(())
}

fn expand_fill(text: &str) -> Result<String, String> {
    let Some((before, rest)) = text.split_once("{fill:") else { return Ok(text.to_owned()) };
    let count = rest.split_once('}').and_then(|(count, after)| Some((count.parse().ok()?, after)));
    match count {
        Some((count, after)) if count <= FILL_BYTES_MAX && !after.contains("{fill:") => {
            Ok([before, &"x".repeat(count), after].concat())
        }
        _ => Err(format!("{{fill:N}} takes a whole number up to {FILL_BYTES_MAX}, once in a text")),
    }
}

#[cfg(test)]
mod tests;
