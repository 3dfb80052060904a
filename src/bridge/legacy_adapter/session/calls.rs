//! Calls in flight, and input that the client was asked for.

use std::sync::Arc;

use bytes::Bytes;
use metamcp_core::protocol::is_same_id;
use tokio::sync::oneshot;

use super::state::{Session, lock};

/// A call in flight. Dropping it removes the call from the session.
pub struct InFlightCall {
    session: Arc<Session>,
    number: u64,
    cancelled: oneshot::Receiver<()>,
}

/// An input request that the client has not answered yet. Dropping it withdraws the request from the session.
pub struct PendingInput {
    session: Arc<Session>,
    /// The id of the request to the client.
    pub id: String,
    response: oneshot::Receiver<Bytes>,
}

impl Session {
    /// Registers a call until the guard is dropped.
    pub fn begin_call(self: &Arc<Self>, id: Bytes) -> InFlightCall {
        let (cancel, cancelled) = oneshot::channel();
        let number = self.next_number();
        let mut state = lock(&self.state);
        if !state.watched.is_ended {
            state.calls.push((id, number, cancel));
        }
        drop(state);
        InFlightCall { session: Arc::clone(self), number, cancelled }
    }

    /// Cancels the client's call with that raw id.
    pub fn cancel_call(&self, id: &[u8]) {
        let mut state = lock(&self.state);
        for (_, _, cancel) in state.calls.extract_if(.., |(other, ..)| is_same_id(other, id)) {
            // The call may complete at the same moment.
            let _ = cancel.send(());
        }
    }

    /// Registers an input request under that id until the guard is dropped.
    pub fn expect_input(self: &Arc<Self>, id: String) -> PendingInput {
        let (sender, response) = oneshot::channel();
        let mut state = lock(&self.state);
        if !state.watched.is_ended {
            state.optional_mut().pending_inputs.push((id.clone(), sender));
        }
        drop(state);
        PendingInput { session: Arc::clone(self), id, response }
    }

    /// Delivers the client's response. Returns false if no input request waits under that id.
    pub fn deliver_input(&self, id: &str, message: Bytes) -> bool {
        let mut state = lock(&self.state);
        let sender = state.optional.as_mut().and_then(|optional| {
            let at = optional.pending_inputs.iter().position(|(pending, _)| pending == id)?;
            Some(optional.pending_inputs.swap_remove(at))
        });
        drop(state);
        sender.is_some_and(|(_, sender)| sender.send(message).is_ok())
    }
}

impl InFlightCall {
    /// Waits until the client cancels the call or the session ends. Cancel safe.
    pub async fn cancelled(&mut self) {
        // A dropped sender means the end of the session, which cancels the call as well.
        let _ = (&mut self.cancelled).await;
    }
}

impl Drop for InFlightCall {
    fn drop(&mut self) {
        let mut state = lock(&self.session.state);
        state.calls.retain(|(_, number, _)| *number != self.number);
        if state.calls.is_empty() {
            // An idle session keeps no allocation for calls.
            state.calls = Vec::new();
        }
    }
}

impl PendingInput {
    /// Waits for the client's whole response; `None` if the session ended. Cancel safe.
    pub async fn response(&mut self) -> Option<Bytes> {
        (&mut self.response).await.ok()
    }
}

impl Drop for PendingInput {
    fn drop(&mut self) {
        let mut state = lock(&self.session.state);
        let Some(optional) = &mut state.optional else { return };
        optional.pending_inputs.retain(|(id, _)| *id != self.id);
        if optional.pending_inputs.is_empty() {
            optional.pending_inputs = Vec::new();
        }
        state.drop_empty_optional();
    }
}
