//! Messages on the event stream of a session, and the calls that they belong to.

use std::rc::Rc;

use bytes::Bytes;

use super::open_stream::ENDPOINT_EVENT;
use super::session::{CallKind, SseSession};
use metamcp_core::frame::{Envelope, Event, EventReader, IdSpan, MessageKind, ScanError};
use metamcp_core::protocol::{McpMethod, RESOURCE_UPDATED};
use metamcp_http::UpstreamBody;
use metamcp_http::multiplex::{
    CallEntry, LocalResponse, REQUEST_ID_BYTES_MAX, ResponseSink, TOO_MANY_REQUESTS, encode_pong,
    known_method, splice, splice_event,
};
use metamcp_http::{FailureStage, UpstreamError};

impl SseSession {
    /// Reads the stream until it ends or the session is closed.
    pub async fn read(self: Rc<Self>, mut stream: UpstreamBody, mut reader: EventReader) {
        let server = self.hub.target.name.clone();
        let stage = loop {
            match reader.next() {
                Ok(Some(event)) => {
                    self.receive_event(&event);
                    continue;
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%server, %error, "invalid event stream");
                    break error.into();
                }
            }
            let chunk = tokio::select! {
                biased;
                () = self.closed() => return,
                chunk = stream.chunk() => chunk,
            };
            match chunk {
                Some(Ok(chunk)) => reader.push(chunk),
                Some(Err(error)) => {
                    tracing::info!(%server, %error, "event stream broke");
                    break FailureStage::BodyIncomplete;
                }
                None => {
                    tracing::info!(%server, "server ended an event stream");
                    break FailureStage::BodyIncomplete;
                }
            }
        };
        self.fail(stage);
    }

    /// Takes an event. Events of an unknown name mean nothing to a client (WHATWG HTML, 9.2.6).
    pub fn receive_event(self: &Rc<Self>, event: &Event) {
        match event.event_name.as_deref() {
            None | Some(b"" | b"message") => {
                if let Some(data) = event.data.as_ref().filter(|data| !data.trim_ascii().is_empty()) {
                    self.receive(data);
                }
            }
            // The first one holds for as long as the stream.
            Some(ENDPOINT_EVENT) => {
                tracing::debug!(server = %self.hub.target.name, "ignoring a second event `endpoint`");
            }
            Some(_) => {}
        }
    }

    fn receive(self: &Rc<Self>, data: &Bytes) {
        let scanned = self.hub.scanner.borrow_mut().scan(data);
        match scanned {
            Ok(envelope) => self.receive_message(data, &envelope),
            Err(refused) if refused.error == ScanError::Batch => {
                let items = self.hub.scanner.borrow_mut().batch_items(data).unwrap_or_default();
                for item in items {
                    let message = data.slice(item.start as usize..item.end as usize);
                    let scanned = self.hub.scanner.borrow_mut().scan(&message);
                    match scanned {
                        Ok(envelope) => self.receive_message(&message, &envelope),
                        Err(refused) => self.receive_invalid(&message, refused.id),
                    }
                }
            }
            Err(refused) => self.receive_invalid(data, refused.id),
        }
    }

    /// Takes data that is not a valid message. If it is meant as the response to a call, the call fails
    /// rather than waiting on.
    fn receive_invalid(self: &Rc<Self>, message: &Bytes, id: Option<IdSpan>) {
        tracing::debug!(server = %self.hub.target.name, "event is not a valid message");
        let mut state = self.state.borrow_mut();
        let number = id.and_then(|id| state.calls.find(id.span.slice(message)));
        let entry = number.and_then(|number| state.calls.remove(number));
        drop(state);
        if let (Some(entry), Some(number)) = (entry, number) {
            self.forget_call(&entry.call);
            self.refuse_server_requests_during(number);
            let is_initialize = entry.call.kind == CallKind::Initialize;
            entry.call.sink.fail(UpstreamError::from_stage(FailureStage::InvalidResponse));
            if is_initialize {
                self.fail(FailureStage::InvalidResponse);
            }
        }
    }

    fn receive_message(self: &Rc<Self>, message: &Bytes, envelope: &Envelope) {
        let is_delivered = match envelope.kind {
            MessageKind::Response | MessageKind::Error => self.receive_response(message, envelope),
            MessageKind::Request => self.receive_request(message, envelope),
            MessageKind::Notification => self.receive_notification(message, envelope),
        };
        if !is_delivered {
            tracing::debug!(server = %self.hub.target.name, "dropped a message without a recipient");
        }
    }

    /// Passes a response on, with the client's own id. A second response, or one to a cancelled call, is for
    /// nobody.
    fn receive_response(self: &Rc<Self>, message: &Bytes, envelope: &Envelope) -> bool {
        let Some(id) = envelope.id else { return false };
        let mut state = self.state.borrow_mut();
        let number = state.calls.find(id.span.slice(message));
        let Some(entry) = number.and_then(|number| state.calls.remove(number)) else { return false };
        drop(state);
        self.forget_call(&entry.call);
        let CallEntry { id: client_id, call, .. } = entry;
        let edits = [(id.span, &client_id[..])];
        match (call.kind, envelope.kind) {
            (CallKind::Initialize, MessageKind::Response) => {
                self.complete_opening(call.sink, splice(message, &edits));
            }
            // The server may have refused what this client said of itself, so this is no failure of the server.
            (CallKind::Initialize, _) => {
                call.sink.finish(message, &edits);
                self.close(FailureStage::NoResponse);
            }
            (CallKind::Call, _) => call.sink.finish(message, &edits),
        }
        true
    }

    /// Registers the session and passes its id on with the response to `initialize`.
    fn complete_opening(self: &Rc<Self>, sink: ResponseSink, message: Bytes) {
        self.is_open.set(true);
        self.hub.record_success();
        self.hub.sessions.borrow_mut().insert(self.id.clone(), Rc::clone(self));
        let response =
            LocalResponse { session_id: Some(self.id.clone()), ..LocalResponse::from_message(message) };
        let is_received = match sink {
            ResponseSink::Waiting(reply) => reply.send(Ok(response)).is_ok(),
            ResponseSink::Streaming(_) => false,
        };
        if !is_received {
            self.close(FailureStage::NoResponse);
        }
    }

    /// Passes a request of the server on to the client. The server waits for a response, so it gets one in
    /// any case, if only a refusal.
    fn receive_request(self: &Rc<Self>, message: &Bytes, envelope: &Envelope) -> bool {
        let Some(id) = envelope.id else { return false };
        let id = id.span.slice(message);
        if known_method(message, envelope) == Some(McpMethod::Ping) {
            self.post_in_background(self.new_post(encode_pong(id)));
            return true;
        }
        let mut state = self.state.borrow_mut();
        let is_full = state.server_requests.is_full();
        let during = state.associated_call();
        let is_sent =
            !is_full && id.len() <= REQUEST_ID_BYTES_MAX && state.send_to_client(splice_event(message, &[]));
        if is_sent {
            state.server_requests.insert_or_replace(Bytes::copy_from_slice(id), during);
        }
        drop(state);
        if !is_sent {
            let text = if is_full { TOO_MANY_REQUESTS } else { "the client does not answer requests" };
            self.refuse_server_request(id, text);
        }
        true
    }

    fn receive_notification(&self, message: &Bytes, envelope: &Envelope) -> bool {
        let mut state = self.state.borrow_mut();
        match known_method(message, envelope) {
            // The token is the number of the call.
            Some(McpMethod::Progress) => {
                let Some(token) = envelope.params.progress_token else { return false };
                let number = state.calls.find(token.span.slice(message));
                let Some(entry) = number.and_then(|number| state.calls.get_mut(number)) else { return false };
                let Some(client_token) = &entry.token else { return false };
                let event = splice_event(message, &[(token.span, client_token)]);
                entry.call.kind == CallKind::Call && entry.call.sink.send_event(event)
            }
            // The server cancels a request of its own.
            Some(McpMethod::Cancelled) => {
                let Some(id) = envelope.params.request_id else { return false };
                state.server_requests.remove(id.span.slice(message)).is_some()
                    && state.send_to_client(splice_event(message, &[]))
            }
            // These belong to no call.
            Some(
                McpMethod::ToolsListChanged | McpMethod::PromptsListChanged | McpMethod::ResourcesListChanged,
            ) => state.client_stream.send(splice_event(message, &[])),
            _ if envelope.method.is_some_and(|method| method.decode(message) == RESOURCE_UPDATED) => {
                state.client_stream.send(splice_event(message, &[]))
            }
            _ => state.send_to_client(splice_event(message, &[])),
        }
    }
}
