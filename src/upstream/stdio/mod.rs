//! Servers that are child processes, spoken to over their standard input and output, one JSON-RPC message per
//! line (MCP, stdio). To the rest of the gateway each looks like a Streamable HTTP server: a POST, GET or
//! DELETE in, a response out, with sessions, event streams, and 404 for a session whose process is gone.
//!
//! Each server has a thread of its own, on which one task (`supervisor`) owns its processes. Workers talk to
//! the task over a bounded channel (`server`). State on the thread is in `Rc` and `RefCell`.
//!
//! Invariants: ids and progress tokens that a process sees are ours and never reused on it; a message of a
//! process goes to the one client that is certainly meant, or to nobody; standard error is read from before
//! the first byte is written to the process, and never parsed; the environment of a process is what was
//! configured and six variables that say where and who it is; no process outlives the gateway (`child`).
//!
//! Does not know: HTTP, endpoints, and what a method does, except for those that decide which client a
//! message is for.

mod behavior;
mod call;
mod capacity;
mod client_slots;
mod connection;
mod exit;
mod health;
mod inbound;
mod initialize;
mod lines;
mod open;
mod outbound;
mod process;
mod process_stats;
mod server;
mod request_ids;
mod session_move;
mod slots;
mod spare;
mod start_history;
mod start_limit;
mod stderr;
mod supervisor;
mod target;
mod told;

pub use behavior::BehaviorStore;
pub use health::{ProcessHealth, StdioHealth};
pub use process_stats::{ProcessFailure, ProcessStage, ProcessStats};

pub(super) use behavior::behavior_key;
pub(super) use call::StdioRequest;
pub(super) use server::StdioServer;
pub(super) use target::StdioTarget;
