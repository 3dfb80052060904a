//! How the gateway ends what its workers do.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use metamcp_config::sections::HttpConfig;
use metamcp_core::base::ShutdownPhase;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::shutdown_signals::ShutdownSignals;
use crate::server::SharedState;

/// Sets the phases of the shutdown, and waits for the workers.
pub struct Drain<'a> {
    pub phase: &'a watch::Sender<ShutdownPhase>,
    pub shared: &'a SharedState,
}

/// For the workers to end after the requests in flight were aborted.
const ABORT_TIMEOUT: Duration = Duration::from_secs(5);

/// After a hand-over, for clients to make another request on their connection, whose response ends it. A connection that is
/// closed while its client sends would fail that request; one that was idle for so long rarely sends at that moment.
const CLOSE_AFTER: Duration = Duration::from_secs(5);

impl Drain<'_> {
    /// As it is now: the settings may be reloaded.
    fn config(&self) -> HttpConfig {
        self.shared.settings.borrow().config.clone()
    }

    /// Refuses new connections, and completes within `drain_deadline`. `joined` completes when the workers have ended.
    pub async fn at_shutdown(&self, mut joined: Pin<&mut impl Future<Output = ()>>) {
        tracing::info!("shutting down: accepting no new connections, draining requests in flight");
        // After a hand-over it drains already.
        if *self.phase.borrow() == ShutdownPhase::Serve {
            advance(self.phase, ShutdownPhase::Unready);
            sleep(self.config().drain_delay).await;
        }
        // After the deadline of a hand-over, everything is aborted already.
        if *self.phase.borrow() == ShutdownPhase::Abort {
            return wait_for_abort(joined).await;
        }
        advance(self.phase, ShutdownPhase::Drain);
        if timeout(self.config().drain_deadline, joined.as_mut()).await.is_err() {
            self.abort(joined).await;
        }
    }

    /// Leaves new connections to the successor, and completes within `handover_deadline`. Returns false if a signal arrives
    /// before that.
    pub async fn after_handover(
        &self,
        mut joined: Pin<&mut impl Future<Output = ()>>,
        signals: &mut ShutdownSignals,
    ) -> bool {
        self.shared.streams.iter().for_each(|streams| streams.note_handed_over());
        advance(self.phase, ShutdownPhase::HandOver);
        let ended = async {
            sleep(CLOSE_AFTER).await;
            advance(self.phase, ShutdownPhase::Drain);
            if timeout(self.config().handover_deadline, joined.as_mut()).await.is_err() {
                self.abort(joined.as_mut()).await;
            }
        };
        tokio::select! {
            () = ended => true,
            () = signals.received() => false,
        }
    }

    async fn abort(&self, joined: Pin<&mut impl Future<Output = ()>>) {
        tracing::warn!("drain deadline exceeded; aborting the requests in flight");
        advance(self.phase, ShutdownPhase::Abort);
        wait_for_abort(joined).await;
    }
}

/// Enters a phase, unless it is over already.
fn advance(phase: &watch::Sender<ShutdownPhase>, next: ShutdownPhase) {
    phase.send_if_modified(|current| {
        let is_later = next > *current;
        *current = next.max(*current);
        is_later
    });
}

async fn wait_for_abort(joined: Pin<&mut impl Future<Output = ()>>) {
    if timeout(ABORT_TIMEOUT, joined).await.is_err() {
        tracing::warn!("a worker did not end in time; leaving it behind");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_is_never_left_for_an_earlier_one() {
        use ShutdownPhase::{Abort, Drain, HandOver, Serve, Unready};
        let check = |current: ShutdownPhase, next: ShutdownPhase, expected: ShutdownPhase| {
            let (phase, phases) = watch::channel(current);
            advance(&phase, next);
            assert_eq!(*phases.borrow(), expected, "{current:?} to {next:?}");
            assert_eq!(phases.has_changed().ok(), Some(current != expected), "{current:?} to {next:?}");
        };
        check(Serve, HandOver, HandOver);
        check(Serve, Unready, Unready);
        check(HandOver, Drain, Drain);
        check(Drain, Drain, Drain);
        check(Abort, Drain, Abort);
        check(Drain, HandOver, Drain);
    }
}
