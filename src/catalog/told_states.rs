//! Tells of servers that fail and work again, as events.

use std::collections::HashMap;

use super::server_state::ServerState;
use crate::telemetry::events::{Event, EventKind};
use crate::upstream::UpstreamId;
use metamcp_core::base::ServerName;

/// Whether each server was last told of as failing. Unlike in the log, each change is told: a reader has a filter.
#[derive(Default)]
pub(super) struct ToldStates(HashMap<UpstreamId, bool>);

impl ToldStates {
    /// Returns the changes, given the states of all servers. A server that works from the beginning is none.
    pub fn update(&mut self, servers: &[(UpstreamId, &ServerName, ServerState)]) -> Vec<Event> {
        let mut events = Vec::new();
        let mut told = HashMap::with_capacity(servers.len());
        for (id, name, state) in servers {
            let was_failing = self.0.get(id).copied().unwrap_or(false);
            let is_failing = match state {
                ServerState::Failing(failure) => {
                    if !was_failing {
                        let event = Event::of_server(EventKind::ServerUnhealthy, name);
                        events.push(event.with("reason", failure.reason.as_str()));
                    }
                    true
                }
                ServerState::Ok => {
                    if was_failing {
                        events.push(Event::of_server(EventKind::ServerHealthy, name));
                    }
                    false
                }
                // A view that is no longer kept says nothing about the server.
                ServerState::Unknown => was_failing,
            };
            told.insert(*id, is_failing);
        }
        self.0 = told;
        events
    }
}

#[cfg(test)]
mod tests {
    use super::super::server_state::ServerFailure;
    use super::*;

    /// States in order: `.` the server works, `?` nothing is known of it, `x` it fails. Returns the events: `+` healthy, `-`
    /// unhealthy.
    #[track_caller]
    fn check(states: &str, expected: &str) {
        let name = ServerName::new("a").expect("a name");
        let mut told = ToldStates::default();
        let mut events = String::new();
        for state in states.chars() {
            let state = match state {
                '.' => ServerState::Ok,
                '?' => ServerState::Unknown,
                _ => ServerState::Failing(ServerFailure { reason: "refused".to_owned(), since: Some(0) }),
            };
            for event in told.update(&[(UpstreamId(0), &name, state)]) {
                events.push(if event.kind == EventKind::ServerHealthy { '+' } else { '-' });
            }
        }
        assert_eq!(events, expected, "{states}");
    }

    #[test]
    fn each_change_is_told_once() {
        check("?...", "");
        check("xxx", "-");
        check("?x.x", "-+-");
        check(".x?x?..", "-+");
    }
}
