//! A bridge for clients that start programs: what they write on a pipe goes to one MCP endpoint over
//! Streamable HTTP, and what that says comes back, a line each. Both eras; each message is sent as the era it
//! is of asks.
//!
//! Invariants: what goes to the client is messages, each one line; a request of the client's is answered
//! once, by the endpoint or by an error that says what to do, but for a subscription that lasts until the input
//! ends, and for what is under way when a signal ends the bridge; a request that may have run is never sent
//! again; what is held of the client, of the endpoint and between them is bounded; a session that the
//! endpoint lost is opened again with the client's own words, once for each request that finds it lost.
//!
//! It does not know: what a tool is, who the client is, or where the configuration comes from. Of a message
//! it reads what its HTTP head repeats, and whose it is; the rest passes as it is. It does not translate
//! between the eras.

mod answer;
mod ends;
mod follow;
mod heard;
mod input;
mod listen;
mod message;
mod params;
mod pause;
mod pipes;
mod questions;
mod relist;
mod requests;
mod session;
mod trouble;

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use tokio::sync::mpsc;
use tokio::task::{JoinSet, spawn_local};
use tokio::time::{sleep, timeout};

use crate::admin::definition::bounds::{CONNECT_TIMEOUT, DEFAULTS};
use crate::base::ServerName;
use crate::frame::{Refused, ScanError, Scanner};
use crate::protocol::{Era, Method, code};
use crate::upstream::{
    Address, Answered, InvalidTarget, Lane, Outgoing, Pool, TlsRoots, Upstream, UpstreamId,
};

use input::{Line, Lines};
use message::Message;
use params::Params;
use pause::pause;
use questions::Questions;
use requests::Requests;
use session::{Open, Session, Step, UnderWay};
use trouble::Trouble;

pub use pipes::Client;

/// Where the bridge leads, and what it bears.
pub struct Config {
    /// The endpoint.
    pub address: Address,
    /// Sent with every request to it, its credential among them.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// One line of the client's.
    pub line_bytes_max: usize,
    /// For the endpoint to begin an answer, and between two reads of one.
    pub patience: Duration,
}

/// Four times what a gateway takes in one request, unless it is told otherwise: which of them is too large is
/// for the endpoint to say.
pub const LINE_BYTES_MAX: usize = 16 << 20;

/// Over the internet and through a proxy, with TLS; one lost SYN among it.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);

/// Notifications and answers of the client's that wait for those before them; over it, no more is read.
const NOTES_MAX: usize = 64;

/// For the endpoint to take a notification: it only has to say that it has it.
const NOTE_PATIENCE: Duration = Duration::from_secs(30);

/// For what is under way when the client's input ends. Clients that end a program wait for some seconds at
/// most; this is for those that wait for answers.
const FINISH_PATIENCE: Duration = Duration::from_mins(1);

/// The same, where the endpoint asks the client something: nobody is left to answer it. For other requests to end.
const UNANSWERED_PATIENCE: Duration = Duration::from_secs(2);

/// For the client to read that what is left is cut.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// For the endpoint to be told that the session is over, and for the client to read the last line.
const FAREWELL_PATIENCE: Duration = Duration::from_secs(2);

/// Times that an endpoint which was there is looked for again before a request is given up: some 8 s in all,
/// as long as a gateway takes to start again.
const TRIES_MAX: u32 = 5;

/// A client, an endpoint, and what is between them.
struct Bridge {
    /// Itself, for what is to go on when the one who began it is given up.
    own: Weak<Self>,
    pool: Rc<Pool>,
    out: mpsc::Sender<Bytes>,
    scanner: RefCell<Scanner>,
    requests: Rc<Requests>,
    questions: Questions,
    session: Rc<Session>,
    params: RefCell<Params>,
    /// Whether the endpoint ever answered: one that did is waited for.
    was_there: Cell<bool>,
}

/// What is under way: it ends with the bridge.
struct Tasks {
    /// Requests, and the one that sends what needs no answer.
    calls: JoinSet<()>,
    /// What never ends by itself.
    streams: JoinSet<()>,
    notes: mpsc::Sender<Note>,
}

/// What needs no answer: a notification, or an answer to a request of the endpoint's.
struct Note {
    message: Message,
    under_way: Option<UnderWay>,
}

/// Bears messages until the client has gone, and then lets what is under way end, unless `stop` comes first:
/// that cuts it. Runs in a `LocalSet`. Not cancel safe: the endpoint is not told then that the session is
/// over.
pub async fn run(
    config: Config,
    roots: &TlsRoots,
    client: Client,
    stop: impl Future<Output = ()>,
) -> Result<(), InvalidTarget> {
    let Client { input, output, written } = client;
    let lines = Lines::new(input, config.line_bytes_max);
    let bridge = Bridge::new(config, roots, output)?;
    tokio::select! {
        () = Rc::clone(&bridge).serve(lines) => {}
        () = stop => {}
    }
    bridge.part().await;
    drop(bridge);
    // A client that does not read is not waited for.
    let _ = timeout(FAREWELL_PATIENCE, written).await;
    Ok(())
}

impl Bridge {
    fn new(config: Config, roots: &TlsRoots, out: mpsc::Sender<Bytes>) -> Result<Rc<Self>, InvalidTarget> {
        let Config { address, headers, patience, .. } = config;
        let name = ServerName::new("endpoint").expect("it is a name");
        let mut server = DEFAULTS.server(name, address, headers);
        server.connect_timeout = CONNECT_PATIENCE;
        server.first_byte_timeout = patience;
        server.stream_idle_timeout = patience;
        // There is no other, and `send` waits between two tries.
        server.left_alone = false;
        let upstream = Upstream::new(UpstreamId(0), server, roots)?;
        Ok(Rc::new_cyclic(|own| Self {
            own: Weak::clone(own),
            pool: Pool::new(upstream),
            out,
            scanner: RefCell::new(Scanner::new()),
            requests: Rc::default(),
            questions: Questions::default(),
            session: Rc::default(),
            params: RefCell::default(),
            was_there: Cell::new(false),
        }))
    }

    async fn serve(self: Rc<Self>, mut lines: Lines) {
        let (notes, noted) = mpsc::channel(NOTES_MAX);
        let mut tasks = Tasks { calls: JoinSet::new(), streams: JoinSet::new(), notes };
        tasks.calls.spawn_local(Rc::clone(&self).tell_in_order(noted));
        tasks.streams.spawn_local(Rc::clone(&self).follow());
        let bytes_max = lines.line_bytes_max();
        loop {
            tokio::select! {
                line = lines.next() => match line {
                    Some(Line::Whole(line)) => self.take(line, &mut tasks).await,
                    Some(Line::TooLong(first, last)) => self.refuse_too_long(&first, &last, bytes_max).await,
                    None => break,
                },
                Some(_ended) = tasks.calls.join_next() => {}
                Some(_ended) = tasks.streams.join_next() => {}
                () = self.out.closed() => return,
            }
        }
        let Tasks { mut calls, mut streams, notes } = tasks;
        drop(notes);
        streams.shutdown().await;
        let all = async { while calls.join_next().await.is_some() {} };
        let in_vain = async {
            loop {
                self.questions.any().await;
                if timeout(UNANSWERED_PATIENCE, self.questions.none()).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            ended = timeout(FINISH_PATIENCE, all) => if ended.is_err() {
                tracing::warn!("the client's input has ended, and not all was answered in time; what is left is cut");
            },
            () = in_vain => {
                tracing::warn!("the endpoint asks the client something, whose input has ended; what is left is cut");
            }
            () = self.out.closed() => {}
        }
        let awaited = self.requests.awaited();
        calls.shutdown().await;
        let tell = async {
            for (id, era) in awaited {
                let trouble = Trouble::InputEnded;
                self.say(&heard::error(&id, trouble.code(era), &trouble.to_string())).await;
            }
        };
        // One that reads no more is not waited for.
        let _ = timeout(LAST_WORDS, tell).await;
    }

    /// A line: a message, or several (MCP 2025-03-26).
    async fn take(self: &Rc<Self>, line: Bytes, tasks: &mut Tasks) {
        let scanned = Message::scan(&mut self.scanner.borrow_mut(), line.clone());
        match scanned {
            Ok(message) => self.dispatch(message, tasks).await,
            Err(Refused { error: ScanError::Batch, .. }) => {
                let items = self.scanner.borrow_mut().batch_items(&line);
                match items {
                    Ok(items) => {
                        for item in items {
                            let item = line.slice_ref(item.of(&line));
                            let scanned = Message::scan(&mut self.scanner.borrow_mut(), item.clone());
                            match scanned {
                                Ok(message) => self.dispatch(message, tasks).await,
                                Err(refused) => self.refuse(&item, refused).await,
                            }
                        }
                    }
                    Err(error) => self.refuse(&line, Refused { error, id: None }).await,
                }
            }
            Err(refused) => self.refuse(&line, refused).await,
        }
    }

    /// Told to the client where it may be a request, under its id where that can be made out: whoever asks waits.
    async fn refuse(&self, line: &Bytes, Refused { error, id }: Refused) {
        tracing::warn!(%error, bytes = line.len(), "a line of the client's is no message; it was not sent");
        let id = match id {
            Some(id) => Some(line.slice_ref(id.span.of(line))),
            None => self.id_of_unread(line, line),
        };
        if let Some(id) = id {
            self.say(&heard::error(&id, error.code(), &error.to_string())).await;
        }
    }

    /// The id of what may be a request, as its ends tell of it; null where they do not (JSON-RPC 2.0, section 5.1). None
    /// that is in use: that request keeps it.
    fn id_of_unread(&self, first: &[u8], last: &[u8]) -> Option<Bytes> {
        let id = Bytes::from(ends::id(first, last)?);
        let is_in_use = self.requests.era(&id).is_some();
        if is_in_use {
            tracing::warn!("its id is in use by another request, which keeps it");
        }
        Some(id).filter(|_| !is_in_use)
    }

    /// Likewise of a line that was not held.
    async fn refuse_too_long(&self, first: &[u8], last: &[u8], bytes_max: usize) {
        tracing::warn!(bytes_max, "a line of the client's is too long; it was not sent");
        let Some(id) = self.id_of_unread(first, last) else { return };
        let text =
            format!("the message is longer than {bytes_max} bytes, so it was not sent: send less at once");
        self.say(&heard::error(&id, code::INVALID_REQUEST, &text)).await;
    }

    async fn dispatch(self: &Rc<Self>, message: Message, tasks: &mut Tasks) {
        if message.is_request() {
            return self.begin(message, tasks).await;
        }
        if message.is_answer() {
            self.questions.close(&message.id());
        }
        if let Some(id) = message.cancels() {
            match self.requests.era(&id) {
                // Closing the connection says it (MCP 2026-07-28, Streamable HTTP).
                Some(Era::Modern) => return self.requests.give_up(&id),
                Some(Era::Legacy) => self.requests.cancel(&id),
                None => return tracing::debug!("a request was cancelled that is not under way"),
            }
        }
        let is_announcement = message.method == Some(Method::Initialized);
        let under_way = is_announcement.then(|| self.session.begin(Step::Announce));
        // It is there as long as this is.
        let _ = tasks.notes.send(Note { message, under_way }).await;
    }

    async fn begin(self: &Rc<Self>, message: Message, tasks: &mut Tasks) {
        let id = message.id();
        let place = match self.requests.admit(&id, message.era, message.bytes.len()) {
            Ok(place) => place,
            Err(requests::Full::InUse) => {
                return tracing::warn!("an id came that is in use; the request was passed over");
            }
            Err(requests::Full::TooMany) => return self.fail(&message, &Trouble::TooMany).await,
        };
        let is_opening = message.method == Some(Method::Initialize) && message.era == Era::Legacy;
        let under_way = is_opening.then(|| self.session.begin(Step::Open));
        let is_listening = message.method == Some(Method::Listen);
        let bridge = Rc::clone(self);
        let set = if is_listening { &mut tasks.streams } else { &mut tasks.calls };
        let task = set.spawn_local(async move {
            {
                let _turn = bridge.requests.turn(is_listening).await;
                bridge.answer(&message, is_opening).await;
            }
            drop((place, under_way));
        });
        self.requests.can_be_given_up(&id, task);
    }

    /// One request, to its answer or to an error in place of it.
    async fn answer(&self, message: &Message, is_opening: bool) {
        if message.era == Era::Legacy && !is_opening && message.method != Some(Method::Ping) {
            self.session.wait_for(&[Step::Open, Step::Announce]).await;
        }
        let answered = match message.method {
            Some(Method::Listen) => self.listen(message).await,
            _ => self.call(message).await,
        };
        self.questions.close_during(&message.id());
        if self.requests.is_cancelled(&message.id()) {
            return;
        }
        match answered {
            Ok(answer) => self.say(&answer).await,
            Err(trouble) => self.fail(message, &trouble).await,
        }
    }

    async fn fail(&self, message: &Message, trouble: &Trouble) {
        tracing::warn!(method = message.shown(), "{trouble}");
        self.say(&heard::error(&message.id(), trouble.code(message.era), &trouble.to_string())).await;
    }

    /// A message of the endpoint's to the client; `id`: of a request, `during` the client's with that id. Cancel safe, as [`Self::say`].
    async fn pass(&self, message: &[u8], id: Option<String>, during: Option<&[u8]>) {
        if let Some(id) = id {
            self.questions.ask(id, during);
        }
        self.say(message).await;
    }

    /// The endpoint does not ask the client that any more. Cancel safe, as [`Self::say`].
    async fn take_back(&self, message: &[u8], id: &str) {
        self.questions.close(id.as_bytes());
        self.say(message).await;
    }

    /// A message to the client. Cancel safe: it has the whole line or nothing of it.
    async fn say(&self, message: &[u8]) {
        // A client that reads no more has gone.
        let _ = self.out.send(heard::line(message)).await;
    }

    async fn say_all(&self, messages: Vec<String>) {
        for message in messages {
            self.say(message.as_bytes()).await;
        }
    }

    /// Sends what needs no answer, one after the other: their order is what some of them mean.
    async fn tell_in_order(self: Rc<Self>, mut noted: mpsc::Receiver<Note>) {
        while let Some(Note { message, under_way }) = noted.recv().await {
            if message.method == Some(Method::Initialized) {
                self.session.wait_for(&[Step::Open]).await;
            }
            match timeout(NOTE_PATIENCE, self.tell(&message)).await.unwrap_or(Err(Trouble::TimedOut)) {
                Ok(()) if message.method == Some(Method::Initialized) => {
                    self.session.note_announced(Some(&message.bytes));
                }
                Ok(()) => {}
                Err(trouble) => tracing::warn!(method = message.shown(), "not delivered: {trouble}"),
            }
            if let Some(id) = message.cancels() {
                self.requests.give_up(&id);
            }
            drop(under_way);
        }
    }

    async fn tell(&self, message: &Message) -> Result<(), Trouble> {
        let (answered, _) = self.exchange(message, Lane::Call).await?;
        let status = answered.head.status;
        if status.is_success() { Ok(()) } else { Err(Trouble::of_status(status)) }
    }

    /// Sends a message in the session that it belongs to, which is opened again when it is found lost. A
    /// server that does not know the session did not run the request (MCP 2025-11-25, session management).
    /// Gives the session too.
    async fn exchange(
        &self,
        message: &Message,
        lane: Lane,
    ) -> Result<(Box<Answered>, Option<Rc<Open>>), Trouble> {
        let mut is_repaired = false;
        loop {
            let is_within = message.era == Era::Legacy && message.method != Some(Method::Initialize);
            let open = self.session.now().filter(|_| is_within);
            let request = message.outgoing(open.as_deref(), &self.params.borrow())?;
            let answered = self.send(&request, lane).await?;
            match &open {
                Some(open) if !is_repaired && self.is_lost(open, answered.head.status).await => {
                    drop(answered);
                    self.repair(open).await?;
                    is_repaired = true;
                    if message.is_of_its_session() {
                        return Err(Trouble::BrokenOff);
                    }
                }
                _ => return Ok((answered, open)),
            }
        }
    }

    /// Sends a request, again and again where an endpoint that was there is not: one that starts again is
    /// back soon.
    async fn send(&self, request: &Outgoing, lane: Lane) -> Result<Box<Answered>, Trouble> {
        let mut tries = 0;
        loop {
            match self.pool.send(request, lane).await {
                Ok(answered) => {
                    self.was_there.set(true);
                    return Ok(answered);
                }
                Err(error) if error.undelivered() && self.was_there.get() && tries < TRIES_MAX => {
                    tracing::info!(%error, "the endpoint cannot be reached; trying again");
                    sleep(pause(tries)).await;
                    tries += 1;
                }
                Err(error) => {
                    tracing::warn!(%error, "the endpoint did not take a request, or broke it off");
                    return Err(error.into());
                }
            }
        }
    }

    /// Whether the endpoint does not know the session. 404 says it (MCP 2025-11-25, session management); some
    /// say 400 to that as to anything else, and then a `ping` tells.
    async fn is_lost(&self, open: &Open, status: StatusCode) -> bool {
        let may_be = |status| matches!(status, StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST);
        if open.id.is_none() || status != StatusCode::BAD_REQUEST {
            return open.id.is_some() && status == StatusCode::NOT_FOUND;
        }
        let mut ping = Outgoing::whole(Bytes::from_static(PING));
        open.write_headers(&mut ping);
        self.send(&ping, Lane::Call).await.is_ok_and(|answered| may_be(answered.head.status))
    }

    /// Opens another session as the client opened that one; nothing when somebody else already did. In a task
    /// of its own: a client that cancels the request which found the session lost, or whose time is over,
    /// would else leave one behind that was opened and not announced. Cancel safe: it goes on.
    async fn repair(&self, lost: &Rc<Open>) -> Result<(), Trouble> {
        let bridge = self.own.upgrade().ok_or(Trouble::SessionLost)?;
        let lost = Rc::clone(lost);
        // Boxed: it opens the session by a request, as whoever calls this sends one.
        let opening: Pin<Box<dyn Future<Output = _>>> = Box::pin(async move { bridge.reopen(&lost).await });
        spawn_local(opening).await.unwrap_or(Err(Trouble::SessionLost))
    }

    /// Not cancel safe: a session may be left behind.
    async fn reopen(&self, lost: &Rc<Open>) -> Result<(), Trouble> {
        let _turn = self.session.repairing.lock().await;
        if !self.session.is_now(lost) {
            return Ok(());
        }
        tracing::warn!(
            "the endpoint has lost the session; opening another. What was subscribed to, and the log level, are gone"
        );
        let (introduction, announcement) = self.session.introduction().ok_or(Trouble::SessionLost)?;
        let read =
            |bytes| Message::scan(&mut self.scanner.borrow_mut(), bytes).map_err(|_| Trouble::SessionLost);
        self.call(&read(introduction)?).await?;
        if self.session.is_now(lost) {
            return Err(Trouble::SessionLost);
        }
        if let (Some(announcement), Some(open)) = (announcement, self.session.now()) {
            let mut request = Outgoing::whole(announcement);
            open.write_headers(&mut request);
            self.send(&request, Lane::Call).await?;
            self.say_all(open.missed()).await;
        }
        self.session.note_announced(None);
        Ok(())
    }

    /// Tells the endpoint that the session is over; many only learn it so.
    async fn part(&self) {
        let Some(open) = self.session.now().filter(|open| open.id.is_some()) else { return };
        let mut request = Outgoing::delete();
        open.write_headers(&mut request);
        // One that is away forgets it by itself.
        let _ = timeout(FAREWELL_PATIENCE, self.pool.send(&request, Lane::Call)).await;
    }
}

/// Asks whether a session is known. Nothing else is asked under that id.
const PING: &[u8] = br#"{"jsonrpc":"2.0","id":"metamcp-ping","method":"ping"}"#;

const _: () = assert!(CONNECT_PATIENCE.as_secs() <= CONNECT_TIMEOUT.max.as_secs());
