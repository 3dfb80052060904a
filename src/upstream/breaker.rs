//! A circuit breaker: after repeated connection failures, requests to a server fail at once instead of
//! waiting, and the server can recover without a rush of requests.
//!
//! It opens after [`FAILURES_MAX`] consecutive requests that did not reach the server. While it is open, one
//! request after each back-off is let through as a probe: a response closes it, a failure makes the next wait
//! longer. A request that failed after it reached the server does not open it: one tool may be at fault, and
//! others must go on.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam::utils::CachePadded;
use tokio::time::Instant;

use super::stdio::ProcessStats;
use crate::telemetry::events::{Event, EventKind, EventLog};
use metamcp_core::base::{ServerName, unix_seconds};
use metamcp_http::multiplex::Backoff;
use metamcp_http::{FailureStage, UpstreamError};

/// The health of a server as its callers observed it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UpstreamStatus {
    /// Set while the circuit breaker is open: the time until the next probe.
    pub retry_in: Option<Duration>,
    /// Whether it has ever answered.
    pub has_answered: bool,
    /// Consecutive requests that did not reach the server.
    pub failures_in_a_row: u32,
    /// When the first of these failed, in seconds since 1970.
    pub failing_since: Option<u64>,
    /// The last failure of any kind, which may be long ago.
    pub last_failure: Option<UpstreamFailure>,
    /// The state of the server's processes, if it is a program.
    pub processes: Option<ProcessStats>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamFailure {
    pub stage: FailureStage,
    /// The error. It may name the server's address.
    pub reason: String,
    /// In seconds since 1970.
    pub at: u64,
}

/// The circuit breaker of one server, shared by all workers.
pub struct Breaker {
    counters: CachePadded<Counters>,
    failures_max: u32,
    /// Guards what must change together. Locked only while something is wrong.
    state: Mutex<BreakerState>,
    events: Option<Arc<EventLog>>,
}

/// Every request reads them; only failures, recoveries and the first answer write them.
#[derive(Default)]
struct Counters {
    /// Consecutive requests that did not reach the server.
    failures: AtomicU32,
    has_answered: AtomicBool,
}

#[derive(Default)]
struct BreakerState {
    backoff: Backoff,
    /// Set while a probe is in flight, until its result is known or another probe may start.
    probe_until: Option<Instant>,
    last_failure: Option<UpstreamFailure>,
    failing_since: Option<u64>,
}

/// A server that restarts refuses a handful of requests; more are no accident.
const FAILURES_MAX: u32 = 5;

/// How long a probe may take before another may start. As long as a common connect timeout.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

impl Breaker {
    /// Creates a closed breaker, which tells when it opens and closes.
    pub fn new(events: Option<Arc<EventLog>>) -> Self {
        Self { events, ..Self::with_threshold(FAILURES_MAX) }
    }

    /// Creates a breaker that never opens and only records failures, for servers whose transport backs off
    /// itself.
    pub fn never_open() -> Self {
        Self::with_threshold(u32::MAX)
    }

    fn with_threshold(failures_max: u32) -> Self {
        Self { counters: CachePadded::default(), failures_max, state: Mutex::default(), events: None }
    }

    /// Checks whether a request may be sent now.
    pub fn admit(&self) -> Result<(), UpstreamError> {
        if self.counters.failures.load(Ordering::Relaxed) < self.failures_max {
            Ok(())
        } else {
            self.admit_probe()
        }
    }

    #[cold]
    fn admit_probe(&self) -> Result<(), UpstreamError> {
        let now = Instant::now();
        let mut state = self.state();
        let wait = state.wait(now);
        if !wait.is_zero() {
            let reason = state.last_failure.as_ref().map_or(String::new(), |failure| failure.reason.clone());
            return Err(UpstreamError::new(FailureStage::BreakerOpen, reason));
        }
        state.probe_until = Some(now + PROBE_TIMEOUT);
        Ok(())
    }

    /// Records that the server answered, whatever it said.
    pub fn record_response(&self, server: &ServerName) {
        let Counters { failures, has_answered } = &*self.counters;
        if failures.load(Ordering::Relaxed) != 0 || !has_answered.load(Ordering::Relaxed) {
            self.close(server);
        }
    }

    #[cold]
    fn close(&self, server: &ServerName) {
        let mut state = self.state();
        state.backoff = Backoff::default();
        state.probe_until = None;
        state.failing_since = None;
        self.counters.has_answered.store(true, Ordering::Relaxed);
        if self.counters.failures.swap(0, Ordering::Relaxed) >= self.failures_max {
            tracing::debug!(%server, "server is reachable again, circuit breaker closed");
            self.tell(Event::of_server(EventKind::ServerBreakerClosed, server));
        }
    }

    /// Records a failed request.
    #[cold]
    pub fn record_failure(&self, server: &ServerName, error: &UpstreamError) {
        if !error.stage.is_server_fault() {
            return;
        }
        let mut state = self.state();
        let at = unix_seconds();
        if error.is_undelivered() {
            let failures = self.counters.failures.load(Ordering::Relaxed).saturating_add(1);
            self.counters.failures.store(failures, Ordering::Relaxed);
            state.failing_since.get_or_insert(at);
            let was_probing = state.probe_until.take().is_some();
            // Requests that were in flight when the breaker opened report too; at worst one is taken for the
            // probe.
            if failures == self.failures_max || was_probing {
                state.backoff.fail(Duration::ZERO);
            }
            if failures == self.failures_max {
                tracing::debug!(%server, %error, "server is unreachable, circuit breaker opened");
                let event = Event::of_server(EventKind::ServerBreakerOpened, server);
                self.tell(event.with("reason", error.to_string()));
            }
        }
        state.last_failure = Some(UpstreamFailure { stage: error.stage, reason: error.to_string(), at });
    }

    /// Returns the health of the server, without its processes.
    pub fn status(&self) -> UpstreamStatus {
        let state = self.state();
        let failures_in_a_row = self.counters.failures.load(Ordering::Relaxed);
        let is_open = failures_in_a_row >= self.failures_max;
        UpstreamStatus {
            retry_in: is_open.then(|| state.wait(Instant::now())),
            has_answered: self.counters.has_answered.load(Ordering::Relaxed),
            failures_in_a_row,
            failing_since: state.failing_since,
            last_failure: state.last_failure.clone(),
            processes: None,
        }
    }

    fn tell(&self, event: Event) {
        if let Some(events) = &self.events {
            events.add(event);
        }
    }

    fn state(&self) -> MutexGuard<'_, BreakerState> {
        // No panic can leave a partial change behind.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BreakerState {
    /// Returns how long no request is let through.
    fn wait(&self, now: Instant) -> Duration {
        let probe = self.probe_until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
        self.backoff.wait(now).max(probe)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Events in order: `.` a response, `x` a failure, `q` one that is not the server's fault, `s` one that
    /// reached it, `?` a request that is let through, `!` one that is not, a digit: so many seconds pass.
    async fn check(breaker: &Breaker, events: &str) {
        let name = ServerName::new("a").expect("a name");
        for (at, event) in events.char_indices() {
            match event {
                '.' => breaker.record_response(&name),
                'x' => breaker.record_failure(&name, &UpstreamError::new(FailureStage::Connect, "refused")),
                's' => breaker.record_failure(&name, &UpstreamError::from_stage(FailureStage::NoResponse)),
                'q' => breaker.record_failure(&name, &UpstreamError::from_stage(FailureStage::QueueFull)),
                '?' => assert!(breaker.admit().is_ok(), "refused at {at} of {events}"),
                '!' => {
                    let Err(refused) = breaker.admit() else { panic!("let through at {at} of {events}") };
                    assert!(refused.is_undelivered());
                    assert_eq!(refused.to_string(), "circuit breaker open: connect: refused");
                }
                digit => {
                    let seconds = digit.to_digit(10).expect("a digit");
                    tokio::time::advance(Duration::from_secs(seconds.into())).await;
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn opens_and_closes() {
        for events in [
            "?????",
            "xxxx?x!",
            "xxxx.xxxx?",
            "qqqqqqqqqq?",
            "ssssssssssxxxx?ssss?",
            "xxxxx!1?!",
            // One probe at a time, and another when the first times out.
            "xxxxx1?!1!1?!",
            "xxxxx1?.???",
            // The wait grows.
            "xxxxx1?x!1?x!2?x!4?x!8?",
            "xxxxx1?x!1?x!2?.xxxx?x!1?",
            // Failures of requests that were in flight do not extend the wait.
            "xxxxxxxxxxxxxxxxxxxx!1?",
        ] {
            check(&Breaker::new(None), events).await;
        }
        check(&Breaker::never_open(), "xxxxxxxxxxxxxxxx?").await;
    }

    #[tokio::test(start_paused = true)]
    async fn reports_status() {
        let breaker = Breaker::new(None);
        assert_eq!(breaker.status(), UpstreamStatus::default());
        check(&breaker, "xxxx").await;
        let status = breaker.status();
        assert_eq!((status.retry_in, status.failures_in_a_row), (None, 4));
        let last = status.last_failure.expect("there were some");
        assert_eq!((last.stage, &*last.reason), (FailureStage::Connect, "connect: refused"));
        check(&breaker, "x").await;
        assert!(breaker.status().retry_in.is_some_and(|wait| !wait.is_zero()));
        check(&breaker, "1?.").await;
        let status = breaker.status();
        assert_eq!((status.retry_in, status.failures_in_a_row, status.last_failure), (None, 0, Some(last)));
    }
}
