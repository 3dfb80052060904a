//! Repeats the subscriptions of a client in an upstream session that was opened again.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::initialize::send_subscription;
use super::state::Session;
use super::upstream_session::UpstreamSession;
use crate::upstream::UpstreamPool;

/// All of it. A server that takes longer for 256 subscriptions does not get the rest; each has five seconds of it.
const REPLAY_TIMEOUT: Duration = Duration::from_mins(1);

/// Repeats what the client has subscribed to at the server at `server_index`, one after the other, in the upstream session
/// `ready`. Completes early if either session is over.
///
/// No call waits for it. A subscription that the client ends meanwhile is left out. If both requests cross, the server may
/// go on sending changes, which the client ignores. Subscriptions that the server does not take in time are lost, which is
/// logged.
pub async fn replay_subscriptions(
    pool: &Rc<UpstreamPool>,
    session: &Session,
    server_index: usize,
    ready: &Arc<UpstreamSession>,
) {
    let slot = session.upstream_slot(server_index);
    let is_current = || slot.current().is_some_and(|current| Arc::ptr_eq(&current, ready));
    let replay = async {
        for uri in session.subscriptions(server_index) {
            if session.is_ended() || !is_current() {
                return;
            }
            if session.is_subscribed(server_index, &uri) {
                send_subscription(pool, ready, &uri).await;
            }
        }
    };
    if timeout(REPLAY_TIMEOUT, replay).await.is_err() {
        tracing::warn!(server = %pool.upstream().name(), "subscriptions were not taken in time");
    }
}
