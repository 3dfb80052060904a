//! A call that is held until its client comes back with the input that the server asked for, or its credential ends.

use std::future::pending;
use std::sync::Arc;

use bytes::Bytes;
use metamcp_core::frame::Envelope;
use metamcp_core::protocol::McpMethod;
use tokio::time::{Instant, sleep_until};

use super::super::call_stream::CallEvent;
use super::super::held_calls::{CallResumption, HeldCalls, HoldPermit};
use super::super::input::{input_required, take_responses};
use super::super::responder::ClientResponder;
use super::messages::{ActiveCall, CALL_IS_OVER, CallExchange, MessageAction, MessageSource, NextEvent};
use crate::session::{BufferedRequest, deliver};
use metamcp_http::{RequestKind, multiplex::LocalResponse};

impl ActiveCall {
    /// Asks the client for all queued input and holds the call until the client has given it. Returns the
    /// client's newest request, or `None` if the client does not come back, its credential ends, or the call is over.
    pub(super) async fn hold(
        &mut self,
        held_calls: &Arc<HeldCalls>,
        mut client: ClientResponder,
        exchange: &mut CallExchange,
    ) -> Option<ClientResponder> {
        // Messages that arrived together with the request are handled with it.
        let mut response = None;
        while let Some(message) = exchange.stream.take_ready() {
            match self.handle_message(exchange, &message, MessageSource::CallStream).await {
                MessageAction::Respond(message, envelope) => {
                    response = Some((message, envelope));
                    break;
                }
                MessageAction::Forward(message) => self.forward(&mut client, exchange, &message).await,
                MessageAction::Ignore => {}
            }
        }
        while !self.input_requests.is_empty() && response.is_none() {
            let binding = self.request.binding(self.pool.upstream().name());
            let Ok(permit) = held_calls.hold(self.request.owner, &binding) else {
                self.refuse_input_requests(exchange, "too many calls wait for input already").await;
                break;
            };
            let message = input_required(&client.id, &self.input_requests, Some(&permit.state));
            let is_delivered = client.end(LocalResponse::from_message(message)).await;
            exchange.stream.set_aside();
            let resumption = if is_delivered {
                self.wait_while_valid(permit, exchange, &mut response).await
            } else {
                None
            };
            exchange.stream.take_up();
            let Some(CallResumption { client: resumed, responses, credential, capabilities }) = resumption
            else {
                self.cancel(exchange).await;
                return None;
            };
            client = resumed;
            // The one before may end while the client goes on.
            self.request.credential = credential;
            self.capabilities = self.capabilities.intersection(capabilities);
            for message in take_responses(&mut self.input_requests, &responses) {
                deliver(
                    &self.pool,
                    BufferedRequest::legacy(&exchange.upstream_session, McpMethod::ToolsCall, message),
                    RequestKind::Message,
                )
                .await;
            }
        }
        match response {
            None => Some(client),
            Some((message, envelope)) => {
                self.refuse_input_requests(exchange, CALL_IS_OVER).await;
                self.respond(client, &message, &envelope).await;
                None
            }
        }
    }

    /// As [`Self::wait`], until the credential ends that the client asked with last. No body ends the call then: the client
    /// has its response.
    async fn wait_while_valid(
        &mut self,
        permit: HoldPermit,
        exchange: &mut CallExchange,
        response: &mut Option<(Bytes, Envelope)>,
    ) -> Option<CallResumption> {
        let credential = self.request.credential.clone();
        let ended = credential.map_or_else(|| Box::pin(pending()) as _, |credential| credential.ended());
        tokio::select! {
            biased;
            resumption = self.wait(permit, exchange, response) => resumption,
            () = ended => {
                // The connection is free even if the server does not take the cancellation.
                exchange.stream.close();
                self.session.end_when_unused();
                None
            }
        }
    }

    /// Waits until the client comes back or its time is over. Messages of the server are handled meanwhile;
    /// its response is kept in `response`.
    async fn wait(
        &mut self,
        mut permit: HoldPermit,
        exchange: &mut CallExchange,
        response: &mut Option<(Bytes, Envelope)>,
    ) -> Option<CallResumption> {
        let deadline = Instant::now() + permit.timeout;
        // A call that is not sent yet waits until the unsolicited requests before it are answered.
        let mut is_ended = !exchange.is_sent;
        loop {
            let next = tokio::select! {
                biased;
                resumption = &mut permit.resumed => return resumption.ok(),
                () = sleep_until(deadline) => return None,
                Some(message) = exchange.slot.events.recv() => {
                    NextEvent::Message(message, MessageSource::SessionStream)
                }
                event = exchange.stream.next(), if !is_ended => match event {
                    CallEvent::Message(message) => NextEvent::Message(message, MessageSource::CallStream),
                    event => NextEvent::StreamEnded(event),
                },
            };
            match next {
                NextEvent::Message(message, source) => {
                    let action = self.handle_message(exchange, &message, source).await;
                    if let MessageAction::Respond(message, envelope) = action {
                        *response = Some((message, envelope));
                        is_ended = true;
                    }
                }
                // The client learns of it when it comes back.
                NextEvent::StreamEnded(_) | NextEvent::ClientGone => is_ended = true,
            }
        }
    }
}
