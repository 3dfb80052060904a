//! Which tools of which servers are as they were approved.
//!
//! ```text
//! lists of a server, in every view --> seen --+
//!                                             +--> held back, and what the store is to keep
//! what the store keeps -------------> pins ---+
//! ```
//!
//! A tool is the same for all: what one kind of client is shown otherwise than was approved is held back from every
//! client. Locked for a few lines, by the keeper, the one who writes to the store, and administration; never by a request.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::merge::{ListKind, NAME_BYTES_MAX, ServerLists};
use super::pins::{Change, Pins, TOLD_MAX};
use super::print::SeenTool;
use super::view::View;
use crate::upstream::{ToolPinPolicy, Upstream, UpstreamId};
use metamcp_core::base::{ServerName, unix_seconds};

/// What is known, and what is to be kept.
#[derive(Debug)]
pub struct Vetting {
    books: Mutex<Books>,
    to_keep: Notify,
}

/// What the store says of one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// That, in this version of it.
    Pins(Pins, u64),
    /// Something that does not open, and is to be written anew.
    Altered(u64),
    /// Something that a version of `ENCRYPTION_KEY` sealed which is not given here.
    Foreign,
    /// Nothing any more, of a server that is served: this is what it kept.
    Lost(Pins),
}

/// What the store is to keep of one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToKeep {
    /// Whose.
    pub server: ServerName,
    /// This.
    pub pins: Pins,
    /// In place of this version; `None`: of nothing.
    pub expect: Option<u64>,
    /// What it is, for the audit log: `server.tools.` and one of `change`, `hold`, `settle`, `restore`. `None`: the server
    /// was listed for the first time.
    pub action: Option<&'static str>,
    /// What changes by it.
    pub changes: Vec<Change>,
}

/// Why a tool is held back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// It is not as it was approved.
    Changed,
    /// It was not there when the server was first listed.
    New,
    /// What is approved could not be read.
    Unread,
    /// What is approved does not open.
    Closed,
    /// That it was seen first could not be written down.
    Unkept,
}

/// Tools that are held back, by the server's own names.
pub type HeldTools = HashMap<String, Held>;

/// Whether a server's tools may be shown.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// But for these.
    Show(Arc<HeldTools>),
    /// It was listed for the first time, and that is about to be written down.
    Wait,
}

/// How the tools of a server are, for administration.
#[derive(Debug, Default)]
pub struct Vetted {
    /// Those that wait to be approved, as the store has them.
    pub waiting: Vec<Change>,
    /// Why tools are held back though nothing of them is known.
    pub held: Option<Held>,
    /// Tools with texts that hold what nobody sees, with what that is.
    pub odd: Vec<(String, BTreeSet<char>)>,
}

#[derive(Debug, Default)]
struct Books {
    /// `None`: the store was not read yet.
    kept: Option<HashMap<String, Kept>>,
    /// Whether it is known that it cannot be.
    is_away: bool,
    servers: HashMap<ServerName, Book>,
}

/// What is known of one server.
#[derive(Debug)]
struct Book {
    policy: ToolPinPolicy,
    views: HashMap<(UpstreamId, View), Arc<[SeenTool]>>,
    odd: BTreeMap<String, BTreeSet<char>>,
    verdict: Verdict,
    to_keep: Option<ToKeep>,
    /// Whether the last try to keep it failed.
    is_unkept: bool,
}

/// The store, as far as it is known.
#[derive(Clone, Copy)]
enum Store<'a> {
    /// It was read.
    Read(&'a HashMap<String, Kept>),
    /// It is about to be.
    Asked,
    /// It cannot be.
    Away,
}

/// What brought about that a book is looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// The server was listed.
    Listed,
    /// The store was read.
    Read,
}

impl Kept {
    /// What is left of it when the store has nothing any more: who can take a row away does not make a changed server one
    /// that is listed for the first time.
    fn lost(self) -> Option<Self> {
        match self {
            Self::Pins(pins, _) | Self::Lost(pins) => Some(Self::Lost(pins)),
            Self::Altered(_) | Self::Foreign => None,
        }
    }
}

impl Store<'_> {
    /// What it says of a server; else why that is not known.
    fn of(&self, server: &ServerName) -> Result<Option<&Kept>, fn(&Book) -> Verdict> {
        match self {
            Self::Read(kept) => Ok(kept.get(server.as_str())),
            Self::Asked => Err(|_| Verdict::Wait),
            Self::Away => Err(|book| book.all_held(Held::Unread)),
        }
    }
}

impl Books {
    /// All of them, and what they are looked at with.
    fn split(&mut self) -> (&mut HashMap<ServerName, Book>, Store<'_>) {
        let store = match &self.kept {
            Some(kept) => Store::Read(kept),
            None if self.is_away => Store::Away,
            None => Store::Asked,
        };
        (&mut self.servers, store)
    }
}

impl Held {
    /// For clients.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Changed => "it is not as it was approved: an administrator approves it",
            Self::New => "it is new and not approved: an administrator approves it",
            Self::Unread => "what is approved could not be read from the database yet",
            Self::Closed => {
                "what is approved was altered in the database, or sealed under another ENCRYPTION_KEY"
            }
            Self::Unkept => "that it is approved could not be written to the database yet",
        }
    }
}

impl Default for Vetting {
    fn default() -> Self {
        Self { books: Mutex::default(), to_keep: Notify::new() }
    }
}

impl Vetting {
    /// The tools of a server as it lists them; those that no endpoint could show are not among them.
    pub fn seen(lists: &ServerLists) -> Arc<[SeenTool]> {
        let tools = lists.items[ListKind::Tools.index()].iter();
        tools.filter(|item| item.key.len() <= NAME_BYTES_MAX).filter_map(SeenTool::read).collect()
    }

    /// A server was listed, in one view.
    pub fn note(&self, upstream: &Upstream, view: View, seen: Arc<[SeenTool]>) {
        let mut books = self.books();
        let (servers, store) = books.split();
        let policy = upstream.config.changed_tools;
        let book = servers.entry(upstream.name().clone()).or_insert_with(|| Book::new(policy));
        book.policy = policy;
        book.views.insert((upstream.id, view), seen);
        book.note_odd(upstream.name());
        book.settle(upstream.name(), store, Cause::Listed);
        if book.to_keep.is_some() {
            self.to_keep.notify_one();
        }
    }

    /// What of it may be shown.
    pub fn verdict(&self, server: &ServerName) -> Verdict {
        let books = self.books();
        books.servers.get(server).map_or_else(Verdict::all, |book| book.verdict.clone())
    }

    /// Lets go of views that are not fetched any more.
    pub fn keep_views(&self, is_fetched: impl Fn(UpstreamId, View) -> bool) {
        let mut books = self.books();
        books.servers.retain(|_, book| {
            book.views.retain(|(upstream, view), _| is_fetched(*upstream, *view));
            !book.views.is_empty()
        });
    }

    /// The store was read: this is all that it keeps.
    pub fn read(&self, mut kept: HashMap<String, Kept>) {
        let mut books = self.books();
        let known = books.kept.take().unwrap_or_default();
        for (server, known) in known {
            let is_served = books.servers.keys().any(|name| name.as_str() == server);
            if let Some(lost) = known.lost().filter(|_| is_served) {
                kept.entry(server).or_insert(lost);
            }
        }
        books.kept = Some(kept);
        let (servers, store) = books.split();
        for (server, book) in servers {
            book.settle(server, store, Cause::Read);
        }
        self.to_keep.notify_one();
    }

    /// The store cannot be read. Gives whether that says anything new.
    pub fn note_unread(&self) -> bool {
        let mut books = self.books();
        let is_news = books.kept.is_none() && !books.is_away;
        if is_news {
            books.is_away = true;
            let (servers, store) = books.split();
            for (server, book) in servers {
                book.settle(server, store, Cause::Read);
            }
        }
        is_news
    }

    /// What the store now keeps of one server; `None`: nothing.
    pub fn read_one(&self, server: &str, now: Option<Kept>) {
        let mut books = self.books();
        let Some(kept) = &mut books.kept else { return };
        if let Some(now) = now.or_else(|| kept.get(server)?.clone().lost()) {
            kept.insert(server.to_owned(), now);
        }
        let (servers, store) = books.split();
        if let Some((server, book)) = servers.iter_mut().find(|(name, _)| name.as_str() == server) {
            book.settle(server, store, Cause::Read);
            if book.to_keep.is_some() {
                self.to_keep.notify_one();
            }
        }
    }

    /// What the store keeps of one server, as far as it was read.
    pub fn kept(&self, server: &str) -> Option<Kept> {
        self.books().kept.as_ref()?.get(server).cloned()
    }

    /// The store would not keep what it was to keep of a server.
    pub fn note_unkept(&self, server: &ServerName) {
        let mut books = self.books();
        let (servers, store) = books.split();
        if let Some(book) = servers.get_mut(server) {
            book.is_unkept = true;
            book.settle(server, store, Cause::Read);
        }
    }

    /// What the store is to keep.
    pub fn to_keep(&self) -> Vec<ToKeep> {
        self.books().servers.values().filter_map(|book| book.to_keep.clone()).collect()
    }

    /// Completes when there may be something to keep. Cancel safe.
    pub async fn wanted(&self) {
        self.to_keep.notified().await;
    }

    /// For administration.
    pub fn vetted(&self, server: &str) -> Vetted {
        let books = self.books();
        let mut vetted = Vetted::default();
        match books.kept.as_ref().and_then(|kept| kept.get(server)) {
            Some(Kept::Pins(pins, _) | Kept::Lost(pins)) => vetted.waiting = pins.waiting(),
            Some(Kept::Altered(_) | Kept::Foreign) => vetted.held = Some(Held::Closed),
            None => {}
        }
        let Some((_, book)) = books.servers.iter().find(|(name, _)| name.as_str() == server) else {
            return vetted;
        };
        if book.policy != ToolPinPolicy::Quarantine {
            vetted.held = None;
        } else if let Verdict::Show(held) = &book.verdict {
            let mut unknown = held.values().filter(|held| !matches!(held, Held::Changed | Held::New));
            vetted.held = vetted.held.or(unknown.next().copied());
        }
        vetted.odd = book.odd.iter().map(|(tool, odd)| (tool.clone(), odd.clone())).collect();
        vetted
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Verdict {
    fn all() -> Self {
        Self::Show(Arc::default())
    }
}

impl Book {
    fn new(policy: ToolPinPolicy) -> Self {
        Self {
            policy,
            views: HashMap::new(),
            odd: BTreeMap::new(),
            verdict: Verdict::all(),
            to_keep: None,
            is_unkept: false,
        }
    }

    /// Every tool in every view.
    fn seen(&self) -> impl Iterator<Item = &SeenTool> {
        self.views.values().flat_map(|tools| tools.iter())
    }

    /// Tells once of what nobody sees, and again when it is something else.
    fn note_odd(&mut self, server: &ServerName) {
        let mut odd: BTreeMap<String, BTreeSet<char>> = BTreeMap::new();
        for tool in self.seen().filter(|tool| !tool.odd.is_empty()) {
            odd.entry(tool.name.clone()).or_default().extend(&tool.odd);
        }
        let is_news = |(tool, found): &(&String, &BTreeSet<char>)| self.odd.get(*tool) != Some(*found);
        for (tool, found) in odd.iter().filter(is_news).take(TOLD_MAX) {
            let code_points = code_points(found).join(" ");
            // The name may hold them too.
            tracing::warn!(%server, ?tool, code_points, "the texts of a tool hold characters that nobody sees");
        }
        self.odd = odd;
    }

    /// Decides what may be shown, and what is to be kept.
    fn settle(&mut self, server: &ServerName, store: Store<'_>, cause: Cause) {
        let before = self.to_keep.take();
        (self.verdict, self.to_keep) = match (self.policy, store.of(server)) {
            (ToolPinPolicy::Allow, _) | (ToolPinPolicy::Warn, Err(_) | Ok(Some(Kept::Foreign))) => {
                (Verdict::all(), None)
            }
            (ToolPinPolicy::Warn, Ok(kept)) => (Verdict::all(), self.accept(server, kept)),
            (ToolPinPolicy::Quarantine, Err(verdict)) => (verdict(self), None),
            (ToolPinPolicy::Quarantine, Ok(Some(Kept::Foreign))) => (self.all_held(Held::Closed), None),
            (ToolPinPolicy::Quarantine, Ok(Some(Kept::Altered(version)))) => {
                (self.all_held(Held::Closed), self.hold(server, &Pins::default(), Some(*version), cause))
            }
            (ToolPinPolicy::Quarantine, Ok(Some(Kept::Pins(pins, version)))) => {
                // Something waits that came when the store was not read again yet: it is not news twice.
                let cause = if before.is_some() { Cause::Listed } else { cause };
                (self.held_of(pins), self.hold(server, pins, Some(*version), cause))
            }
            (ToolPinPolicy::Quarantine, Ok(Some(Kept::Lost(pins)))) => {
                (self.held_of(pins), Some(Self::restore(server, pins)))
            }
            (ToolPinPolicy::Quarantine, Ok(None)) => {
                let first = self.accept(server, None);
                let waits = first.is_some();
                let unkept = waits && self.is_unkept;
                let verdict = match (waits, unkept) {
                    (true, true) => self.all_held(Held::Unkept),
                    (true, false) => Verdict::Wait,
                    (false, _) => Verdict::all(),
                };
                (verdict, first)
            }
        };
        self.is_unkept &= self.to_keep.is_some();
    }

    /// What is seen is approved.
    fn accept(&self, server: &ServerName, kept: Option<&Kept>) -> Option<ToKeep> {
        let (mut pins, expect) = match kept {
            Some(Kept::Pins(pins, version)) => (pins.clone(), Some(*version)),
            Some(Kept::Altered(version)) => (Pins::default(), Some(*version)),
            Some(Kept::Lost(pins)) => return Some(Self::restore(server, pins)),
            Some(Kept::Foreign) => return None,
            None => (Pins::default(), None),
        };
        let before = pins.clone();
        let changes = pins.accept(self.seen(), unix_seconds());
        let action = expect.map(|_| "server.tools.change");
        (pins != before).then(|| ToKeep { server: server.clone(), pins, expect, action, changes })
    }

    /// What is seen and not approved waits to be.
    fn hold(&self, server: &ServerName, pins: &Pins, expect: Option<u64>, cause: Cause) -> Option<ToKeep> {
        let before = pins;
        let mut pins = before.clone();
        // Another replica may see otherwise what this one does: told by each other alone, neither corrects the other.
        if cause == Cause::Listed {
            let seen: HashSet<_> = self.seen().map(|tool| (tool.name.as_str(), tool.print)).collect();
            pins.drop_unseen(|name, print| seen.contains(&(name, *print)));
        }
        let changes = pins.hold(self.seen(), unix_seconds());
        let action = Some(if changes.is_empty() { "server.tools.settle" } else { "server.tools.hold" });
        (pins != *before).then(|| ToKeep { server: server.clone(), pins, expect, action, changes })
    }

    /// What the store does not keep any more is to be kept again; what else is to be done comes after it.
    fn restore(server: &ServerName, pins: &Pins) -> ToKeep {
        let (server, pins) = (server.clone(), pins.clone());
        ToKeep { server, pins, expect: None, action: Some(RESTORE), changes: Vec::new() }
    }

    fn held_of(&self, pins: &Pins) -> Verdict {
        let held = self.seen().filter_map(|tool| {
            let changed = pins.differs(tool)?;
            Some((tool.name.clone(), if changed.is_some() { Held::Changed } else { Held::New }))
        });
        Verdict::Show(Arc::new(held.collect()))
    }

    fn all_held(&self, why: Held) -> Verdict {
        Verdict::Show(Arc::new(self.seen().map(|tool| (tool.name.clone(), why)).collect()))
    }
}

/// See [`ToKeep::action`].
pub const RESTORE: &str = "server.tools.restore";

/// As people look them up, some of them.
pub fn code_points(odd: &BTreeSet<char>) -> Vec<String> {
    odd.iter().take(TOLD_MAX).map(|c| format!("U+{:04X}", u32::from(*c))).collect()
}

#[cfg(test)]
mod tests;
