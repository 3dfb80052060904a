//! The Modern face of a server that speaks only the Legacy era (MCP 2026-07-28 in front, up to 2025-11-25
//! behind).
//!
//! ```text
//! Pool::send --> answer: era.rs: does the server speak Modern after all?  yes: straight to it
//!                  |
//!                  +-- discover, listen.rs          from the first session (session.rs) of (key, server, capabilities)
//!                  +-- call.rs    a task a call:    request.rs -> POST -> voice.rs -> result.rs -> client.rs
//!                  |                                                       |
//!                  |                              the server asks: input.rs -> `input_required`, the call is held
//!                  +-- a retry with `requestState`: hold.rs finds the task, on whichever worker it runs
//! ```
//!
//! A call runs as a task on the worker that it came to, and keeps its connection to the server while it is
//! held. What another worker has to find, sessions and held calls, lies in two tables that are locked for a
//! few lines.
//!
//! Where a server has one channel for all calls, a call that may be asked has a session to itself while it is
//! under way: one more for the key, up to a bound (sessions.rs).
//!
//! Invariants: ids and progress tokens that a server sees are minted here, so clients of one key never meet;
//! what a server says goes to the call whose stream it came on, or that is certainly meant, or to nobody, but
//! for what it asks outside of any call, which waits for the next one that can be asked (outside.rs); a
//! server's request is always answered, if only by a refusal; a held call is found by its key, for the same
//! call, once.
//!
//! Does not know: endpoints, how connections are made, or what a tool does.

mod aside;
mod call;
mod client;
mod era;
mod hold;
mod input;
mod keeper;
mod listen;
mod outside;
mod request;
mod result;
mod session;
mod sessions;
mod voice;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::spawn_local;

use crate::auth::Sealer;
use crate::frame::Kind as FrameKind;
use crate::protocol::{Method, code};
use crate::upstream::shim::{Outcome, Reply};
use crate::upstream::{Answered, Answering, Face, Lane, Outgoing, Pool, Stage, UpstreamError};

use call::Run;
use client::Client;
use era::Eras;
use hold::{Holds, Resume};
use request::Asked;
use session::Key;
use sessions::Sessions;

/// Bounds of what is kept for Modern clients at Legacy servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// How long a call waits for the input that its server asked for; then the server is told that it is
    /// over.
    pub hold_timeout: Duration,
    /// Calls that wait so at once, over all keys. Each holds a connection to its server.
    pub holds_max: usize,
    /// Likewise of one key.
    pub holds_per_key_max: usize,
    /// Sessions at servers at once, over all keys.
    pub sessions_max: usize,
    /// Likewise of one key.
    pub sessions_per_key_max: usize,
    /// A session without a call or a subscription for so long is ended.
    pub session_idle_timeout: Duration,
    /// Whether `server/discover` is answered for a server of the other era.
    pub discover: bool,
}

/// Stands in for all servers that do not speak the Modern era. One for the whole process.
pub struct ModernFace {
    eras: Eras,
    sessions: Arc<Sessions>,
    holds: Arc<Holds>,
    is_announced: bool,
}

impl ModernFace {
    /// Without a session. `sealer` seals `requestState`.
    pub fn new(config: &Config, sealer: Arc<Sealer>) -> Arc<Self> {
        Arc::new(Self {
            eras: Eras::default(),
            sessions: Arc::new(Sessions::new(config)),
            holds: Arc::new(Holds::new(config, sealer)),
            is_announced: config.discover,
        })
    }

    /// Not cancel safe: dropped, the call is given up.
    async fn take(
        self: Arc<Self>,
        pool: Rc<Pool>,
        request: Outgoing,
        lane: Lane,
    ) -> Result<Box<Answered>, UpstreamError> {
        if self.eras.speaks_modern(&pool).await {
            return pool.send_straight(&request, lane).await;
        }
        let reply = match Asked::read(&request) {
            Ok(asked) => self.reply_to(&pool, asked).await?,
            Err(reply) => reply,
        };
        Ok(Answered::inside(reply, pool))
    }

    async fn reply_to(self: &Arc<Self>, pool: &Rc<Pool>, asked: Asked) -> Outcome {
        if asked.envelope.kind != FrameKind::Request {
            // The only notification of the era is a cancellation, which over HTTP is the closed connection.
            return Ok(Reply::bare(http::StatusCode::ACCEPTED));
        }
        if !asked.is_known_here() {
            let text = "this method is not one of revision 2026-07-28";
            return Ok(asked.refusal(http::StatusCode::NOT_FOUND, code::METHOD_NOT_FOUND, text));
        }
        if asked.method == Some(Method::Discover) && !self.is_announced {
            // No code of the Modern era: a client of both eras is to fall back to `initialize`.
            let text = "this server speaks only revisions up to 2025-11-25; open a session by `initialize`";
            return Ok(asked.refusal(http::StatusCode::BAD_REQUEST, code::LEGACY_TRANSPORT, text));
        }
        if asked.envelope.params.request_state.is_some() {
            return self.resume(pool, &asked).await;
        }
        let (owner, capabilities) = (asked.owner, asked.capabilities);
        let key = Key { owner, upstream: pool.upstream().id, capabilities, place: 0 };
        let session = || self.sessions.find(key, pool);
        match asked.method {
            Some(Method::Discover) => match session() {
                Some(session) => Ok(listen::discover(&session, pool, &asked).await),
                None => Ok(too_many(&asked)),
            },
            Some(Method::Listen) => match session() {
                Some(session) => Ok(listen::listen(session, pool, &asked).await),
                None => Ok(too_many(&asked)),
            },
            _ => self.call(key, pool, asked).await,
        }
    }

    async fn call(self: &Arc<Self>, key: Key, pool: &Rc<Pool>, asked: Asked) -> Outcome {
        // Of a client that cannot be asked nothing has to be told apart.
        let is_apart = key.capabilities.can_be_asked() && pool.upstream().serves_calls_apart();
        let may_be_asked = asked.may_be_asked();
        let seat = if is_apart {
            self.sessions.seat_apart(key, may_be_asked, pool)
        } else {
            self.sessions.seat(key, may_be_asked, pool)
        };
        let Some(seat) = seat else { return Ok(too_many(&asked)) };
        let (client, answer) = Client::of(&asked);
        let (holds, sessions) = (Arc::clone(&self.holds), Arc::clone(&self.sessions));
        let run = Run::new(holds, sessions, Arc::clone(&seat.session), Rc::clone(pool), asked);
        spawn_local(run.run(seat, client));
        answer.await.unwrap_or_else(|_gone| Err(UpstreamError::bare(Stage::Sent)))
    }

    /// A retry: its input goes to the call that waits for it, on whichever worker that is.
    async fn resume(&self, pool: &Rc<Pool>, asked: &Asked) -> Outcome {
        let binding = asked.binding(pool.upstream().name());
        let state = asked.request_state();
        let held: oneshot::Sender<Resume> = match self.holds.take(&state, &binding) {
            Ok(held) => held,
            Err(why) => return Ok(asked.refusal(http::StatusCode::OK, code::INVALID_PARAMS, why.text())),
        };
        let (client, answer) = Client::of(asked);
        let resume = Resume { client, responses: asked.responses(), capabilities: asked.capabilities };
        if held.send(resume).is_err() {
            let text = hold::Stale::Over.text();
            return Ok(asked.refusal(http::StatusCode::OK, code::INVALID_PARAMS, text));
        }
        answer.await.unwrap_or_else(|_gone| Err(UpstreamError::bare(Stage::Sent)))
    }
}

fn too_many(asked: &Asked) -> Reply {
    let text = "there are too many sessions with servers of earlier revisions; try again later";
    asked.refusal(http::StatusCode::SERVICE_UNAVAILABLE, code::INTERNAL, text)
}

impl Face for ModernFace {
    fn answer(self: Arc<Self>, pool: Rc<Pool>, request: Outgoing, lane: Lane) -> Answering {
        Box::pin(self.take(pool, request, lane))
    }

    fn is_announced(&self) -> bool {
        self.is_announced
    }
}
