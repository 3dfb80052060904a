//! From the lists of several servers to the lists of one endpoint, as ready bytes.

use std::borrow::Cow;
use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use bytes::{BufMut, Bytes, BytesMut};
use foldhash::fast::FixedState;
use serde_json::json;

use super::cursor;
use super::missing::{Missing, Reason};
use super::offer::join;
use super::retold::{retold, without_tasks};
use super::vetting::{Held, HeldTools};
use super::view::View;
use crate::route::{Destination, Endpoint, NameIndex, OriginalName, ToolOverride, UriTemplate};
use crate::session::{ServerFeatures, TaskFeatures};
use metamcp_core::frame::{encode_header_value, json_string};
use metamcp_core::protocol::Revision;

/// The four lists of MCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ListKind {
    /// `tools/list`
    Tools,
    /// `prompts/list`
    Prompts,
    /// `resources/list`
    Resources,
    /// `resources/templates/list`
    Templates,
}

/// What one server listed, and what of it is held back.
#[derive(Debug, Clone)]
pub struct Listed {
    /// All of it.
    pub lists: Arc<ServerLists>,
    /// Of its tools.
    pub held: Arc<HeldTools>,
}

/// What one server listed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ServerLists {
    /// What it offers.
    pub features: ServerFeatures,
    /// Its items, by [`ListKind::index`].
    pub items: [Vec<Item>; 4],
    /// How long the lists are fresh by its own word.
    pub ttl_ms: Option<u64>,
    /// Whether they are for this client alone by its own word.
    pub private: bool,
}

/// One item as the server wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Its name, URI, or URI template, decoded.
    pub key: String,
    /// Its JSON, byte for byte.
    pub raw: Bytes,
    /// Where in `raw` the key's JSON string lies, quotes included.
    pub key_start: usize,
    /// Where it ends.
    pub key_end: usize,
}

/// The lists of one endpoint in one view. Immutable.
#[derive(Default)]
pub struct Merged {
    listings: [Listing; 4],
    templates: Vec<(UriTemplate, u32)>,
    with_resources: Vec<usize>,
    /// What the endpoint offers: all that one of its servers offers.
    pub features: ServerFeatures,
    /// What each server of the endpoint does with tasks, in its order.
    pub tasks: Vec<TaskFeatures>,
    /// Servers whose items are not in it, and why.
    pub missing: Vec<Missing>,
    /// What was left out of the lists, and why.
    pub hidden: Vec<HiddenItem>,
    /// By server of the endpoint: what was known of it when this was made. See `Catalog::mark_stale`.
    pub generations: Vec<u64>,
    /// How often servers said that their tools, prompts and resources changed.
    pub announced: [u64; 3],
    /// Whether a server's first answer is still awaited.
    pub is_loading: bool,
    /// Set by workers that read it, taken back by the keeper that counts.
    pub used: AtomicBool,
    /// What `initialize` is answered with, by revision, once somebody asked in that.
    pub(super) initialized: [OnceLock<Bytes>; Revision::ALL.len()],
}

/// One merged list.
#[derive(Default)]
pub struct Listing {
    /// Keys in ascending order, each with its item as advertised.
    items: Vec<(String, Bytes)>,
    /// Where each leads.
    pub names: NameIndex,
    /// The first page: what nearly every request asks for.
    first_page: Bytes,
    /// What stands behind the items on each page.
    tail: Bytes,
    /// Likewise, where not every client is shown the same items.
    own_tail: Bytes,
    page_items: usize,
    /// Of the items: tells whether the list changed.
    pub digest: u64,
}

/// An item that is not advertised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HiddenItem {
    /// As it would be advertised.
    pub key: String,
    /// Why not.
    pub why: &'static str,
    /// Whether it is a tool that somebody may approve.
    pub is_held: bool,
}

/// The specification's limit of a tool name (MCP 2026-07-28, tools).
pub const NAME_BYTES_MAX: usize = 128;

/// A URI longer than this is hidden: cursors hold a key, and request lines have bounds too.
pub(super) const KEY_BYTES_MAX: usize = 2048;

/// Hidden items that one page names: a server may hide all that it has.
const HIDDEN_TOLD_MAX: usize = 100;

/// How long a client may believe a Modern list when no server says: changes are announced anyway.
pub(super) const TTL_MS_DEFAULT: u64 = 60_000;

impl From<Arc<ServerLists>> for Listed {
    /// With nothing held back.
    fn from(lists: Arc<ServerLists>) -> Self {
        Self { lists, held: Arc::default() }
    }
}

impl ListKind {
    /// All four.
    pub const ALL: [Self; 4] = [Self::Tools, Self::Prompts, Self::Resources, Self::Templates];

    /// Its place in arrays.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The member of a result that holds the items.
    pub const fn member(self) -> &'static str {
        match self {
            Self::Tools => "tools",
            Self::Prompts => "prompts",
            Self::Resources => "resources",
            Self::Templates => "resourceTemplates",
        }
    }

    pub(super) const fn letter(self) -> char {
        match self {
            Self::Tools => 't',
            Self::Prompts => 'p',
            Self::Resources => 'r',
            Self::Templates => 'u',
        }
    }

    /// Whether its items are renamed on an endpoint that prefixes.
    const fn is_named(self) -> bool {
        matches!(self, Self::Tools | Self::Prompts)
    }
}

/// Merges what the endpoint's servers listed; `servers` in the endpoint's order.
pub fn merge(
    endpoint: &Endpoint,
    view: View,
    servers: &[Result<Listed, Reason>],
    generations: Vec<u64>,
    page_items: usize,
) -> Merged {
    let mut merged = Merged { generations, ..Merged::default() };
    for (place, state) in servers.iter().enumerate() {
        let server = &endpoint.servers[place].name;
        merged.tasks.push(
            state.as_ref().map_or_else(|_| TaskFeatures::default(), |listed| listed.lists.features.tasks),
        );
        match state {
            Ok(Listed { lists, .. }) => {
                join(&mut merged.features, server, &lists.features);
                if lists.features.resources {
                    merged.with_resources.push(place);
                }
            }
            Err(reason) => {
                merged.is_loading |= matches!(reason, Reason::Loading | Reason::Unasked);
                merged.missing.push(Missing { server: server.clone(), place, reason: reason.clone() });
            }
        }
    }
    let entries = ListKind::ALL.map(|kind| gather(endpoint, (view, kind), servers, &mut merged.hidden));
    let tails = [tail(view, servers, &merged, false), tail(view, servers, &merged, true)];
    for (kind, entries) in ListKind::ALL.into_iter().zip(entries) {
        if kind == ListKind::Templates {
            merged.templates = templates(&entries);
        }
        merged.listings[kind.index()] = Listing::new(kind, entries, tails.clone(), page_items);
    }
    merged
}

struct Entry<'a> {
    key: String,
    /// The server's own name of it.
    own: &'a str,
    json: Bytes,
    destination: Destination,
    held: Option<Held>,
}

/// The items of one kind under their advertised names, in ascending order of these.
fn gather<'a>(
    endpoint: &Endpoint,
    (view, kind): (View, ListKind),
    servers: &'a [Result<Listed, Reason>],
    hidden: &mut Vec<HiddenItem>,
) -> Vec<Entry<'a>> {
    let mut entries = Vec::new();
    for (place, lists) in servers.iter().enumerate() {
        let Ok(Listed { lists, held }) = lists else { continue };
        let tool_view = endpoint.servers[place].tool_view.as_ref().filter(|_| kind == ListKind::Tools);
        for item in &lists.items[kind.index()] {
            let name = match kind {
                ListKind::Tools => endpoint.tool_name(place, &item.key),
                ListKind::Prompts => Some(endpoint.prompt_name(place, &item.key)),
                ListKind::Resources | ListKind::Templates => Some(Cow::Borrowed(&*item.key)),
            };
            // What the endpoint does not show is not there.
            let Some(name) = name else { continue };
            let bytes_max = if kind.is_named() { NAME_BYTES_MAX } else { KEY_BYTES_MAX };
            if name.len() > bytes_max {
                let why = "its name is too long";
                hidden.push(HiddenItem { key: name.into_owned(), why, is_held: false });
            } else {
                let instead = tool_view.and_then(|tool_view| tool_view.override_of(&item.key));
                let mut entry = item.advertised(name, place, instead);
                // Else a client would ask for a task where another server of the endpoint has them (MCP
                // 2025-11-25, tasks).
                if kind == ListKind::Tools && view != View::Modern && !lists.features.tasks.calls {
                    entry.json = without_tasks(entry.json);
                }
                entry.held = held.get(&item.key).filter(|_| kind == ListKind::Tools).copied();
                entries.push(entry);
            }
        }
    }
    // Stable, so that of equal keys the one of the first server comes first.
    entries.sort_by(|a, b| a.key.cmp(&b.key));
    let mut kept = hide_collisions(kind, entries, hidden);
    // Only now: what another server has under that name does not take its place.
    kept.retain(|entry| {
        let Some(held) = entry.held else { return true };
        hidden.push(HiddenItem { key: entry.key.clone(), why: held.text(), is_held: true });
        false
    });
    kept
}

/// Two tools of one name are both hidden: which one is called must not depend on who answers first. A
/// resource is the same whoever serves it, so the first server has it.
fn hide_collisions<'a>(
    kind: ListKind,
    entries: Vec<Entry<'a>>,
    hidden: &mut Vec<HiddenItem>,
) -> Vec<Entry<'a>> {
    let mut kept: Vec<Entry<'_>> = Vec::with_capacity(entries.len());
    let mut entries = entries.into_iter().peekable();
    while let Some(entry) = entries.next() {
        let place = entry.destination.server_index;
        let mut rival = None;
        while let Some(twin) = entries.next_if(|next| next.key == entry.key) {
            if twin.destination.server_index != place {
                rival = Some("several servers have it");
            } else if twin.own != entry.own {
                rival = rival.or(Some("several tools of its server are shown under it"));
            }
            // Else its server lists the same thing twice, and has it once.
        }
        match rival.filter(|_| kind.is_named()) {
            Some(why) => hidden.push(HiddenItem { key: entry.key, why, is_held: false }),
            None => kept.push(entry),
        }
    }
    kept
}

fn templates(entries: &[Entry<'_>]) -> Vec<(UriTemplate, u32)> {
    let mut templates: Vec<_> = entries
        .iter()
        .filter_map(|entry| Some((UriTemplate::parse(&entry.key)?, entry.destination.server_index)))
        .collect();
    templates.sort_by_key(|(template, _)| std::cmp::Reverse(template.literal_bytes()));
    templates
}

impl Item {
    fn advertised(&self, name: Cow<'_, str>, place: usize, instead: Option<&ToolOverride>) -> Entry<'_> {
        let place = u32::try_from(place).expect("an endpoint has fewer servers than 2^32");
        let (mut json, original_name) = if *name == self.key {
            (self.raw.clone(), None)
        } else {
            let written = json_string(&name);
            let mut json = BytesMut::with_capacity(self.raw.len() + written.len());
            json.put_slice(&self.raw[..self.key_start]);
            json.put_slice(&written);
            json.put_slice(&self.raw[self.key_end..]);
            let original_name = OriginalName {
                text: self.key.clone(),
                json: self.raw.slice(self.key_start..self.key_end),
                header: Bytes::from(encode_header_value(&self.key).into_owned()),
                is_listed: true,
            };
            (json.freeze(), Some(Arc::new(original_name)))
        };
        if let Some(instead) = instead {
            json = retold(&json, instead);
        }
        let destination = Destination { server_index: place, original_name };
        Entry { key: name.into_owned(), own: &self.key, json, destination, held: None }
    }
}

/// What stands behind the items of every page: what a Modern result must have, and what is missing.
fn tail(view: View, servers: &[Result<Listed, Reason>], merged: &Merged, is_own: bool) -> Bytes {
    let mut meta = serde_json::Map::new();
    if !merged.missing.is_empty() {
        let missing: Vec<_> = merged.missing.iter().map(Missing::to_json).collect();
        meta.insert("dev.metamcp/missing".into(), missing.into());
    }
    // One who is not shown everything is not told what is hidden either.
    if !merged.hidden.is_empty() && !is_own {
        let hidden = merged.hidden.iter().take(HIDDEN_TOLD_MAX);
        let hidden: Vec<_> = hidden.map(|item| json!({"name": item.key, "reason": item.why})).collect();
        meta.insert("dev.metamcp/hidden".into(), hidden.into());
    }
    let mut tail = String::new();
    if view == View::Modern {
        let known = servers.iter().flatten().map(|listed| &listed.lists);
        let ttl_ms = known.clone().filter_map(|lists| lists.ttl_ms).min().unwrap_or(TTL_MS_DEFAULT);
        let ttl_ms = if merged.missing.is_empty() { ttl_ms } else { 0 };
        let scope = if is_own || known.clone().any(|lists| lists.private) { "private" } else { "public" };
        tail = format!(r#","resultType":"complete","ttlMs":{ttl_ms},"cacheScope":"{scope}""#);
        meta.insert("io.modelcontextprotocol/serverInfo".into(), server_info());
    }
    if !meta.is_empty() {
        tail.push_str(",\"_meta\":");
        tail.push_str(&serde_json::Value::Object(meta).to_string());
    }
    tail.push('}');
    tail.into()
}

/// The gateway's own `Implementation` object.
pub fn server_info() -> serde_json::Value {
    json!({"name": "metamcp", "version": env!("CARGO_PKG_VERSION")})
}

impl Listing {
    fn new(kind: ListKind, entries: Vec<Entry<'_>>, tails: [Bytes; 2], page_items: usize) -> Self {
        let mut names = NameIndex::with_capacity(entries.len());
        let mut hasher = FixedState::default().build_hasher();
        let mut items = Vec::with_capacity(entries.len());
        for Entry { key, json, destination, .. } in entries {
            hasher.write(&json);
            names.insert(&key, destination);
            items.push((key, json));
        }
        let digest = hasher.finish();
        let [tail, own_tail] = tails;
        let mut listing = Self { items, names, first_page: Bytes::new(), tail, own_tail, page_items, digest };
        listing.first_page = listing.page(kind, &listing.items, &listing.tail);
        listing
    }

    /// The `result` of the page after `cursor`; `None` when that is no cursor of this list.
    pub fn result(&self, kind: ListKind, cursor: Option<&str>) -> Option<Bytes> {
        let Some(cursor) = cursor else { return Some(self.first_page.clone()) };
        let last = cursor::read(kind, cursor)?;
        Some(self.page(kind, self.behind(&last), &self.tail))
    }

    /// Likewise of those items that `may` be seen, for this client alone.
    pub fn result_of(
        &self,
        kind: ListKind,
        cursor: Option<&str>,
        may: impl Fn(&str) -> bool,
    ) -> Option<Bytes> {
        let left = match cursor {
            None => &self.items[..],
            Some(cursor) => self.behind(&cursor::read(kind, cursor)?),
        };
        let left: Vec<_> = left.iter().filter(|(key, _)| may(key)).cloned().collect();
        Some(self.page(kind, &left, &self.own_tail))
    }

    /// One item by its key, as advertised.
    pub fn item(&self, key: &str) -> Option<&Bytes> {
        let at = self.items.binary_search_by(|(other, _)| other.as_str().cmp(key)).ok()?;
        Some(&self.items[at].1)
    }

    /// The items behind `key`, each with its key, as advertised.
    pub fn items_after(&self, key: Option<&str>) -> &[(String, Bytes)] {
        let start = key.map_or(0, |key| self.items.partition_point(|(other, _)| other.as_str() <= key));
        &self.items[start..]
    }

    fn behind(&self, last: &str) -> &[(String, Bytes)] {
        &self.items[self.items.partition_point(|(key, _)| key.as_str() <= last)..]
    }

    /// The first page of what is left.
    fn page(&self, kind: ListKind, left: &[(String, Bytes)], tail: &Bytes) -> Bytes {
        let items = &left[..left.len().min(self.page_items.max(1))];
        let bytes: usize = items.iter().map(|(_, json)| json.len() + 1).sum();
        let mut page = BytesMut::with_capacity(bytes + tail.len() + 128);
        page.put_slice(b"{\"");
        page.put_slice(kind.member().as_bytes());
        page.put_slice(b"\":[");
        for (index, (_, json)) in items.iter().enumerate() {
            if index > 0 {
                page.put_u8(b',');
            }
            page.put_slice(json);
        }
        page.put_u8(b']');
        if let Some((last, _)) = items.last().filter(|_| items.len() < left.len()) {
            page.put_slice(b",\"nextCursor\":\"");
            page.put_slice(cursor::write(kind, last).as_bytes());
            page.put_u8(b'"');
        }
        page.put_slice(tail);
        page.freeze()
    }
}

impl Merged {
    /// One of the four lists.
    pub fn listing(&self, kind: ListKind) -> &Listing {
        &self.listings[kind.index()]
    }

    /// The tools of the server at that place that are shown: under which name, and what the server calls it.
    pub fn tools_of(&self, place: usize) -> impl Iterator<Item = (&str, Cow<'_, str>)> {
        let all = self.listing(ListKind::Tools).names.iter();
        all.filter(move |(_, destination)| destination.server_index as usize == place).filter_map(
            |(shown, destination)| {
                let own = match &destination.original_name {
                    None => Cow::Borrowed(shown),
                    Some(own) => Cow::Owned(serde_json::from_slice(&own.json).ok()?),
                };
                Some((shown, own))
            },
        )
    }

    /// Whether the server's tool `own` at that place is shown by that name.
    pub fn has_tool(&self, place: usize, shown: &str, own: &str) -> bool {
        let found = self.listing(ListKind::Tools).names.find(shown);
        found.filter(|destination| destination.server_index as usize == place).is_some_and(|destination| {
            match &destination.original_name {
                None => shown == own,
                Some(name) => {
                    serde_json::from_slice::<Cow<'_, str>>(&name.json).is_ok_and(|name| name == own)
                }
            }
        })
    }

    /// The server's place that has a resource: by exact URI, then by the closest template.
    pub fn resource(&self, uri: &str) -> Option<u32> {
        let exact = self.listing(ListKind::Resources).names.find(uri);
        let by_template_itself = || self.listing(ListKind::Templates).names.find(uri);
        exact.or_else(by_template_itself).map(|destination| destination.server_index).or_else(|| {
            self.templates.iter().find(|(template, _)| template.matches(uri)).map(|(_, place)| *place)
        })
    }

    /// Whether a client or a waiting request would learn nothing new from `other`.
    pub fn says_the_same(&self, other: &Self) -> bool {
        let same_lists = self
            .listings
            .iter()
            .zip(&other.listings)
            .all(|(one, two)| (one.digest, &one.tail) == (two.digest, &two.tail));
        same_lists
            && self.features == other.features
            && self.tasks == other.tasks
            && self.announced == other.announced
            && self.missing == other.missing
            && self.hidden == other.hidden
            && self.generations == other.generations
            && self.is_loading == other.is_loading
    }

    /// Why the tool that would be shown by that name is held back, when it is.
    pub fn held(&self, name: &str) -> Option<&'static str> {
        self.hidden.iter().find(|item| item.is_held && item.key == name).map(|item| item.why)
    }

    /// Why a server of the endpoint is missing, when it is.
    pub fn missing(&self, place: usize) -> Option<&Missing> {
        self.missing.iter().find(|missing| missing.place == place)
    }

    /// The tools whose advertised names are longer than that.
    pub fn names_longer_than(&self, bytes: usize) -> Vec<String> {
        let tools = &self.listing(ListKind::Tools).items;
        tools.iter().filter(|(name, _)| name.len() > bytes).map(|(name, _)| name.clone()).collect()
    }

    /// The places of the servers that have resources.
    pub fn resource_servers(&self) -> impl Iterator<Item = usize> {
        self.with_resources.iter().copied()
    }
}
