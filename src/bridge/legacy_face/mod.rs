//! What Legacy clients see of a server that speaks only the Modern era: sessions, requests of the server, a
//! GET stream.
//!
//! `initialize` is answered from `server/discover`. Every request of the session becomes one that stands
//! alone, with what the client said at the beginning in its `_meta` and the headers that mirror it
//! (`request`). An answer passes with what only the Modern era has cut out (`result`); where the server wants
//! to know something first, the client is asked by requests on the stream of the call, and the call is made
//! again with its answers (`call`, `input`). Subscriptions are one
//! `subscriptions/listen` for each session whose client has a GET stream (`listen`); changes of lists are one for all
//! that are alike (`hub`), and one that subscribes comes out of those when its own stream tells (`alone`).
//!
//! Invariants: a server hears only of capabilities that the client declared when it opened the session;
//! `requestState` goes back byte for byte; a call is made again only when the server asked for it, or did not
//! take it; sessions, what is under way in them and each wait have bounds; a session that is gone is 404,
//! upon which its client's next message opens another.
//!
//! Does not know: which client a session is of beyond its key, endpoints, or how tools are named there.

mod alone;
mod call;
mod hub;
mod input;
mod listen;
mod object;
mod open;
mod params;
mod request;
mod result;
mod session;
mod table;

use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use tokio::time::timeout;

use self::request::Request;
use self::session::Session;
use self::table::Table;
use super::level::Level;
use crate::base::Recent;
use crate::frame::{Kind, Scanner};
use crate::protocol::{Era, Method, code};
use crate::upstream::shim::{Reply, Verb};
use crate::upstream::{Answered, Answering, Face, Lane, Outgoing, Pool, UpstreamError};

/// The face of all servers that speak only the Modern era: one, which every worker reaches.
pub struct LegacyFace {
    sessions: Table,
    known: params::Known,
    hubs: Arc<hub::Hubs>,
    /// Guards how clients introduced themselves; a walk over a few.
    introduced: Mutex<Recent<session::Introduced>>,
    /// For a client to answer what its server asks.
    input_timeout: Duration,
}

/// For the server to hear of a subscription, before the client is told that it has it: what changes from then
/// on is told. A server that is slow to listen keeps no client waiting for longer.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(2);

impl LegacyFace {
    /// Without a session. `input_timeout`: how long a client is waited for that a server asked something. Its
    /// call, the place of that among the key's calls and its connection are held for so long.
    pub fn new(input_timeout: Duration) -> Self {
        let (known, hubs, introduced) = (params::Known::default(), Arc::default(), Mutex::default());
        Self { sessions: Table::new(), known, hubs, introduced, input_timeout }
    }

    async fn take(
        self: Arc<Self>,
        pool: Rc<Pool>,
        request: Outgoing,
        lane: Lane,
    ) -> Result<Box<Answered>, UpstreamError> {
        let (verb, id) = request.asked();
        let read = match &verb {
            Verb::Post(message) => match read(message) {
                Some(read) => Some(read),
                None => return Ok(inside(unreadable(), &pool)),
            },
            Verb::Get | Verb::Delete => None,
        };
        if let Some(read) = read.as_ref().filter(|read| read.method == Some(Method::Initialize)) {
            return self.open(&pool, &request, read).await;
        }
        let session = id.as_ref().and_then(|id| self.session(&pool, id));
        let Some(session) = session else {
            return match pool.upstream().speaks(Era::Legacy) {
                // Of a server that was asked itself, and has not said yet what it is.
                None => pool.send_straight(&request, lane).await,
                Some(_) => Ok(inside(Reply::bare(StatusCode::NOT_FOUND), &pool)),
            };
        };
        session.touch();
        match (verb, read) {
            (Verb::Get, _) => Ok(listen::open(&self, &session, &pool)),
            (Verb::Post(_), Some(read)) => self.post(session, pool, request, read).await,
            (Verb::Delete | Verb::Post(_), _) => {
                if let Some(ended) = id.and_then(|id| self.sessions.remove(&id)) {
                    ended.end();
                }
                Ok(inside(Reply::bare(StatusCode::OK), &pool))
            }
        }
    }

    /// The session of that id, with the pool's server.
    fn session(&self, pool: &Pool, id: &HeaderValue) -> Option<Arc<Session>> {
        let is_here = |session: &Arc<Session>| session.upstream == pool.upstream().id && !session.is_ended();
        self.sessions.find(id).filter(is_here)
    }

    /// A message within a session.
    async fn post(
        self: Arc<Self>,
        session: Arc<Session>,
        pool: Rc<Pool>,
        request: Outgoing,
        read: Request,
    ) -> Result<Box<Answered>, UpstreamError> {
        if !read.is_request() {
            told(&session, &read);
            return Ok(inside(Reply::bare(StatusCode::ACCEPTED), &pool));
        }
        let id = read.id();
        let unknown = || Reply::error(StatusCode::OK, &id, code::METHOD_NOT_FOUND, "Method not found");
        let reply = match read.method {
            Some(Method::Ping) => done(&id),
            Some(Method::SetLevel) if session.offers.logging => set_level(&session, &read),
            Some(Method::Subscribe | Method::Unsubscribe) if session.offers.subscribe => {
                subscribe(&self, &session, &pool, &read).await
            }
            // Of the other era, or not offered.
            Some(
                Method::SetLevel
                | Method::Subscribe
                | Method::Unsubscribe
                | Method::Listen
                | Method::Discover,
            ) => unknown(),
            _ => return call::call(self, session, pool, request, read).await,
        };
        Ok(inside(reply, &pool))
    }
}

impl Face for LegacyFace {
    fn answer(self: Arc<Self>, pool: Rc<Pool>, request: Outgoing, lane: Lane) -> Answering {
        Box::pin(self.take(pool, request, lane))
    }
}

fn read(message: &Bytes) -> Option<Request> {
    let envelope = Scanner::new().scan(message).ok()?;
    let method = envelope.method.and_then(|method| Method::parse(&method.value(message)));
    Some(Request { message: message.clone(), envelope, method })
}

fn unreadable() -> Reply {
    Reply::error(StatusCode::BAD_REQUEST, b"", code::INVALID_REQUEST, "this is no message of MCP")
}

/// What has no answer: the client cancels a call, or answers what it was asked. The rest is of no interest to
/// a server without sessions.
fn told(session: &Session, read: &Request) {
    match (read.envelope.kind, read.method) {
        (Kind::Notification, Some(Method::Cancelled)) => {
            if let Some(id) = read.envelope.params.request_id {
                session.cancel(id.span.of(&read.message));
            }
        }
        (Kind::Response | Kind::Error, _) => {
            let id = read.envelope.id.map(|id| id.span.of(&read.message));
            let id = id.and_then(|id| serde_json::from_slice::<String>(id).ok());
            if let Some(id) = id {
                session.answered(&id, read.message.clone());
            }
        }
        _ => {}
    }
}

/// The empty result.
fn done(id: &[u8]) -> Reply {
    Reply::message([br#"{"jsonrpc":"2.0","id":"#, id, br#","result":{}}"#].concat().into())
}

fn set_level(session: &Session, read: &Request) -> Reply {
    let level = read.envelope.params.level.map(|level| level.decode(&read.message));
    match level.and_then(|level| Level::parse(&level)) {
        Some(level) => {
            session.set_log_level(format!("\"{}\"", level.name()).into());
            done(&read.id())
        }
        None => Reply::error(StatusCode::OK, &read.id(), code::INVALID_PARAMS, "no such log level"),
    }
}

async fn subscribe(face: &Arc<LegacyFace>, session: &Arc<Session>, pool: &Rc<Pool>, read: &Request) -> Reply {
    let invalid = |text| Reply::error(StatusCode::OK, &read.id(), code::INVALID_PARAMS, text);
    let Some(uri) = read.envelope.params.uri.map(|uri| uri.decode(&read.message)) else {
        return invalid("params.uri is missing");
    };
    let wish = match read.method {
        Some(Method::Subscribe) => session.subscribe(&uri),
        _ => Some(session.unsubscribe(&uri)),
    };
    let Some(wish) = wish else { return invalid("too many subscriptions, or the URI is too long") };
    listen::wake(face, session, pool);
    // In vain: it is listened for all the same, only later.
    let _ = timeout(SETTLE_TIMEOUT, session.settled(wish)).await;
    done(&read.id())
}

/// An answer of our own in place of the server's.
fn inside(reply: Reply, pool: &Rc<Pool>) -> Box<Answered> {
    Answered::inside(reply, Rc::clone(pool))
}
