//! Batches: several messages in one body, which only revision 2025-03-26 allows (JSON-RPC 2.0, section 6).

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::spawn_local;

use super::message;
use crate::limits::Permit;
use crate::route::Endpoint;
use crate::server::http1::activity::ConnectionActivity;
use crate::server::http1::fields::{Field, Fields};
use crate::server::http1::stream_wakeups::{WakeReason, WakeupRegistration};
use crate::server::mcp::call::{self, Call};
use crate::server::mcp::relay::{COMMENT, connection_ends, credential_ended, gateway_stops};
use crate::server::mcp::whole_answer;
use crate::server::reply::body::ResponseBody;
use crate::server::reply::reply::{self, Reply};
use crate::server::worker::{SessionCache, Worker, credential_cache};
use crate::session::MESSAGE_BYTES_MAX;
use crate::telemetry::metrics::LabelId;
use metamcp_core::base::{Fault, FaultKind, MEMORY, ShutdownPhase, charge_bytes};
use metamcp_core::frame::{Event, EventReader, write_event};
use metamcp_core::protocol::{AnswerMatch, McpMethod, Revision, code, header};
use metamcp_store::auth::Identity;

/// Chunks that wait for the client to read them.
const PIECES_MAX: usize = 16;

/// Whether the body is an array, and its session is of the revision that allows batches, or the request if it
/// has no session.
pub fn is_batch(
    sessions: &SessionCache,
    fields: &Fields,
    identity: &Identity,
    endpoint: &Arc<Endpoint>,
    body: &Bytes,
) -> bool {
    body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[')
        && revision(sessions, fields, identity, endpoint) == Some(Revision::V2025_03_26)
}

/// The revision of the request. `None` if its session or its revision is unknown.
fn revision(
    sessions: &SessionCache,
    fields: &Fields,
    identity: &Identity,
    endpoint: &Arc<Endpoint>,
) -> Option<Revision> {
    if !fields.has(Field::McpSessionId) {
        return match fields.get(Field::McpProtocolVersion) {
            Some(revision) => Revision::parse(revision),
            None => Some(Revision::FALLBACK),
        };
    }
    sessions.find(fields, identity, endpoint).map(|session| session.claims.revision).ok()
}

/// Answers the messages in order, in one event stream. A batch needs as many of its key's permits as it has
/// messages. `permit` is the first one; it is held until the last byte, when all messages may be answered.
pub async fn answer(
    worker: &Rc<Worker>,
    activity: &Rc<ConnectionActivity>,
    (fields, identity, endpoint): (&Fields, &Identity, &Arc<Endpoint>),
    body: &Bytes,
    permit: Permit,
) -> Result<Reply, Fault> {
    let calls = read(worker, fields, identity, endpoint, body)?;
    let (sender, receiver) = mpsc::channel(PIECES_MAX);
    let run = BatchRun {
        worker: Rc::clone(worker),
        activity: Rc::clone(activity),
        identity: identity.clone(),
        label: endpoint.label,
        wakeup: RefCell::new(worker.stream_wakeups.register()),
        sender,
    };
    let has_requests = calls.iter().any(Call::is_request);
    if has_requests {
        permit.check_request().map_err(credential_cache::refused)?;
    }
    if !has_requests {
        for call in calls {
            run.check(Progress::Waiting).map_err(|end| end.fault(Progress::Waiting))?;
            message::answer(worker, Box::new(call)).await?;
        }
        return Ok(reply::accepted());
    }
    MEMORY.check_new_work()?;
    spawn_local(run.answer_all(calls));
    Ok(reply::events(ResponseBody::events(receiver, Some(permit), Some(identity.clone()))))
}

/// Scans the messages of the batch. If one is invalid, the whole batch is rejected before any message runs.
fn read(
    worker: &Rc<Worker>,
    fields: &Fields,
    identity: &Identity,
    endpoint: &Arc<Endpoint>,
    body: &Bytes,
) -> Result<Vec<Call>, Fault> {
    let mut scanner = worker.scanner.borrow_mut();
    let items = scanner.batch_items(body).map_err(|error| {
        let kind = if error.code() == code::PARSE { FaultKind::Parse } else { FaultKind::InvalidRequest };
        Fault::client(kind, error.to_string())
    })?;
    let messages_max = worker.credentials.at_once_max(identity);
    if items.len() > messages_max {
        let text = format!(
            "a batch of {} messages never fits the limits of this key; send at most {messages_max} at once",
            items.len()
        );
        return Err(Fault::client(FaultKind::InvalidRequest, text));
    }
    let mut calls = Vec::with_capacity(items.len());
    for item in items {
        let body = body.slice(item.start as usize..item.end as usize);
        let scanned = call::scan(&mut scanner, &body)?;
        if scanned.1 == Some(McpMethod::Initialize) {
            return Err(Fault::client(FaultKind::InvalidRequest, "initialize must not be part of a batch"));
        }
        let permit =
            if calls.is_empty() { None } else { Some(worker.credentials.admit(identity, &scanned.0)?) };
        let mut call =
            Call::new(fields.clone(), Arc::clone(endpoint), identity.clone(), permit, body, scanned);
        call.shares_response = true;
        calls.push(call);
    }
    Ok(calls)
}

/// The messages of a batch while they are answered, one after the other.
struct BatchRun {
    worker: Rc<Worker>,
    /// The connection that the batch arrived on, which may be about to end.
    activity: Rc<ConnectionActivity>,
    identity: Identity,
    /// Of the endpoint, for metrics.
    label: LabelId,
    /// Wakes the batch when keys or the phase change, and when a comment is due.
    wakeup: RefCell<WakeupRegistration>,
    sender: mpsc::Sender<Bytes>,
}

/// How far a message has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    Waiting,
    Started,
}

/// Why a batch ends before its last message.
#[derive(Clone, Copy, PartialEq, Eq)]
enum BatchEnd {
    KeyInvalid,
    Shutdown,
    /// The connection is about to end: no message is started.
    ConnectionEnds,
}

/// The client has disconnected.
struct ClientGone;

impl BatchEnd {
    /// The answer to a message of the batch.
    fn fault(self, progress: Progress) -> Fault {
        let outcome = match progress {
            Progress::Waiting => "the call did not run",
            Progress::Started => "the call may have run",
        };
        match self {
            Self::KeyInvalid => credential_ended(outcome),
            Self::Shutdown => gateway_stops(outcome),
            Self::ConnectionEnds => connection_ends(),
        }
    }
}

impl BatchRun {
    /// Answers all messages. When the key is switched off or the gateway stops, the rest get errors.
    ///
    /// Not cancel safe: dropping it cancels the call under way.
    async fn answer_all(self, calls: Vec<Call>) {
        let mut calls = calls.into_iter();
        while let Some(call) = calls.next() {
            let id = call.is_request().then(|| call.id());
            let (end, progress) = if let Err(end) = self.check(Progress::Waiting) {
                (end, Progress::Waiting)
            } else {
                tokio::select! {
                    // A closed channel means that the client disconnected; the rest is not started.
                    () = self.sender.closed() => return,
                    end = self.watch() => (end, Progress::Started),
                    answered = self.answer_one(Box::new(call), id.clone()) => match answered {
                        Ok(()) => continue,
                        Err(ClientGone) => return,
                    },
                }
            };
            // Collected first, so that the permits of the rest are free while a slow client reads.
            let rest: Vec<_> = calls.filter(Call::is_request).map(|call| call.id()).collect();
            return self.refuse(end, (id, progress), rest).await;
        }
    }

    /// Whether a message may be started, or go on: the key is valid, and neither the gateway stops nor the connection ends.
    fn check(&self, progress: Progress) -> Result<(), BatchEnd> {
        let shared = &self.worker.shared;
        let last_phase = match progress {
            Progress::Waiting => ShutdownPhase::Unready,
            Progress::Started => ShutdownPhase::Drain,
        };
        if !shared.auth.is_still_valid(&self.identity) {
            return Err(BatchEnd::KeyInvalid);
        }
        if *shared.phase.borrow() > last_phase {
            return Err(BatchEnd::Shutdown);
        }
        let is_started = progress == Progress::Started;
        if !is_started && self.activity.is_closing() && self.activity.is_grace_over(Instant::now()) {
            return Err(BatchEnd::ConnectionEnds);
        }
        Ok(())
    }

    /// Waits until the message under way must end, and sends comments meanwhile.
    async fn watch(&self) -> BatchEnd {
        loop {
            if let Err(end) = self.check(Progress::Started) {
                return end;
            }
            if poll_fn(|cx| self.wakeup.borrow_mut().poll(cx)).await == WakeReason::Due {
                // A client that does not read needs no comment.
                let _ = self.sender.try_send(Bytes::from_static(COMMENT));
            }
        }
    }

    /// Sends an error under the id of the message that the batch ends with, and under the ids of the rest.
    async fn refuse(&self, end: BatchEnd, (id, progress): (Option<Bytes>, Progress), rest: Vec<Bytes>) {
        let first = id.map(|id| (id, progress));
        let rest = rest.into_iter().map(|id| (id, Progress::Waiting));
        let mut events = Vec::new();
        for (id, progress) in first.into_iter().chain(rest) {
            let fault = end.fault(progress).with_id(Some(id));
            self.worker.metering.answer_fault(Some(self.label), &fault);
            events.extend_from_slice(&reply::terminal_event(&fault));
        }
        // One piece, so that it waits for no more room than one.
        let _ = self.sender.send(events.into()).await;
    }

    /// Runs one message and forwards its answer.
    async fn answer_one(&self, call: Box<Call>, id: Option<Bytes>) -> Result<(), ClientGone> {
        let response = match message::answer(&self.worker, call).await {
            Ok(response) => response,
            Err(fault) => {
                let fault = fault.with_id(id.clone());
                self.worker.metering.answer_fault(Some(self.label), &fault);
                return if id.is_some() { self.send(reply::terminal_event(&fault)).await } else { Ok(()) };
            }
        };
        let is_stream = response.content_type.as_ref().is_some_and(|value| value == header::EVENT_STREAM);
        let failure = match id {
            None => return self.pass_unawaited(response.body).await,
            Some(ref id) if is_stream => self.pass_events(response.body, id).await?,
            Some(ref id) => self.pass_message(response.body, id).await?,
        };
        let Err(fault) = failure else { return Ok(()) };
        let fault = fault.with_id(id);
        self.worker.metering.note_fault(&fault);
        self.send(reply::terminal_event(&fault)).await
    }

    /// Reads the response to a notification, which has nothing for the client.
    async fn pass_unawaited(&self, mut body: ResponseBody) -> Result<(), ClientGone> {
        while let Ok(Some(_)) = whole_answer::next_bytes(&mut body).await {}
        Ok(())
    }

    /// Forwards an event stream, each event as a whole: what a broken one would leave behind is no event, and the
    /// next answer would become part of it. Fails if the message needs another answer.
    async fn pass_events(&self, mut body: ResponseBody, id: &Bytes) -> Result<Result<(), Fault>, ClientGone> {
        let mut reader = EventReader::with_event_limit(MESSAGE_BYTES_MAX);
        let (mut is_answered, mut is_valid) = (false, true);
        loop {
            let end = match reader.next() {
                Ok(Some(event)) => {
                    match self.match_event(&event, id) {
                        AnswerMatch::ThisCall if !is_answered => is_answered = true,
                        AnswerMatch::NotAnswer => {}
                        // In a batch, the client could not tell whose answer it is.
                        _ => {
                            is_valid = false;
                            continue;
                        }
                    }
                    self.send(event.raw).await?;
                    continue;
                }
                Ok(None) => whole_answer::next_bytes(&mut body).await,
                Err(error) => Err(whole_answer::unreadable(error)),
            };
            match end {
                Ok(Some(bytes)) => reader.push(bytes),
                Err(fault) if !is_answered => return Ok(Err(fault)),
                // In good order and without an answer, it is the response to a call that the client cancelled, unless the
                // server answered something else.
                Ok(None) if !is_answered && !is_valid => return Ok(Err(whole_answer::not_an_answer())),
                Ok(None) | Err(_) => return Ok(Ok(())),
            }
        }
    }

    /// Forwards a message as one event. Fails if the message needs another answer.
    async fn pass_message(&self, body: ResponseBody, id: &Bytes) -> Result<Result<(), Fault>, ClientGone> {
        let read = async {
            let message = whole_answer::collect(body).await?;
            let answer = whole_answer::check_answer(&self.worker.scanner, message, id)?;
            charge_bytes(write_event(&answer)).map_err(whole_answer::no_memory)
        };
        match read.await {
            Ok(event) => self.send(event).await.map(Ok),
            Err(fault) => Ok(Err(fault)),
        }
    }

    /// What an event is to the message with this id.
    fn match_event(&self, event: &Event, id: &Bytes) -> AnswerMatch {
        let Some(data) = event.data.as_ref().filter(|data| !data.is_empty()) else {
            return AnswerMatch::NotAnswer;
        };
        match self.worker.scanner.borrow_mut().scan(data) {
            Ok(envelope) => AnswerMatch::of_envelope(data, &envelope, id),
            Err(_) => AnswerMatch::Unreadable,
        }
    }

    async fn send(&self, event: Bytes) -> Result<(), ClientGone> {
        self.sender.send(event).await.map_err(|_| ClientGone)
    }
}
