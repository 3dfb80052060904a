//! The processes between the gateway and a server that is a child process: this same program, started as
//! `metamcp exec-child`, in two steps.
//!
//! The **reaper** is the gateway's direct child, one for each server process. It adopts the processes that
//! the server leaves behind (`PR_SET_CHILD_SUBREAPER`), and ends all of them when the server ends, the
//! gateway asks for it, or the gateway itself is gone. It passes no messages: the pipes belong to the server,
//! and the reaper holds none of them but standard error. The **launcher** is the reaper's child: it binds its
//! life to the reaper's (`PR_SET_PDEATHSIG`), applies limits to itself, and becomes the server's program, in
//! a process group of its own. The gateway adopts and ends what a reaper leaves behind that was killed itself
//! (`orphans`).
//!
//! Invariants: when a reaper has ended, no descendant of its server runs, or, if the reaper was killed, not
//! for long; the server inherits no descriptors but its three; nothing happens between a fork and an exec, so
//! that all of this is safe code.
//!
//! Does not know: MCP, what the server is, or who calls it.

mod control;
mod exec;
mod exec_child;
mod file_limit;
mod huge_pages;
mod launcher;
mod orphans;
mod process_tree;
mod reaper;
mod spawn_spec;

pub use control::{kill_reaper, protect_memory, reaper_args, terminate_reaper};
pub use exec::PROGRAM;
pub use exec_child::run_if_asked;
pub use file_limit::{file_limit_max, inherit_initial_file_limit, initial_file_limit, raise_file_limit};
pub use huge_pages::{disable_huge_pages, has_disabled_huge_pages, inherit_disabled_huge_pages};
pub use orphans::{adopt_orphans, end_orphans, forget_reaper, spawn_reaper};
pub use spawn_spec::SpawnSpec;
