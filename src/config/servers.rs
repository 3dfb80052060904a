use std::collections::BTreeMap;

use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue};

use super::expand::expand;
use super::mcp_json::{self, Entry};
use super::mistakes::{Place, Report, Written, quote};
use super::process;
use super::raw::Variables;
use super::section::Section;
use crate::admin::definition::MODERN_SSE;
use crate::admin::definition::address;
use crate::admin::definition::bounds::{self, Bound, Settings};
use crate::admin::definition::headers::{self, Owner};
use crate::admin::definition::mcp_json::{Kind, Transport, nearest_name};
use crate::base::ServerName;
use crate::upstream::{self, Address, ChangedTools, EraChoice};

/// The servers, and what became of every name that was written for one.
#[derive(Debug, Default)]
pub(super) struct Servers {
    pub ready: Vec<upstream::Config>,
    /// By the name as written and by the name as served. `None`: it was left out, and it was said why.
    pub known: BTreeMap<String, Option<ServerName>>,
    /// Names that are taken, with where.
    taken: BTreeMap<ServerName, Place>,
}

/// One server before its variables are put in.
struct Draft<'a> {
    name: ServerName,
    place: Place,
    url: Option<Written<&'a str>>,
    headers: Vec<(&'a str, Written<&'a str>)>,
    bearer: Option<Written<&'a str>>,
    transport: Transport,
    program: Option<process::Draft<'a>>,
    settings: Settings,
}

/// What every reader of servers needs.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub variables: &'a Variables<'a>,
    pub report: &'a Report,
}

/// All servers: those of `metamcp.toml` first, each file in its own order.
pub(super) fn read(root: &Section<'_>, entries: &[Entry], context: Context<'_>) -> Servers {
    let shared = root.child("backend");
    let settings = Settings::read(&shared, &bounds::DEFAULTS);
    settings.note_few_connections(shared.place(), context);
    shared.finish();
    let mut servers = Servers::default();
    for (name, section) in root.named("servers") {
        servers.take_section(name, section, &settings, context);
    }
    for entry in entries {
        servers.take_entry(entry, &settings, context);
    }
    servers
}

impl Settings {
    /// How many may be in use, and how many are kept.
    fn connections(&self) -> (usize, usize) {
        (self.in_flight_max, self.idle_connections_max)
    }

    /// A hint, no mistake: it works, at a price.
    fn note_few_connections(&self, place: &Place, context: Context<'_>) {
        let (in_flight_max, idle_max) = self.connections();
        if idle_max < in_flight_max.min(bounds::IDLE_CONNECTIONS.max) {
            let text = format!(
                "keeps {idle_max} connections (idle_connections_max) for {in_flight_max} calls at once (in_flight_max): under \
                 load those beyond are closed and opened anew, each with a local port of its own; keep as many"
            );
            context.report.notice(place, text);
        }
    }

    fn read(section: &Section<'_>, shared: &Self) -> Self {
        use bounds as d;
        let eras = [("auto", EraChoice::Auto), ("modern", EraChoice::Modern), ("legacy", EraChoice::Legacy)];
        let policies = [
            ("allow", ChangedTools::Allow),
            ("warn", ChangedTools::Warn),
            ("quarantine", ChangedTools::Quarantine),
        ];
        let duration = |key, bound: Bound<_>, default| section.duration(key, bound.or(default));
        let count = |key, bound: Bound<_>, default| section.count(key, bound.or(default));
        let in_flight_max = count("in_flight_max", d::IN_FLIGHT, shared.in_flight_max);
        Self {
            era: section.word("era", &eras, shared.era),
            connect_timeout: duration("connect_timeout", d::CONNECT_TIMEOUT, shared.connect_timeout),
            first_byte_timeout: duration(
                "first_byte_timeout",
                d::FIRST_BYTE_TIMEOUT,
                shared.first_byte_timeout,
            ),
            stream_idle_timeout: duration(
                "stream_idle_timeout",
                d::STREAM_IDLE_TIMEOUT,
                shared.stream_idle_timeout,
            ),
            in_flight_max,
            queue_timeout: duration("queue_timeout", d::QUEUE_TIMEOUT, shared.queue_timeout),
            queue_max: count("queue_max", d::QUEUE, shared.queue_max),
            idle_connections_max: count(
                "idle_connections_max",
                d::IDLE_CONNECTIONS,
                shared.usual_idle_connections(in_flight_max),
            ),
            idle_age_max: duration("idle_age_max", d::IDLE_AGE, shared.idle_age_max),
            fast_lane: section.flag("fast_lane").unwrap_or(shared.fast_lane),
            changed_tools: section.word("changed_tools", &policies, shared.changed_tools),
        }
    }
}

impl Servers {
    fn take_section(&mut self, written: &str, section: Section<'_>, shared: &Settings, context: Context<'_>) {
        let place = section.place().clone();
        let url = section.text("url");
        let headers = section.text_map("headers");
        let bearer = section.text("bearer");
        let transport = section.word("transport", &TRANSPORTS, Transport::Unsaid);
        let program = process::read(&section, context);
        let disabled = section.flag("disabled").unwrap_or(false);
        let settings = Settings::read(&section, shared);
        if program.is_none() && settings.connections() != shared.connections() {
            settings.note_few_connections(&place, context);
        }
        section.finish();
        let name = match ServerName::new(written) {
            Ok(name) => name,
            Err(invalid) => return context.report.mistake(&place, invalid.to_string()),
        };
        self.known.insert(written.to_owned(), (!disabled).then(|| name.clone()));
        if disabled {
            return context.report.notice(&place, "skipped: it is disabled");
        }
        self.add(Draft { name, place, url, headers, bearer, transport, program, settings }, context);
    }

    fn take_entry<'a>(&mut self, entry: &'a Entry, settings: &Settings, context: Context<'_>) {
        let report = context.report;
        if let Kind::Skip(why) = &entry.kind {
            self.known.entry(entry.name.clone()).or_insert(None);
            return report.notice(&entry.place, format!("skipped: {why}"));
        }
        let name = match ServerName::new(&entry.name) {
            Ok(name) => name,
            Err(_) => match ServerName::new(&nearest_name(&entry.name)) {
                Ok(name) => {
                    report.notice(&entry.place, mcp_json::renamed(&entry.name, name.as_str()));
                    name
                }
                Err(invalid) => return report.mistake(&entry.place, invalid.to_string()),
            },
        };
        self.known.insert(entry.name.clone(), Some(name.clone()));
        let at = |key: &str, value: &'a str| Written { value, place: entry.place.below(key) };
        let all = |key: &'static str, members: &'a [(String, String)]| -> Vec<_> {
            let place = entry.place.below(key);
            let written = |(name, value): &'a (String, String)| {
                (name.as_str(), Written { value: value.as_str(), place: place.below(name) })
            };
            members.iter().map(written).collect()
        };
        let (url, headers, transport, program) = match &entry.kind {
            Kind::Http { url, headers, transport } => {
                (Some(at("url", url)), all("headers", headers), *transport, None)
            }
            Kind::Stdio { command, args, env, cwd } => {
                let program = process::Draft {
                    command: at("command", command),
                    args: args.iter().map(|arg| at("args", arg)).collect(),
                    env: all("env", env),
                    cwd: cwd.as_ref().map(|cwd| at("cwd", cwd)),
                    // As for the clients whose file it is: where the gateway was started.
                    beside: None,
                    settings: bounds::program(),
                };
                (None, Vec::new(), Transport::Unsaid, Some(program))
            }
            Kind::Skip(_) => return,
        };
        let place = entry.place.clone();
        let settings = *settings;
        self.add(Draft { name, place, url, headers, bearer: None, transport, program, settings }, context);
    }

    fn add(&mut self, mut draft: Draft<'_>, context: Context<'_>) {
        let report = context.report;
        if let Some(other) = self.taken.insert(draft.name.clone(), draft.place.clone()) {
            let name = quote(draft.name.as_str());
            report.mistake(
                &draft.place,
                format!("there are two servers {name}; the other is {other}: rename one"),
            );
        }
        self.known.insert(draft.name.as_str().to_owned(), Some(draft.name.clone()));
        let headers = draft.headers(context);
        if let Some(address) = draft.address(context) {
            let may_be_sse = draft.transport == Transport::Unsaid && matches!(address, Address::Http(_));
            let server = draft.settings.server(draft.name, address, headers);
            self.ready.push(upstream::Config { may_be_sse, ..server });
        }
    }
}

impl Draft<'_> {
    fn address(&mut self, context: Context<'_>) -> Option<Address> {
        let program = self.program.take();
        if let Some(program) = program {
            let is_remote = self.url.is_some() || !self.headers.is_empty() || self.bearer.is_some();
            if is_remote || self.transport != Transport::Unsaid {
                let text = "is a program (command), which has neither url nor headers, bearer or transport; leave out one or the other";
                context.report.mistake(&self.place, text);
            }
            let program = program.program(&self.place, context)?;
            return Some(Address::Stdio(Box::new(program)));
        }
        let Some(url) = &self.url else {
            let text = "is missing; write url = \"http://host/path\", or command = \"program\"";
            context.report.mistake(&self.place.below("url"), text);
            return None;
        };
        let text = context.expand(url)?;
        let is_sse = self.transport == Transport::Sse;
        if is_sse && self.settings.era == EraChoice::Modern {
            context.report.mistake(&self.place.below("era"), MODERN_SSE);
        }
        let parsed = address::parse(&text);
        match if is_sse { parsed.and_then(address::over_sse) } else { parsed } {
            Ok(address) => Some(address),
            Err(wrong) => {
                context.report.mistake(&url.place, wrong);
                None
            }
        }
    }

    fn headers(&self, context: Context<'_>) -> Vec<(HeaderName, HeaderValue)> {
        let report = context.report;
        let mut list: Vec<(HeaderName, HeaderValue)> = Vec::new();
        for (name, written) in &self.headers {
            let Some(value) = context.expand(written) else { continue };
            match headers::parse(name, &value) {
                Err(wrong) => report.mistake(&written.place, wrong),
                Ok((name, _)) if headers::owner(&name) == Owner::Gateway => {
                    report.notice(
                        &written.place,
                        "left out: metamcp sets this header itself, on every request",
                    );
                }
                Ok((name, _)) if list.iter().any(|(other, _)| *other == name) => {
                    report.mistake(
                        &written.place,
                        "is there twice: header names do not differ by case; leave one out",
                    );
                }
                Ok(header) => list.push(header),
            }
        }
        if let Some(bearer) = &self.bearer {
            match authorization(bearer, context) {
                Ok(_) if list.iter().any(|(name, _)| *name == AUTHORIZATION) => {
                    report.mistake(
                        &bearer.place,
                        "is there beside an Authorization header; leave one of them out",
                    );
                }
                Ok(value) => list.push((AUTHORIZATION, value)),
                Err(Some(wrong)) => report.mistake(&bearer.place, wrong),
                Err(None) => {}
            }
        }
        if list.len() > HEADERS_MAX {
            report.mistake(&self.place.below("headers"), format!("has more than {HEADERS_MAX} headers"));
        }
        list
    }
}

/// The value of `Authorization`; `Err(None)` if the mistake was told already.
fn authorization(bearer: &Written<&str>, context: Context<'_>) -> Result<HeaderValue, Option<&'static str>> {
    let token = context.expand(bearer).ok_or(None)?;
    let token = token.trim();
    if token.is_empty() || token.contains(char::is_whitespace) {
        return Err(Some("is not a token; write it alone, without \"Bearer\" and without spaces"));
    }
    headers::parse("authorization", &format!("Bearer {token}")).map(|(_, value)| value).map_err(Some)
}

impl Context<'_> {
    /// The text with its variables put in; what is missing is told.
    pub(super) fn expand(&self, written: &Written<&str>) -> Option<String> {
        match expand(written.value, self.variables) {
            Ok(text) => Some(text),
            Err(mistakes) => {
                for text in mistakes {
                    self.report.mistake(&written.place, text);
                }
                None
            }
        }
    }
}

/// The names of transports in `metamcp.toml`.
const TRANSPORTS: [(&str, Transport); 2] = [("http", Transport::Streamable), ("sse", Transport::Sse)];

/// Servers take 100 fields, and the client's own are sent as well.
const HEADERS_MAX: usize = 64;
