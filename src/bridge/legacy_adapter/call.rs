//! One call of a client: forwarded to the server, relayed, and retried when the server needs input first.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use metamcp_core::frame::{Envelope, EventReader, MessageKind, Scanner, write_event};
use metamcp_core::protocol::{AnswerMatch, Era, McpMethod, code};
use tokio::task::spawn_local;
use tokio::time::sleep;

use super::handshake::still_speaks_modern;
use super::input::request_input;
use super::reply::gateway_reply;
use super::request::{ClientMessage, RetryParams};
use super::result::{
    InputRequired, ServerReply, error_code, gateway_error, invalid_reply_error, parse_reply,
};
use super::session::{InFlightCall, Session};
use super::tool_headers::ToolHeaderCache;
use crate::session::MESSAGE_BYTES_MAX;
use crate::upstream::UpstreamPool;
use metamcp_config::server::EraChoice;
use metamcp_http::multiplex::{EventSink, LocalResponse, event_channel_with_capacity};
use metamcp_http::{
    FailureStage, RequestKind, UpstreamBody, UpstreamError, UpstreamRequest, UpstreamResponse,
};

/// What a call needs in addition to the request.
pub struct CallContext {
    pub session: Arc<Session>,
    pub pool: Rc<UpstreamPool>,
    pub tool_headers: Arc<ToolHeaderCache>,
    /// How long the client may take to answer the input requests of one round.
    pub input_timeout: Duration,
}

/// A call in progress.
struct Exchange {
    session: Arc<Session>,
    pool: Rc<UpstreamPool>,
    tool_headers: Arc<ToolHeaderCache>,
    input_timeout: Duration,
    /// The client's request, for its header fields.
    request: UpstreamRequest,
    message: ClientMessage,
    /// The client's own raw id.
    id: Bytes,
    /// The raw id of the last request to the server.
    sent_id: RefCell<Bytes>,
}

/// What came of one attempt.
enum CallOutcome {
    /// The final response for the client.
    Reply(Bytes),
    /// The server needs input first.
    InputRequired(InputRequired),
    /// The server answers with an event stream.
    Events(UpstreamBody),
    /// A failure, passed on as it is.
    Failed(Box<UpstreamResponse>),
}

/// Rounds of input requests in one call: a wizard has a handful of steps, a loop has no end.
const ROUNDS_MAX: u32 = 8;

/// Events that wait for a slow client. Beyond that the server waits.
const EVENTS_MAX: usize = 16;

/// The wait before a call is retried for a server that asked nothing and only gave a `requestState`. It grows
/// with each round.
const RETRY_DELAY: Duration = Duration::from_millis(200);

/// Forwards a request of a session to its server, and returns the response in the form of the Legacy era.
/// Dropping the future, or the event stream that it returned, aborts the request to the server.
pub async fn forward_call(
    context: CallContext,
    request: UpstreamRequest,
    message: ClientMessage,
) -> Result<Box<UpstreamResponse>, UpstreamError> {
    let CallContext { session, pool, tool_headers, input_timeout } = context;
    let id = message.id();
    let mut in_flight = session.begin_call(id.clone());
    let sent_id = RefCell::new(id.clone());
    let exchange = Exchange { session, pool, tool_headers, input_timeout, request, message, id, sent_id };
    let outcome = tokio::select! {
        outcome = exchange.send(None) => outcome?,
        () = in_flight.cancelled() => return Err(cancelled()),
    };
    Ok(match outcome {
        CallOutcome::Reply(message) => gateway_reply(LocalResponse::from_message(message)),
        CallOutcome::Failed(response) => response,
        outcome => exchange.into_stream(in_flight, outcome),
    })
}

/// A cancelled call gets no response (MCP 2025-11-25, cancellation).
fn cancelled() -> UpstreamError {
    UpstreamError::from_stage(FailureStage::Cancelled)
}

impl Exchange {
    /// Sends the call, or a retry of it.
    async fn send(&self, retry: Option<&RetryParams>) -> Result<CallOutcome, UpstreamError> {
        self.sent_id.replace(retry.map_or_else(|| self.id.clone(), |retry| retry.id.clone()));
        let Ok(mut modern) = self.message.to_modern(&self.session, &self.request, retry) else {
            let text = "params have members that do not exist in this protocol revision";
            return Ok(CallOutcome::Reply(gateway_error(&self.id, code::INVALID_PARAMS, text, None)));
        };
        let Some(tool) = self.message.tool_name() else {
            return self.attempt(&modern).await.map(|(outcome, _)| outcome);
        };
        let plain = modern.clone();
        let headers = &self.tool_headers;
        let is_fresh =
            headers.add_headers(&self.session, &self.pool, &tool, &self.message, &mut modern).await;
        let (outcome, is_mismatch) = self.attempt(&modern).await?;
        if !is_mismatch || is_fresh {
            return Ok(outcome);
        }
        // The server rejected the headers, so its tools have changed (MCP 2026-07-28, Streamable HTTP).
        headers.evict(self.pool.upstream().id);
        let mut modern = plain;
        headers.add_headers(&self.session, &self.pool, &tool, &self.message, &mut modern).await;
        self.attempt(&modern).await.map(|(outcome, _)| outcome)
    }

    /// Sends one request. Also returns whether the server rejected its headers.
    async fn attempt(&self, modern: &UpstreamRequest) -> Result<(CallOutcome, bool), UpstreamError> {
        let mut response = self.pool.send_direct(modern, RequestKind::Call).await?;
        let status = response.head.status;
        if status.is_success() && response.head.is_event_stream() {
            return Ok((CallOutcome::Events(response.body), false));
        }
        if !status.is_success() && !matches!(status, StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND) {
            return Ok((CallOutcome::Failed(response), false));
        }
        let message = response.body.collect(MESSAGE_BYTES_MAX).await?;
        let scanned = Scanner::new().scan(&message).ok();
        let error = scanned.as_ref().and_then(|envelope| error_code(&message, envelope));
        if !status.is_success() && self.has_changed_era(error).await {
            // The call did not run. The client opens another session, at the server itself.
            self.session.end();
            let lost = LocalResponse::from_status(StatusCode::NOT_FOUND);
            return Ok((CallOutcome::Failed(gateway_reply(lost)), false));
        }
        let is_reply = |envelope: &Envelope| match envelope.kind {
            MessageKind::Error => true,
            MessageKind::Response => status.is_success(),
            MessageKind::Request | MessageKind::Notification => false,
        };
        let outcome = match scanned.filter(is_reply) {
            Some(envelope) if !self.answers_sent_id(&message, &envelope) => {
                CallOutcome::Reply(self.invalid_reply("its id is not the id of the request"))
            }
            Some(envelope) => {
                let is_mismatch = error == Some(code::HEADER_MISMATCH);
                return Ok((self.interpret(&message, &envelope), is_mismatch));
            }
            None if status.is_success() => CallOutcome::Reply(self.invalid_reply("it is not an MCP message")),
            // Passed on as it is, the status would tell the client that its session is lost.
            None => {
                let bad_gateway = LocalResponse::from_status(StatusCode::BAD_GATEWAY);
                CallOutcome::Failed(gateway_reply(bad_gateway))
            }
        };
        Ok((outcome, false))
    }

    /// Whether a refusal means that the server does not speak the Modern era any more: its code is none of
    /// the era's own (MCP 2026-07-28, versioning), and `server/discover` does not say otherwise.
    async fn has_changed_era(&self, error: Option<i32>) -> bool {
        let is_modern_code = matches!(
            error,
            Some(
                code::HEADER_MISMATCH
                    | code::MISSING_CAPABILITY
                    | code::UNSUPPORTED_VERSION
                    | code::METHOD_NOT_FOUND
                    | code::INVALID_PARAMS
            )
        );
        let upstream = self.pool.upstream();
        if is_modern_code
            || upstream.config.settings.era != EraChoice::Auto
            || still_speaks_modern(&self.session, &self.pool).await
        {
            return false;
        }
        upstream.set_spoken(Era::Legacy, None);
        true
    }

    /// Whether it is a response to the last request.
    fn answers_sent_id(&self, message: &Bytes, envelope: &Envelope) -> bool {
        AnswerMatch::of_envelope(message, envelope, &self.sent_id.borrow()).is_answer()
    }

    fn interpret(&self, message: &Bytes, envelope: &Envelope) -> CallOutcome {
        let may_need_input = matches!(
            self.message.method,
            Some(McpMethod::ToolsCall | McpMethod::PromptsGet | McpMethod::ResourcesRead)
        );
        match parse_reply(message, envelope, &self.id) {
            Ok(ServerReply::Final(message)) => CallOutcome::Reply(message),
            Ok(ServerReply::InputRequired(required)) if may_need_input => {
                CallOutcome::InputRequired(required)
            }
            Ok(ServerReply::InputRequired(_)) => {
                CallOutcome::Reply(self.invalid_reply("it asks for input, which this method does not allow"))
            }
            Err(what) => CallOutcome::Reply(self.invalid_reply(&what)),
        }
    }

    fn invalid_reply(&self, what: &str) -> Bytes {
        invalid_reply_error(&self.id, self.pool.upstream().name().as_str(), what)
    }

    /// Serves the rest of the call as an event stream.
    fn into_stream(self, mut in_flight: InFlightCall, outcome: CallOutcome) -> Box<UpstreamResponse> {
        let (sink, events) = event_channel_with_capacity(EVENTS_MAX);
        let response = gateway_reply(LocalResponse::from_events(events));
        spawn_local(async move {
            let last = tokio::select! {
                last = self.drive(&sink, outcome) => last,
                () = in_flight.cancelled() => Err(cancelled()),
                // Dropping the future aborts the call.
                () = sink.closed() => return,
            };
            // Freed before the client can see the response.
            drop(in_flight);
            match last {
                Ok(message) => drop(sink.send(write_event(&message)).await),
                Err(error) => sink.fail(error.stage),
            }
        });
        response
    }

    /// Relays events and answers input requests until there is a final response.
    async fn drive(&self, sink: &EventSink, mut outcome: CallOutcome) -> Result<Bytes, UpstreamError> {
        let mut rounds = 0;
        loop {
            let required = match outcome {
                CallOutcome::Reply(message) => return Ok(message),
                CallOutcome::Failed(response) => return Ok(self.status_error(response.head.status)),
                CallOutcome::Events(body) => {
                    outcome = self.relay_events(sink, body).await?;
                    continue;
                }
                CallOutcome::InputRequired(required) => required,
            };
            if rounds == ROUNDS_MAX {
                return Ok(self.invalid_reply(&format!("it asked for input more than {ROUNDS_MAX} times")));
            }
            rounds += 1;
            let responses =
                match request_input(&self.session, sink, &self.id, &required, self.input_timeout).await {
                    Ok(responses) => responses,
                    Err(failure) => return Ok(failure.message),
                };
            if responses.is_none() {
                sleep(RETRY_DELAY * rounds).await;
            }
            let id = format!("\"metamcp-again-{}\"", self.session.next_number()).into();
            outcome = self.send(Some(&RetryParams { id, responses, state: required.state })).await?;
        }
    }

    /// Returns the JSON-RPC error for an HTTP status, for use within an event stream.
    fn status_error(&self, status: StatusCode) -> Bytes {
        let (server, status) = (self.pool.upstream().name(), status.as_u16());
        let text = format!("server `{server}` answered with HTTP {status}; the call may have run");
        gateway_error(&self.id, code::INTERNAL, &text, None)
    }

    /// Relays notifications up to the response. In the Modern era a server sends no requests meanwhile.
    async fn relay_events(
        &self,
        sink: &EventSink,
        mut body: UpstreamBody,
    ) -> Result<CallOutcome, UpstreamError> {
        let (mut reader, mut scanner) = (EventReader::new(), Scanner::new());
        body.limit_messages();
        while let Some(chunk) = body.chunk().await {
            reader.push(chunk?);
            while let Some(event) = reader.next()? {
                let Some(data) = event.data.filter(|data| !data.is_empty()) else { continue };
                body.note_message();
                let Ok(envelope) = scanner.scan(&data) else { continue };
                match envelope.kind {
                    MessageKind::Notification => drop(sink.send(write_event(&data)).await),
                    MessageKind::Request => {}
                    MessageKind::Response | MessageKind::Error if self.answers_sent_id(&data, &envelope) => {
                        return Ok(self.interpret(&data, &envelope));
                    }
                    // A response to another request must not pass for this one's.
                    MessageKind::Response | MessageKind::Error => {}
                }
            }
        }
        Err(UpstreamError::from_stage(FailureStage::BodyIncomplete))
    }
}
