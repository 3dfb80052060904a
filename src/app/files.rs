//! Whether this process may open as many files as what is configured takes: each connection is one. Event streams to servers
//! are not counted: those that several clients' sessions share are few, and others are as many as clients ask for.

use crate::child;
use crate::config::Config;
use crate::server::{self, Door};
use crate::upstream::{self, Address};

/// What is open beside connections of clients and servers: the store, the journal, the listening sockets, what watches
/// them and what is being looked up. Servers of the store are in it as well, of which nothing is known here.
const OWN: u64 = 512;

/// Of a process: its three pipes, and what tells its end.
const OF_PROCESS: u64 = 4;

/// Files that are wanted, and what may be had of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Files {
    /// By clients, each with one connection or some.
    clients: u64,
    /// By calls to servers.
    servers: u64,
    /// At most; `None`: no limit.
    allowed: Option<u64>,
}

impl Files {
    fn of(config: &Config, allowed: Option<u64>) -> Self {
        let servers = config.servers.iter().map(of_server).sum();
        Self { clients: config.server.connections_max as u64, servers, allowed }
    }

    fn wanted(self) -> u64 {
        self.clients.saturating_add(self.servers).saturating_add(OWN)
    }

    /// Clients' connections that leave room for all else; half of what is allowed where that is more.
    fn clients_max(self) -> u64 {
        let Some(allowed) = self.allowed else { return self.clients };
        let rest = allowed.saturating_sub(self.servers.saturating_add(OWN));
        self.clients.min(rest.max(allowed / 2)).max(1)
    }

    /// What there is to be said when it is not enough.
    fn shortage(self) -> Option<String> {
        let allowed = self.allowed.filter(|allowed| *allowed < self.wanted())?;
        let Self { clients, servers, .. } = self;
        Some(format!(
            "this process may open {allowed} files, and {} are wanted: {clients} for connections of clients \
             (server.connections_max), {servers} for calls to servers, {OWN} for itself; of clients' connections it takes \
             {} at once. Allow more (systemd: LimitNOFILE=, Docker: --ulimit nofile=, a shell: ulimit -Hn), or set \
             server.connections_max lower",
            self.wanted(),
            self.clients_max()
        ))
    }
}

fn of_server(server: &upstream::Config) -> u64 {
    match &server.address {
        Address::Http(_) | Address::Unix { .. } | Address::Sse(_) => server.in_flight_max as u64,
        Address::Stdio(program) => OF_PROCESS.saturating_mul(program.settings.processes_max as u64),
    }
}

/// What is to be said of a configuration where it takes more files than are allowed.
pub fn shortage(config: &Config) -> Option<String> {
    Files::of(config, child::files_allowed()).shortage()
}

/// Has this process open as many as it is allowed, and says so when that is not enough; gives what the data plane is told,
/// where clients leave room for all else.
pub(super) fn reserve(config: &Config, door: &Door) -> server::Config {
    let files = Files::of(config, child::raise_files());
    // The one client that has started it has a connection or two.
    if let Some(text) = files.shortage().filter(|_| *door == Door::Public) {
        tracing::warn!("{text}");
    }
    let connections_max = usize::try_from(files.clients_max()).unwrap_or(usize::MAX);
    server::Config { connections_max, ..config.server.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many connections of clients are taken, and whether something is said.
    #[track_caller]
    fn check(clients: u64, servers: u64, allowed: Option<u64>, expected: (u64, bool)) {
        let files = Files { clients, servers, allowed };
        let shortage = files.shortage();
        assert_eq!((files.clients_max(), shortage.is_some()), expected, "{files:?}");
        if let Some(text) = shortage {
            assert!(text.contains(&format!("takes {} at once", expected.0)), "{text}");
        }
    }

    #[test]
    fn clients_leave_room_for_servers() {
        check(20_000, 256, None, (20_000, false));
        check(20_000, 256, Some(1 << 20), (20_000, false));
        check(20_000, 256, Some(20_000 + 256 + OWN), (20_000, false));
        check(20_000, 256, Some(20_000), (20_000 - 256 - OWN, true));
        check(20_000, 256, Some(1024), (512, true));
        check(20_000, 100_000, Some(4096), (2048, true));
        check(100, 256, Some(700), (100, true));
        check(1, 0, Some(0), (1, true));
        check(u64::MAX, u64::MAX, Some(1), (1, true));
    }
}
