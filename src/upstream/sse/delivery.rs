//! Sending messages of a session to the server, and cancelling calls.

use std::rc::Rc;

use bytes::Bytes;
use http::StatusCode;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep};

use super::call::SseCall;
use super::open_stream::{ERROR_BYTES_MAX, is_server_failure};
use super::session::{CallKind, CallLocation, PendingCall, SseSession};
use metamcp_core::frame::{Envelope, Span, SplicedMessage};
use metamcp_core::protocol::{McpMethod, code};
use metamcp_http::UpstreamResponse;
use metamcp_http::multiplex::{
    CallEntry, LocalResponse, ResponseSink, encode_cancellation, encode_error, known_method, splice,
};
use metamcp_http::{FailureStage, RequestKind, UpstreamError, UpstreamRequest};

/// The server's response to a POST.
enum PostOutcome {
    Accepted,
    Refused(StatusCode, Bytes),
}

/// What a 404 to a message means for its session.
#[derive(Clone, Copy, PartialEq, Eq)]
enum NotFound {
    /// The server does not know the session any more.
    SessionLost,
    /// Perhaps not that: the caller of a tool asks with a `ping` before it repeats the call, which the server may have
    /// run.
    Undecided,
}

/// Messages of our own at once in one session: pongs, refusals, cancellations.
const BACKGROUND_POSTS_MAX: usize = 64;

impl SseSession {
    /// Sends a client's call, under an id and a progress token of the gateway.
    pub fn send_call(self: &Rc<Self>, call: SseCall, message: &Bytes, envelope: &Envelope, kind: CallKind) {
        // A request always has an id.
        let Some(id) = envelope.id.filter(|_| !call.reply.is_closed()) else { return };
        let SseCall { number: call, request, reply } = call;
        let token = envelope.params.meta.progress_token;
        // Copied: a slice would keep the whole message until the response.
        let raw = |span: Span| Bytes::copy_from_slice(span.slice(message));
        let entry = CallEntry {
            id: raw(id.span),
            token: token.map(|token| raw(token.span)),
            call: PendingCall::new(call, kind, reply),
        };
        let number = self.state.borrow_mut().calls.insert(entry);
        if kind == CallKind::Call {
            let location = CallLocation::InFlight(Rc::downgrade(self), number);
            self.hub.call_locations.borrow_mut().insert(call, location);
        }
        let text = number.to_string();
        let mut edits = vec![(id.span, text.as_bytes())];
        edits.extend(token.map(|token| (token.span, text.as_bytes())));
        edits.sort_unstable_by_key(|(span, _)| span.start);
        let post = self.new_post(splice(message, &edits)).with_headers_of(&request);
        let is_tool_call = known_method(message, envelope) == Some(McpMethod::ToolsCall);
        let not_found = if is_tool_call { NotFound::Undecided } else { NotFound::SessionLost };
        spawn_local(Rc::clone(self).deliver(number, post, not_found));
    }

    /// Forwards a message whose only response is a status.
    pub fn forward(self: &Rc<Self>, call: SseCall, message: Bytes) {
        let post = self.new_post(message).with_headers_of(&call.request);
        let session = Rc::clone(self);
        spawn_local(async move {
            let outcome = match session.post(&post, RequestKind::Message, NotFound::SessionLost).await {
                Ok(PostOutcome::Accepted) => Ok(LocalResponse::from_status(StatusCode::ACCEPTED)),
                Ok(PostOutcome::Refused(status, error)) => {
                    Ok(LocalResponse { status, ..LocalResponse::from_message(error) })
                }
                Err(error) => Err(error),
            };
            call.respond(outcome);
        });
    }

    /// Answers a request of the server with an error.
    pub fn refuse_server_request(self: &Rc<Self>, id: &[u8], text: &str) {
        self.post_in_background(self.new_post(encode_error(id, code::METHOD_NOT_FOUND, text, None)));
    }

    /// Posts a message of the gateway, whose result is not awaited.
    pub fn post_in_background(self: &Rc<Self>, post: UpstreamRequest) {
        if self.is_closed.get() || self.background_posts.get() >= BACKGROUND_POSTS_MAX {
            return;
        }
        self.background_posts.set(self.background_posts.get() + 1);
        let session = Rc::clone(self);
        spawn_local(async move {
            if let Err(error) = session.post(&post, RequestKind::Message, NotFound::SessionLost).await {
                tracing::debug!(server = %session.hub.target.name, %error, "cannot deliver a message of the gateway");
            }
            session.background_posts.set(session.background_posts.get() - 1);
        });
    }

    /// Cancels a call whose client no longer waits for it.
    pub fn cancel_abandoned(self: &Rc<Self>, number: u64) {
        let entry = self.state.borrow_mut().calls.remove(number);
        if let Some(entry) = entry {
            let post = self.new_post(encode_cancellation(number));
            self.post_cancellation(number, &entry.call, post);
            self.refuse_server_requests_during(number);
        }
    }

    /// Refuses what the server asked during a call that ended without a response.
    pub fn refuse_server_requests_during(self: &Rc<Self>, number: u64) {
        let requests = self.state.borrow_mut().server_requests.remove_all(|during| *during == Some(number));
        for id in requests {
            self.refuse_server_request(&id, "the call during which this was requested was cancelled");
        }
    }

    /// Forwards a client's cancellation of its own call, which `id` in the message names with the client's
    /// id. The call is answered at once: a server sends nothing more for a cancelled call (MCP,
    /// cancellation).
    pub fn cancel(self: &Rc<Self>, request: &UpstreamRequest, message: &Bytes, id: Span) {
        let raw = id.slice(message);
        let mut state = self.state.borrow_mut();
        let is_match = |entry: &CallEntry<PendingCall>| entry.id == raw && entry.call.kind == CallKind::Call;
        let found = state.calls.iter().find(|(_, entry)| is_match(entry)).map(|(number, _)| number);
        let Some((number, entry)) = found.and_then(|number| Some((number, state.calls.remove(number)?)))
        else {
            return;
        };
        drop(state);
        self.forget_call(&entry.call);
        let cancellation = splice(message, &[(id, number.to_string().as_bytes())]);
        self.post_cancellation(number, &entry.call, self.new_post(cancellation).with_headers_of(request));
        self.refuse_server_requests_during(number);
        entry.call.sink.fail(UpstreamError::from_stage(FailureStage::Cancelled));
    }

    /// Creates a POST of a message to the session's endpoint.
    pub fn new_post(&self, message: Bytes) -> UpstreamRequest {
        UpstreamRequest::post(SplicedMessage::unedited(message)).with_path(self.endpoint.clone())
    }

    /// Delivers a call to the server. Its response comes on the stream, possibly before the server confirms
    /// the POST.
    async fn deliver(self: Rc<Self>, number: u64, post: UpstreamRequest, not_found: NotFound) {
        let overdue = async {
            self.closed().await;
            sleep(self.hub.connect_timeout()).await;
        };
        let posted = async {
            match self.post(&post, RequestKind::Call, not_found).await {
                Ok(PostOutcome::Refused(StatusCode::NOT_FOUND, error))
                    if not_found == NotFound::Undecided =>
                {
                    self.decide_not_found(error).await
                }
                outcome => outcome,
            }
        };
        let outcome = tokio::select! {
            biased;
            outcome = posted => outcome,
            () = overdue => Err(UpstreamError::from_stage(FailureStage::BodyIncomplete)),
        };
        let is_closed = self.is_closed.get();
        let mut state = self.state.borrow_mut();
        let cancellation = state.deferred_cancellations.remove(&number);
        if !is_closed && matches!(outcome, Ok(PostOutcome::Accepted)) {
            if let Some(entry) = state.calls.get_mut(number) {
                entry.call.is_delivered = true;
            }
            drop(state);
            if let Some(cancellation) = cancellation {
                self.post_in_background(cancellation);
            }
            return;
        }
        let entry = state.calls.remove(number);
        drop(state);
        if let Some(CallEntry { call, .. }) = entry {
            self.end_undelivered(call, outcome, is_closed.then_some(not_found));
        }
    }

    /// Decides what a 404 to the call of a tool means, which the server may have run. A `ping` that is refused while the event
    /// stream is open shows that the server lost the session; one that is accepted, that it has its own reasons.
    async fn decide_not_found(self: &Rc<Self>, error: Bytes) -> Result<PostOutcome, UpstreamError> {
        const PING: &[u8] = br#"{"jsonrpc":"2.0","id":"metamcp-ping","method":"ping"}"#;
        let ping = self.new_post(Bytes::from_static(PING));
        let outcome = self.post(&ping, RequestKind::Call, NotFound::SessionLost).await?;
        match outcome {
            // That it is closed by now may have another cause.
            _ if self.is_closed.get() => Err(UpstreamError::from_stage(FailureStage::BodyIncomplete)),
            PostOutcome::Refused(StatusCode::NOT_FOUND, _) => {
                Ok(PostOutcome::Refused(StatusCode::NOT_FOUND, Bytes::new()))
            }
            _ if error.starts_with(b"{") => Ok(PostOutcome::Refused(StatusCode::OK, error)),
            _ => Err(UpstreamError::new(FailureStage::InvalidResponse, "HTTP 404")),
        }
    }

    /// Ends a call that the server refused, or whose response cannot arrive any more. `closed` is what a 404 to it means, if
    /// the session is closed.
    fn end_undelivered(
        &self,
        call: PendingCall,
        outcome: Result<PostOutcome, UpstreamError>,
        closed: Option<NotFound>,
    ) {
        self.forget_call(&call);
        let is_failure = match &outcome {
            Ok(PostOutcome::Refused(status, _)) => is_server_failure(*status),
            Ok(PostOutcome::Accepted) | Err(_) => true,
        };
        match outcome {
            // A restarted server: it did not run the call, which the client may repeat in a new session. Unless it is that of a
            // tool: then the session may have been closed after it ran.
            Ok(PostOutcome::Refused(status, error)) if matches!(status.as_u16(), 400 | 404 | 410) => {
                match closed {
                    Some(NotFound::SessionLost) => refuse(call.sink, StatusCode::NOT_FOUND, Bytes::new()),
                    Some(NotFound::Undecided) => {
                        call.sink.fail(UpstreamError::from_stage(FailureStage::BodyIncomplete));
                    }
                    None => refuse(call.sink, status, error),
                }
            }
            Ok(PostOutcome::Refused(status, error)) => refuse(call.sink, status, error),
            // The stream on which the response would come is closed.
            Ok(PostOutcome::Accepted) => {
                call.sink.fail(UpstreamError::from_stage(FailureStage::BodyIncomplete));
            }
            Err(error) => call.sink.fail(error),
        }
        match call.kind {
            CallKind::Initialize if is_failure => self.fail(FailureStage::NoResponse),
            CallKind::Initialize => self.close(FailureStage::NoResponse),
            CallKind::Call => {}
        }
    }

    /// Posts a message. A 404 closes the session if it says that the server lost it.
    async fn post(
        self: &Rc<Self>,
        post: &UpstreamRequest,
        kind: RequestKind,
        not_found: NotFound,
    ) -> Result<PostOutcome, UpstreamError> {
        self.last_used.set(Instant::now());
        let UpstreamResponse { head, mut body } = *self.hub.post(post, kind).await?;
        if head.status.is_success() {
            if !body.is_ended() {
                // Read to the end, so that the connection can be reused. The server has the message.
                spawn_local(async move { body.collect(ERROR_BYTES_MAX).await });
            }
            return Ok(PostOutcome::Accepted);
        }
        let error = body.collect(ERROR_BYTES_MAX).await.unwrap_or_default();
        let is_lost = head.status == StatusCode::NOT_FOUND && not_found == NotFound::SessionLost;
        if is_lost && self.is_open.get() {
            tracing::info!(server = %self.hub.target.name, "server lost a session whose event stream is open");
            let session = Rc::clone(self);
            // After the result of this call, which did not run; the others may have.
            spawn_local(async move { session.close(FailureStage::BodyIncomplete) });
        }
        Ok(PostOutcome::Refused(head.status, error))
    }

    /// Cancels a call at the server, as soon as the server has accepted it.
    fn post_cancellation(self: &Rc<Self>, number: u64, call: &PendingCall, cancellation: UpstreamRequest) {
        if call.is_delivered {
            self.post_in_background(cancellation);
        } else {
            self.state.borrow_mut().deferred_cancellations.insert(number, cancellation);
        }
    }
}

/// Passes the server's refusal of a call on to the caller.
fn refuse(sink: ResponseSink, status: StatusCode, error: Bytes) {
    match sink {
        // The caller may be gone.
        ResponseSink::Waiting(reply) => {
            let _ = reply.send(Ok(LocalResponse { status, ..LocalResponse::from_message(error) }));
        }
        ResponseSink::Streaming(sink) => sink.fail(FailureStage::BodyIncomplete),
    }
}
