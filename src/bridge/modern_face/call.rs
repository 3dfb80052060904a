//! One call of a Modern client at a Legacy server: a task, from the first request to the answer of the last
//! retry.

mod held;

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use serde::Deserialize;
use serde_json::json;

use super::super::level::Level;
use super::client::Client;
use super::hold::Holds;
use super::input::{
    Question, WANTED_BYTES_MAX, WANTED_MAX, Wanted, input_required, is_for_somebody, question, visits,
};
use super::keeper::{is_ping, refuse};
use super::listen::unopened;
use super::request::{Asked, edited};
use super::result::{self, error_code};
use super::session::{FaceSession, Key, Seat, is_announced, number, tell};
use super::sessions::Sessions;
use super::voice::{Said, Voice};
use crate::base::{Fault, Kind};
use crate::frame::{Envelope, IdForm, Kind as FrameKind, Scanner};
use crate::protocol::{ClientCapabilities, Method, code};
use crate::session::{Ready, is_lost};
use crate::upstream::shim::Reply;
use crate::upstream::{Outgoing, Pool, Stage, UpstreamError};

/// A call.
pub struct Run {
    holds: Arc<Holds>,
    sessions: Arc<Sessions>,
    /// Where its seat is.
    session: Arc<FaceSession>,
    pool: Rc<Pool>,
    asked: Asked,
    /// What all requests of the client so far declared.
    capabilities: ClientCapabilities,
    /// Requests of the server that wait for the client.
    wanted: Vec<Wanted>,
    /// How many there were so far.
    questions: u64,
    scanner: Scanner,
}

/// A call that the server was asked.
struct Line {
    ready: Arc<Ready>,
    seat: Seat,
    voice: Voice,
    /// Whether the server was sent it: what was asked before the call comes first.
    is_sent: bool,
}

/// What a message of the server means for its call.
enum Meaning {
    /// It is the answer.
    Answer(Bytes, Envelope),
    /// It is to be told to the client.
    Pass(Bytes),
    /// Nothing more.
    Done,
}

/// How a call goes on.
enum Next {
    /// The server said something.
    Heard(Bytes, Source),
    /// It says nothing more.
    Ended(Said),
    /// The client has gone.
    Over,
}

/// Where a message of the server came from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    /// The call's own answer.
    Own,
    /// The session's event stream.
    Aside,
}

/// What an error of 2025-11-25 says by which a call is first to be followed by a visit (MCP 2025-11-25,
/// elicitation).
const URL_ELICITATION_REQUIRED: i64 = -32042;

impl Run {
    /// Of a request, in the session of its seat.
    pub fn new(
        holds: Arc<Holds>,
        sessions: Arc<Sessions>,
        session: Arc<FaceSession>,
        pool: Rc<Pool>,
        asked: Asked,
    ) -> Self {
        let capabilities = asked.capabilities;
        let (wanted, questions) = (Vec::new(), 0);
        let scanner = Scanner::new();
        Self { holds, sessions, session, pool, asked, capabilities, wanted, questions, scanner }
    }

    /// Until the client has its answer, has gone, or does not come back.
    pub async fn run(mut self, seat: Seat, mut client: Client) {
        let opened = tokio::select! {
            opened = self.begin(seat) => opened,
            () = client.gone() => return self.session.note_given_up(),
        };
        match opened {
            Ok(mut line) => {
                self.serve(client, &mut line).await;
                self.refuse_rest(&mut line).await;
            }
            Err(fault) => self.unopened(client, &fault).await,
        }
    }

    async fn serve(&mut self, mut client: Client, line: &mut Line) {
        let mut is_new = true;
        self.take_outside(line).await;
        loop {
            if !self.wanted.is_empty() {
                match self.hold(client, line).await {
                    Some(back) => client = back,
                    None => return,
                }
            }
            line.is_sent = true;
            let next = tokio::select! {
                said = line.voice.next() => match said {
                    Said::Message(message) => Next::Heard(message, Source::Own),
                    said => Next::Ended(said),
                },
                Some(message) = line.seat.aside.recv() => Next::Heard(message, Source::Aside),
                () = client.gone() => Next::Over,
            };
            match next {
                Next::Heard(message, source) => match self.take(line, &message, source).await {
                    Meaning::Answer(message, envelope) => {
                        return self.finish(client, &message, &envelope).await;
                    }
                    Meaning::Pass(message) => self.pass(&mut client, line, &message).await,
                    Meaning::Done => {}
                },
                Next::Ended(Said::Refused(status, said)) if std::mem::take(&mut is_new) => {
                    match self.begin_again(line, status).await {
                        Ok(Some(again)) => *line = again,
                        Ok(None) => return self.refused(client, status, &said).await,
                        Err(fault) => return self.unopened(client, &fault).await,
                    }
                }
                Next::Ended(said) => return self.fail(client, said).await,
                Next::Over => return self.cancel(line).await,
            }
        }
    }

    /// What the server asked outside of any call, it asks by this one, before that is sent to it: so the call
    /// finds the server as it is when it was answered.
    async fn take_outside(&mut self, line: &Line) {
        if !self.asked.may_be_asked() {
            return;
        }
        for message in self.session.take_outside() {
            let Ok(envelope) = self.scanner.scan(&message) else { continue };
            if let Err(why) = self.want(&message, &envelope) {
                refuse(&self.pool, &line.ready, &message, &envelope, why).await;
            }
        }
    }

    /// What the server asked of a call that is over waits for an answer all the same.
    async fn refuse_rest(&mut self, line: &mut Line) {
        const WHY: &str = "the call is over";
        self.refuse_wanted(line, WHY).await;
        // From now on it is refused where it comes in.
        line.seat.aside.close();
        while let Some(message) = line.seat.aside.recv().await {
            let Ok(envelope) = self.scanner.scan(&message) else { continue };
            if envelope.kind == FrameKind::Request {
                refuse(&self.pool, &line.ready, &message, &envelope, WHY).await;
            }
        }
    }

    /// Asks the server, in a session that is opened when it is not.
    async fn begin(&mut self, mut seat: Seat) -> Result<Line, Fault> {
        let ready = match self.session.open(&self.pool).await {
            // There may be no room for one more process. Then it is one of those that share a session.
            Err(fault) if self.session.key.is_further() => {
                tracing::debug!(server = %self.pool.upstream().name(), %fault, "a call has no session to itself");
                let key = Key { place: 0, ..self.session.key };
                seat =
                    self.sessions.seat(key, self.asked.may_be_asked(), &self.pool).ok_or_else(just_ended)?;
                self.session = Arc::clone(&seat.session);
                self.session.open(&self.pool).await?
            }
            opened => opened?,
        };
        if let Some(level) = self.asked.log_level {
            self.session.log_from(&self.pool, &ready, level).await;
        }
        let message = self.asked.legacy(seat.number).ok_or_else(|| {
            Fault::gateway(Kind::MalformedParams, "the params are nested too deep to be told")
        })?;
        let mut request = Outgoing::whole(message);
        request.set_owner(self.asked.owner);
        request.put_trace(&self.asked.trace);
        ready.write_headers(&mut request);
        Ok(Line { ready, seat, voice: Voice::of(Rc::clone(&self.pool), request), is_sent: false })
    }

    /// Once more, in another session, when the server does not know the one that it was asked in: then it did
    /// not run the call. `None` when it does know it.
    async fn begin_again(&mut self, line: &Line, status: StatusCode) -> Result<Option<Line>, Fault> {
        if line.ready.session_id.is_none() || !is_lost(&self.pool, &line.ready, status).await {
            return Ok(None);
        }
        tracing::info!(server = %self.pool.upstream().name(), "the server lost its session; opening another");
        self.session.forget(&line.ready);
        let seat = self.session.begin(self.asked.may_be_asked()).ok_or_else(just_ended)?;
        self.begin(seat).await.map(Some)
    }

    /// Takes a message of the server.
    async fn take(&mut self, line: &Line, message: &Bytes, source: Source) -> Meaning {
        let Ok(envelope) = self.scanner.scan(message) else { return Meaning::Done };
        match envelope.kind {
            FrameKind::Response | FrameKind::Error => {
                // An error of a message that the server could not read names none.
                let id = envelope.id.filter(|id| id.form != IdForm::Null);
                let is_it = id.is_none_or(|id| number(id.span.of(message)) == Some(line.seat.number));
                if is_it && source == Source::Own {
                    return Meaning::Answer(message.clone(), envelope);
                }
            }
            FrameKind::Request => self.take_question(line, message, &envelope, source).await,
            FrameKind::Notification => return self.take_notification(line, message, &envelope, source),
        }
        Meaning::Done
    }

    /// A request of the server waits until the client was asked, or is refused.
    async fn take_question(&mut self, line: &Line, message: &Bytes, envelope: &Envelope, source: Source) {
        if is_for_somebody(message, envelope) {
            self.pool.upstream().note_asks();
        }
        let is_its_own = source == Source::Own && !self.pool.upstream().has_one_channel();
        let why = if is_ping(message, envelope) {
            ""
        } else if !self.asked.may_be_asked() {
            // What names no call and comes during this one may as well wait for one that can be asked.
            if !is_its_own && self.sessions.keep_outside(&self.session, message, envelope) {
                return;
            }
            "this client is not asked during such a request"
        } else if !self.is_certain(line, source) {
            "it is not certain which client this is for"
        } else {
            match self.want(message, envelope) {
                Ok(()) => return,
                Err(why) => why,
            }
        };
        refuse(&self.pool, &line.ready, message, envelope, why).await;
    }

    /// Puts a request of the server among those that the client is asked for; else why it is refused.
    fn want(&mut self, message: &Bytes, envelope: &Envelope) -> Result<(), &'static str> {
        let bytes: usize = self.wanted.iter().map(Wanted::bytes).sum();
        if self.wanted.len() >= WANTED_MAX || bytes + message.len() > WANTED_BYTES_MAX {
            return Err("too many requests wait for this client");
        }
        self.questions += 1;
        match question(message, envelope, self.capabilities, self.questions.to_string()) {
            Some(Question::Ask(wanted)) => self.wanted.push(wanted),
            Some(Question::Refuse(why)) => return Err(why),
            None => return Err("it cannot be read"),
        }
        Ok(())
    }

    /// Whether what names no call is meant for this one. Where one channel is for all, only a call that is
    /// alone in its session is certainly meant.
    fn is_certain(&self, line: &Line, source: Source) -> bool {
        let is_its_own = source == Source::Own && !self.pool.upstream().has_one_channel();
        is_its_own || self.session.is_alone(line.seat.number)
    }

    fn take_notification(
        &mut self,
        line: &Line,
        message: &Bytes,
        envelope: &Envelope,
        source: Source,
    ) -> Meaning {
        let method = envelope.method.map(|method| method.value(message));
        match method.as_deref().and_then(Method::parse) {
            Some(Method::Cancelled) => {
                let id = envelope.params.request_id.map(|id| id.span.of(message));
                self.wanted.retain(|wanted| Some(&wanted.id[..]) != id);
                if let Some(id) = id {
                    self.session.cancel_outside(id);
                }
                Meaning::Done
            }
            _ if is_announced(message, envelope) => {
                self.session.announce(message, envelope);
                Meaning::Done
            }
            // That names its call.
            Some(Method::Progress) => Meaning::Pass(message.clone()),
            _ if self.is_certain(line, source) => Meaning::Pass(message.clone()),
            _ => Meaning::Done,
        }
    }

    /// Tells the client what the era tells during a call: progress, and log messages that it asked for.
    async fn pass(&mut self, client: &mut Client, line: &Line, message: &Bytes) {
        if let Some(message) = self
            .scanner
            .scan(message)
            .ok()
            .and_then(|envelope| told(message, &envelope, client, line.seat.number))
        {
            client.pass(&message).await;
        }
    }

    async fn finish(&self, client: Client, message: &Bytes, envelope: &Envelope) {
        let outcome = envelope.outcome.unwrap_or_default();
        let is_visit = envelope.kind == FrameKind::Error
            && error_code(message, outcome).is_some_and(|(code, _)| code == URL_ELICITATION_REQUIRED);
        if is_visit
            && self.asked.may_be_asked()
            && let Some(wanted) = visits(message, outcome)
        {
            let reply = if self.capabilities.has(ClientCapabilities::ELICITATION_URL) {
                Reply::message(input_required(&client.id, &wanted, None))
            } else {
                let data = json!({"requiredCapabilities": {"elicitation": {"url": {}}}});
                let text = "the server needs a client that can open a page for its user";
                Reply::error_with(
                    StatusCode::BAD_REQUEST,
                    &client.id,
                    code::MISSING_CAPABILITY,
                    text,
                    Some(&data),
                )
            };
            client.end(reply).await;
            return;
        }
        match result::answer(message, envelope, &client.id, self.asked.method) {
            Some(reply) => {
                client.end(reply).await;
            }
            None => client.fail(UpstreamError::bare(Stage::Nonsense)),
        }
    }

    /// An error status, with an error of the protocol or without.
    async fn refused(&mut self, client: Client, status: StatusCode, said: &Bytes) {
        let is_clients = status.is_client_error() && !matches!(status.as_u16(), 401 | 403 | 407 | 429);
        let error = self.scanner.scan(said).ok().filter(|envelope| envelope.kind == FrameKind::Error);
        if let Some(envelope) = error.filter(|_| is_clients) {
            return self.finish(client, said, &envelope).await;
        }
        let text = format!("server `{}` answered with HTTP {}", self.pool.upstream().name(), status.as_u16());
        let data = json!({"origin": "server", "kind": Kind::BadAnswer.label()});
        let reply = Reply::error_with(StatusCode::OK, &client.id, code::INTERNAL, &text, Some(&data));
        client.end(reply).await;
    }

    async fn unopened(&self, client: Client, fault: &Fault) {
        client.end(unopened(&self.asked, fault)).await;
    }

    async fn fail(&mut self, client: Client, said: Said) {
        match said {
            Said::Refused(status, said) => self.refused(client, status, &said).await,
            Said::Failed(error) => client.fail(error),
            Said::Message(_) => client.fail(UpstreamError::bare(Stage::Nonsense)),
        }
    }

    /// The client has gone: so has the call, and the server is told.
    async fn cancel(&self, line: &Line) {
        if !line.is_sent {
            return;
        }
        self.session.note_given_up();
        let number = line.seat.number;
        let message = format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{number},"reason":"the client gave it up"}}}}"#
        );
        tell(&self.pool, &line.ready, Method::Cancelled, message.into()).await;
    }
}

fn just_ended() -> Fault {
    Fault::gateway(Kind::Overloaded, "its session has just ended; try again")
}

/// Progress under the client's own token, or a log message that it asked for; else nothing.
fn told(message: &Bytes, envelope: &Envelope, client: &Client, own: u64) -> Option<Bytes> {
    let method = envelope.method.map(|method| method.decode(message))?;
    if method == Method::Progress.as_str() {
        let token =
            envelope.params.progress_token.filter(|token| number(token.span.of(message)) == Some(own))?;
        return edited(message, &[(token.span, client.token.clone()?)]);
    }
    if method != "notifications/message" {
        return None;
    }
    let Logged { level } = serde_json::from_slice(envelope.params.object?.of(message)).ok()?;
    let is_wanted = Level::parse(&level)? >= client.log_level?;
    is_wanted.then(|| message.clone())
}

/// `params` of a log message.
#[derive(Deserialize)]
struct Logged {
    level: String,
}
