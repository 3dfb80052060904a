//! The task of a call.

use std::rc::Rc;
use std::sync::Arc;

use futures_util::FutureExt as _;
use http::StatusCode;
use metamcp_core::base::{Fault, FaultKind};
use metamcp_core::frame::MessageKind;

use super::super::call_stream::{CallEvent, CallStream};
use super::super::held_calls::HeldCalls;
use super::super::request::ModernRequest;
use super::super::responder::ClientResponder;
use super::super::session::{AdapterSessionKey, ClientSlot};
use super::super::sessions::AdapterSessions;
use super::messages::{ActiveCall, CALL_IS_OVER, CallExchange, MessageAction, MessageSource, NextEvent};
use crate::session::{check_repeat, is_session_lost, may_have_run, refuse, unproven_loss};
use crate::upstream::UpstreamPool;
use metamcp_http::UpstreamRequest;

/// Runs one call from its first request to its final response.
pub struct CallTask {
    held_calls: Arc<HeldCalls>,
    call: ActiveCall,
}

impl CallTask {
    /// Creates the task for a request in the session of its slot.
    pub fn new(
        held_calls: Arc<HeldCalls>,
        sessions: Arc<AdapterSessions>,
        slot: &ClientSlot,
        pool: Rc<UpstreamPool>,
        request: ModernRequest,
    ) -> Self {
        Self { held_calls, call: ActiveCall::new(sessions, Arc::clone(&slot.session), pool, request) }
    }

    /// Runs until the client has its response, has disconnected, or does not come back with input.
    pub async fn run(mut self, slot: ClientSlot, mut client: ClientResponder) {
        let opened = tokio::select! {
            opened = self.call.open(slot) => opened,
            () = client.gone() => {
                self.call.end_session_with_credential();
                return self.call.session.note_cancelled_call();
            }
        };
        match opened {
            Ok(mut exchange) => {
                self.serve(client, &mut exchange).await;
                self.call.refuse_remaining(&mut exchange).await;
            }
            Err(fault) => self.call.fail_to_open(client, &fault).await,
        }
    }

    async fn serve(&mut self, mut client: ClientResponder, exchange: &mut CallExchange) {
        let mut is_first = true;
        let call = &mut self.call;
        call.take_unsolicited(exchange).await;
        loop {
            if !call.input_requests.is_empty() {
                match call.hold(&self.held_calls, client, exchange).await {
                    Some(resumed) => client = resumed,
                    None => return,
                }
            }
            exchange.is_sent = true;
            let next = tokio::select! {
                event = exchange.stream.next() => match event {
                    CallEvent::Message(message) => NextEvent::Message(message, MessageSource::CallStream),
                    event => NextEvent::StreamEnded(event),
                },
                Some(message) = exchange.slot.events.recv() => {
                    NextEvent::Message(message, MessageSource::SessionStream)
                }
                () = client.gone() => NextEvent::ClientGone,
            };
            match next {
                NextEvent::Message(message, source) => {
                    match call.handle_message(exchange, &message, source).await {
                        MessageAction::Respond(message, envelope) => {
                            return call.finish(client, &message, &envelope).await;
                        }
                        MessageAction::Forward(message) => {
                            call.forward(&mut client, exchange, &message).await;
                        }
                        MessageAction::Ignore => {}
                    }
                }
                NextEvent::StreamEnded(CallEvent::Refused(status, body)) if std::mem::take(&mut is_first) => {
                    match call.reopen(exchange, status, &body).await {
                        Ok(Some(reopened)) => *exchange = reopened,
                        Ok(None) => return call.respond_to_status(client, status, &body).await,
                        Err(fault) => return call.fail_to_open(client, &fault).await,
                    }
                }
                NextEvent::StreamEnded(event) => return call.fail(client, event).await,
                NextEvent::ClientGone => {
                    call.end_session_with_credential();
                    return call.cancel(exchange).await;
                }
            }
        }
    }
}

impl ActiveCall {
    /// Opens the session if necessary, and prepares the call.
    async fn open(&mut self, mut slot: ClientSlot) -> Result<CallExchange, Fault> {
        let upstream_session = match self.session.open(&self.pool).await {
            // There may be no room for another server process. Then the call shares a session.
            Err(fault) if self.session.key.is_exclusive() => {
                tracing::debug!(
                    server = %self.pool.upstream().name(), %fault,
                    "exclusive session not opened; sharing one"
                );
                let key = AdapterSessionKey { index: 0, ..self.session.key };
                let allows_input = self.request.allows_input();
                slot = self.sessions.begin_call(key, allows_input, &self.pool).ok_or_else(session_ended)?;
                self.session = Arc::clone(&slot.session);
                self.session.open(&self.pool).await?
            }
            opened => opened?,
        };
        if let Some(level) = self.request.log_level {
            self.session.lower_log_level(&self.pool, &upstream_session, level).await;
        }
        let message = self.request.to_legacy(slot.number).ok_or_else(params_too_deep)?;
        let mut request = UpstreamRequest::from_message(message);
        request.set_owner(self.request.owner);
        request.add_trace(&self.request.trace);
        upstream_session.write_headers(&mut request);
        let stream = CallStream::new(Rc::clone(&self.pool), request);
        Ok(CallExchange { upstream_session, slot, stream, is_sent: false })
    }

    /// Opens another session if the server lost the one of the call, which then did not run. `None` if it did
    /// not lose it, or if the call may have run before.
    async fn reopen(
        &mut self,
        exchange: &CallExchange,
        status: StatusCode,
        body: &[u8],
    ) -> Result<Option<CallExchange>, Fault> {
        let lost = &exchange.upstream_session;
        if lost.session_id.is_none() || !is_session_lost(&self.pool, lost, status).await {
            return Ok(None);
        }
        tracing::info!(server = %self.pool.upstream().name(), "the server lost its session");
        self.session.forget(lost);
        if may_have_run(body, &exchange.slot.number.to_string().into()) {
            return Ok(None);
        }
        let slot = self.session.begin_call(self.request.allows_input()).ok_or_else(session_ended)?;
        let server = self.pool.upstream().name().clone();
        let lost = Arc::clone(lost);
        let reopened = self.open(slot).await.map_err(|_not_run| unproven_loss(&server, status))?;
        let message = self.request.to_legacy(reopened.slot.number).ok_or_else(params_too_deep)?;
        check_repeat(&self.pool, (&lost, status), &reopened.upstream_session, &message).await?;
        Ok(Some(reopened))
    }

    /// Queues the unsolicited requests of the server for the client. They are answered before the call is
    /// sent, so that the call finds the server in the state after the answers.
    async fn take_unsolicited(&mut self, exchange: &CallExchange) {
        if !self.request.allows_input() {
            return;
        }
        for message in self.session.take_unsolicited() {
            let Ok(envelope) = self.scanner.scan(&message) else { continue };
            if let Err(why) = self.queue_input_request(&message, &envelope) {
                refuse(&self.pool, &exchange.upstream_session, &message, &envelope, why).await;
            }
        }
    }

    /// Refuses the requests of the server that were left when the call ended: the server waits for an answer.
    async fn refuse_remaining(&mut self, exchange: &mut CallExchange) {
        self.refuse_input_requests(exchange, CALL_IS_OVER).await;
        // Later requests are refused by the task of the session.
        exchange.slot.events.close();
        while let Some(message) = exchange.slot.events.recv().await {
            let Ok(envelope) = self.scanner.scan(&message) else { continue };
            if envelope.kind == MessageKind::Request {
                refuse(&self.pool, &exchange.upstream_session, &message, &envelope, CALL_IS_OVER).await;
            }
        }
    }

    /// Ends the session when it is unused, if the client is gone because its credential has ended: the session would wait for
    /// calls that may not come.
    fn end_session_with_credential(&self) {
        let credential = self.request.credential.as_ref();
        if credential.is_some_and(|credential| credential.ended().now_or_never().is_some()) {
            self.session.end_when_unused();
        }
    }

    async fn fail_to_open(&self, client: ClientResponder, fault: &Fault) {
        client.end(self.request.fault_reply(fault)).await;
    }
}

fn params_too_deep() -> Fault {
    Fault::gateway(FaultKind::MalformedParams, "the params are nested too deep")
}

fn session_ended() -> Fault {
    Fault::gateway(FaultKind::Overloaded, "its session has just ended; try again")
}
