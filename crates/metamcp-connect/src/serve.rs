//! Runs a bridge: reads the client's lines until it is gone, lets requests in flight finish, and ends the session.

use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::bridge::{StdioBridge, StdioBridgeConfig};
use super::client::{Line, LineReader, StdioClient};
use super::dispatch::Tasks;
use super::error::RequestError;
use metamcp_http::{InvalidTarget, TlsRoots};

/// The longest line of a client. Four times what a gateway accepts in one request by default: whether a message
/// is too large is for the endpoint to say.
pub const LINE_BYTES_MAX: usize = 16 << 20;

/// Notifications and responses of the client that wait to be sent; beyond it, no more input is read.
const NOTIFICATIONS_MAX: usize = 64;

/// How often idle connections are looked at. A network drops silent connections after minutes, without a word.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// For requests in flight when the client's input ends. Clients that end a program wait some seconds at most;
/// this is for those that wait for responses.
const FINISH_TIMEOUT: Duration = Duration::from_mins(1);

/// For requests in flight when the client's input has ended and the endpoint has a request open, which nobody
/// can answer any more.
const UNANSWERABLE_TIMEOUT: Duration = Duration::from_secs(2);

/// For the client to read the errors of the requests that were aborted.
const LAST_ERRORS_TIMEOUT: Duration = Duration::from_secs(1);

/// For the client to read the last line.
const LAST_LINE_TIMEOUT: Duration = Duration::from_secs(2);

/// Carries messages until the client is gone, then lets requests in flight finish. `stop` aborts them instead.
/// Runs in a `LocalSet`.
///
/// Not cancel safe: the session at the endpoint would not be terminated.
pub async fn run(
    config: StdioBridgeConfig,
    roots: &TlsRoots,
    client: StdioClient,
    stop: impl Future<Output = ()>,
) -> Result<(), InvalidTarget> {
    let StdioClient { input, output, written } = client;
    let lines = LineReader::new(input, config.line_bytes_max);
    let bridge = StdioBridge::new(config, roots, output)?;
    tokio::select! {
        () = Rc::clone(&bridge).serve(lines) => {}
        () = stop => {}
    }
    bridge.terminate_session().await;
    drop(bridge);
    // A client that does not read must not delay the end.
    let _ = timeout(LAST_LINE_TIMEOUT, written).await;
    Ok(())
}

impl StdioBridge {
    async fn serve(self: Rc<Self>, mut lines: LineReader) {
        let (notifications, queued) = mpsc::channel(NOTIFICATIONS_MAX);
        let mut tasks = Tasks { calls: JoinSet::new(), streams: JoinSet::new(), notifications };
        tasks.calls.spawn_local(Rc::clone(&self).send_notifications(queued));
        tasks.streams.spawn_local(Rc::clone(&self).read_session_streams());
        let bytes_max = lines.line_bytes_max();
        let mut sweep = interval(SWEEP_INTERVAL);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = sweep.tick() => self.pool.sweep(),
                line = lines.next() => match line {
                    Some(Line::Whole(line)) => self.dispatch_line(line, &mut tasks).await,
                    Some(Line::TooLong(first, last)) => self.reject_long_line(&first, &last, bytes_max).await,
                    None => break,
                },
                Some(_ended) = tasks.calls.join_next() => {}
                Some(_ended) = tasks.streams.join_next() => {}
                () = self.output_closed() => return,
            }
        }
        self.finish(tasks).await;
    }

    /// Waits for requests in flight after the client's input has ended, then aborts the rest and answers them
    /// with an error.
    async fn finish(&self, tasks: Tasks) {
        let Tasks { mut calls, mut streams, notifications } = tasks;
        drop(notifications);
        streams.shutdown().await;
        let all_done = async { while calls.join_next().await.is_some() {} };
        tokio::select! {
            done = timeout(FINISH_TIMEOUT, all_done) => if done.is_err() {
                tracing::warn!("requests still in flight after the client's input ended; aborting them");
            },
            () = self.unanswerable_request() => {
                tracing::warn!("the endpoint waits for a response of the client, whose input has ended; aborting requests");
            }
            () = self.output_closed() => {}
        }
        let unanswered = self.client_requests.unanswered();
        calls.shutdown().await;
        let answer_all = async {
            for (id, era) in unanswered {
                self.write_error(&id, era, &RequestError::InputEnded).await;
            }
        };
        // A client that no longer reads must not delay the end.
        let _ = timeout(LAST_ERRORS_TIMEOUT, answer_all).await;
    }

    /// Waits until a request of the endpoint to the client has stayed open for `UNANSWERABLE_TIMEOUT`.
    async fn unanswerable_request(&self) {
        loop {
            self.endpoint_requests.wait_for_any().await;
            if timeout(UNANSWERABLE_TIMEOUT, self.endpoint_requests.wait_for_none()).await.is_err() {
                return;
            }
        }
    }
}
