//! What a server says on the event stream of a session, and which of the client's calls it is about.

use std::rc::Rc;

use bytes::Bytes;

use super::super::shim::{CallEntry, LocalResponse, event, rewritten};
use super::super::{FailureStage, UpstreamBody, UpstreamError};
use super::hub::method_of;
use super::link::{Link, Pending, Waiter, What};
use super::open::ENDPOINT;
use metamcp_core::frame::{Envelope, Event, EventReader, IdSpan, MessageKind, ScanError};
use metamcp_core::protocol::{McpMethod, RESOURCE_UPDATED};

/// Requests of one server that one client has not answered.
const ASKED_MAX: usize = 256;

/// What one more is refused with.
const FULL: &str = "as many of your requests wait for an answer as may; wait for some, or withdraw them";

/// The id of one, which is kept: real ones are numbers and UUIDs.
const ASKED_ID_BYTES_MAX: usize = 1 << 10;

/// Whose call or stream it was for, or that there is none.
type IsTaken = bool;

impl Link {
    /// Reads the stream until it ends or the session is closed.
    pub async fn read(self: Rc<Self>, mut stream: UpstreamBody, mut reader: EventReader) {
        let stage = loop {
            match reader.next() {
                Ok(Some(event)) => {
                    self.take_event(&event);
                    continue;
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(server = %self.hub.name, %error, "an event stream cannot be read on");
                    break FailureStage::ResponseTooLarge;
                }
            }
            let chunk = tokio::select! {
                biased;
                () = self.over() => return,
                chunk = stream.chunk() => chunk,
            };
            match chunk {
                Some(Ok(chunk)) => reader.push(chunk),
                Some(Err(error)) => {
                    tracing::info!(server = %self.hub.name, %error, "an event stream broke");
                    break FailureStage::BodyIncomplete;
                }
                None => {
                    tracing::info!(server = %self.hub.name, "the server ended an event stream");
                    break FailureStage::BodyIncomplete;
                }
            }
        };
        self.break_off(stage);
    }

    /// Takes an event. Those of a name that is not known say nothing to a client (WHATWG HTML, 9.2.6).
    pub fn take_event(self: &Rc<Self>, event: &Event) {
        match event.event_name.as_deref() {
            None | Some(b"" | b"message") => {
                if let Some(data) = event.data.as_ref().filter(|data| !data.trim_ascii().is_empty()) {
                    self.take(data);
                }
            }
            // It was said where messages go, and that holds for as long as the stream.
            Some(ENDPOINT) => tracing::debug!(server = %self.hub.name, "a second endpoint is not looked at"),
            Some(_) => {}
        }
    }

    fn take(self: &Rc<Self>, data: &Bytes) {
        let scanned = self.hub.scanner.borrow_mut().scan(data);
        match scanned {
            Ok(envelope) => self.sort(data, &envelope),
            Err(refused) if refused.error == ScanError::Batch => {
                let items = self.hub.scanner.borrow_mut().batch_items(data).unwrap_or_default();
                for item in items {
                    let message = data.slice(item.start as usize..item.end as usize);
                    let scanned = self.hub.scanner.borrow_mut().scan(&message);
                    match scanned {
                        Ok(envelope) => self.sort(&message, &envelope),
                        Err(refused) => self.take_nonsense(&message, refused.id),
                    }
                }
            }
            Err(refused) => self.take_nonsense(data, refused.id),
        }
    }

    /// What is no message. If it is at least the answer of a call, the call need not wait any longer.
    fn take_nonsense(self: &Rc<Self>, message: &Bytes, id: Option<IdSpan>) {
        tracing::debug!(server = %self.hub.name, "an event is no message");
        let mut state = self.state.borrow_mut();
        let number = id.and_then(|id| state.open_call(id.span.slice(message)));
        let ended = number.and_then(|number| state.table.remove(number));
        drop(state);
        if let (Some(minted), Some(number)) = (ended, number) {
            self.forget(&minted.call);
            self.refuse_asked_during(number);
            let is_initialize = minted.call.what == What::Initialize;
            minted.call.waiter.fail(UpstreamError::from_stage(FailureStage::InvalidResponse));
            if is_initialize {
                self.break_off(FailureStage::InvalidResponse);
            }
        }
    }

    fn sort(self: &Rc<Self>, message: &Bytes, envelope: &Envelope) {
        let is_taken = match envelope.kind {
            MessageKind::Response | MessageKind::Error => self.take_answer(message, envelope),
            MessageKind::Request => self.take_request(message, envelope),
            MessageKind::Notification => self.take_notification(message, envelope),
        };
        if !is_taken {
            tracing::debug!(server = %self.hub.name, kind = ?envelope.kind, "a message is for nobody, or was lost");
        }
    }

    /// An answer gets the id back that its client gave. A second one, or one to a call that was given up, is
    /// for nobody.
    fn take_answer(self: &Rc<Self>, message: &Bytes, envelope: &Envelope) -> IsTaken {
        let Some(id) = envelope.id else { return false };
        let mut state = self.state.borrow_mut();
        let number = state.open_call(id.span.slice(message));
        let Some(minted) = number.and_then(|number| state.table.remove(number)) else { return false };
        drop(state);
        self.forget(&minted.call);
        let CallEntry { id: own, call: Pending { what, waiter, .. }, .. } = minted;
        let edits = [(id.span, &own[..])];
        match (what, envelope.kind) {
            (What::Initialize, MessageKind::Response) => self.begin(waiter, rewritten(message, &edits)),
            // It may be what this client said of itself that it does not take.
            (What::Initialize, _) => {
                waiter.finish(message, &edits);
                self.close(FailureStage::NoResponse);
            }
            (What::Call, _) => waiter.finish(message, &edits),
        }
        true
    }

    /// The session is open.
    fn begin(self: &Rc<Self>, waiter: Waiter, answer: Bytes) {
        self.is_open.set(true);
        self.hub.note_success();
        self.hub.sessions.borrow_mut().insert(self.session.clone(), Rc::clone(self));
        let reply =
            LocalResponse { session_id: Some(self.session.clone()), ..LocalResponse::from_message(answer) };
        let is_heard = match waiter {
            Waiter::Waiting(asker) => asker.send(Ok(reply)).is_ok(),
            Waiter::Streaming(_) => false,
        };
        if !is_heard {
            self.close(FailureStage::NoResponse);
        }
    }

    /// A request of the server. It waits for an answer, so it gets one, if only a refusal.
    fn take_request(self: &Rc<Self>, message: &Bytes, envelope: &Envelope) -> IsTaken {
        let Some(id) = envelope.id else { return false };
        let id = id.span.slice(message);
        if method_of(message, envelope) == Some(McpMethod::Ping) {
            let raw = String::from_utf8_lossy(id);
            self.tell(self.outgoing(format!(r#"{{"jsonrpc":"2.0","id":{raw},"result":{{}}}}"#).into()));
            return true;
        }
        let mut state = self.state.borrow_mut();
        let is_full = state.asked.len() >= ASKED_MAX;
        let during = state.companion();
        let is_sent = !is_full && id.len() <= ASKED_ID_BYTES_MAX && state.send(event(message, &[]));
        if is_sent {
            state.asked.insert(Bytes::copy_from_slice(id), during);
        }
        drop(state);
        if !is_sent {
            self.refuse(id, if is_full { FULL } else { "the client does not answer what it is asked" });
        }
        true
    }

    fn take_notification(&self, message: &Bytes, envelope: &Envelope) -> IsTaken {
        let mut state = self.state.borrow_mut();
        match method_of(message, envelope) {
            // Of a call, by the token that is its number.
            Some(McpMethod::Progress) => {
                let Some(token) = envelope.params.progress_token else { return false };
                let number = state.open_call(token.span.slice(message));
                let Some(minted) = number.and_then(|number| state.table.get(number)) else { return false };
                let Some(own) = &minted.token else { return false };
                let event = event(message, &[(token.span, own)]);
                minted.call.what == What::Call && minted.call.waiter.pass(event)
            }
            // The server withdraws a request of its own.
            Some(McpMethod::Cancelled) => {
                let Some(id) = envelope.params.request_id else { return false };
                state.asked.remove(id.span.slice(message)).is_some() && state.send(event(message, &[]))
            }
            // Of no call.
            Some(
                McpMethod::ToolsListChanged | McpMethod::PromptsListChanged | McpMethod::ResourcesListChanged,
            ) => state.mailbox.send(event(message, &[])),
            _ if envelope.method.is_some_and(|method| method.decode(message) == RESOURCE_UPDATED) => {
                state.mailbox.send(event(message, &[]))
            }
            _ => state.send(event(message, &[])),
        }
    }
}
