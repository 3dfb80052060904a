//! The task that keeps a session: reads its event stream, and ends it when it was of no use for long enough.

use std::future::pending;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::spawn_local;
use tokio::time::{MissedTickBehavior, interval};

use super::session::{FaceSession, tell};
use super::sessions::Sessions;
use crate::backend::Pool;
use crate::frame::{Envelope, Kind as FrameKind, Scanner};
use crate::protocol::{Method, code};
use crate::session::{Feed, FeedEnd, Ready, Source};

/// Between two looks whether it is idle, at most.
const LOOK_MAX: Duration = Duration::from_secs(5);

/// The same, at least.
const LOOK_MIN: Duration = Duration::from_millis(50);

/// Keeps a session until it is over.
pub async fn keep(sessions: Arc<Sessions>, session: Arc<FaceSession>, pool: Rc<Pool>) {
    let idle_timeout = sessions.idle_timeout_of(&session.key);
    let mut look = interval((idle_timeout / 4).clamp(LOOK_MIN, LOOK_MAX));
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    'reading: loop {
        let ready = session.ready();
        let mut reading = pin!(listen(&sessions, &session, &pool, ready.clone()));
        loop {
            tokio::select! {
                () = &mut reading => continue 'reading,
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
                    refuse_overdue(&session, &pool, ready.as_ref());
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
async fn listen(sessions: &Sessions, session: &Arc<FaceSession>, pool: &Rc<Pool>, ready: Option<Arc<Ready>>) {
    let Some(ready) = ready else { return pending().await };
    let mut feed = Feed::new(Rc::clone(pool), Source::Legacy(Arc::clone(&ready)), true);
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
            refuse(pool, &ready, &data, &envelope, "it is not certain which client this is for").await;
        }
    }
}

/// Answers what was asked outside of any call, and no call came for. Beside what is read: a server may take an answer only
/// once it has said what it wants to. As many at once as may wait ([`Sessions`]).
fn refuse_overdue(session: &FaceSession, pool: &Rc<Pool>, ready: Option<&Arc<Ready>>) {
    let (overdue, Some(ready)) = (session.overdue_outside(), ready) else { return };
    if overdue.is_empty() {
        return;
    }
    let (pool, ready) = (Rc::clone(pool), Arc::clone(ready));
    spawn_local(async move {
        let mut scanner = Scanner::new();
        for message in overdue {
            if let Ok(envelope) = scanner.scan(&message) {
                refuse(&pool, &ready, &message, &envelope, "no call came that a client can be asked by")
                    .await;
            }
        }
    });
}

/// Whether it is a ping, which is nobody's in particular.
pub fn is_ping(message: &Bytes, envelope: &Envelope) -> bool {
    let method = envelope.method.map(|method| method.value(message));
    envelope.kind == FrameKind::Request && method.as_deref() == Some(Method::Ping.as_str().as_bytes())
}

/// Answers a request of the server that no client is asked: it waits for an answer.
pub async fn refuse(pool: &Rc<Pool>, ready: &Ready, message: &Bytes, envelope: &Envelope, why: &str) {
    let Some(id) = envelope.id else { return };
    let id = String::from_utf8_lossy(id.span.of(message));
    let answer = if is_ping(message, envelope) {
        format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#)
    } else {
        let code = code::METHOD_NOT_FOUND;
        format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{code},"message":"{why}"}}}}"#)
    };
    tell(pool, ready, Method::Ping, answer.into()).await;
}

async fn part(session: &FaceSession, pool: &Rc<Pool>) {
    if let Some(ready) = session.ready() {
        ready.part(pool).await;
    }
}
