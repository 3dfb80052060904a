//! One server: its document as people write it, and what is made of it.

mod allowed;
mod program;
mod words;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::bounds::{self, Bound, Settings};
use super::fields::{Errors, FieldError, Fields, below};
use super::headers::Owner;
use super::secrets::{SEALED, Secrets};
use super::{address, headers};
use crate::auth::Sealer;
use crate::base::{ServerName, units};
use crate::store::{self, Binder, ServerKind, ServerRow, ServerSpec, Uuid};
use crate::upstream::{self, Address, EraChoice, is_private_address};

pub use allowed::{Allowed, AllowedCommand, EnvPattern, Forbidden, PatternError};
pub use program::{Commands, Serving};
pub use words::{ChangedToolsWord, EraWord, KindWord, SharingWord};

/// A server behind the gateway, with secrets shown as `(sealed)`. What is not said has its default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
#[schema(as = Server)]
#[serde(deny_unknown_fields)]
pub struct ServerDocument {
    /// Letters, digits, `-` and single `_`, not at either end. Tools are called `NAME__TOOL`. Not a UUID.
    #[schema(
        min_length = 1,
        max_length = 64,
        pattern = "^[A-Za-z0-9-]+(_[A-Za-z0-9-]+)*$",
        example = "github"
    )]
    pub name: String,
    /// How it is spoken to. This version serves `http` and `sse`, and `stdio` where the gateway may run the program.
    pub kind: KindWord,
    /// Whether it is served. Default: true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Stands before its tools in place of the name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9-]+(_[A-Za-z0-9-]+)*$")]
    pub alias: Option<String>,
    /// Of `http` and `sse`: `http://`, `https://`, or, of `http`, `unix:/path/to/socket:/mcp`. Shown without its query and
    /// long path segments, which may hold tokens; sent back as shown, it stays what it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 8192, example = "https://mcp.example.com/mcp")]
    pub url: Option<String>,
    /// Of `http` and `sse`: sent with every request. Values are sealed and shown as `(sealed)`; sent back so,
    /// they stay what they were.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers: Option<BTreeMap<String, String>>,
    /// Of `stdio`: the absolute path of a program, exactly as `admin.stdio_commands` of the gateway has it, with the
    /// arguments first that this has behind it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 4096)]
    pub command: Option<String>,
    /// Of `stdio`: its arguments, each as it is. They may be credentials, so all are sealed and shown as `(sealed)`;
    /// sent back so at the same place, with the same command, one stays what it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 256)]
    pub args: Option<Vec<String>>,
    /// Of `stdio`: the absolute path of its working directory, exactly as `admin.stdio_dirs` of the gateway has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 4096)]
    pub cwd: Option<String>,
    /// Of `stdio`: its environment; sealed as headers are. Names are of those that `admin.stdio_env` of the gateway has;
    /// never one that decides what a program loads or runs, as `LD_PRELOAD` and `PATH` do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env: Option<BTreeMap<String, String>>,
    /// Of `stdio`: who shares a process. Default: `key`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sharing: Option<SharingWord>,
    /// Whether its address may be a private one. Default: true where the gateway listens on loopback only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_private: Option<bool>,
    /// Which revisions it is asked in. Default: `auto`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub era: Option<EraWord>,
    /// To an established connection, with a unit. Default: `2s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^[0-9]{1,9}(ms|s|m|h|d)$")]
    pub connect_timeout: Option<String>,
    /// To the head of an answer. Default: `5m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^[0-9]{1,9}(ms|s|m|h|d)$")]
    pub first_byte_timeout: Option<String>,
    /// Between two reads of an answer. Default: `10m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^[0-9]{1,9}(ms|s|m|h|d)$")]
    pub stream_idle_timeout: Option<String>,
    /// Requests to it at once; more wait. Default: 256.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1_000_000)]
    pub in_flight_max: Option<usize>,
    /// How long they wait. Default: `5s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^[0-9]{1,9}(ms|s|m|h|d)$")]
    pub queue_timeout: Option<String>,
    /// How many wait. Default: 256.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 1_000_000)]
    pub queue_max: Option<usize>,
    /// Connections kept open to it, per worker. Default: 256.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 65_536)]
    pub idle_connections_max: Option<usize>,
    /// How long they are kept: less than its own keep-alive. Default: `4s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^[0-9]{1,9}(ms|s|m|h|d)$")]
    pub idle_age_max: Option<String>,
    /// What becomes of a tool that is not as it was approved. Default: `warn`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changed_tools: Option<ChangedToolsWord>,
}

/// What whoever writes a definition may define.
#[derive(Debug, Clone)]
pub struct Rules {
    /// The kinds that this version serves.
    pub served: Vec<ServerKind>,
    /// Which programs a `stdio` server may name.
    pub commands: Commands,
    /// What holds for a server that says nothing of private addresses.
    pub allow_private: bool,
}

/// The kinds that this version serves.
pub const SERVED: [ServerKind; 3] = [ServerKind::Http, ServerKind::Sse, ServerKind::Stdio];

/// A server whose definition holds.
#[derive(Clone)]
pub struct Server {
    /// As shown.
    pub document: ServerDocument,
    /// What is not.
    pub secrets: Secrets,
    name: ServerName,
    alias: Option<ServerName>,
    address: Option<Address>,
    headers: Vec<(HeaderName, HeaderValue)>,
    settings: Settings,
}

/// A stored definition that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// It does not open.
    #[error(
        "server `{0}` was altered outside of keyadm and the gateway, sealed under another ENCRYPTION_KEY, or made before \
         rows were bound to one: give the version that sealed it, or write the whole of it anew (PUT, or `keyadm servers \
         import --replace`), or remove it (`keyadm servers remove`)"
    )]
    Closed(String),
    /// It was written by hand, or by a later version.
    #[error("the definition of server `{0}` is not one that this version reads: {1}")]
    Invalid(String, String),
}

/// A definition that is not served on this machine; says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Unserved {
    /// By no version yet.
    #[error("servers of the kind {0} are not served by this version")]
    Kind(&'static str),
    /// Its program is not on the list, or not as it is defined: what of it, and why.
    #[error("{0} {1}")]
    Program(String, Forbidden),
}

impl Rules {
    /// Over the network: no program but those that this machine runs.
    pub fn remote(serving: &Serving) -> Self {
        Self {
            served: SERVED.to_vec(),
            commands: Commands::Only(serving.allowed.clone()),
            allow_private: serving.allow_private,
        }
    }

    /// What is stored was allowed when it was written, and what is taken over was where it comes from.
    pub fn stored() -> Self {
        Self {
            served: vec![ServerKind::Http, ServerKind::Sse, ServerKind::Stdio],
            commands: Commands::Any,
            allow_private: true,
        }
    }
}

impl Server {
    /// Reads a whole definition and tells everything that is wrong with it. `before`: what is stored, for the values
    /// that are sent back as `(sealed)`.
    pub fn read(value: &Value, before: Option<&Self>, rules: &Rules) -> Result<Self, Errors> {
        let mut errors = Errors::new();
        let server = Reader { before, rules, errors: &mut errors }.read(value);
        match server {
            Some(server) if errors.is_empty() => Ok(server),
            _ => Err(errors),
        }
    }

    /// From the store.
    pub fn from_row(row: &ServerRow, sealer: &Sealer) -> Result<Self, Unreadable> {
        let plain = sealer.open_row(store::Bound::Server(row)).as_ref().and_then(Secrets::from_plain);
        let secrets = plain.ok_or_else(|| Unreadable::Closed(row.name.clone()))?;
        let mut value = document_of(row);
        if let Some(url) = &secrets.url {
            value["url"] = url.as_str().into();
        }
        for (key, values) in [("headers", &secrets.headers), ("env", &secrets.env)] {
            if !values.is_empty() {
                value[key] = json!(values);
            }
        }
        if !secrets.args.is_empty() {
            value["args"] = json!(secrets.args);
        }
        Self::read(&value, None, &Rules::stored()).map_err(|errors| {
            let told: Vec<_> = errors.iter().map(|e| format!("{} {}", e.pointer, e.detail)).collect();
            Unreadable::Invalid(row.name.clone(), told.join("; "))
        })
    }

    /// For the store, which seals it.
    pub fn spec(&self) -> ServerSpec {
        let secrets = store::Secrets::Set(self.secrets.to_plain());
        let mut definition = self.to_json();
        if let Some(members) = definition.as_object_mut() {
            members.remove("name");
            members.remove("kind");
        }
        ServerSpec { name: self.document.name.clone(), kind: self.kind(), definition, secrets }
    }

    /// As shown.
    pub fn to_json(&self) -> Value {
        serde_json::to_value(&self.document).expect("texts and numbers are JSON")
    }

    /// What the data plane connects to on this machine, or what it runs.
    pub fn upstream(&self, serving: &Serving) -> Result<upstream::Config, Unserved> {
        let unserved = || Unserved::Kind(self.kind().as_str());
        let address = match (self.document.kind, self.address.clone().ok_or_else(unserved)?) {
            (KindWord::Http | KindWord::Sse, address) => address,
            (KindWord::Stdio, Address::Stdio(program)) => Address::Stdio(serving.program(program)?),
            (KindWord::Stdio, _) => return Err(unserved()),
        };
        let config = self.settings.server(self.name.clone(), address, self.headers.clone());
        let private_addresses = self.document.allow_private.unwrap_or(serving.allow_private);
        Ok(upstream::Config { private_addresses, alias: self.alias.clone(), ..config })
    }

    /// Its name.
    pub fn name(&self) -> &ServerName {
        &self.name
    }

    /// How it is spoken to.
    pub fn kind(&self) -> ServerKind {
        self.document.kind.into()
    }

    /// Whether it is to be served.
    pub fn is_enabled(&self) -> bool {
        self.document.enabled.unwrap_or(true)
    }
}

impl fmt::Debug for Server {
    /// As shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Server").field(&self.document).finish()
    }
}

/// A row as its document: nothing of it is opened.
pub fn document_of(row: &ServerRow) -> Value {
    let mut members = row.definition.as_object().cloned().unwrap_or_default();
    members.insert("name".into(), row.name.as_str().into());
    members.insert("kind".into(), row.kind.as_str().into());
    Value::Object(members)
}

struct Reader<'a> {
    before: Option<&'a Server>,
    rules: &'a Rules,
    errors: &'a mut Errors,
}

impl Reader<'_> {
    fn read(mut self, value: &Value) -> Option<Server> {
        let mut fields = Fields::of(value, "", self.errors)?;
        fields.ignore(&READ_ONLY);
        let mut document = ServerDocument::default();
        let mut settings = bounds::DEFAULTS;
        let mut secrets = Secrets::default();

        let name = fields.required("name", self.errors).and_then(|text| self.name("/name", text));
        let alias = fields.text("alias", self.errors).and_then(|text| self.name("/alias", text));
        document.alias = alias.as_ref().map(|alias| alias.as_str().to_owned());
        document.kind = self.kind(&mut fields);
        document.enabled = fields.flag("enabled", self.errors);
        document.allow_private = fields.flag("allow_private", self.errors);
        self.settings(&mut fields, &mut document, &mut settings);
        if document.kind == KindWord::Sse && settings.era == EraChoice::Modern {
            self.wrong("/era", MODERN_SSE);
        }
        let (address, headers) = match document.kind {
            KindWord::Http | KindWord::Sse => {
                self.foreign(&fields, value, &["command", "args", "cwd", "env", "sharing"], "stdio");
                fields.ignore(&["command", "args", "cwd", "env", "sharing"]);
                let address = self.address(&mut fields, &mut document, &mut secrets);
                // A stored credential goes where it was stored for: nobody gets it by pointing elsewhere.
                let stays = |before: &&Server| same_place(before.address.as_ref(), address.as_ref());
                let stored = self.before.filter(stays).map(|before| &before.secrets.headers);
                let headers = self.headers(&mut fields, stored, &mut document, &mut secrets);
                (address, headers)
            }
            KindWord::Stdio => {
                self.foreign(&fields, value, &["url", "headers"], "http");
                fields.ignore(&["url", "headers"]);
                (self.program(&mut fields, &mut document, &mut secrets), Vec::new())
            }
        };
        fields.finish(self.errors);
        let name = name?;
        name.as_str().clone_into(&mut document.name);
        Some(Server { document, secrets, name, alias, address, headers, settings })
    }

    fn wrong(&mut self, pointer: impl Into<String>, detail: impl Into<String>) {
        self.errors.push(FieldError::new(pointer, detail));
    }

    fn name(&mut self, pointer: &str, text: &str) -> Option<ServerName> {
        if Uuid::parse_str(text).is_ok() {
            self.wrong(pointer, "is a UUID; servers are found by either, so a name must not look like one");
            return None;
        }
        ServerName::new(text).map_err(|invalid| self.wrong(pointer, invalid.unquoted())).ok()
    }

    fn kind(&mut self, fields: &mut Fields<'_>) -> KindWord {
        let words = [("http", KindWord::Http), ("sse", KindWord::Sse), ("stdio", KindWord::Stdio)];
        if fields.value("kind").is_none() {
            self.wrong("/kind", "is missing");
        }
        let kind = fields.word("kind", &words, self.errors).unwrap_or_default();
        if !self.rules.served.contains(&kind.into()) {
            let served: Vec<&str> = self.rules.served.iter().map(|kind| kind.as_str()).collect();
            self.wrong("/kind", format!("is not served by this version; it serves: {}", served.join(", ")));
        }
        kind
    }

    /// Members of another kind are a mistake, not to be dropped in silence.
    fn foreign(&mut self, fields: &Fields<'_>, value: &Value, keys: &[&str], kind: &str) {
        for key in keys.iter().filter(|key| value.get(**key).is_some_and(|value| !value.is_null())) {
            self.wrong(fields.at(key), format!("is of {kind} servers; leave it out"));
        }
    }

    fn settings(&mut self, fields: &mut Fields<'_>, document: &mut ServerDocument, to: &mut Settings) {
        let eras = [("auto", EraWord::Auto), ("modern", EraWord::Modern), ("legacy", EraWord::Legacy)];
        document.era = fields.word("era", &eras, self.errors);
        to.era = match document.era {
            None | Some(EraWord::Auto) => EraChoice::Auto,
            Some(EraWord::Modern) => EraChoice::Modern,
            Some(EraWord::Legacy) => EraChoice::Legacy,
        };
        let policies = [
            ("allow", ChangedToolsWord::Allow),
            ("warn", ChangedToolsWord::Warn),
            ("quarantine", ChangedToolsWord::Quarantine),
        ];
        document.changed_tools = fields.word("changed_tools", &policies, self.errors);
        if let Some(word) = document.changed_tools {
            to.changed_tools = word.into();
        }
        let errors = &mut *self.errors;
        let mut time = |key, bound: Bound<Duration>, to: &mut Duration| {
            let found = fields.duration(key, bound, errors)?;
            *to = found;
            Some(units::duration_text(found))
        };
        let d = document;
        d.connect_timeout = time("connect_timeout", bounds::CONNECT_TIMEOUT, &mut to.connect_timeout);
        d.first_byte_timeout =
            time("first_byte_timeout", bounds::FIRST_BYTE_TIMEOUT, &mut to.first_byte_timeout);
        d.stream_idle_timeout =
            time("stream_idle_timeout", bounds::STREAM_IDLE_TIMEOUT, &mut to.stream_idle_timeout);
        d.queue_timeout = time("queue_timeout", bounds::QUEUE_TIMEOUT, &mut to.queue_timeout);
        d.idle_age_max = time("idle_age_max", bounds::IDLE_AGE, &mut to.idle_age_max);
        let mut count = |key, bound: Bound<usize>, to: &mut usize| {
            let found = fields.count(key, bound, self.errors)?;
            *to = found;
            Some(found)
        };
        d.in_flight_max = count("in_flight_max", bounds::IN_FLIGHT, &mut to.in_flight_max);
        d.queue_max = count("queue_max", bounds::QUEUE, &mut to.queue_max);
        to.idle_connections_max = bounds::DEFAULTS.usual_idle_connections(to.in_flight_max);
        d.idle_connections_max =
            count("idle_connections_max", bounds::IDLE_CONNECTIONS, &mut to.idle_connections_max);
    }

    fn address(
        &mut self,
        fields: &mut Fields<'_>,
        document: &mut ServerDocument,
        secrets: &mut Secrets,
    ) -> Option<Address> {
        let written = fields.required("url", self.errors)?;
        // What was shown and is sent back stands for what is stored.
        let stored = self.before.filter(|before| before.document.url.as_deref() == Some(written));
        let text = stored.and_then(|before| before.secrets.url.as_deref()).unwrap_or(written);
        let parsed = match document.kind {
            KindWord::Sse => address::parse(text).and_then(address::over_sse),
            KindWord::Http | KindWord::Stdio => address::parse(text),
        };
        let address = match parsed {
            Ok(address) => address,
            Err(wrong) => {
                self.wrong("/url", wrong);
                return None;
            }
        };
        if !document.allow_private.unwrap_or(self.rules.allow_private) && is_private_address(&address) {
            self.wrong("/url", "leads to a private address, this machine's among them; set allow_private (keyadm: --allow-private) if that is what you want");
        }
        // Its kind says the rest.
        let shown = address::shown(&address).trim_start_matches("sse:").to_owned();
        let whole = address::whole(&address);
        secrets.url = (shown != whole).then_some(whole);
        document.url = Some(shown);
        Some(address)
    }

    fn headers(
        &mut self,
        fields: &mut Fields<'_>,
        stored: Option<&BTreeMap<String, String>>,
        document: &mut ServerDocument,
        secrets: &mut Secrets,
    ) -> Vec<(HeaderName, HeaderValue)> {
        let mut list = Vec::new();
        for (name, written) in fields.text_map("headers", HEADERS_MAX, self.errors) {
            let pointer = below("/headers", name);
            let stored = stored.and_then(|stored| stored.get(&name.to_ascii_lowercase()));
            let Some(value) = self.kept(stored, written, &pointer) else { continue };
            match headers::parse(name, &value) {
                Err(wrong) => self.wrong(pointer, wrong),
                Ok((name, _)) if headers::owner(&name) == Owner::Gateway => {
                    self.wrong(pointer, "is set by metamcp itself, on every request; leave it out");
                }
                Ok((name, _)) if secrets.headers.contains_key(name.as_str()) => {
                    self.wrong(pointer, "is there twice: header names do not differ by case");
                }
                Ok((name, header)) => {
                    secrets.headers.insert(name.as_str().to_owned(), value);
                    list.push((name, header));
                }
            }
        }
        document.headers = sealed(&secrets.headers);
        list
    }

    /// A secret as written, or, where it was sent back as shown, as it is stored.
    fn kept(&mut self, stored: Option<&String>, written: &str, pointer: &str) -> Option<String> {
        if written != SEALED {
            return Some(written.to_owned());
        }
        if stored.is_none() {
            let detail = "has no value stored for this address, or for this program with these arguments; write the value itself";
            self.wrong(pointer, detail);
        }
        stored.cloned()
    }
}

/// Whether two addresses lead to the same peer, whatever is asked for there.
fn same_place(one: Option<&Address>, other: Option<&Address>) -> bool {
    match (one, other) {
        (Some(Address::Http(one) | Address::Sse(one)), Some(Address::Http(other) | Address::Sse(other))) => {
            one.origin() == other.origin()
        }
        (Some(Address::Unix { socket: one, .. }), Some(Address::Unix { socket: other, .. })) => one == other,
        // That there is none is told elsewhere.
        (_, None) => true,
        _ => false,
    }
}

fn sealed(values: &BTreeMap<String, String>) -> Option<BTreeMap<String, String>> {
    let shown = values.keys().map(|name| (name.clone(), SEALED.to_owned())).collect();
    (!values.is_empty()).then_some(shown)
}

/// JSON merge patch (RFC 7396). Not recursive over what a peer sent: JSON was read with a bound on its depth.
pub fn merge_patch(target: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(members) = target.as_object_mut() else { return };
    for (key, value) in patch {
        if value.is_null() {
            members.remove(key);
        } else {
            merge_patch(members.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

/// The transport is older than that.
pub const MODERN_SSE: &str = "is not spoken over sse; leave it out";

/// What only the gateway writes.
const READ_ONLY: [&str; 9] =
    ["id", "version", "created_at", "changed_at", "source", "served", "reason", "condition", "vetting"];

/// Servers take 100 fields, and the client's own are sent as well.
const HEADERS_MAX: usize = 64;

#[cfg(test)]
mod tests;
