//! One call: sent, passed on, and made again when the server wanted to know something first.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use tokio::task::spawn_local;
use tokio::time::sleep;

use super::open::still_speaks;
use super::request::{Again, Request};
use super::result::{self, InputRequired, Turn, error_code, misbehaved, own_error};
use super::session::{Session, UnderWay};
use super::{LegacyFace, input, inside};
use crate::frame::{Envelope, EventReader, IdForm, Kind, Scanner, write_event};
use crate::protocol::{Era, Method, code, is_same_id};
use crate::session::MESSAGE_BYTES_MAX;
use crate::upstream::shim::{Outlet, Reply, stream_of};
use crate::upstream::{Answer, Answered, EraChoice, Lane, Outgoing, Pool, Stage, UpstreamError};

/// Times that a server may ask before it answers: a wizard has a handful of steps, a loop has no end.
const ROUNDS_MAX: u32 = 8;

/// Events made and not yet read by the client: a server that sends more waits.
const EVENTS_MAX: usize = 16;

/// Before a call is made again of a server that asked nothing and only gave a state, the longer the more
/// often it did.
const PAUSE: Duration = Duration::from_millis(200);

/// What a call is answered that its client cancelled; no client looks at it. As the Language Server Protocol
/// numbers it.
const CANCELLED: i32 = -32800;

/// A call and all that it is made of.
struct Exchange {
    face: Arc<LegacyFace>,
    session: Arc<Session>,
    pool: Rc<Pool>,
    /// As it came, for its header fields.
    request: Outgoing,
    read: Request,
    /// The client's own raw id.
    id: Bytes,
    /// The raw id that the server was asked under the last time.
    asked: RefCell<Bytes>,
}

/// What a server made of a call.
enum Heard {
    /// The answer for the client.
    Done(Bytes),
    /// It wants to know something first.
    Asks(InputRequired),
    /// It tells as it goes.
    Events(Answer),
    /// A failure, as it came.
    Failed(Box<Answered>),
}

/// Sends a request of a session to its server, and gives the answer as a session knows it. Dropped, or when
/// its event stream is, the call is given up at the server.
pub async fn call(
    face: Arc<LegacyFace>,
    session: Arc<Session>,
    pool: Rc<Pool>,
    request: Outgoing,
    read: Request,
) -> Result<Box<Answered>, UpstreamError> {
    let id = read.id();
    let mut under_way = session.begin(id.clone());
    let asked = RefCell::new(id.clone());
    let exchange = Exchange { face, session, pool, request, read, id, asked };
    let heard = tokio::select! {
        heard = exchange.send(None) => heard?,
        () = under_way.cancelled() => Heard::Done(exchange.cancelled()),
    };
    Ok(match heard {
        Heard::Done(message) => inside(Reply::message(message), &exchange.pool),
        Heard::Failed(answered) => answered,
        heard => exchange.stream(under_way, heard),
    })
}

impl Exchange {
    /// Sends the call, or makes it again.
    async fn send(&self, again: Option<&Again>) -> Result<Heard, UpstreamError> {
        self.asked.replace(again.map_or_else(|| self.id.clone(), |again| again.id.clone()));
        let made = self.read.modern(&self.session, &self.request, again);
        let Ok(mut modern) = made else {
            let text = "params have what no client of this revision can have";
            return Ok(Heard::Done(own_error(&self.id, code::INVALID_PARAMS, text, None)));
        };
        let Some(tool) = self.read.tool() else { return self.deliver(&modern).await.map(|(heard, _)| heard) };
        let plain = modern.clone();
        let known = &self.face.known;
        let is_fresh = known.mirror(&self.session, &self.pool, &tool, &self.read, &mut modern).await;
        let (heard, is_mismatch) = self.deliver(&modern).await?;
        if !is_mismatch || is_fresh {
            return Ok(heard);
        }
        // The server did not take it: its tools are other than they were (MCP 2026-07-28, Streamable HTTP).
        known.forget(self.pool.upstream().id);
        let mut modern = plain;
        known.mirror(&self.session, &self.pool, &tool, &self.read, &mut modern).await;
        self.deliver(&modern).await.map(|(heard, _)| heard)
    }

    /// Also says whether the server misses headers.
    async fn deliver(&self, modern: &Outgoing) -> Result<(Heard, bool), UpstreamError> {
        let mut answered = self.pool.send_straight(modern, Lane::Call).await?;
        let status = answered.head.status;
        if status.is_success() && answered.head.is_event_stream() {
            return Ok((Heard::Events(answered.body), false));
        }
        if !status.is_success() && !matches!(status, StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND) {
            return Ok((Heard::Failed(answered), false));
        }
        let message = answered.body.collect(MESSAGE_BYTES_MAX).await?;
        let scanned = Scanner::new().scan(&message).ok();
        let said = scanned.as_ref().and_then(|envelope| error_code(&message, envelope));
        if !status.is_success() && self.is_of_another_era(said).await {
            // It did not run: in a session of the server's own it will.
            self.session.end();
            return Ok((Heard::Failed(inside(Reply::bare(StatusCode::NOT_FOUND), &self.pool)), false));
        }
        let is_answer = |envelope: &Envelope| match envelope.kind {
            Kind::Error => true,
            Kind::Response => status.is_success(),
            Kind::Request | Kind::Notification => false,
        };
        let heard = match scanned.filter(is_answer) {
            Some(envelope) if !self.is_asked(&message, &envelope) => {
                Heard::Done(self.misbehaved("it answered what it was not asked"))
            }
            Some(envelope) => {
                let is_mismatch = said == Some(code::HEADER_MISMATCH);
                return Ok((self.turn(&message, &envelope), is_mismatch));
            }
            None if status.is_success() => Heard::Done(self.misbehaved("it is no message of MCP")),
            // As it is, it would speak of the session.
            None => Heard::Failed(inside(Reply::bare(StatusCode::BAD_GATEWAY), &self.pool)),
        };
        Ok((heard, false))
    }

    /// Whether a refusal says that the server does not know this era any more: it is none of the era's own
    /// (MCP 2026-07-28, versioning), and the server does not say otherwise when it is asked.
    async fn is_of_another_era(&self, said: Option<i32>) -> bool {
        let is_of_this = matches!(
            said,
            Some(
                code::HEADER_MISMATCH
                    | code::MISSING_CAPABILITY
                    | code::UNSUPPORTED_VERSION
                    | code::METHOD_NOT_FOUND
                    | code::INVALID_PARAMS
            )
        );
        let upstream = self.pool.upstream();
        if is_of_this
            || upstream.config.era != EraChoice::Auto
            || still_speaks(&self.session, &self.pool).await
        {
            return false;
        }
        upstream.note_spoken(Era::Legacy, None);
        true
    }

    /// Whether it answers what the server was asked. An error has no id where the server could not read it.
    fn is_asked(&self, message: &Bytes, envelope: &Envelope) -> bool {
        envelope.id.map_or(envelope.kind == Kind::Error, |id| {
            is_same_id(id.span.of(message), &self.asked.borrow())
                || (envelope.kind == Kind::Error && id.form == IdForm::Null)
        })
    }

    fn turn(&self, message: &Bytes, envelope: &Envelope) -> Heard {
        let may_ask =
            matches!(self.read.method, Some(Method::ToolsCall | Method::PromptsGet | Method::ResourcesRead));
        match result::read(message, envelope, &self.id) {
            Ok(Turn::Answer(message)) => Heard::Done(message),
            Ok(Turn::Asks(asks)) if may_ask => Heard::Asks(asks),
            Ok(Turn::Asks(_)) => Heard::Done(self.misbehaved("it asks where nothing may be asked")),
            Err(what) => Heard::Done(self.misbehaved(&what)),
        }
    }

    fn misbehaved(&self, what: &str) -> Bytes {
        misbehaved(&self.id, self.pool.upstream().name().as_str(), what)
    }

    fn cancelled(&self) -> Bytes {
        own_error(&self.id, CANCELLED, "the call was cancelled", None)
    }

    /// The rest of the call, as an event stream.
    fn stream(self, mut under_way: UnderWay, heard: Heard) -> Box<Answered> {
        let (outlet, events) = stream_of(EVENTS_MAX);
        let answered = inside(Reply::events(events), &self.pool);
        spawn_local(async move {
            let last = tokio::select! {
                last = self.go_on(&outlet, heard) => last,
                () = under_way.cancelled() => Ok(self.cancelled()),
                // Dropped with this, the call is given up.
                () = outlet.closed() => return,
            };
            // Free before the client can know of the answer.
            drop(under_way);
            match last {
                Ok(message) => drop(outlet.send(write_event(&message)).await),
                Err(error) => outlet.fail(error.stage),
            }
        });
        answered
    }

    /// Until there is an answer for the client.
    async fn go_on(&self, outlet: &Outlet, mut heard: Heard) -> Result<Bytes, UpstreamError> {
        let mut rounds = 0;
        loop {
            let asks = match heard {
                Heard::Done(message) => return Ok(message),
                Heard::Failed(answered) => return Ok(self.failed(answered.head.status)),
                Heard::Events(answer) => {
                    heard = self.pass(outlet, answer).await?;
                    continue;
                }
                Heard::Asks(asks) => asks,
            };
            if rounds == ROUNDS_MAX {
                return Ok(self.misbehaved(&format!("it asked more than {ROUNDS_MAX} times")));
            }
            rounds += 1;
            let responses =
                match input::ask(&self.session, outlet, &self.id, &asks, self.face.input_timeout).await {
                    Ok(responses) => responses,
                    Err(input::Given(message)) => return Ok(message),
                };
            if responses.is_none() {
                sleep(PAUSE * rounds).await;
            }
            let id = format!("\"metamcp-again-{}\"", self.session.mint()).into();
            heard = self.send(Some(&Again { id, responses, state: asks.state })).await?;
        }
    }

    /// Within an event stream a status is told as an error.
    fn failed(&self, status: StatusCode) -> Bytes {
        let (server, status) = (self.pool.upstream().name(), status.as_u16());
        let text = format!("server `{server}` answered with HTTP {status}; the call may have run");
        own_error(&self.id, code::INTERNAL, &text, None)
    }

    /// Passes what a server tells as it goes, up to its answer. In this era it asks nothing on the way.
    async fn pass(&self, outlet: &Outlet, mut answer: Answer) -> Result<Heard, UpstreamError> {
        let (mut reader, mut scanner) = (EventReader::new(), Scanner::new());
        while let Some(chunk) = answer.chunk().await {
            reader.push(chunk?);
            while let Some(told) =
                reader.next().map_err(|error| UpstreamError::new(Stage::Nonsense, error))?
            {
                let Some(data) = told.data.filter(|data| !data.is_empty()) else { continue };
                let Ok(envelope) = scanner.scan(&data) else { continue };
                match envelope.kind {
                    Kind::Notification => drop(outlet.send(write_event(&data)).await),
                    Kind::Request => {}
                    Kind::Response | Kind::Error if self.is_asked(&data, &envelope) => {
                        return Ok(self.turn(&data, &envelope));
                    }
                    // Of somebody else: nothing may pass for the answer that is none.
                    Kind::Response | Kind::Error => {}
                }
            }
        }
        Err(UpstreamError::bare(Stage::Body))
    }
}
