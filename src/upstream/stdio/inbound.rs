//! Routes the messages of a process to its clients. If a process has several clients, a message is attributed
//! only by its call, its progress token or its subscription; any other message is delivered to no client.

use bytes::Bytes;

use super::behavior::declares;
use super::connection::{
    CallKind, MessageCounters, PendingCall, ProcessConnection, ProcessState, Recipient, RequestOrigin,
};
use super::request_ids::RequestIds;
use crate::runtime::LargeMessage;
use metamcp_config::server::Sharing;
use metamcp_core::frame::{Envelope, IdSpan, MessageKind, Outline, OutlineId, ScanError, Span};
use metamcp_core::protocol::{Era, McpMethod, RESOURCE_UPDATED, code};
use metamcp_http::multiplex::{
    CallEntry, REQUEST_ID_BYTES_MAX, ResponseSink, TOO_MANY_REQUESTS, encode_error, encode_pong,
    known_method, splice_event,
};
use metamcp_http::{FailureStage, UpstreamError};

/// The process sends nothing but lines that are not messages.
#[derive(Debug, PartialEq, Eq)]
pub struct TooManyInvalidLines;

/// Consecutive lines that are not messages. Banners have a few dozen lines; a program that prints its log to
/// standard output sends messages now and then.
const INVALID_LINES_MAX: u32 = 1000;

/// The error text for a request of a process with several clients.
const AMBIGUOUS_CLIENT: &str = "there is no one client to ask; run this server with sharing = session";

/// The same with `sharing = "auto"`, where it happens once.
const FIRST_REQUEST: &str =
    "there is no one client to ask; ask again in the next call, which gets a process of its own";

/// The error text for a request that was too long for the memory that is left.
const NO_MEMORY: &str = "the gateway has no memory for this request; repeat it later";

/// The error text for a request that its client does not support.
const UNDECLARED: &str = "the client declared no capability for this request";

impl ProcessConnection {
    /// Takes a line of standard output.
    pub fn receive_line(&self, line: &Bytes) -> Result<(), TooManyInvalidLines> {
        if line.trim_ascii().is_empty() {
            return Ok(());
        }
        let _large = LargeMessage::track(line.len());
        let scanned = self.context.scanner.borrow_mut().scan(line);
        match scanned {
            Ok(envelope) => self.receive_message(line, &envelope),
            // Batches are of 2025-03-26.
            Err(refused) if refused.error == ScanError::Batch => {
                let items = self.context.scanner.borrow_mut().batch_items(line);
                let Ok(items) = items else { return self.receive_invalid(line, None) };
                for item in items {
                    let message = line.slice(item.start as usize..item.end as usize);
                    let scanned = self.context.scanner.borrow_mut().scan(&message);
                    match scanned {
                        Ok(envelope) => self.receive_message(&message, &envelope),
                        Err(refused) => self.receive_invalid(&message, refused.id)?,
                    }
                }
            }
            Err(refused) => return self.receive_invalid(line, refused.id),
        }
        Ok(())
    }

    /// Takes a line that is not a valid message. If it is meant as the response to a call, the call fails
    /// rather than waiting on.
    fn receive_invalid(&self, line: &Bytes, id: Option<IdSpan>) -> Result<(), TooManyInvalidLines> {
        MessageCounters::increment(&self.context.message_counters.invalid_lines);
        let mut state = self.state.borrow_mut();
        state.invalid_lines_in_a_row += 1;
        let is_over_limit = state.invalid_lines_in_a_row >= INVALID_LINES_MAX;
        drop(state);
        if let Some(id) = id {
            self.fail_call(id.span.slice(line), FailureStage::InvalidResponse);
        }
        if is_over_limit { Err(TooManyInvalidLines) } else { Ok(()) }
    }

    /// Takes the outlines of the messages in a line for which there was no memory. The calls that they answer fail, and the
    /// process gets responses to its requests.
    pub fn receive_dropped(&self, messages: &[Outline]) {
        MessageCounters::increment(&self.context.message_counters.undeliverable);
        for message in messages {
            let OutlineId::Raw(id) = &message.id else { continue };
            if message.has_method {
                self.queue_control(&encode_error(id, code::INTERNAL, NO_MEMORY, None));
            } else {
                self.fail_call(id, FailureStage::OutOfMemory);
            }
        }
    }

    /// Fails the call with this id at the process, if there is one.
    fn fail_call(&self, raw_id: &[u8], stage: FailureStage) {
        let mut state = self.state.borrow_mut();
        let Some(number) = state.calls.find(raw_id) else { return };
        let Some(entry) = state.calls.remove(number) else { return };
        drop(state);
        self.forget_call(&entry.call);
        entry.call.fail(stage);
        self.refuse_server_requests_during(number);
    }

    fn receive_message(&self, message: &Bytes, envelope: &Envelope) {
        self.state.borrow_mut().invalid_lines_in_a_row = 0;
        let has_recipient = match envelope.kind {
            MessageKind::Response | MessageKind::Error => self.receive_response(message, envelope),
            MessageKind::Request => self.receive_request(message, envelope),
            MessageKind::Notification => self.receive_notification(message, envelope),
        };
        if !has_recipient {
            MessageCounters::increment(&self.context.message_counters.undeliverable);
        }
    }

    /// Passes a response on, with the client's own id.
    fn receive_response(&self, message: &Bytes, envelope: &Envelope) -> bool {
        let Some(id) = envelope.id else { return false };
        let mut state = self.state.borrow_mut();
        let number = state.calls.find(id.span.slice(message));
        let Some(entry) = number.and_then(|number| state.calls.remove(number)) else {
            self.warn_of_string_id(&state, id.span.slice(message));
            return false;
        };
        if let (CallKind::Subscribe(uri), Some(client), MessageKind::Response) =
            (&entry.call.kind, entry.call.client, envelope.kind)
        {
            state.clients.subscribe(client, uri.clone());
        }
        drop(state);
        if !self.has_answered.replace(true) {
            self.context.counters.record_answer();
            self.settled.notify_one();
        }
        self.forget_call(&entry.call);
        self.touch();
        let CallEntry { id: client_id, call: PendingCall { recipient, kind, .. }, .. } = entry;
        let mut edits = vec![(id.span, &client_id[..])];
        if kind == CallKind::Listen
            && let Some(span) = subscription_id_in_result(message, envelope)
        {
            edits.push((span, &client_id[..]));
            edits.sort_unstable_by_key(|(span, _)| span.start);
        }
        match recipient {
            Recipient::Client(sink) => sink.finish(message, &edits),
            // The waiting task may be gone.
            Recipient::Gateway(reply) => drop(reply.send((message.clone(), envelope.clone()))),
        }
        true
    }

    /// Warns once of a server whose responses have ids of another type than the requests.
    fn warn_of_string_id(&self, state: &ProcessState, raw: &[u8]) {
        let unquoted = raw.strip_prefix(b"\"").and_then(|raw| raw.strip_suffix(b"\""));
        if unquoted.is_some_and(|raw| state.calls.find(raw).is_some())
            && !self.context.has_warned_of_ids.replace(true)
        {
            let server = &self.context.name;
            tracing::warn!(%server, "server answers requests with numeric ids under string ids; such responses match no \
                call (JSON-RPC 2.0, response object) and are dropped");
        }
    }

    /// Passes a request of the process on to a client. The process waits for a response, so it gets one in
    /// any case, if only a refusal.
    fn receive_request(&self, message: &Bytes, envelope: &Envelope) -> bool {
        let Some(IdSpan { span, .. }) = envelope.id else { return false };
        let id = span.slice(message);
        if known_method(message, envelope) == Some(McpMethod::Ping) {
            return self.queue_control(&encode_pong(id));
        }
        let method = envelope.method.map(|method| method.decode(message)).unwrap_or_default();
        self.context.behavior.update(|behavior| behavior.note_request(&method));
        let mut state = self.state.borrow_mut();
        let is_full = state.server_requests.is_full();
        let is_short = id.len() + RequestIds::ADDED_BYTES <= REQUEST_ID_BYTES_MAX;
        let client = state.only_recipient().filter(|_| self.era == Era::Legacy && !is_full && is_short);
        // A program may ask whatever its client declared, in particular one that all clients of a key share.
        let capabilities = client.and_then(|client| Some(state.clients.get_mut(client)?.origin.capabilities));
        let is_undeclared = capabilities.is_some_and(|capabilities| !declares(capabilities, &method));
        let is_sent = client.filter(|_| !is_undeclared).is_some_and(|client| {
            let during = state.newest_call(client);
            let client_id = self.request_ids.to_client(id);
            let is_sent = state.send_to_client(client, splice_event(message, &[(span, &client_id)]));
            if is_sent {
                let origin = RequestOrigin { client, during };
                state.server_requests.insert_or_replace(Bytes::copy_from_slice(id), origin);
            }
            is_sent
        });
        let clients = state.clients.len();
        drop(state);
        if !is_sent {
            MessageCounters::increment(&self.context.message_counters.refused_requests);
            let is_auto = self.context.program.settings.sharing == Sharing::Auto;
            let text = match (is_full, is_auto && clients > 1) {
                (true, _) => TOO_MANY_REQUESTS,
                _ if is_undeclared => UNDECLARED,
                (false, true) => FIRST_REQUEST,
                (false, false) => AMBIGUOUS_CLIENT,
            };
            // Without a client there is nobody to ask, and nothing to configure.
            if !is_full
                && !is_undeclared
                && !is_auto
                && clients > 1
                && !self.context.has_warned_of_sharing.replace(true)
            {
                let server = &self.context.name;
                tracing::warn!(%server, clients, "server sends requests to clients that share its process; consider sharing = \"session\"");
            }
            self.refuse_server_request(id, text);
        }
        true
    }

    fn receive_notification(&self, message: &Bytes, envelope: &Envelope) -> bool {
        let method = known_method(message, envelope);
        match (method, self.era) {
            (Some(McpMethod::Progress), _) => self.receive_progress(message, envelope),
            (Some(McpMethod::Cancelled), Era::Modern) => self.receive_listen_end(message, envelope),
            (Some(McpMethod::Cancelled), Era::Legacy) => self.receive_cancellation(message, envelope),
            (_, Era::Modern) => self.receive_modern_notification(message, envelope),
            (
                Some(
                    McpMethod::ToolsListChanged
                    | McpMethod::PromptsListChanged
                    | McpMethod::ResourcesListChanged,
                ),
                Era::Legacy,
            ) => {
                let event = splice_event(message, &[]);
                let mut state = self.state.borrow_mut();
                for client in state.clients.iter_mut() {
                    self.count_if_dropped(client.stream.send(event.clone()));
                }
                true
            }
            _ => self.receive_legacy_notification(message, envelope),
        }
    }

    /// Passes progress on to the call whose number is the token.
    fn receive_progress(&self, message: &Bytes, envelope: &Envelope) -> bool {
        let Some(token) = envelope.params.progress_token else { return false };
        let mut state = self.state.borrow_mut();
        let number = state.calls.find(token.span.slice(message));
        let Some(entry) = number.and_then(|number| state.calls.get_mut(number)) else { return false };
        let Some(client_token) = &entry.token else { return false };
        let event = splice_event(message, &[(token.span, client_token)]);
        self.count_if_dropped(entry.call.send_event(event));
        true
    }

    /// Ends a subscription that the server ends (MCP 2026-07-28, subscriptions).
    fn receive_listen_end(&self, message: &Bytes, envelope: &Envelope) -> bool {
        let Some(id) = envelope.params.request_id else { return false };
        let mut state = self.state.borrow_mut();
        let number = state.calls.find(id.span.slice(message));
        let is_listen = |entry: &mut CallEntry<PendingCall>| entry.call.kind == CallKind::Listen;
        let number = number.filter(|number| state.calls.get_mut(*number).is_some_and(is_listen));
        let Some(entry) = number.and_then(|number| state.calls.remove(number)) else { return false };
        drop(state);
        self.forget_call(&entry.call);
        match entry.call.recipient {
            Recipient::Client(ResponseSink::Streaming(sink)) => {
                sink.finish(splice_event(message, &[(id.span, &entry.id)]));
            }
            Recipient::Client(sink @ ResponseSink::Waiting(_)) => {
                sink.fail(UpstreamError::from_stage(FailureStage::BodyIncomplete));
            }
            Recipient::Gateway(_) => {}
        }
        true
    }

    /// Passes the cancellation of a process's own request on to the client that was asked.
    fn receive_cancellation(&self, message: &Bytes, envelope: &Envelope) -> bool {
        let Some(id) = envelope.params.request_id else { return false };
        let mut state = self.state.borrow_mut();
        let raw_id = id.span.slice(message);
        let Some(origin) = state.server_requests.remove(raw_id) else { return false };
        let event = splice_event(message, &[(id.span, &self.request_ids.to_client(raw_id))]);
        self.count_if_dropped(state.send_to_client(origin.client, event));
        true
    }

    /// Passes a Modern notification on: to the subscription whose number is its id, or a log message to the
    /// only call, if that requested any. On a process that several keys use, a log message is for nobody: it
    /// does not name its call.
    fn receive_modern_notification(&self, message: &Bytes, envelope: &Envelope) -> bool {
        let mut state = self.state.borrow_mut();
        if let Some(id) = envelope.params.meta.subscription_id {
            let number = state.calls.find(id.span.slice(message));
            let Some(entry) = number.and_then(|number| state.calls.get_mut(number)) else { return false };
            let event = splice_event(message, &[(id.span, &entry.id)]);
            self.count_if_dropped(entry.call.send_event(event));
            return true;
        }
        // It may be due to a call of another key that was answered a moment ago.
        if self.has_several_callers() {
            return false;
        }
        let mut calls = state.calls.iter().filter(|(_, entry)| entry.call.kind != CallKind::Listen);
        let only = calls.next().filter(|_| calls.next().is_none());
        let number =
            only.filter(|(_, entry)| entry.call.kind == CallKind::CallWithLogs).map(|(number, _)| number);
        drop(calls);
        let Some(entry) = number.and_then(|number| state.calls.get_mut(number)) else { return false };
        entry.call.send_event(splice_event(message, &[]))
    }

    /// Passes a changed resource on to its subscribers, and any other notification to the only client that
    /// can be meant.
    fn receive_legacy_notification(&self, message: &Bytes, envelope: &Envelope) -> bool {
        let mut state = self.state.borrow_mut();
        let method = envelope.method.map(|method| method.decode(message)).unwrap_or_default();
        if method == RESOURCE_UPDATED {
            let Some(uri) = envelope.params.uri else { return false };
            let (uri, event) = (uri.decode(message), splice_event(message, &[]));
            let mut recipients = 0;
            for client in state.clients.subscribers(&uri) {
                self.count_if_dropped(client.stream.send(event.clone()));
                recipients += 1;
            }
            return recipients > 0;
        }
        if !state.clients.has_log_level() {
            self.context.behavior.update(|behavior| behavior.sends_unrequested = true);
        }
        let Some(client) = state.only_recipient() else { return false };
        self.count_if_dropped(state.send_to_client(client, splice_event(message, &[])));
        true
    }

    fn count_if_dropped(&self, is_sent: bool) {
        if !is_sent {
            MessageCounters::increment(&self.context.message_counters.dropped);
        }
    }
}

/// Finds the subscription id in the response that ends a subscription: in `result._meta`, which the scanner
/// skips.
fn subscription_id_in_result(message: &Bytes, envelope: &Envelope) -> Option<Span> {
    #[derive(serde::Deserialize)]
    struct ListenResult<'a> {
        #[serde(borrow, rename = "_meta")]
        meta: ResultMeta<'a>,
    }
    #[derive(serde::Deserialize)]
    struct ResultMeta<'a> {
        #[serde(borrow, rename = "io.modelcontextprotocol/subscriptionId")]
        id: &'a serde_json::value::RawValue,
    }
    let outcome = envelope.outcome.filter(|_| envelope.kind == MessageKind::Response)?;
    let result: ListenResult<'_> = serde_json::from_slice(outcome.slice(message)).ok()?;
    Span::locate(message, result.meta.id.get().as_bytes())
}

#[cfg(test)]
mod tests;
