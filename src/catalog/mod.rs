//! The lists of all upstreams: fetched once per server and view, merged per endpoint, kept as ready bytes.
//!
//! Invariants: a list request never waits longer than its deadline for a upstream, and what is missing is
//! named; a name is a pure function of configuration and of the server's own name for it; what one kind of
//! client is shown by a server is not shown to another kind; a tool that is held back is in no list.
//!
//! Everything that fetches and merges runs on the main thread (the *keeper*), never on a worker; workers read
//! published snapshots. Does not know: HTTP towards clients, keys, or sessions of clients.

mod cursor;
mod fetch;
mod keeper;
mod member;
mod merge;
mod missing;
mod offer;
mod pins;
mod print;
mod probe;
mod retold;
mod vetting;
mod view;

use std::time::Duration;

pub use fetch::{FetchError, discover};
pub use keeper::{Catalog, Keeper, KeeperSeed};
pub use merge::{HiddenItem, Item, ListKind, Listed, Listing, Merged, NAME_BYTES_MAX, ServerLists, merge};
pub use missing::{Failed, Missing, Reason};
pub use pins::{Approve, Change, NotApproved, Pins, told};
pub use probe::{Probed, probe};
pub use retold::retold;
pub use vetting::{Held, HeldTools, Kept, RESTORE, ToKeep, Vetted, Vetting, code_points};
pub use view::{View, modern_headers, modern_meta};

/// Bounds of the catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// A list request never waits longer than this for a upstream; what is missing is named in `_meta`.
    pub list_deadline: Duration,
    /// A list older than this is fetched again in the background when next asked for.
    pub refresh_after: Duration,
    /// Pages taken from one upstream for one list.
    pub pages_max: usize,
    /// Items taken from one upstream for one list.
    pub items_max: usize,
    /// Bytes taken from one upstream for one list.
    pub list_bytes_max: usize,
    /// Items on one page towards clients.
    pub page_items: usize,
}
