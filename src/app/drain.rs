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
            self.phase.send_replace(ShutdownPhase::Unready);
            sleep(self.config().drain_delay).await;
        }
        self.phase.send_replace(ShutdownPhase::Drain);
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
        self.phase.send_replace(ShutdownPhase::HandOver);
        let ended = async {
            sleep(CLOSE_AFTER).await;
            self.phase.send_replace(ShutdownPhase::Drain);
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
        self.phase.send_replace(ShutdownPhase::Abort);
        if timeout(ABORT_TIMEOUT, joined).await.is_err() {
            tracing::warn!("a worker did not end in time; leaving it behind");
        }
    }
}
