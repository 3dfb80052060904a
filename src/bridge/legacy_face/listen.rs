//! The GET stream of a session: one `subscriptions/listen` at the server, opened again when what the client
//! wants to be told of changes, or when it breaks (MCP 2026-07-28, subscriptions). Sessions that want to be told of the same
//! lists and of no resources share one.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};

use super::alone::Alone;
use super::hub::Hub;
use super::request::own;
use super::session::{Ear, Session};
use super::{LegacyFace, inside};
use crate::frame::{EventReader, Kind, Scanner, write_event};
use crate::protocol::Method;
use crate::upstream::shim::{Reply, stream_of};
use crate::upstream::{Answer, Answered, Lane, Outgoing, Pool};

/// Events made and not yet read by the client: a server that sends more waits.
const EVENTS_MAX: usize = 64;

/// The first wait before a broken stream is asked for again; it doubles.
const BACKOFF_MIN: Duration = Duration::from_millis(500);

/// No server is asked more often than this for long.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// A server that has no such stream is asked again after that: once a minute costs it nothing.
const REFUSED_FOR: Duration = Duration::from_mins(1);

/// For a server to answer a subscription and to say that it tells; costs it nothing.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);

/// Opens the stream. It takes over from the one before, and lasts until the client goes or the session ends.
pub fn open(face: &Arc<LegacyFace>, session: &Arc<Session>, pool: &Rc<Pool>) -> Box<Answered> {
    let (outlet, events) = stream_of(EVENTS_MAX);
    let answered = inside(Reply::events(events), pool);
    let stream = session.take_stream();
    session.keep_still(stream, outlet);
    wake(face, session, pool);
    answered
}

/// Listens for a client that has a stream, and wants to be told of something by now. Only what it wants alone takes a task
/// and a connection of its own.
pub fn wake(face: &Arc<LegacyFace>, session: &Arc<Session>, pool: &Rc<Pool>) {
    // One that listens for itself is told of lists as well, for as long as nobody tells it alone.
    if session.has_changing_lists()
        && let Some(hub) = face.hubs.join(session)
    {
        let twin = session.twin();
        let stream = twin.take_stream();
        listen(face, twin, stream, pool, To::All(hub));
    }
    if session.has_uris()
        && let Some(own) = session.go_alone(EVENTS_MAX)
    {
        let stream = own.stream;
        let alone = Alone::new(Arc::clone(session), own);
        listen(face, Arc::clone(session), stream, pool, To::One(alone));
    }
}

fn listen(face: &Arc<LegacyFace>, session: Arc<Session>, stream: u64, pool: &Rc<Pool>, to: To) {
    let (face, pool) = (Arc::clone(face), Rc::clone(pool));
    let mut ears = Ears { _ear: session.ear(), face, session, pool, backoff: BACKOFF_MIN };
    spawn_local(async move {
        let session = Arc::clone(&ears.session);
        tokio::select! {
            () = ears.listen(&to) => {}
            () = session.until(|heed| heed.ended || heed.stream != stream) => {}
            () = to.left() => {}
            () = to.tell_of_hub() => {}
        }
    });
}

/// Who is told.
enum To {
    One(Alone),
    All(Hub),
}

impl To {
    /// Whether that was asked for: of several sessions nobody can say which one anything else is for.
    fn takes(&self, method: Option<Method>) -> bool {
        match self {
            Self::One(_) => method != Some(Method::Acknowledged),
            Self::All(_) => matches!(
                method,
                Some(Method::ToolsListChanged | Method::PromptsListChanged | Method::ResourcesListChanged)
            ),
        }
    }

    /// Tells it on; false when nobody listens any more. Cancel safe, but for an event that waits for room.
    async fn tell(&self, event: Bytes) -> bool {
        match self {
            Self::One(alone) => alone.tell(event).await,
            Self::All(hub) => {
                hub.tell(&event);
                true
            }
        }
    }

    /// Completes when nobody listens any more. Cancel safe.
    async fn left(&self) {
        match self {
            Self::One(alone) => alone.left().await,
            Self::All(hub) => hub.left().await,
        }
    }

    /// The server tells, for as long as this is polled; never completes. Cancel safe.
    async fn come_out(&self) {
        match self {
            Self::One(alone) => alone.come_out().await,
            Self::All(_) => std::future::pending().await,
        }
    }

    /// It tells no more.
    fn stay(&self) {
        if let Self::One(alone) = self {
            alone.stay();
        }
    }

    /// Tells on what comes from elsewhere; never completes.
    async fn tell_of_hub(&self) {
        match self {
            Self::One(alone) => alone.tell_of_hub().await,
            Self::All(_) => std::future::pending().await,
        }
    }
}

struct Ears {
    face: Arc<LegacyFace>,
    session: Arc<Session>,
    pool: Rc<Pool>,
    backoff: Duration,
    _ear: Ear,
}

/// What a server was asked to tell of, and tells.
struct Stream {
    answer: Answer,
    reader: EventReader,
    /// The wish that it was opened for.
    wish: u64,
    /// Whether it told anything.
    has_told: bool,
}

/// Why there is no stream.
enum Refused {
    /// The server has none such, as far as it says.
    Plainly,
    /// It may have one later.
    ForNow,
}

impl Ears {
    /// Never ends: who dropped it has heard enough.
    async fn listen(&mut self, to: &To) {
        let mut open: Option<Box<Stream>> = None;
        loop {
            let (wish, request) = self.wanted();
            let Some(request) = request else {
                open = None;
                self.session.settle(wish);
                self.changed(wish).await;
                continue;
            };
            // What the one before has to tell is told until the next is open. Boxed: it is a hundred times what a silent
            // stream has.
            let opening = tokio::select! {
                opening = Box::pin(timeout(OPEN_TIMEOUT, self.open(request, wish))) => {
                    opening.unwrap_or(Err(Refused::ForNow))
                }
                () = tell_on(&mut open, to, &self.face, &self.pool) => continue,
            };
            match opening {
                Ok(stream) => {
                    self.session.settle(wish);
                    let stream = open.insert(stream);
                    tokio::select! {
                        () = stream.tell(to, &self.face, &self.pool) => {
                            if stream.has_told {
                                self.backoff = BACKOFF_MIN;
                            }
                            open = None;
                            to.stay();
                            self.pause().await;
                        }
                        () = changed(&self.session, wish) => {}
                        () = to.come_out() => {}
                    }
                }
                Err(Refused::Plainly) => {
                    open = None;
                    self.session.settle(wish);
                    // Whoever was refused may have been so by what stands in front of the server, and others come.
                    let _ = timeout(REFUSED_FOR, self.changed(wish)).await;
                }
                Err(Refused::ForNow) => {
                    open = None;
                    self.pause().await;
                }
            }
        }
    }

    /// Waits before the server is asked again, longer each time.
    async fn pause(&mut self) {
        sleep(self.backoff).await;
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
    }

    async fn changed(&self, wish: u64) {
        changed(&self.session, wish).await;
    }

    /// What the client wants to be told of, as far as the server tells; `None`: nothing.
    fn wanted(&self) -> (u64, Option<Outgoing>) {
        let (wish, uris) = self.session.uris();
        let offers = &self.session.offers;
        let mut notifications = serde_json::Map::new();
        for (name, is_offered) in [
            ("toolsListChanged", offers.tools_changed),
            ("promptsListChanged", offers.prompts_changed),
            ("resourcesListChanged", offers.resources_changed),
        ] {
            if is_offered {
                notifications.insert(name.to_owned(), Value::Bool(true));
            }
        }
        if !uris.is_empty() {
            notifications.insert("resourceSubscriptions".to_owned(), json!(uris));
        }
        if notifications.is_empty() {
            return (wish, None);
        }
        let params = format!("\"notifications\":{},", Value::Object(notifications));
        let id = format!("metamcp-listen-{}", self.session.mint());
        (wish, own(&self.session, &id, Method::Listen, &params))
    }

    /// Opens a stream, and waits until the server says that it tells.
    async fn open(&self, request: Outgoing, wish: u64) -> Result<Box<Stream>, Refused> {
        let answered = self.pool.send_straight(&request, Lane::Stream).await.map_err(|_| Refused::ForNow)?;
        let Answered { head, body: answer } = *answered;
        if !head.status.is_success() || !head.is_event_stream() {
            let passes =
                head.status.is_server_error() || matches!(head.status.as_u16(), 401 | 403 | 409 | 429);
            return Err(if passes { Refused::ForNow } else { Refused::Plainly });
        }
        let mut stream = Box::new(Stream { answer, reader: EventReader::new(), wish, has_told: false });
        match stream.next().await {
            Some((_, Some(Method::Acknowledged))) => Ok(stream),
            _ => Err(Refused::ForNow),
        }
    }
}

async fn changed(session: &Session, wish: u64) {
    session.until(|heed| heed.wish != wish).await;
}

/// Tells on what is told while the next stream is opened; completes when it breaks, never when there is none.
async fn tell_on(open: &mut Option<Box<Stream>>, to: &To, face: &LegacyFace, pool: &Pool) {
    match open {
        Some(stream) => stream.tell(to, face, pool).await,
        None => std::future::pending().await,
    }
    *open = None;
    to.stay();
}

impl Stream {
    /// Passes what the server tells on; completes at the end of the stream, regular or not. Cancel safe, but
    /// for an event that waits for room.
    async fn tell(&mut self, to: &To, face: &LegacyFace, pool: &Pool) {
        while let Some((message, method)) = self.next().await {
            self.has_told = true;
            if method == Some(Method::ToolsListChanged) {
                face.known.forget(pool.upstream().id);
            }
            if to.takes(method) && !to.tell(write_event(&message)).await {
                return;
            }
        }
        tracing::debug!(server = %pool.upstream().name(), wish = self.wish, "a subscription ended");
    }

    /// The next notification; `None` at the end. Cancel safe.
    async fn next(&mut self) -> Option<(Bytes, Option<Method>)> {
        loop {
            let Some(told) = self.reader.next().ok()? else {
                self.reader.push(self.answer.chunk().await?.ok()?);
                continue;
            };
            let Some(data) = told.data.filter(|data| !data.is_empty()) else { continue };
            let Ok(envelope) = Scanner::new().scan(&data) else { continue };
            match envelope.kind {
                Kind::Notification => {
                    let method = envelope.method.and_then(|method| Method::parse(&method.value(&data)));
                    return Some((data, method));
                }
                Kind::Request => {}
                // It ends the subscription (MCP 2026-07-28, subscriptions).
                Kind::Response | Kind::Error => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests;
