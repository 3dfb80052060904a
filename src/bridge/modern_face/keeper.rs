//! The task that keeps a session: reads its event stream, and ends it when it was of no use for long enough.

use std::future::pending;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::outside::WAITING_MAX as OVERDUE_MAX;
use super::session::{FaceSession, tell};
use super::sessions::Sessions;
use crate::frame::{Envelope, Kind as FrameKind, Scanner};
use crate::protocol::{Method, code};
use crate::session::{Feed, FeedEnd, Ready, Source};
use crate::upstream::Pool;

/// Between two looks whether it is idle, at most.
const LOOK_MAX: Duration = Duration::from_secs(5);

/// The same, at least.
const LOOK_MIN: Duration = Duration::from_millis(50);

/// Requests of a server that are to be refused, and wait because it does not take the answers to those before. When there
/// are as many, its stream is not read.
const REFUSALS_MAX: usize = 64;

/// Of a server's request that is refused. It is kept until the server takes the answer; nobody writes longer ones.
const ID_BYTES_MAX: usize = 1024;

/// An answer by which something is refused, in the session that it was asked in.
struct Refusal {
    ready: Arc<Ready>,
    answer: String,
}

/// Keeps a session until it is over.
pub async fn keep(sessions: Arc<Sessions>, session: Arc<FaceSession>, pool: Rc<Pool>) {
    let idle_timeout = sessions.idle_timeout_of(&session.key);
    let mut look = interval((idle_timeout / 4).clamp(LOOK_MIN, LOOK_MAX));
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (refusals, refused) = mpsc::channel(REFUSALS_MAX);
    // Beside what is read: a server may take an answer only once it has said what it wants to.
    let mut refusing = pin!(refuse_all(refused, &pool));
    'reading: loop {
        let ready = session.ready();
        let mut reading = pin!(listen(&sessions, &session, &pool, ready.clone(), &refusals));
        loop {
            tokio::select! {
                () = &mut reading => continue 'reading,
                () = &mut refusing => break 'reading,
                () = session.reopened.notified() => {
                    if !is_same(ready.as_ref(), session.ready().as_ref()) {
                        continue 'reading;
                    }
                }
                () = session.over.notified() => break 'reading,
                _ = look.tick() => {
                    if session.end_if_idle(idle_timeout) {
                        break 'reading;
                    }
                    refuse_overdue(&session, ready.as_ref(), &refusals);
                    // Whoever listens is not told that the server forgot; a call notices by itself.
                    if session.ready().is_none() && session.is_listened_to() {
                        drop(session.open(&pool).await);
                    }
                }
            }
        }
    }
    sessions.remove(&session);
    part(&session, &pool).await;
}

fn is_same(one: Option<&Arc<Ready>>, other: Option<&Arc<Ready>>) -> bool {
    one.map(Arc::as_ptr) == other.map(Arc::as_ptr)
}

/// Reads the stream of an open session; ends when the server lost that.
async fn listen(
    sessions: &Sessions,
    session: &Arc<FaceSession>,
    pool: &Rc<Pool>,
    ready: Option<Arc<Ready>>,
    refusals: &mpsc::Sender<Refusal>,
) {
    let Some(ready) = ready else { return pending().await };
    let mut feed = Feed::begin(Rc::clone(pool), Source::Legacy(Arc::clone(&ready)), true, None);
    let mut scanner = Scanner::new();
    loop {
        let event = match feed.next().await {
            Ok(event) => event,
            Err(FeedEnd::SessionLost) => {
                session.forget(&ready);
                return;
            }
            Err(FeedEnd::Unsupported | FeedEnd::Ended) => return pending().await,
        };
        let Some(data) = event.data.filter(|data| !data.is_empty()) else { continue };
        let Ok(envelope) = scanner.scan(&data) else { continue };
        let is_taken = !is_ping(&data, &envelope)
            && (session.route(&data, &envelope) || sessions.keep_outside(session, &data, &envelope));
        if envelope.kind == FrameKind::Request && !is_taken {
            let answer = refusal_of(&data, &envelope, "it is not certain which client this is for");
            let refusal = answer.map(|answer| Refusal { ready: Arc::clone(&ready), answer });
            if let Some(refusal) = refusal {
                // The other end is there as long as this is.
                let _ = refusals.send(refusal).await;
            }
        }
    }
}

/// Answers what was asked outside of any call, and no call came for. What there is no room for is asked for in the next look.
fn refuse_overdue(session: &FaceSession, ready: Option<&Arc<Ready>>, refusals: &mpsc::Sender<Refusal>) {
    if refusals.capacity() < OVERDUE_MAX {
        return;
    }
    let (overdue, Some(ready)) = (session.overdue_outside(), ready) else { return };
    let mut scanner = Scanner::new();
    for message in overdue {
        let Ok(envelope) = scanner.scan(&message) else { continue };
        if let Some(answer) = refusal_of(&message, &envelope, "no call came that a client can be asked by") {
            drop(refusals.try_send(Refusal { ready: Arc::clone(ready), answer }));
        }
    }
}

/// Refuses what comes, one after the other.
async fn refuse_all(mut refused: mpsc::Receiver<Refusal>, pool: &Rc<Pool>) {
    while let Some(Refusal { ready, answer }) = refused.recv().await {
        tell(pool, &ready, Method::Ping, answer.into()).await;
    }
}

/// Whether it is a ping, which is nobody's in particular.
pub fn is_ping(message: &Bytes, envelope: &Envelope) -> bool {
    let method = envelope.method.map(|method| method.value(message));
    envelope.kind == FrameKind::Request && method.as_deref() == Some(Method::Ping.as_str().as_bytes())
}

/// Answers a request of the server that no client is asked: it waits for an answer.
pub async fn refuse(pool: &Rc<Pool>, ready: &Ready, message: &Bytes, envelope: &Envelope, why: &str) {
    if let Some(answer) = refusal_of(message, envelope, why) {
        tell(pool, ready, Method::Ping, answer.into()).await;
    }
}

/// The answer by which a request is refused; a ping is answered.
fn refusal_of(message: &Bytes, envelope: &Envelope, why: &str) -> Option<String> {
    let id = String::from_utf8_lossy(envelope.id?.span.of(message));
    if id.len() > ID_BYTES_MAX {
        tracing::warn!(bytes = id.len(), "a server asked under an id that is too long; it gets no answer");
        return None;
    }
    Some(if is_ping(message, envelope) {
        format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#)
    } else {
        let code = code::METHOD_NOT_FOUND;
        format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{code},"message":"{why}"}}}}"#)
    })
}

async fn part(session: &FaceSession, pool: &Rc<Pool>) {
    if let Some(ready) = session.ready() {
        ready.part(pool).await;
    }
}
