//! Logs the states of servers: one line when a state changes, and every hour one for all servers that fail.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::server_state::ServerState;
use crate::topology::Topology;
use crate::upstream::UpstreamId;
use metamcp_config::server::address;
use metamcp_core::base::{LogList, ServerName};

/// A server whose state changes more often is logged once in this time, so that one that fails every other request does not
/// fill the log. It doubles with each change that follows soon, to [`SUMMARY_INTERVAL`].
const CHANGE_INTERVAL_MIN: Duration = Duration::from_mins(1);

/// A server that goes on failing for another reason is logged once in this time.
const REASON_INTERVAL_MIN: Duration = Duration::from_mins(10);

/// Between two lines about all servers that fail.
const SUMMARY_INTERVAL: Duration = Duration::from_hours(1);

/// The names in such a line.
const SUMMARY_NAMES_MAX: usize = 20;

/// What was logged of each server.
pub(super) struct StateLog {
    logged: HashMap<UpstreamId, LoggedState>,
    summary_at: Instant,
}

struct LoggedState {
    /// The reason if it failed.
    failure: Option<String>,
    at: Instant,
    /// Until the next change is logged.
    interval: Duration,
}

impl LoggedState {
    /// The interval after a line that follows this one.
    fn next_interval(&self, now: Instant) -> Duration {
        let is_soon = now - self.at < (self.interval * 2).max(SUMMARY_INTERVAL);
        if is_soon { (self.interval * 2).min(SUMMARY_INTERVAL) } else { CHANGE_INTERVAL_MIN }
    }
}

/// A line of the log.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum StateLogLine {
    Fails {
        id: UpstreamId,
        server: ServerName,
        reason: String,
    },
    Works {
        server: ServerName,
    },
    /// The servers that were logged as failing and still fail: some names, and their number.
    StillFail {
        servers: Vec<String>,
        count: usize,
    },
}

impl StateLog {
    pub fn new() -> Self {
        Self { logged: HashMap::new(), summary_at: Instant::now() }
    }

    /// Returns what is to be logged, given the states of all servers.
    pub fn update<'a>(
        &mut self,
        servers: impl Iterator<Item = (UpstreamId, &'a ServerName, ServerState)>,
    ) -> Vec<StateLogLine> {
        let now = Instant::now();
        let (mut lines, mut failing, mut seen) = (Vec::new(), Vec::new(), HashMap::new());
        for (id, name, state) in servers {
            let before = self.logged.remove(&id);
            let failure = match state {
                ServerState::Failing(failure) => Some(failure.reason),
                ServerState::Ok => None,
                // A view that is no longer kept says nothing about the server.
                ServerState::Unknown => before.as_ref().and_then(|before| before.failure.clone()),
            };
            let known = before.as_ref().and_then(|before| before.failure.as_deref());
            let reason_interval =
                if known.is_some() && failure.is_some() { REASON_INTERVAL_MIN } else { Duration::ZERO };
            let is_recent =
                before.as_ref().is_some_and(|before| now - before.at < before.interval.max(reason_interval));
            if failure.as_deref() == known || is_recent {
                if known.is_some() {
                    failing.push(name.as_str());
                }
                seen.extend(before.map(|before| (id, before)));
                continue;
            }
            let server = name.clone();
            lines.push(match &failure {
                Some(reason) => StateLogLine::Fails { id, server, reason: reason.clone() },
                None => StateLogLine::Works { server },
            });
            let interval = before.map_or(CHANGE_INTERVAL_MIN, |before| before.next_interval(now));
            seen.insert(id, LoggedState { failure, at: now, interval });
        }
        self.logged = seen;
        if now - self.summary_at >= SUMMARY_INTERVAL {
            self.summary_at = now;
            if !failing.is_empty() {
                failing.sort_unstable();
                let servers = failing.iter().take(SUMMARY_NAMES_MAX).map(|name| (*name).to_owned());
                lines.push(StateLogLine::StillFail { servers: servers.collect(), count: failing.len() });
            }
        }
        lines
    }
}

impl StateLogLine {
    pub fn log(&self, topology: &Topology) {
        match self {
            Self::Fails { id, server, reason } => {
                let upstream = topology.upstream(*id);
                let address = upstream.map(|upstream| address::format_redacted(&upstream.config.address));
                tracing::warn!(%server, address, reason, "server fails");
            }
            Self::Works { server } => tracing::info!(%server, "server works again"),
            Self::StillFail { servers, count } => {
                tracing::warn!(count, servers = ?LogList(servers), "servers still fail");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::server_state::ServerFailure;
    use super::*;

    /// Events in order: `.` the server works, `?` nothing is known of it, `a` or `b`: it fails for this reason, `m` a
    /// minute passes, `h` an hour. Each state is observed twice. Returns the lines: `+` it works, a letter: it fails, `!` the
    /// summary.
    async fn lines(events: &str) -> String {
        let name = ServerName::new("a").expect("a name");
        let mut log = StateLog::new();
        let mut lines = String::new();
        let mut state = ServerState::Unknown;
        for event in events.chars() {
            match event {
                'm' => tokio::time::advance(Duration::from_mins(1)).await,
                'h' => tokio::time::advance(Duration::from_hours(1)).await,
                '.' => state = ServerState::Ok,
                '?' => state = ServerState::Unknown,
                reason => {
                    state =
                        ServerState::Failing(ServerFailure { reason: reason.to_string(), since: Some(0) });
                }
            }
            for _ in 0..2 {
                for line in log.update([(UpstreamId(0), &name, state.clone())].into_iter()) {
                    lines.push_str(&match line {
                        StateLogLine::Works { .. } => "+".to_owned(),
                        StateLogLine::Fails { reason, .. } => reason,
                        StateLogLine::StillFail { servers, count } => {
                            assert_eq!((servers, count), (vec!["a".to_owned()], 1));
                            "!".to_owned()
                        }
                    });
                }
            }
        }
        lines
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_is_one_line() {
        for (events, expected) in [
            ("?...m.", ""),
            ("aaa", "a"),
            (".aam.", "a+"),
            ("amb", "a"),
            ("ammmmmmmmmmb", "ab"),
            // At most one line a minute, then with what is true by then.
            ("a.b.m", "a+"),
            ("a.am", "a"),
            ("a.a.bm", "a"),
            ("a?m?m.", "a+"),
            // One that fails and works in turn is logged less and less often.
            ("am.mam.mam.mam.mam.mam.mam.mam.mam.mam.m", "a+a+a"),
            ("am.mamh.hm.mam.", "a+a!+a+"),
            // The summary comes every hour while it fails.
            ("ahh", "a!!"),
            ("ah.hh", "a!+"),
        ] {
            assert_eq!(lines(events).await, expected, "{events}");
        }
    }
}
