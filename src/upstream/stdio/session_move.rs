//! Who shares a process with `sharing = "auto"`: a session has a process to itself if the process may send its
//! client what names no call, such as a question or a log message, and shares one otherwise. What is not known
//! when the session is opened is found out later; the session then moves to a process of its own.

use std::rc::Rc;

use bytes::Bytes;
use tokio::task::spawn_local;

use super::call::{StdioCall, StdioRequest};
use super::client_slots::{ClientSlotId, SessionOrigin};
use super::connection::{CallLocation, ProcessConnection};
use super::initialize::sharing_key;
use super::slots::{ProcessKey, ProcessOwner};
use super::supervisor::Supervisor;
use http::HeaderValue;
use metamcp_config::server::Sharing;
use metamcp_core::frame::{Envelope, MessageKind};
use metamcp_core::protocol::{ClientCapabilities, McpMethod};
use metamcp_http::multiplex::known_method;
use metamcp_http::{FailureStage, UpstreamError};

impl Supervisor {
    /// Returns who shares the process of the session that a request opens.
    pub fn process_owner(
        &self,
        number: u64,
        request: &StdioRequest,
        capabilities: ClientCapabilities,
    ) -> ProcessOwner {
        let needs_own = || match self.context.program.settings.sharing {
            Sharing::Shared | Sharing::Key => request.is_exclusive,
            Sharing::Session => true,
            Sharing::Auto => {
                let is_client = request.owner.is_some();
                request.is_exclusive
                    || is_client && self.context.behavior.current().needs_own_process(capabilities)
            }
        };
        if self.context.program.settings.sharing == Sharing::Shared {
            ProcessOwner::Everybody
        } else if needs_own() {
            request.client_session.map_or(ProcessOwner::Session(number), ProcessOwner::ClientSession)
        } else {
            ProcessOwner::Key(request.owner)
        }
    }

    /// Whether a session must leave the process that it shares before its request is sent: it asks for
    /// messages that name no call, or the program was found to send such. Not while it has calls in flight,
    /// which the process would have to end; then it moves with a later request.
    pub fn must_move(
        &self,
        connection: &ProcessConnection,
        client: ClientSlotId,
        message: &Bytes,
        envelope: &Envelope,
    ) -> bool {
        if self.context.program.settings.sharing != Sharing::Auto {
            return false;
        }
        let state = connection.state.borrow();
        let Some(slot) = state.clients.get(client).filter(|slot| slot.is_client()) else { return false };
        let asks_for_messages = || {
            let method = known_method(message, envelope);
            matches!(method, Some(McpMethod::SetLevel | McpMethod::Subscribe))
                || slot.log_level.is_some()
                || slot.subscriptions().next().is_some()
        };
        let needs_own = self.context.behavior.current().needs_own_process(slot.origin.capabilities);
        slot.moving.is_some() || (needs_own || asks_for_messages()) && state.newest_call(client).is_none()
    }

    /// Moves a session to a process of its own, and then dispatches its request. Further requests of the
    /// session wait meanwhile, so that each is sent to one process.
    pub fn move_session(
        self: &Rc<Self>,
        call: StdioCall,
        session: HeaderValue,
        connection: Rc<ProcessConnection>,
        client: ClientSlotId,
    ) {
        let mut state = connection.state.borrow_mut();
        let Some(slot) = state.clients.get_mut(client) else { return };
        let moving = slot.moving.clone();
        let moved = slot.moving.get_or_insert_default().clone();
        drop(state);
        let supervisor = Rc::clone(self);
        if moving.is_some() {
            spawn_local(async move {
                moved.notified().await;
                // The next in the queue.
                moved.notify_one();
                supervisor.dispatch(call);
            });
            return;
        }
        spawn_local(async move {
            let outcome = supervisor.find_own_process(&session, &connection, client, call.number).await;
            if let Some(slot) = connection.state.borrow_mut().clients.get_mut(client) {
                slot.moving = None;
            }
            moved.notify_one();
            match outcome {
                Ok(()) => supervisor.dispatch(call),
                Err(error) => drop(call.reply.send(Err(error))),
            }
        });
    }

    /// Gives a session a process to itself: the one that it has, if nobody shares it, or a new one.
    async fn find_own_process(
        self: &Rc<Self>,
        session: &HeaderValue,
        connection: &Rc<ProcessConnection>,
        client: ClientSlotId,
        number: u64,
    ) -> Result<(), UpstreamError> {
        if self.claim_process(connection) {
            return Ok(());
        }
        let origin = connection.state.borrow().clients.get(client).map(|slot| slot.origin.clone());
        // The session has ended, which the call is told.
        let Some(origin) = origin else { return Ok(()) };
        let owner = origin.client_session.map_or(ProcessOwner::Session(number), ProcessOwner::ClientSession);
        let key = ProcessKey::Legacy(owner, sharing_key(&origin.params));
        let process = self.initialized_process(key, &origin.params).await?;
        if process.envelope.kind != MessageKind::Response || !process.connection.is_alive() {
            return Err(UpstreamError::from_stage(FailureStage::NotSent));
        }
        process.connection.is_exclusive.set(true);
        self.hand_over(session, (connection, client), &process.connection, origin);
        process.connection.is_opening.set(false);
        Ok(())
    }

    /// Keeps others from a process that only one session uses. False if others use it.
    fn claim_process(&self, connection: &Rc<ProcessConnection>) -> bool {
        if connection.state.borrow().clients.len() != 1 || !connection.is_alive() {
            return false;
        }
        let slots = self.slots.borrow();
        let claimed = slots.values().any(|slot| {
            // Whoever holds the lock is about to use the process.
            let Ok(mut process) = slot.legacy.try_lock() else { return false };
            process.take_if(|process| Rc::ptr_eq(&process.connection, connection)).is_some()
        });
        if claimed {
            connection.is_exclusive.set(true);
        }
        claimed
    }

    /// Hands a session over to another process, with its event stream, log level and subscriptions.
    fn hand_over(
        &self,
        session: &HeaderValue,
        (from, client): (&Rc<ProcessConnection>, ClientSlotId),
        to: &Rc<ProcessConnection>,
        origin: SessionOrigin,
    ) {
        let mut left = from.state.borrow_mut();
        let Some(slot) = left.clients.get_mut(client) else {
            // The session has ended meanwhile, and the process was started for it.
            drop(left);
            to.close(FailureStage::NoResponse);
            to.request_end();
            return;
        };
        let (stream, level) = (std::mem::take(&mut slot.stream), slot.log_level.take());
        let subscriptions: Vec<String> = slot.subscriptions().map(str::to_owned).collect();
        drop(left);
        from.remove_client(client);
        let mut state = to.state.borrow_mut();
        let new = state.clients.add(origin);
        let listening = stream.opened_by();
        if let Some(slot) = state.clients.get_mut(new) {
            slot.stream = stream;
            slot.log_level.clone_from(&level);
        }
        for uri in &subscriptions {
            state.clients.subscribe(new, uri.clone());
        }
        drop(state);
        if let Some(call) = listening {
            let location = CallLocation::ClientStream(Rc::downgrade(to), new);
            self.context.call_locations.borrow_mut().insert(call, location);
        }
        self.context.sessions.borrow_mut().insert(session.clone(), (Rc::clone(to), new));
        // No client waits for the responses.
        if let Some(level) = level {
            drop(to.send_request(McpMethod::SetLevel, &level));
        }
        for uri in subscriptions {
            let params = serde_json::json!({ "uri": uri }).to_string();
            drop(to.send_request(McpMethod::Subscribe, params.as_bytes()));
        }
    }
}
