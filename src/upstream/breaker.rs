//! Leaves a server alone that could not be reached again and again: who asks it is told so at once and need not wait to find out, and
//! the server can come back without a crowd at its door.
//!
//! After [`FAILURES_MAX`] requests in a row that did not reach it, it is open: nothing is let through but one request
//! after each wait. What becomes of that one decides: an answer closes it, a failure makes the next wait longer. A
//! request that reached it and failed there opens nothing: that may be the fault of one tool, and others are to go on.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crossbeam::utils::CachePadded;
use tokio::time::Instant;

use super::shim::Backoff;
use super::stdio::Processes;
use super::{FailureStage, UpstreamError};
use metamcp_core::base::ServerName;

/// How a server is, as far as those who asked it know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UpstreamStatus {
    /// Whether it is left alone, and for how long yet.
    pub left_alone: Option<Duration>,
    /// Requests that did not reach it, without an answer between them.
    pub failures_in_a_row: u32,
    /// The last one of any kind, which may be long ago.
    pub last_failure: Option<UpstreamFailure>,
    /// How its processes are, when it is a program.
    pub processes: Option<Processes>,
}

/// How a server failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamFailure {
    /// How far the request had come.
    pub stage: FailureStage,
    /// The error; it may name the address of the server.
    pub reason: String,
    /// When, in seconds since 1970.
    pub at: u64,
}

/// Of one server, for all workers.
pub struct Breaker {
    /// Requests that did not reach it, without an answer between them. Every request reads it, and only what goes wrong, or right again, writes it.
    failures: CachePadded<AtomicU32>,
    failures_max: u32,
    /// Guards what has to change together; taken only when something is wrong.
    record: Mutex<Record>,
}

#[derive(Default)]
struct Record {
    backoff: Backoff,
    /// Set by the one that was let through, until it is known what became of it or the next wait is over.
    trying_until: Option<Instant>,
    last: Option<UpstreamFailure>,
}

/// A server that restarts refuses a handful of requests; more than that is no accident.
const FAILURES_MAX: u32 = 5;

/// For the one that was let through to be answered or to fail; then another one may try. As long as a usual
/// connect timeout.
const TRY: Duration = Duration::from_secs(2);

impl Breaker {
    /// Of a server that has not failed yet.
    pub fn new() -> Self {
        Self::opening_after(FAILURES_MAX)
    }

    /// Of one that others keep from being asked too often: here its failures are only remembered.
    pub fn never_open() -> Self {
        Self::opening_after(u32::MAX)
    }

    fn opening_after(failures_max: u32) -> Self {
        Self { failures: CachePadded::default(), failures_max, record: Mutex::default() }
    }

    /// Whether the server may be asked now.
    pub fn admit(&self) -> Result<(), UpstreamError> {
        if self.failures.load(Ordering::Relaxed) < self.failures_max { Ok(()) } else { self.admit_one() }
    }

    #[cold]
    fn admit_one(&self) -> Result<(), UpstreamError> {
        let now = Instant::now();
        let mut record = self.record();
        let wait = record.wait(now);
        if !wait.is_zero() {
            let reason = record.last.as_ref().map_or(String::new(), |failure| failure.reason.clone());
            return Err(UpstreamError::new(FailureStage::BreakerOpen, reason));
        }
        record.trying_until = Some(now + TRY);
        Ok(())
    }

    /// It answered, whatever it said.
    pub fn note_answer(&self, server: &ServerName) {
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.close(server);
        }
    }

    #[cold]
    fn close(&self, server: &ServerName) {
        let mut record = self.record();
        record.backoff = Backoff::default();
        record.trying_until = None;
        if self.failures.swap(0, Ordering::Relaxed) >= self.failures_max {
            tracing::info!(%server, "it can be reached again");
        }
    }

    /// A request failed.
    #[cold]
    pub fn note_failure(&self, server: &ServerName, error: &UpstreamError) {
        if !error.stage.is_server_fault() {
            return;
        }
        let mut record = self.record();
        if error.is_undelivered() {
            let failures = self.failures.load(Ordering::Relaxed).saturating_add(1);
            self.failures.store(failures, Ordering::Relaxed);
            let was_tried = record.trying_until.take().is_some();
            // Of those that were under way when it opened, each is told, and at worst one is taken for the one let through.
            if failures == self.failures_max || was_tried {
                record.backoff.fail(Duration::ZERO);
            }
            if failures == self.failures_max {
                tracing::warn!(%server, %error, "it cannot be reached, and is left alone for a while");
            }
        }
        let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        record.last = Some(UpstreamFailure { stage: error.stage, reason: error.to_string(), at });
    }

    /// For those who look.
    pub fn condition(&self) -> UpstreamStatus {
        let record = self.record();
        let failures_in_a_row = self.failures.load(Ordering::Relaxed);
        let is_open = failures_in_a_row >= self.failures_max;
        UpstreamStatus {
            left_alone: is_open.then(|| record.wait(Instant::now())),
            failures_in_a_row,
            last_failure: record.last.clone(),
            processes: None,
        }
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        // Nothing in here is half done between two of its changes.
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Record {
    /// How long nobody is let through.
    fn wait(&self, now: Instant) -> Duration {
        let tried = self.trying_until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
        self.backoff.wait(now).max(tried)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What happens, in order: `.` an answer, `x` a failure, `q` one that is not the server's fault, `s` one that reached it, `?` a request that is let
    /// through, `!` one that is not, a digit: so many seconds pass.
    async fn check(breaker: &Breaker, events: &str) {
        let name = ServerName::new("a").expect("a name");
        for (at, event) in events.char_indices() {
            match event {
                '.' => breaker.note_answer(&name),
                'x' => breaker.note_failure(&name, &UpstreamError::new(FailureStage::Connect, "refused")),
                's' => breaker.note_failure(&name, &UpstreamError::from_stage(FailureStage::NoResponse)),
                'q' => breaker.note_failure(&name, &UpstreamError::from_stage(FailureStage::QueueFull)),
                '?' => assert!(breaker.admit().is_ok(), "left alone at {at} of {events}"),
                '!' => {
                    let Err(refused) = breaker.admit() else { panic!("let through at {at} of {events}") };
                    assert!(refused.is_undelivered());
                    assert_eq!(refused.to_string(), "LeftAlone: Connect: refused");
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
            // One at a time, and another when nothing is heard of it.
            "xxxxx1?!1!1?!",
            "xxxxx1?.???",
            // The wait grows.
            "xxxxx1?x!1?x!2?x!4?x!8?",
            "xxxxx1?x!1?x!2?.xxxx?x!1?",
            // Those that were under way make no difference to it.
            "xxxxxxxxxxxxxxxxxxxx!1?",
        ] {
            check(&Breaker::new(), events).await;
        }
        check(&Breaker::never_open(), "xxxxxxxxxxxxxxxx?").await;
    }

    #[tokio::test(start_paused = true)]
    async fn says_how_the_server_is() {
        let breaker = Breaker::new();
        assert_eq!(breaker.condition(), UpstreamStatus::default());
        check(&breaker, "xxxx").await;
        let seen = breaker.condition();
        assert_eq!((seen.left_alone, seen.failures_in_a_row), (None, 4));
        let last = seen.last_failure.expect("there were some");
        assert_eq!((last.stage, &*last.reason), (FailureStage::Connect, "Connect: refused"));
        check(&breaker, "x").await;
        assert!(breaker.condition().left_alone.is_some_and(|wait| !wait.is_zero()));
        check(&breaker, "1?.").await;
        let seen = breaker.condition();
        assert_eq!((seen.left_alone, seen.failures_in_a_row, seen.last_failure), (None, 0, Some(last)));
    }
}
