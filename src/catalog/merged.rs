//! The merged lists of one endpoint in one view.

use std::borrow::Cow;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use metamcp_core::protocol::Revision;

use super::list::{ListKind, ServerLists};
use super::listing::Listing;
use super::missing::MissingServer;
use super::quarantine::QuarantinedTools;
use crate::route::UriTemplate;
use crate::session::{ServerFeatures, TaskFeatures};

/// The lists of one server, and which of its tools are quarantined.
#[derive(Debug, Clone)]
pub struct ServerListing {
    pub lists: Arc<ServerLists>,
    pub quarantined: Arc<QuarantinedTools>,
}

/// The merged lists of one endpoint in one view. Immutable.
#[derive(Default)]
pub struct MergedLists {
    pub(super) listings: [Listing; 4],
    /// URI templates with their servers, the most specific first.
    pub(super) templates: Vec<(UriTemplate, u32)>,
    pub(super) resource_servers: Vec<usize>,
    /// The union of what the servers offer.
    pub features: ServerFeatures,
    /// The task features of each server, in the order of the endpoint.
    pub tasks: Vec<TaskFeatures>,
    /// Servers whose items are missing.
    pub missing: Vec<MissingServer>,
    /// Items that are left out of the lists.
    pub hidden: Vec<HiddenItem>,
    /// The generation of each server's lists when these were merged; see `Catalog::mark_stale`.
    pub generations: Vec<u64>,
    /// How often servers announced changes of their tools, prompts and resources.
    pub announced: [u64; 3],
    /// Whether the first response of a server is still pending.
    pub is_loading: bool,
    /// Set by workers that read the lists; cleared by the catalog task, which counts the use.
    pub used: AtomicBool,
    /// The results of `initialize` by revision, built on first use.
    pub(super) initialize_results: [OnceLock<Bytes>; Revision::ALL.len()],
}

/// An item that is left out of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HiddenItem {
    /// The key under which it would be advertised.
    pub key: String,
    /// Why it is left out.
    pub why: &'static str,
    /// Whether it is a tool that waits for approval.
    pub is_quarantined: bool,
}

impl From<Arc<ServerLists>> for ServerListing {
    /// Creates a listing without quarantined tools.
    fn from(lists: Arc<ServerLists>) -> Self {
        Self { lists, quarantined: Arc::default() }
    }
}

impl MergedLists {
    /// Returns one of the four lists.
    pub fn listing(&self, kind: ListKind) -> &Listing {
        &self.listings[kind.index()]
    }

    /// Returns the listed tools of a server: the advertised name and the server's own name of each.
    pub fn server_tools(&self, server_index: usize) -> impl Iterator<Item = (&str, Cow<'_, str>)> {
        let all = self.listing(ListKind::Tools).names.iter();
        all.filter(move |(_, destination)| destination.server_index as usize == server_index).filter_map(
            |(shown, destination)| {
                let own = match &destination.original_name {
                    None => Cow::Borrowed(shown),
                    Some(own) => Cow::Owned(serde_json::from_slice(&own.json).ok()?),
                };
                Some((shown, own))
            },
        )
    }

    /// Whether the server's tool `own` is listed under the name `shown`.
    pub fn has_tool(&self, server_index: usize, shown: &str, own: &str) -> bool {
        let found = self.listing(ListKind::Tools).names.find(shown);
        found.filter(|destination| destination.server_index as usize == server_index).is_some_and(
            |destination| match &destination.original_name {
                None => shown == own,
                Some(name) => {
                    serde_json::from_slice::<Cow<'_, str>>(&name.json).is_ok_and(|name| name == own)
                }
            },
        )
    }

    /// Returns the index of the server that has a resource: by exact URI, then by the closest template.
    pub fn resource_server(&self, uri: &str) -> Option<u32> {
        let exact = self.listing(ListKind::Resources).names.find(uri);
        let as_template = || self.listing(ListKind::Templates).names.find(uri);
        exact.or_else(as_template).map(|destination| destination.server_index).or_else(|| {
            self.templates
                .iter()
                .find(|(template, _)| template.matches(uri))
                .map(|(_, server_index)| *server_index)
        })
    }

    /// Whether a client or a waiting request would learn nothing new from `other`.
    pub fn is_equivalent(&self, other: &Self) -> bool {
        let same_lists = self.listings.iter().zip(&other.listings).all(|(one, two)| one.is_equivalent(two));
        same_lists
            && self.features == other.features
            && self.tasks == other.tasks
            && self.announced == other.announced
            && self.missing == other.missing
            && self.hidden == other.hidden
            && self.generations == other.generations
            && self.is_loading == other.is_loading
    }

    /// Returns why the tool with that advertised name is quarantined; `None` if it is not.
    pub fn quarantine_text(&self, name: &str) -> Option<&'static str> {
        self.hidden.iter().find(|item| item.is_quarantined && item.key == name).map(|item| item.why)
    }

    /// Returns why a server is missing; `None` if it is not.
    pub fn missing_server(&self, server_index: usize) -> Option<&MissingServer> {
        self.missing.iter().find(|missing| missing.server_index == server_index)
    }

    /// Returns the tools whose advertised names are longer than that.
    pub fn tool_names_longer_than(&self, bytes: usize) -> Vec<String> {
        self.listing(ListKind::Tools).keys_longer_than(bytes)
    }

    /// Returns the indices of the servers that have resources.
    pub fn resource_servers(&self) -> impl Iterator<Item = usize> {
        self.resource_servers.iter().copied()
    }
}
