//! The task of a session: reads the server's event stream, and ends the session when it has been idle for
//! long enough.

use std::future::pending;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use metamcp_core::frame::{MessageKind, Scanner};
use metamcp_core::protocol::McpMethod;
use metamcp_http::RequestKind;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::session::AdapterSession;
use super::session_table::SessionTable;
use super::unsolicited::WAITING_MAX as UNSOLICITED_MAX;
use crate::session::{
    BufferedRequest, StreamSource, UpstreamSession, UpstreamStream, UpstreamStreamEnd, deliver, is_ping,
    refusal_of,
};
use crate::upstream::UpstreamPool;

/// The longest time between two checks whether the session is idle.
const CHECK_INTERVAL_MAX: Duration = Duration::from_secs(5);

/// The shortest time between two checks.
const CHECK_INTERVAL_MIN: Duration = Duration::from_millis(50);

/// Refusals that wait because the server does not take the ones before. At that many, the server's stream is
/// not read.
const REFUSALS_MAX: usize = 64;

/// A refusal, for the session that the request came in.
struct Refusal {
    upstream_session: Arc<UpstreamSession>,
    message: String,
}

/// Runs until the session is over, then removes it from the table and terminates it at the server.
pub async fn run_session(table: Arc<SessionTable>, session: Arc<AdapterSession>, pool: Rc<UpstreamPool>) {
    let idle_timeout = table.idle_timeout_of(&session.key);
    let mut check = interval((idle_timeout / 4).clamp(CHECK_INTERVAL_MIN, CHECK_INTERVAL_MAX));
    check.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (refusals, queued) = mpsc::channel(REFUSALS_MAX);
    // Refusals are sent while the stream is read: a server may take them only after it has sent what it has
    // to send.
    let mut refusing = pin!(send_refusals(queued, &pool));
    'reading: loop {
        let current = session.upstream_session();
        let mut reading = pin!(read_stream(&table, &session, &pool, current.clone(), &refusals));
        loop {
            tokio::select! {
                () = &mut reading => continue 'reading,
                () = &mut refusing => break 'reading,
                () = session.reopened.notified() => {
                    if !is_same_session(current.as_ref(), session.upstream_session().as_ref()) {
                        continue 'reading;
                    }
                }
                () = session.over.notified() => break 'reading,
                _ = check.tick() => {
                    if session.end_if_idle(idle_timeout) {
                        break 'reading;
                    }
                    refuse_overdue(&session, current.as_ref(), &refusals);
                    // A listener does not notice that the server lost the session; a call does.
                    if session.upstream_session().is_none() && session.has_listeners() {
                        drop(session.open(&pool).await);
                    }
                }
            }
        }
    }
    table.remove(&session);
    if let Some(upstream_session) = session.upstream_session() {
        upstream_session.terminate(&pool).await;
    }
}

fn is_same_session(one: Option<&Arc<UpstreamSession>>, other: Option<&Arc<UpstreamSession>>) -> bool {
    one.map(Arc::as_ptr) == other.map(Arc::as_ptr)
}

/// Reads the event stream of an open session; completes when the server lost the session.
async fn read_stream(
    table: &SessionTable,
    session: &Arc<AdapterSession>,
    pool: &Rc<UpstreamPool>,
    upstream_session: Option<Arc<UpstreamSession>>,
    refusals: &mpsc::Sender<Refusal>,
) {
    let Some(upstream_session) = upstream_session else { return pending().await };
    let source = StreamSource::Legacy(Arc::clone(&upstream_session));
    let mut stream = UpstreamStream::open(Rc::clone(pool), source, true, None);
    let mut scanner = Scanner::new();
    loop {
        let event = match stream.next().await {
            Ok(event) => event,
            Err(UpstreamStreamEnd::SessionLost) => {
                session.forget(&upstream_session);
                return;
            }
            Err(UpstreamStreamEnd::Unsupported | UpstreamStreamEnd::Ended) => return pending().await,
        };
        let Some(data) = event.data.filter(|data| !data.is_empty()) else { continue };
        let Ok(envelope) = scanner.scan(&data) else { continue };
        let is_taken = !is_ping(&data, &envelope)
            && (session.route(&data, &envelope) || table.queue_unsolicited(session, &data, &envelope));
        if envelope.kind == MessageKind::Request && !is_taken {
            let message = refusal_of(&data, &envelope, "it is not certain which client this is for");
            if let Some(message) = message {
                // The receiver lives as long as this future.
                let _ =
                    refusals.send(Refusal { upstream_session: Arc::clone(&upstream_session), message }).await;
            }
        }
    }
}

/// Refuses unsolicited requests that no call came for in time. Without room for the refusals they wait for
/// the next check.
fn refuse_overdue(
    session: &AdapterSession,
    upstream_session: Option<&Arc<UpstreamSession>>,
    refusals: &mpsc::Sender<Refusal>,
) {
    if refusals.capacity() < UNSOLICITED_MAX {
        return;
    }
    let (overdue, Some(upstream_session)) = (session.take_overdue_unsolicited(), upstream_session) else {
        return;
    };
    let mut scanner = Scanner::new();
    for message in overdue {
        let Ok(envelope) = scanner.scan(&message) else { continue };
        let refusal = refusal_of(&message, &envelope, "no call came during which a client can be asked");
        if let Some(message) = refusal {
            drop(refusals.try_send(Refusal { upstream_session: Arc::clone(upstream_session), message }));
        }
    }
}

/// Sends the queued refusals, one after the other.
async fn send_refusals(mut queued: mpsc::Receiver<Refusal>, pool: &Rc<UpstreamPool>) {
    while let Some(Refusal { upstream_session, message }) = queued.recv().await {
        deliver(
            pool,
            BufferedRequest::legacy(&upstream_session, McpMethod::Ping, message.into()),
            RequestKind::Message,
        )
        .await;
    }
}
