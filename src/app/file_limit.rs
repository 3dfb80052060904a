//! The limit on open files: compares what the configuration needs, one file for each connection, with what the process may
//! open. Event streams to servers are not counted: shared ones are few, and the others depend on the clients.

use crate::child;
use crate::server::ListenTarget;
use metamcp_config::Config;
use metamcp_config::sections::HttpConfig;
use metamcp_config::server::ServerAddress;

/// Files besides the connections of clients and to servers: the store, the journal, the listening sockets, epoll and name
/// lookups. It also covers servers in the store, which are not known here.
const OWN: u64 = 512;

/// Files for one process: its three pipes and its pidfd.
const PER_PROCESS: u64 = 4;

/// How many files are needed, and how many may be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileBudget {
    /// File descriptors for connections of clients.
    clients: u64,
    /// Connections and pipes to servers.
    servers: u64,
    /// The limit, if there is one.
    allowed: Option<u64>,
}

impl FileBudget {
    fn new(config: &Config, allowed: Option<u64>) -> Self {
        let servers = config.servers.iter().map(files_for_server).sum();
        Self { clients: config.server.connections_max as u64, servers, allowed }
    }

    fn needed(self) -> u64 {
        self.clients.saturating_add(self.servers).saturating_add(OWN)
    }

    /// The client connections that leave enough files for everything else, but at least half of the limit.
    fn clients_max(self) -> u64 {
        let Some(allowed) = self.allowed else { return self.clients };
        let remaining = allowed.saturating_sub(self.servers.saturating_add(OWN));
        self.clients.min(remaining.max(allowed / 2)).max(1)
    }

    /// Returns a message if the limit is too low.
    fn shortage(self) -> Option<String> {
        let allowed = self.allowed.filter(|allowed| *allowed < self.needed())?;
        let Self { clients, servers, .. } = self;
        Some(format!(
            "this process may open {allowed} files, but needs {}: {clients} for client connections \
             (server.connections_max), {servers} for calls to servers, {OWN} for itself. Client connections are limited to \
             {} at once. Raise the limit (systemd: LimitNOFILE=, Docker: --ulimit nofile=, a shell: ulimit -Hn), or lower \
             server.connections_max",
            self.needed(),
            self.clients_max()
        ))
    }
}

fn files_for_server(server: &metamcp_config::server::ServerConfig) -> u64 {
    match &server.address {
        ServerAddress::Http(_) | ServerAddress::Unix { .. } | ServerAddress::Sse(_) => {
            server.settings.in_flight_max as u64
        }
        ServerAddress::Stdio(program) => PER_PROCESS.saturating_mul(program.settings.processes_max as u64),
    }
}

/// Returns a message if the configuration needs more files than this process may open.
pub fn shortage(config: &Config) -> Option<String> {
    FileBudget::new(config, child::file_limit_max()).shortage()
}

/// Raises the soft limit to the hard limit, and returns the server's configuration with `connections_max` lowered to what
/// fits. Warns of a shortage unless it is `known` what fits.
pub(super) fn fit_to_limit(config: &Config, door: &ListenTarget, known: Option<usize>) -> HttpConfig {
    let budget = FileBudget::new(config, child::raise_file_limit());
    let connections_max = usize::try_from(budget.clients_max()).unwrap_or(usize::MAX);
    let is_news = known != Some(connections_max);
    // No warning for a single client, which has a connection or two.
    if let Some(text) = budget.shortage().filter(|_| *door == ListenTarget::Public && is_news) {
        tracing::warn!("{text}");
    }
    HttpConfig { connections_max, ..config.server.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks the number of client connections, and whether there is a message.
    #[track_caller]
    fn check(clients: u64, servers: u64, allowed: Option<u64>, expected: (u64, bool)) {
        let budget = FileBudget { clients, servers, allowed };
        let shortage = budget.shortage();
        assert_eq!((budget.clients_max(), shortage.is_some()), expected, "{budget:?}");
        if let Some(text) = shortage {
            assert!(text.contains(&format!("limited to {} at once", expected.0)), "{text}");
        }
    }

    #[test]
    fn client_connections_leave_files_for_servers() {
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
