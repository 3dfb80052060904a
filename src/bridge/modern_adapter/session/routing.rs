//! Which call or listener a message on the session's event stream is for.

use std::time::Duration;

use bytes::Bytes;
use metamcp_core::frame::{Envelope, MessageKind};
use metamcp_core::protocol::{McpMethod, RESOURCE_UPDATED};
use tokio::sync::OwnedSemaphorePermit;

use super::super::input::{InputDecision, decide_input};
use super::state::AdapterSession;

impl AdapterSession {
    /// Passes a message of the server to the call or client that it certainly belongs to. Returns false if
    /// there is none. A call that does not take messages as fast as they arrive misses them.
    pub fn route(&self, message: &Bytes, envelope: &Envelope) -> bool {
        let method = envelope.method.map(|method| method.decode_bytes(message));
        let method = method.as_deref().and_then(McpMethod::parse);
        let mut state = self.lock();
        match (envelope.kind, method) {
            (MessageKind::Notification, Some(McpMethod::Progress)) => {
                let token = envelope.params.progress_token.map(|token| token.span.slice(message));
                let call = token
                    .and_then(|token| state.calls.find(token))
                    .and_then(|number| state.calls.get(number));
                call.is_some_and(|call| call.sender.try_send(message))
            }
            // The id is the server's own; the calls know which of them the request was for.
            (MessageKind::Notification, Some(McpMethod::Cancelled)) => {
                if let Some(id) = envelope.params.request_id {
                    state.unsolicited.cancel(id.span.slice(message));
                }
                state.calls.iter().for_each(|(_, call)| {
                    call.sender.try_send(message);
                });
                true
            }
            (MessageKind::Notification, _) if is_subscribable(message, envelope) => {
                state.notify_listeners(message, envelope)
            }
            (MessageKind::Notification | MessageKind::Request, _) => {
                let mut calls = state.calls.iter().map(|(_, call)| call);
                let only =
                    calls.next().filter(|_| calls.next().is_none() && !state.is_attribution_doubtful());
                let only = only.filter(|call| call.allows_input || envelope.kind != MessageKind::Request);
                only.is_some_and(|call| call.sender.try_send(message))
            }
            (MessageKind::Response | MessageKind::Error, _) => false,
        }
    }

    /// Queues a request that the server sent outside of any call, until a call comes that allows input.
    /// Returns false if it must be refused: the clients of the session did not declare the capability, the
    /// request may belong to a call that is in flight or was cancelled, or there is no room.
    pub fn queue_unsolicited(
        &self,
        message: &Bytes,
        envelope: &Envelope,
        wait_max: Duration,
        permit: OwnedSemaphorePermit,
    ) -> bool {
        let decision = decide_input(message, envelope, self.key.capabilities, String::new());
        let mut state = self.lock();
        let is_of_no_call =
            !state.is_attribution_doubtful() && !state.calls.iter().any(|(_, call)| call.allows_input);
        is_of_no_call
            && !state.is_over
            && matches!(decision, Some(InputDecision::Ask(_)))
            && state.unsolicited.queue(message, envelope, wait_max, permit)
    }

    /// Takes the unsolicited requests, for a call that allows input.
    pub fn take_unsolicited(&self) -> Vec<Bytes> {
        self.lock().unsolicited.take()
    }

    /// Takes the unsolicited requests that no call came for in time.
    pub fn take_overdue_unsolicited(&self) -> Vec<Bytes> {
        self.lock().unsolicited.take_overdue()
    }

    /// Removes an unsolicited request that the server cancelled. `id` is raw.
    pub fn cancel_unsolicited(&self, id: &[u8]) {
        self.lock().unsolicited.cancel(id);
    }
}

/// Whether it is a notification that clients can subscribe to.
pub fn is_subscribable(message: &Bytes, envelope: &Envelope) -> bool {
    let method = envelope.method.map(|method| method.decode(message)).unwrap_or_default();
    method == RESOURCE_UPDATED
        || matches!(
            McpMethod::parse(method.as_bytes()),
            Some(
                McpMethod::ToolsListChanged | McpMethod::PromptsListChanged | McpMethod::ResourcesListChanged
            )
        )
}
