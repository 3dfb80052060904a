//! The `[backend]` and `[servers]` sections, and the servers of `mcp.json`.

use std::collections::BTreeMap;

use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue};

use super::expand::{Context, FILLED_IN_BY_EDITOR, expand, find_filled_in_by_editor};
use super::mcp_json_entries::{self, Entry};
use super::mistakes::{SourceLocation, WithLocation, printable, quote};
use super::own_address::{LEADS_BACK, OwnAddress};
use super::process;
use super::section::Section;
use super::upstream_tls;
use crate::mcp_json::{EntryKind, HttpTransport, derive_server_name};
use crate::server::MODERN_OVER_SSE;
use crate::server::address;
use crate::server::headers::{self, HeaderOwner};
use crate::server::settings::{self, ServerSettings};
use crate::server::{EraChoice, ServerAddress, ServerConfig};
use metamcp_core::base::ServerName;

/// The configured servers, and what became of every name in the files.
#[derive(Debug)]
pub(super) struct Servers {
    pub ready: Vec<ServerConfig>,
    /// By name, both as written and as served. `None` if the server was skipped with a notice.
    pub known: BTreeMap<String, Option<ServerName>>,
    /// The variables of every program.
    pub inherited: Vec<(String, String)>,
    /// Names in use, with their location.
    taken: BTreeMap<ServerName, SourceLocation>,
    /// Where the gateway itself is reached.
    own: OwnAddress,
}

/// A server whose variable references are not expanded yet.
struct Draft<'a> {
    name: ServerName,
    place: SourceLocation,
    url: Option<WithLocation<&'a str>>,
    headers: Vec<(&'a str, WithLocation<&'a str>)>,
    bearer: Option<WithLocation<&'a str>>,
    transport: HttpTransport,
    program: Option<process::Draft<'a>>,
    settings: ServerSettings,
    tls: upstream_tls::Draft,
}

/// What `[backend]` says of all servers.
struct BackendDefaults {
    settings: ServerSettings,
    tls: upstream_tls::Draft,
}

/// Reads all servers: those of `metamcp.toml` first, each file in its own order.
pub(super) fn read(root: &Section<'_>, entries: &[Entry], own: OwnAddress, context: Context<'_>) -> Servers {
    let mut shared = root.child("backend");
    let settings = settings::DEFAULTS.override_from(&mut shared);
    note_few_connections(&settings, shared.place(), context);
    let env = shared.text_map("env");
    let tls = upstream_tls::Draft::read(&shared, &upstream_tls::Draft::empty(), context.report);
    shared.finish();
    let inherited = process::inherited(&env, Context { workspace: None, ..context });
    let shared = BackendDefaults { settings, tls };
    let (known, taken) = (BTreeMap::new(), BTreeMap::new());
    let mut servers = Servers { ready: Vec::new(), known, inherited, taken, own };
    for (name, section) in root.named("servers") {
        servers.take_section(name, section, &shared, Context { workspace: None, ..context });
    }
    for entry in entries {
        servers.take_entry(entry, &shared, context);
    }
    servers
}

/// The limits of in-flight requests and of idle connections.
fn connections(settings: &ServerSettings) -> (usize, usize) {
    (settings.in_flight_max, settings.idle_connections_max)
}

/// A notice, not an error: the configuration works, but costs performance.
fn note_few_connections(server: &ServerSettings, place: &SourceLocation, context: Context<'_>) {
    let (in_flight_max, idle_max) = connections(server);
    if idle_max < in_flight_max.min(settings::IDLE_CONNECTIONS_MAX) {
        let text = format!(
            "keeps {idle_max} connections (idle_connections_max) for {in_flight_max} calls at once (in_flight_max): under \
             load those beyond are closed and opened anew, each with a local port of its own; keep as many"
        );
        context.report.notice(place, text);
    }
}

impl Servers {
    fn take_section(
        &mut self,
        written: &str,
        mut section: Section<'_>,
        shared: &BackendDefaults,
        context: Context<'_>,
    ) {
        let place = section.place().clone();
        let url = section.text("url");
        let headers = section.text_map("headers");
        let bearer = section.text("bearer");
        let transport = section.word("transport", &TRANSPORTS, HttpTransport::Unspecified);
        let program = process::read(&section, context);
        let disabled = section.flag("disabled").unwrap_or(false);
        let tls = upstream_tls::Draft::read(&section, &shared.tls, context.report);
        let settings = shared.settings.override_from(&mut section);
        if program.is_none() && connections(&settings) != connections(&shared.settings) {
            note_few_connections(&settings, &place, context);
        }
        section.finish();
        let name = match ServerName::new(written) {
            Ok(name) => name,
            Err(invalid) => {
                context.report.mistake(&place, invalid.to_string());
                // Under any other name, the rest is checked as well.
                let Ok(name) = ServerName::new(UNNAMED) else { return };
                let draft = Draft { name, place, url, headers, bearer, transport, program, settings, tls };
                return self.resolve(draft, context);
            }
        };
        self.known.insert(written.to_owned(), (!disabled).then(|| name.clone()));
        if disabled {
            return context.report.notice(&place, "skipped: it is disabled");
        }
        self.add(Draft { name, place, url, headers, bearer, transport, program, settings, tls }, context);
    }

    fn take_entry<'a>(&mut self, entry: &'a Entry, shared: &BackendDefaults, context: Context<'_>) {
        let report = context.report;
        if let EntryKind::Skip(why) = &entry.kind {
            self.known.entry(entry.name.clone()).or_insert(None);
            return report.notice(&entry.place, format!("skipped: {why}"));
        }
        // The file is made for an editor: what only an editor can fill in is no reason not to serve the others.
        if let Some(written) = entry.kind.texts().find_map(find_filled_in_by_editor) {
            self.known.entry(entry.name.clone()).or_insert(None);
            let written = printable(written);
            return report
                .notice(&entry.place, format!("skipped: it has ${{{written}}}, {FILLED_IN_BY_EDITOR}"));
        }
        let name = match ServerName::new(&entry.name) {
            Ok(name) => name,
            Err(_) => match ServerName::new(&derive_server_name(&entry.name)) {
                Ok(name) => {
                    report.notice(&entry.place, mcp_json_entries::renamed(&entry.name, name.as_str()));
                    name
                }
                Err(invalid) => return report.mistake(&entry.place, invalid.to_string()),
            },
        };
        self.known.insert(entry.name.clone(), Some(name.clone()));
        let at = |key: &str, value: &'a str| WithLocation { value, place: entry.place.below(key) };
        let all = |key: &'static str, members: &'a [(String, String)]| -> Vec<_> {
            let place = entry.place.below(key);
            let written = |(name, value): &'a (String, String)| {
                (name.as_str(), WithLocation { value: value.as_str(), place: place.below(name) })
            };
            members.iter().map(written).collect()
        };
        let (url, headers, transport, program) = match &entry.kind {
            EntryKind::Http { url, headers, transport } => {
                (Some(at("url", url)), all("headers", headers), *transport, None)
            }
            EntryKind::Stdio { command, args, env, env_file, cwd } => {
                let program = process::Draft {
                    command: at("command", command),
                    args: args.iter().map(|arg| at("args", arg)).collect(),
                    env: all("env", env),
                    env_file: env_file.as_ref().map(|path| at("envFile", path)),
                    cwd: cwd.as_ref().map(|cwd| at("cwd", cwd)),
                    // As MCP clients do: relative to the directory in which the gateway was started.
                    beside: None,
                    settings: settings::default_process_settings(),
                };
                (None, Vec::new(), HttpTransport::Unspecified, Some(program))
            }
            EntryKind::Skip(_) => return,
        };
        let place = entry.place.clone();
        let (settings, tls) = (shared.settings, shared.tls.inherited());
        let draft = Draft { name, place, url, headers, bearer: None, transport, program, settings, tls };
        self.add(draft, context);
    }

    fn add(&mut self, draft: Draft<'_>, context: Context<'_>) {
        let report = context.report;
        // Before its headers: the key of the gateway need not be known to the gateway.
        if let Some(why) = draft.loop_through(&self.own, context) {
            self.known.insert(draft.name.as_str().to_owned(), None);
            let is_it = |name: &&mut Option<ServerName>| name.as_ref() == Some(&draft.name);
            self.known.values_mut().filter(is_it).for_each(|name| *name = None);
            return report.notice(&draft.place, why);
        }
        if let Some(other) = self.taken.insert(draft.name.clone(), draft.place.clone()) {
            let name = quote(draft.name.as_str());
            report.mistake(
                &draft.place,
                format!("there are two servers {name}; the other is {other}: rename one"),
            );
        }
        self.known.insert(draft.name.as_str().to_owned(), Some(draft.name.clone()));
        self.resolve(draft, context);
    }

    /// Expands and validates a server.
    fn resolve(&mut self, mut draft: Draft<'_>, context: Context<'_>) {
        let report = context.report;
        let headers = draft.headers(context);
        if let Some(address) = draft.address(&self.inherited, context) {
            let may_be_sse =
                draft.transport == HttpTransport::Unspecified && matches!(address, ServerAddress::Http(_));
            let tls = draft.tls.resolve(&address).unwrap_or_else(|key| {
                let text = "is for a server with an https URL, which this one has not; leave it out";
                report.mistake(&draft.place.below(key), text);
                None
            });
            let server = ServerConfig::new(draft.name, address, headers, draft.settings);
            self.ready.push(ServerConfig { may_be_sse, tls, ..server });
        }
    }
}

impl Draft<'_> {
    /// Why the server would be the gateway itself, if it would. What cannot be expanded is reported later.
    fn loop_through(&self, own: &OwnAddress, context: Context<'_>) -> Option<&'static str> {
        let expanded = |text: &str| expand(text, context.variables, context.workspace).ok();
        if let Some(program) = &self.program {
            let command = expanded(program.command.value)?;
            let args: Vec<String> = program.args.iter().filter_map(|arg| expanded(arg.value)).collect();
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            return own.loop_through(&command, &args);
        }
        let url = expanded(self.url.as_ref()?.value)?;
        own.is_named_by(&url).then_some(LEADS_BACK)
    }

    fn address(&mut self, inherited: &[(String, String)], context: Context<'_>) -> Option<ServerAddress> {
        let program = self.program.take();
        if let Some(program) = program {
            let is_remote = self.url.is_some() || !self.headers.is_empty() || self.bearer.is_some();
            if is_remote || self.transport != HttpTransport::Unspecified {
                let text = "is a program (command), which has neither url nor headers, bearer or transport; leave out one or the other";
                context.report.mistake(&self.place, text);
            }
            let program = program.program(&self.place, inherited, context)?;
            return Some(ServerAddress::Stdio(Box::new(program)));
        }
        let Some(url) = &self.url else {
            let text = "is missing; write url = \"http://host/path\", or command = \"program\"";
            context.report.mistake(&self.place.below("url"), text);
            return None;
        };
        let text = context.expand(url)?;
        let is_sse = self.transport == HttpTransport::Sse;
        if is_sse && self.settings.era == EraChoice::Modern {
            context.report.mistake(&self.place.below("era"), MODERN_OVER_SSE);
        }
        let parsed = address::parse(&text);
        match if is_sse { parsed.and_then(address::into_sse) } else { parsed } {
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
                Ok((name, _)) if headers::header_owner(&name) == HeaderOwner::Gateway => {
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

/// The value of `Authorization`. `Err(None)` if the error was already reported.
fn authorization(
    bearer: &WithLocation<&str>,
    context: Context<'_>,
) -> Result<HeaderValue, Option<&'static str>> {
    let token = context.expand(bearer).ok_or(None)?;
    let token = token.trim();
    if token.is_empty() || token.contains(char::is_whitespace) {
        return Err(Some("is not a token; write it alone, without \"Bearer\" and without spaces"));
    }
    headers::parse("authorization", &format!("Bearer {token}")).map(|(_, value)| value).map_err(Some)
}

const TRANSPORTS: [(&str, HttpTransport); 2] =
    [("http", HttpTransport::Streamable), ("sse", HttpTransport::Sse)];

/// Stands for a name that is invalid, of which the configuration is refused anyway.
const UNNAMED: &str = "unnamed";

/// Servers usually accept 100 header fields, and the headers of the client are forwarded as well.
const HEADERS_MAX: usize = 64;
