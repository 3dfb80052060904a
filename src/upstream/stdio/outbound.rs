//! Messages to a process, and cancelling calls.

use std::rc::Rc;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::client_slots::ClientSlotId;
use super::connection::{CallKind, CallLocation, PendingCall, ProcessConnection, Recipient};
use metamcp_core::frame::{Envelope, IdSpan, Span};
use metamcp_core::protocol::{McpMethod, code, is_same_id};
use metamcp_http::multiplex::{CallEntry, encode_cancellation, encode_error, splice};
use metamcp_http::{FailureStage, UpstreamError};

impl ProcessConnection {
    /// Sends a client's call, under an id and a progress token of the gateway. Returns the call when too much
    /// waits to be written.
    pub fn send_call(
        self: &Rc<Self>,
        message: &Bytes,
        envelope: &Envelope,
        pending: PendingCall,
    ) -> Result<(), PendingCall> {
        let Some(id) = envelope.id.filter(|_| self.try_charge(message.len())) else { return Err(pending) };
        self.touch();
        let token = envelope.params.meta.progress_token;
        let raw = |span: Span| message.slice(span.start as usize..span.end as usize);
        let call = pending.call;
        let entry = CallEntry { id: raw(id.span), token: token.map(|token| raw(token.span)), call: pending };
        let mut state = self.state.borrow_mut();
        if let Some(client) = entry.call.client {
            state.clients.note_call(client);
        }
        let number = state.calls.insert(entry);
        drop(state);
        if let Some(call) = call {
            let location = CallLocation::InFlight(Rc::downgrade(self), number);
            self.context.call_locations.borrow_mut().insert(call, location);
        }
        let number = number.to_string();
        let mut edits = vec![(id.span, number.as_bytes())];
        edits.extend(token.map(|token| (token.span, number.as_bytes())));
        edits.sort_unstable_by_key(|(span, _)| span.start);
        self.queue(message, &edits);
        Ok(())
    }

    /// Sends a request of the gateway. `params` is raw JSON.
    pub fn send_request(&self, method: McpMethod, params: &[u8]) -> oneshot::Receiver<(Bytes, Envelope)> {
        let (reply, response) = oneshot::channel();
        let recipient = Recipient::Gateway(reply);
        let call = PendingCall { call: None, client: None, kind: CallKind::Call, recipient };
        let number = self.state.borrow_mut().calls.insert(CallEntry { id: Bytes::new(), token: None, call });
        let name = method.as_str();
        let mut message =
            format!(r#"{{"jsonrpc":"2.0","id":{number},"method":"{name}","params":"#).into_bytes();
        message.extend_from_slice(params);
        message.push(b'}');
        self.queue(&message, &[]);
        response
    }

    /// Sends a client's message that has no response.
    ///
    /// # Errors
    /// Too much waits to be written, there is no memory, or the process is gone. Nothing is sent.
    pub fn send_message(&self, message: &[u8]) -> Result<(), FailureStage> {
        if !self.try_charge(message.len()) {
            return Err(self.refusal_stage());
        }
        self.queue(message, &[]);
        Ok(())
    }

    /// Sends a client's response to a request of the process, with the id that the process gave it. Returns false if this
    /// process did not ask the client that, or the client has answered.
    ///
    /// # Errors
    /// As [`Self::send_response`].
    pub fn receive_answer(
        &self,
        client: ClientSlotId,
        message: &[u8],
        envelope: &Envelope,
    ) -> Result<bool, FailureStage> {
        let Some(IdSpan { span, .. }) = envelope.id else { return Ok(false) };
        let Some(id) = self.request_ids.to_process(span.slice(message)) else { return Ok(false) };
        self.send_response(client, &id, &splice(message, &[(span, &id)]))
    }

    /// Sends a client's response to a request of the process, with the request's raw id. Returns false if the client was
    /// not asked that, or has answered.
    ///
    /// # Errors
    /// As [`Self::send_message`]. The request waits on, so that the client can answer again.
    pub fn send_response(
        &self,
        client: ClientSlotId,
        id: &[u8],
        message: &[u8],
    ) -> Result<bool, FailureStage> {
        let is_asked =
            self.state.borrow().server_requests.get(id).is_some_and(|origin| origin.client == client);
        if is_asked {
            self.send_message(message)?;
            self.state.borrow_mut().server_requests.remove(id);
        }
        Ok(is_asked)
    }

    /// Answers a request of the process with an error.
    pub fn refuse_server_request(&self, id: &[u8], text: &str) {
        self.queue_control(&encode_error(id, code::METHOD_NOT_FOUND, text, None));
    }

    /// Cancels a call whose client no longer waits for it.
    pub fn cancel_abandoned(&self, number: u64) {
        let entry = self.state.borrow_mut().calls.remove(number);
        if let Some(entry) = entry {
            self.end_unanswered(number, entry.call.client);
        }
    }

    /// Cancels a call at the process because its client will not take the response. Requests that the process
    /// sent during the call cannot be answered any more, and what else it sends about the call for a while is
    /// for no other client.
    fn end_unanswered(&self, number: u64, client: Option<ClientSlotId>) {
        if let Some(client) = client {
            self.state.borrow_mut().clients.mark_uncertain(client);
        }
        self.queue_control(&encode_cancellation(number));
        self.refuse_server_requests_during(number);
    }

    /// Refuses what the process requested during a call that ended without a response.
    pub fn refuse_server_requests_during(&self, number: u64) {
        let requests =
            self.state.borrow_mut().server_requests.remove_all(|origin| origin.during == Some(number));
        for id in requests {
            self.refuse_server_request(&id, "the call during which this was requested was cancelled");
        }
    }

    /// Cancels a client's own call, by the client's raw id. The call ends at once, without a response: a server
    /// sends nothing more for a cancelled call (MCP, cancellation).
    pub fn cancel(&self, client: ClientSlotId, id: &[u8]) {
        let mut state = self.state.borrow_mut();
        let is_match = |call: &PendingCall| call.client == Some(client) && call.call.is_some();
        let found = state
            .calls
            .iter()
            .find(|(_, entry)| is_same_id(&entry.id, id) && is_match(&entry.call))
            .map(|(number, _)| number);
        let Some((number, entry)) = found.and_then(|number| Some((number, state.calls.remove(number)?)))
        else {
            return;
        };
        drop(state);
        self.end_unanswered(number, Some(client));
        self.forget_call(&entry.call);
        if let Recipient::Client(sink) = entry.call.recipient {
            sink.fail(UpstreamError::from_stage(FailureStage::Cancelled));
        }
    }

    /// Removes a client that has left for good.
    pub fn remove_client(&self, client: ClientSlotId) {
        let mut state = self.state.borrow_mut();
        let unsubscribed = state.clients.remove(client);
        let requests = state.server_requests.remove_all(|origin| origin.client == client);
        let calls: Vec<u64> = state
            .calls
            .iter()
            .filter(|(_, entry)| entry.call.client == Some(client))
            .map(|(number, _)| number)
            .collect();
        drop(state);
        for id in requests {
            self.refuse_server_request(&id, "the client has left");
        }
        for number in calls {
            let entry = self.state.borrow_mut().calls.remove(number);
            if let Some(entry) = entry {
                self.queue_control(&encode_cancellation(number));
                self.forget_call(&entry.call);
                entry.call.fail(FailureStage::BodyIncomplete);
            }
        }
        for uri in unsubscribed {
            let params = serde_json::json!({ "uri": uri }).to_string();
            // No client waits for the response.
            drop(self.send_request(McpMethod::Unsubscribe, params.as_bytes()));
        }
        self.touch();
    }
}
