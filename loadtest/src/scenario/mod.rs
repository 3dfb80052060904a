//! What to send, how often, and what a right answer looks like: a TOML file, read with every mistake in it named.
//!
//! Invariant: a [`Scenario`] can be run as it is; nothing in it has to be looked at again. Does not know the
//! target, its key or the names that its tools have there.

mod section;
mod shipped;

use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value};

pub use section::Mistakes;
use section::Section;
pub use shipped::{SHIPPED, shipped};

/// A file larger than this is not a scenario.
const FILE_BYTES_MAX: usize = 1 << 20;

/// Histograms are kept for each operation; more could not be read in a report.
const OPERATIONS_MAX: usize = 32;

/// As many as one machine has ports for towards one address, and some.
pub const CONNECTIONS_MAX: u64 = 60_000;

/// Beyond that the load is no longer what is measured.
pub const RATE_MAX: f64 = 1_000_000.0;

/// A month, for soaks.
pub const SECONDS_MAX: f64 = 31.0 * 86_400.0;

/// In one text of a request; a gateway takes a few MiB.
const FILL_BYTES_MAX: usize = 16 << 20;

/// Stands for a text that no other request has.
pub const CANARY: &str = "{canary}";

/// What was asked for.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// One word for reports.
    pub name: String,
    /// One sentence for people.
    pub about: String,
    /// What is spoken.
    pub era: Eras,
    /// How much, how long.
    pub load: Load,
    /// Connections and streams that are only held meanwhile.
    pub idle: Option<Idle>,
    /// What is sent, at least one.
    pub operations: Vec<Operation>,
}

/// What is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Eras {
    /// 2026-07-28: no handshake, no session.
    Modern,
    /// 2025-11-25: `initialize`, a session, DELETE.
    Legacy,
    /// Every second connection the other.
    Both,
}

/// What one connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Era {
    /// 2026-07-28.
    Modern,
    /// 2025-11-25.
    Legacy,
}

impl Eras {
    /// What the connection of that number speaks.
    pub fn of(self, connection: usize) -> Era {
        match self {
            Self::Modern => Era::Modern,
            Self::Legacy => Era::Legacy,
            Self::Both if connection.is_multiple_of(2) => Era::Modern,
            Self::Both => Era::Legacy,
        }
    }

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Modern => "modern",
            Self::Legacy => "legacy",
            Self::Both => "both",
        }
    }

    /// What was written.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Modern, Self::Legacy, Self::Both].into_iter().find(|era| era.name() == text)
    }
}

/// How much, how long.
#[derive(Debug, Clone, PartialEq)]
pub struct Load {
    /// At once; each carries one request at a time.
    pub connections: usize,
    /// Requests a second over all connections, sent when they are due (open loop); `None`: each connection sends
    /// the next when it has the answer to the last (closed loop).
    pub rate: Option<f64>,
    /// Before anything is counted.
    pub warm_up: Duration,
    /// While it is counted.
    pub measure: Duration,
    /// For one answer, and for connecting.
    pub timeout: Duration,
    /// Ends after so many, if that is earlier.
    pub requests: Option<u64>,
    /// After so many calls a connection ends its session and begins another.
    pub calls_per_session: Option<u64>,
    /// What requests are told apart by.
    pub ids: Ids,
}

/// What requests are told apart by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ids {
    /// A number that no other request of the run has.
    Unique,
    /// Always 1, for servers that answer with fixed bytes.
    Fixed,
}

/// What is only held.
#[derive(Debug, Clone, PartialEq)]
pub struct Idle {
    /// Connections that were used once.
    pub connections: usize,
    /// Event streams: `subscriptions/listen`, or GET of a session.
    pub streams: usize,
    /// Opened in a second, before the load begins.
    pub open_per_second: f64,
}

/// One kind of request.
#[derive(Debug, Clone, PartialEq)]
pub struct Operation {
    /// In reports.
    pub name: String,
    /// How often, beside the others.
    pub weight: u32,
    /// What is asked for.
    pub ask: Ask,
    /// `params` without `_meta`; texts in it may hold [`CANARY`].
    pub params: Map<String, Value>,
    /// What a right answer has.
    pub checks: Checks,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// `tools/call`; behind a gateway the name may have a prefix.
    Tool(String),
    /// `prompts/get`.
    Prompt(String),
    /// `resources/read`.
    Resource(String),
    /// Anything else.
    Method(String),
}

impl Ask {
    /// The JSON-RPC method.
    pub fn method(&self) -> &str {
        match self {
            Self::Tool(_) => "tools/call",
            Self::Prompt(_) => "prompts/get",
            Self::Resource(_) => "resources/read",
            Self::Method(method) => method,
        }
    }
}

/// What a right answer has, beside its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Checks {
    /// The canary of the request.
    pub echoes: bool,
    /// Bytes of the message, at least.
    pub answer_bytes_min: u64,
    /// Progress before it, at least; the request asks for progress when this is not 0.
    pub progress_min: u64,
    /// Entries in the list that it is, at least.
    pub items_min: u64,
}

impl Scenario {
    /// Reads a file, or one of those that come with the program by its name.
    pub fn read(path: &Path) -> Result<Self, Mistakes> {
        let name = path.display().to_string();
        if let Some(text) = shipped(&name).filter(|_| !path.is_file()) {
            return Self::parse(&name, text);
        }
        let text = match std::fs::read_to_string(path) {
            Ok(text) if text.len() > FILE_BYTES_MAX => {
                return Err(Mistakes::one(&name, &format!("is larger than {FILE_BYTES_MAX} bytes")));
            }
            Ok(text) => text,
            Err(error) => {
                let names = SHIPPED.map(|(name, _)| name).join(", ");
                let text = format!("cannot be read: {error}; write a file, or one of {names}");
                return Err(Mistakes::one(&name, &text));
            }
        };
        Self::parse(&name, &text)
    }

    /// Reads a text; `file` is what mistakes name.
    pub fn parse(file: &str, text: &str) -> Result<Self, Mistakes> {
        let table = match text.parse::<toml::Table>() {
            Ok(table) => table,
            Err(error) => return Err(Mistakes::one(file, error.to_string().trim_end())),
        };
        let mut mistakes = Mistakes::new(file);
        let scenario = whole(Section::new("", table), &mut mistakes);
        if mistakes.is_empty() { Ok(scenario) } else { Err(mistakes) }
    }
}

/// Where something is missing or wrong, a stand-in goes in, since the mistake keeps all of it from being used.
fn whole(mut section: Section, mistakes: &mut Mistakes) -> Scenario {
    let name = section.text("name", mistakes).unwrap_or_else(|| {
        mistakes.add("name", "is missing; write one word, as in name = \"small\"");
        String::new()
    });
    let about = section.text("about", mistakes).unwrap_or_default();
    let era = section.choice("era", &["modern", "legacy", "both"], mistakes);
    let era = era.and_then(|era| Eras::parse(&era)).unwrap_or(Eras::Modern);
    let load = load(section.section("load", mistakes).unwrap_or_default(), mistakes);
    let idle = section.section("idle", mistakes).map(|section| idle(section, mistakes));
    let sections = section.sections("calls", mistakes);
    if sections.is_empty() && !mistakes.names("calls") {
        mistakes.add("calls", "is missing; write at least one [[calls]] with a tool or a method");
    }
    if sections.len() > OPERATIONS_MAX {
        mistakes.add("calls", &format!("there are {}; write at most {OPERATIONS_MAX}", sections.len()));
    }
    let operations: Vec<_> = sections.into_iter().map(|section| operation(section, mistakes)).collect();
    for (at, operation) in operations.iter().enumerate() {
        if operations[..at].iter().any(|other| other.name == operation.name) {
            let path = format!("calls[{at}].name");
            mistakes.add(&path, &format!("{:?} is there twice; write a name of its own", operation.name));
        }
        if load.ids == Ids::Fixed && operation.checks.echoes {
            let path = format!("calls[{at}].echoes");
            mistakes.add(&path, "cannot hold with load.ids = \"fixed\"; write echoes = false");
        }
    }
    section.finish(mistakes);
    Scenario { name, about, era, load, idle, operations }
}

fn load(mut section: Section, mistakes: &mut Mistakes) -> Load {
    let seconds = |value: Option<f64>, default: f64| Duration::from_secs_f64(value.unwrap_or(default));
    let load = Load {
        connections: section.count("connections", 1..=CONNECTIONS_MAX, mistakes).unwrap_or(16),
        rate: section.number("rate", 0.01..=RATE_MAX, mistakes),
        warm_up: seconds(section.number("warm_up_s", 0.0..=SECONDS_MAX, mistakes), 2.0),
        measure: seconds(section.number("seconds", 0.1..=SECONDS_MAX, mistakes), 10.0),
        timeout: seconds(section.number("timeout_s", 0.001..=3600.0, mistakes), 10.0),
        requests: section.whole("requests", 1..=u64::MAX >> 1, mistakes),
        calls_per_session: section.whole("calls_per_session", 1..=u64::MAX >> 1, mistakes),
        ids: match section.choice("ids", &["unique", "fixed"], mistakes).as_deref() {
            Some("fixed") => Ids::Fixed,
            _ => Ids::Unique,
        },
    };
    section.finish(mistakes);
    load
}

fn idle(mut section: Section, mistakes: &mut Mistakes) -> Idle {
    let idle = Idle {
        connections: section.count("connections", 0..=CONNECTIONS_MAX, mistakes).unwrap_or(0),
        streams: section.count("streams", 0..=CONNECTIONS_MAX, mistakes).unwrap_or(0),
        open_per_second: section.number("open_per_second", 1.0..=RATE_MAX, mistakes).unwrap_or(1000.0),
    };
    section.finish(mistakes);
    idle
}

fn operation(mut section: Section, mistakes: &mut Mistakes) -> Operation {
    let ask = ask(&mut section, mistakes);
    let arguments = section.json("arguments", mistakes);
    let mut params = section.json("params", mistakes).unwrap_or_default();
    match &ask {
        Ask::Tool(name) | Ask::Prompt(name) => {
            params.insert("name".into(), name.as_str().into());
            params.insert("arguments".into(), arguments.unwrap_or_default().into());
        }
        Ask::Resource(uri) => drop(params.insert("uri".into(), uri.as_str().into())),
        Ask::Method(_) if arguments.is_some() => {
            mistakes.add(&section.path("arguments"), "goes with a tool or a prompt; write it in params");
        }
        Ask::Method(_) => {}
    }
    for reserved in ["_meta", "inputResponses"] {
        if params.contains_key(reserved) {
            let text = format!("{reserved} is written by mcpload; take it out");
            mistakes.add(&section.path("params"), &text);
        }
    }
    if let Err(text) = fill(&mut params) {
        mistakes.add(&section.path("arguments"), &text);
    }
    let has_canary = Value::Object(params.clone()).to_string().contains(CANARY);
    let echoes = section.flag("echoes", mistakes);
    if echoes == Some(true) && !has_canary {
        let text = format!("needs something to come back; write {CANARY} into one of the arguments");
        mistakes.add(&section.path("echoes"), &text);
    }
    let checks = Checks {
        echoes: echoes.unwrap_or(has_canary),
        answer_bytes_min: section.whole("answer_bytes_min", 0..=1 << 30, mistakes).unwrap_or(0),
        progress_min: section.whole("progress_min", 0..=1 << 30, mistakes).unwrap_or(0),
        items_min: section.whole("items_min", 0..=1 << 30, mistakes).unwrap_or(0),
    };
    let name = section.text("name", mistakes).unwrap_or_else(|| match &ask {
        Ask::Tool(name) | Ask::Prompt(name) | Ask::Resource(name) | Ask::Method(name) => name.clone(),
    });
    let weight = section.whole("weight", 1..=1_000_000, mistakes).unwrap_or(1);
    section.finish(mistakes);
    Operation { name, weight: u32::try_from(weight).unwrap_or(1), ask, params, checks }
}

fn ask(section: &mut Section, mistakes: &mut Mistakes) -> Ask {
    let kinds = [
        ("tool", Ask::Tool as fn(String) -> Ask),
        ("prompt", Ask::Prompt),
        ("resource", Ask::Resource),
        ("method", Ask::Method),
    ];
    let mut found = Vec::new();
    for (key, kind) in kinds {
        found.extend(section.text(key, mistakes).map(kind));
    }
    if found.len() != 1 {
        let text = "write exactly one of tool, prompt, resource and method, as in tool = \"echo\"";
        mistakes.add(&section.path("tool"), text);
    }
    found.pop().unwrap_or_else(|| Ask::Method("ping".to_owned()))
}

/// Puts so many letters for `{fill:N}`.
fn fill(params: &mut Map<String, Value>) -> Result<(), String> {
    let mut left: Vec<&mut Value> = params.values_mut().collect();
    while let Some(value) = left.pop() {
        match value {
            Value::String(text) => *text = filled(text)?,
            Value::Array(values) => left.extend(values),
            Value::Object(members) => left.extend(members.values_mut()),
            _ => {}
        }
    }
    Ok(())
}

fn filled(text: &str) -> Result<String, String> {
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
