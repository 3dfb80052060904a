use std::time::Duration;

use metamcp_core::protocol::Era;

/// The health of a server.
#[derive(Debug, Clone)]
pub struct StdioHealth {
    /// The processes in use.
    pub processes: Vec<ProcessHealth>,
    /// All running processes: those in use, a spare, and those that are ending.
    pub running: usize,
    pub failures_in_a_row: u32,
    /// The back-off that follows from these failures.
    pub next_start_in: Duration,
    /// Processes started so far.
    pub started: u64,
    /// Processes that ended unasked or could not be started.
    pub failed: u64,
    /// Lines that were not a message.
    pub invalid_lines: u64,
    /// Messages that no one client was certainly meant by, or for a call that has ended.
    pub undeliverable: u64,
    /// Messages that a client was too slow for.
    pub dropped: u64,
    /// Requests of the server that could not be attributed to one client.
    pub refused_requests: u64,
}

/// The health of a process.
#[derive(Debug, Clone)]
pub struct ProcessHealth {
    /// The process id of its reaper.
    pub pid: u32,
    /// The era in which it is spoken to.
    pub era: Era,
    /// The time since the process started.
    pub ran: Duration,
    /// Clients with a session on it.
    pub sessions: usize,
    pub in_flight: usize,
}
