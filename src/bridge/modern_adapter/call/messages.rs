//! What a message of the server means for a call.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use metamcp_core::frame::{Envelope, IdForm, MessageKind, Scanner};
use metamcp_core::protocol::{ClientCapabilities, LogLevel, McpMethod, is_same_id, parse_call_number};
use metamcp_http::RequestKind;
use serde::Deserialize;

use super::super::call_stream::{CallEvent, CallStream};
use super::super::input::{
    INPUT_REQUESTS_BYTES_MAX, INPUT_REQUESTS_MAX, InputDecision, InputRequest, decide_input,
    needs_user_or_model,
};
use super::super::request::{ModernRequest, apply_edits};
use super::super::responder::ClientResponder;
use super::super::session::{AdapterSession, ClientSlot, is_subscribable};
use super::super::sessions::AdapterSessions;
use crate::session::{BufferedRequest, UpstreamSession, deliver, is_ping, refuse};
use crate::upstream::UpstreamPool;

/// A call of a client, and the input that its server waits for.
pub(super) struct ActiveCall {
    pub(super) sessions: Arc<AdapterSessions>,
    /// The session of the call's slot.
    pub(super) session: Arc<AdapterSession>,
    pub(super) pool: Rc<UpstreamPool>,
    pub(super) request: ModernRequest,
    /// The capabilities that all requests of the client so far declared.
    pub(super) capabilities: ClientCapabilities,
    /// Requests of the server that wait for the client.
    pub(super) input_requests: Vec<InputRequest>,
    /// The number of input requests so far; numbers their keys.
    input_request_count: u64,
    pub(super) scanner: Scanner,
}

/// The server's side of a call.
pub(super) struct CallExchange {
    pub(super) upstream_session: Arc<UpstreamSession>,
    pub(super) slot: ClientSlot,
    pub(super) stream: CallStream,
    /// Whether the call was sent. Unsolicited requests are answered before.
    pub(super) is_sent: bool,
}

/// What to do with a message of the server.
pub(super) enum MessageAction {
    /// Respond to the client: it is the response.
    Respond(Bytes, Envelope),
    /// Forward it to the client.
    Forward(Bytes),
    Ignore,
}

/// What happens next in a call.
pub(super) enum NextEvent {
    Message(Bytes, MessageSource),
    /// The call's own stream ended without a response.
    StreamEnded(CallEvent),
    ClientGone,
}

/// Where a message of the server came from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum MessageSource {
    /// The response to the call.
    CallStream,
    /// The session's event stream.
    SessionStream,
}

/// Refuses a request of the server that came when its call was over.
pub(super) const CALL_IS_OVER: &str = "the call is over";

impl ActiveCall {
    pub(super) fn new(
        sessions: Arc<AdapterSessions>,
        session: Arc<AdapterSession>,
        pool: Rc<UpstreamPool>,
        request: ModernRequest,
    ) -> Self {
        let capabilities = request.capabilities;
        let (input_requests, input_request_count) = (Vec::new(), 0);
        let scanner = Scanner::new();
        Self { sessions, session, pool, request, capabilities, input_requests, input_request_count, scanner }
    }

    /// Decides what a message of the server means, and handles those that are not for the client.
    pub(super) async fn handle_message(
        &mut self,
        exchange: &mut CallExchange,
        message: &Bytes,
        source: MessageSource,
    ) -> MessageAction {
        let Ok(envelope) = self.scanner.scan(message) else { return MessageAction::Ignore };
        if source == MessageSource::CallStream && !envelope.kind.is_answer() {
            exchange.stream.note_message();
        }
        match envelope.kind {
            MessageKind::Response | MessageKind::Error => {
                // An error has no id if the server could not parse the request.
                let id = envelope.id.filter(|id| id.form != IdForm::Null);
                let number = exchange.slot.number;
                let is_own = id.is_none_or(|id| parse_call_number(id.span.slice(message)) == Some(number));
                if is_own && source == MessageSource::CallStream {
                    return MessageAction::Respond(message.clone(), envelope);
                }
            }
            MessageKind::Request => self.handle_request(exchange, message, &envelope, source).await,
            MessageKind::Notification => {
                return self.handle_notification(exchange, message, &envelope, source);
            }
        }
        MessageAction::Ignore
    }

    /// Queues a request of the server until the client is asked, or refuses it.
    async fn handle_request(
        &mut self,
        exchange: &CallExchange,
        message: &Bytes,
        envelope: &Envelope,
        source: MessageSource,
    ) {
        if needs_user_or_model(message, envelope) {
            self.pool.upstream().note_server_request();
        }
        let is_own = self.is_own_channel(source);
        let why = if is_ping(message, envelope) {
            ""
        } else if !self.request.allows_input() {
            // A request that names no call and only came during this one can wait for a call that allows
            // input.
            if !is_own && self.sessions.queue_unsolicited(&self.session, message, envelope) {
                return;
            }
            "the client cannot be asked during such a request"
        } else if !self.is_addressee(exchange, source) {
            "it is not certain which client this is for"
        } else {
            match self.queue_input_request(message, envelope) {
                Ok(()) => return,
                Err(why) => why,
            }
        };
        refuse(&self.pool, &exchange.upstream_session, message, envelope, why).await;
    }

    /// Queues a request of the server for the client. The error says why it is refused.
    pub(super) fn queue_input_request(
        &mut self,
        message: &Bytes,
        envelope: &Envelope,
    ) -> Result<(), &'static str> {
        let bytes: usize = self.input_requests.iter().map(InputRequest::bytes).sum();
        if self.input_requests.len() >= INPUT_REQUESTS_MAX || bytes + message.len() > INPUT_REQUESTS_BYTES_MAX
        {
            return Err("too many requests wait for this client");
        }
        self.input_request_count += 1;
        match decide_input(message, envelope, self.capabilities, self.input_request_count.to_string()) {
            Some(InputDecision::Ask(request)) => self.input_requests.push(request),
            Some(InputDecision::Refuse(why)) => return Err(why),
            None => return Err("the request cannot be parsed"),
        }
        Ok(())
    }

    /// Refuses all queued requests of the server.
    pub(super) async fn refuse_input_requests(&mut self, exchange: &CallExchange, why: &str) {
        for request in std::mem::take(&mut self.input_requests) {
            let refusal = request.refusal(why);
            deliver(
                &self.pool,
                BufferedRequest::legacy(&exchange.upstream_session, McpMethod::ToolsCall, refusal),
                RequestKind::Message,
            )
            .await;
        }
    }

    fn is_own_channel(&self, source: MessageSource) -> bool {
        source == MessageSource::CallStream && !self.pool.upstream().has_shared_channel()
    }

    /// Whether a message that names no call is certainly meant for this one. Where all calls share one
    /// channel, that is so only for a call that is alone in its session.
    fn is_addressee(&self, exchange: &CallExchange, source: MessageSource) -> bool {
        self.is_own_channel(source) || self.session.is_only_call(exchange.slot.number)
    }

    fn handle_notification(
        &mut self,
        exchange: &CallExchange,
        message: &Bytes,
        envelope: &Envelope,
        source: MessageSource,
    ) -> MessageAction {
        let method = envelope.method.map(|method| method.decode_bytes(message));
        match method.as_deref().and_then(McpMethod::parse) {
            Some(McpMethod::Cancelled) => {
                if let Some(id) = envelope.params.request_id {
                    let id = id.span.slice(message);
                    self.input_requests.retain(|request| !is_same_id(&request.id, id));
                    self.session.cancel_unsolicited(id);
                }
                MessageAction::Ignore
            }
            _ if is_subscribable(message, envelope) => {
                self.session.notify_listeners(message, envelope);
                MessageAction::Ignore
            }
            // Progress names its call by the token.
            Some(McpMethod::Progress) => MessageAction::Forward(message.clone()),
            _ if self.is_addressee(exchange, source) => MessageAction::Forward(message.clone()),
            _ => MessageAction::Ignore,
        }
    }

    /// Forwards a notification that the Modern era allows during a call: progress, and log messages that the
    /// client asked for.
    pub(super) async fn forward(
        &mut self,
        client: &mut ClientResponder,
        exchange: &CallExchange,
        message: &Bytes,
    ) {
        let Ok(envelope) = self.scanner.scan(message) else { return };
        if let Some(message) = rewrite_notification(message, &envelope, client, exchange.slot.number) {
            client.send_event(&message).await;
        }
    }
}

/// Returns progress under the client's own token, or a log message that the client asked for.
fn rewrite_notification(
    message: &Bytes,
    envelope: &Envelope,
    client: &ClientResponder,
    number: u64,
) -> Option<Bytes> {
    let method = envelope.method.map(|method| method.decode(message))?;
    if method == McpMethod::Progress.as_str() {
        let token = envelope.params.progress_token?;
        let is_own = parse_call_number(token.span.slice(message)) == Some(number);
        return apply_edits(message, &[(token.span, client.token.clone().filter(|_| is_own)?)]);
    }
    if method != "notifications/message" {
        return None;
    }
    let LogParams { level } = serde_json::from_slice(envelope.params.object?.slice(message)).ok()?;
    let is_wanted = LogLevel::parse(&level)? >= client.log_level?;
    is_wanted.then(|| message.clone())
}

/// The params of `notifications/message`.
#[derive(Deserialize)]
struct LogParams {
    level: String,
}
