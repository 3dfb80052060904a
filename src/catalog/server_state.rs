//! The state of a server, from what its callers and the catalog observed. Nothing is sent to a server for it.

use std::collections::HashMap;

use tokio::time::Instant;

use super::missing::{ListFailure, MissingReason};
use super::view::View;
use crate::upstream::UpstreamStatus;

/// Whether a server works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerState {
    /// It has not answered yet, nor failed.
    Unknown,
    /// The last request reached it, and its lists can be fetched.
    Ok,
    /// The last request did not reach it, or its lists cannot be fetched.
    Failing(ServerFailure),
}

/// Why a server does not work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFailure {
    /// The error. It may name the server's address.
    pub reason: String,
    /// The time of the first failure after which none succeeded, in seconds since 1970.
    pub since: Option<u64>,
}

/// The outcomes of fetching the lists of one server.
#[derive(Debug, Default)]
pub(super) struct ListOutcomes {
    /// When they were last fetched, for whichever view.
    pub fetched_at: Option<Instant>,
    /// The views for which the last fetch failed. At most as many as there are refreshers.
    failures: HashMap<View, ListFailure>,
}

impl ListOutcomes {
    /// Records the outcome of a fetch. Only [`MissingReason::Failed`] is a failure of the server.
    pub fn record(&mut self, view: View, outcome: Result<(), &MissingReason>) {
        if outcome.is_ok() {
            self.fetched_at = Some(Instant::now());
        }
        match outcome {
            Err(MissingReason::Failed(failure)) => {
                // The first failure tells since when it fails.
                self.failures.entry(view).or_insert_with(|| failure.clone()).text.clone_from(&failure.text);
            }
            _ => _ = self.failures.remove(&view),
        }
    }

    /// Forgets the views that are not kept.
    pub fn retain_views(&mut self, is_kept: impl Fn(View) -> bool) {
        self.failures.retain(|view, _| is_kept(*view));
    }

    /// The failure that has lasted longest.
    fn failure(&self) -> Option<&ListFailure> {
        self.failures.values().min_by_key(|failure| (failure.since, &failure.text))
    }
}

impl ServerState {
    /// Combines what the callers of a server and the catalog observed.
    pub(super) fn new(status: UpstreamStatus, lists: Option<&ListOutcomes>) -> Self {
        let list_failure = lists.and_then(ListOutcomes::failure);
        if status.failures_in_a_row > 0 {
            // Why a program does not run is the same each time; that it is not started again so soon is not.
            let process = status.processes.and_then(|processes| processes.last_failure);
            let reason = process.map(|failure| failure.message);
            let reason =
                reason.or_else(|| status.last_failure.map(|failure| failure.reason)).unwrap_or_default();
            return Self::Failing(ServerFailure { reason, since: status.failing_since });
        }
        if let Some(ListFailure { text, since, .. }) = list_failure {
            return Self::Failing(ServerFailure { reason: text.clone(), since: *since });
        }
        let is_known = status.has_answered || lists.is_some_and(|lists| lists.fetched_at.is_some());
        if is_known { Self::Ok } else { Self::Unknown }
    }

    /// Returns the name of the state in `/ready` and in the API.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Ok => "ok",
            Self::Failing(_) => "failing",
        }
    }
}

#[cfg(test)]
mod tests {
    use metamcp_core::protocol::ClientCapabilities;
    use metamcp_http::FailureStage;

    use super::*;
    use crate::upstream::UpstreamFailure;

    const LEGACY: View = View::Legacy(ClientCapabilities::ALL);

    fn failed(text: &str, since: u64) -> MissingReason {
        MissingReason::Failed(ListFailure { text: text.to_owned(), stage: None, since: Some(since) })
    }

    /// Checks the state after these outcomes of fetches. Of a failing server: its reason and since when.
    #[track_caller]
    fn check(
        status: &UpstreamStatus,
        outcomes: &[(View, Result<(), MissingReason>)],
        expected: Result<&str, (&str, u64)>,
    ) {
        let mut lists = ListOutcomes::default();
        for (view, outcome) in outcomes {
            lists.record(*view, outcome.as_ref().copied());
        }
        let state = ServerState::new(status.clone(), Some(&lists));
        let found = match &state {
            ServerState::Failing(failure) => Err((&*failure.reason, failure.since.unwrap_or_default())),
            other => Ok(other.as_str()),
        };
        assert_eq!(found, expected, "{status:?} {outcomes:?}");
    }

    #[test]
    fn the_state_follows_from_calls_and_lists() {
        let untried = UpstreamStatus::default();
        let answered = UpstreamStatus { has_answered: true, ..UpstreamStatus::default() };
        let last = UpstreamFailure { stage: FailureStage::Connect, reason: "refused".to_owned(), at: 9 };
        let unreachable = UpstreamStatus {
            failures_in_a_row: 2,
            failing_since: Some(7),
            last_failure: Some(last),
            ..answered.clone()
        };
        let recovered = UpstreamStatus { failures_in_a_row: 0, failing_since: None, ..unreachable.clone() };
        check(&untried, &[], Ok("unknown"));
        check(&answered, &[], Ok("ok"));
        check(&untried, &[(LEGACY, Ok(()))], Ok("ok"));
        check(&unreachable, &[(LEGACY, Ok(()))], Err(("refused", 7)));
        check(&recovered, &[], Ok("ok"));
        check(&answered, &[(LEGACY, Err(failed("401", 5)))], Err(("401", 5)));
        check(&answered, &[(LEGACY, Err(failed("401", 5))), (LEGACY, Ok(()))], Ok("ok"));
        // It does not end because the text changes.
        check(
            &answered,
            &[(LEGACY, Err(failed("401", 5))), (LEGACY, Err(failed("403", 6)))],
            Err(("403", 5)),
        );
        // One view may fail alone.
        check(&answered, &[(LEGACY, Err(failed("401", 5))), (View::Modern, Ok(()))], Err(("401", 5)));
        for no_failure in [MissingReason::NotRequested, MissingReason::OtherEra] {
            check(&untried, &[(View::Modern, Err(no_failure.clone()))], Ok("unknown"));
            check(
                &answered,
                &[(View::Modern, Err(failed("x", 5))), (View::Modern, Err(no_failure))],
                Ok("ok"),
            );
        }
    }

    #[test]
    fn a_view_that_is_not_kept_does_not_fail() {
        let mut lists = ListOutcomes::default();
        lists.record(LEGACY, Err(&failed("401", 5)));
        lists.retain_views(|view| view != LEGACY);
        assert_eq!(ServerState::new(UpstreamStatus::default(), Some(&lists)), ServerState::Unknown);
    }
}
