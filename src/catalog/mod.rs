//! The catalog: the lists of tools, prompts and resources of all servers. They are fetched once per server
//! and view, merged per endpoint, and published as ready bytes.
//!
//! ```text
//! worker:    handle.rs     reads snapshots, requests missing ones
//! main task: task.rs       merges what was fetched (merge.rs), publishes snapshots (merged.rs, listing.rs)
//!            refresher.rs  keeps the lists of one server fresh for one view (fetch.rs, list.rs)
//!            state_log.rs  logs servers that fail or work again (server_state.rs)
//!            approvals.rs  quarantines tools that changed since approval (pins.rs, fingerprint.rs)
//! ```
//!
//! Invariants: a list request never waits longer than its deadline for a server, and what is missing is
//! named; an advertised name is a pure function of the configuration and of the server's own name; what a
//! server shows to one kind of client is not shown to another kind; a quarantined tool is in no list.
//!
//! Everything that fetches and merges runs on the main thread, never on a worker. Does not know: HTTP towards
//! clients, keys, or sessions of clients.

mod approvals;
mod capabilities;
mod cursor;
mod fetch;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod handle;
mod list;
mod listing;
mod merge;
mod merged;
mod missing;
mod probe;
mod quarantine;
mod refresher;
mod server_approvals;
mod server_state;
mod state_log;
mod stored_pins;
mod task;
mod told_states;
mod told_tools;
mod tool_override;
mod view;

pub use approvals::{ApprovalStatus, ToolApprovals};
pub use fetch::{FetchError, discover};
pub use handle::{Catalog, CatalogInbox};
pub use list::{ListItem, ListKind, NAME_BYTES_MAX, ServerLists};
pub use listing::Listing;
pub use merge::merge;
pub use merged::{HiddenItem, MergedLists, ServerListing};
pub use missing::{ListFailure, MissingReason, MissingServer};
pub use probe::{ProbeResult, probe};
pub use quarantine::{QuarantineReason, QuarantinedTools};
pub use server_state::{ServerFailure, ServerState};
pub use stored_pins::{PinsUpdate, RESTORE_ACTION, StoredPins};
pub use task::CatalogTask;
pub use tool_override::apply_override;
pub use view::{View, modern_headers, modern_meta};
