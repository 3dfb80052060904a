//! The final response of a call.

use bytes::Bytes;
use http::StatusCode;
use metamcp_core::base::FaultKind;
use metamcp_core::frame::{Envelope, MessageKind};
use metamcp_core::protocol::{ClientCapabilities, McpMethod, code};
use serde_json::json;

use super::super::call_stream::CallEvent;
use super::super::input::{input_required, parse_url_elicitations};
use super::super::responder::ClientResponder;
use super::super::result::{error_code, to_modern_reply};
use super::messages::{ActiveCall, CallExchange};
use crate::session::{BufferedRequest, deliver};
use metamcp_http::{FailureStage, UpstreamError};
use metamcp_http::{RequestKind, multiplex::LocalResponse};

/// The error code by which a server demands a URL elicitation before the call (MCP 2025-11-25, elicitation).
const URL_ELICITATION_REQUIRED: i64 = -32042;

impl ActiveCall {
    /// Responds with the server's response, or with `input_required` if the server demands a URL elicitation
    /// first.
    pub(super) async fn finish(&self, client: ClientResponder, message: &Bytes, envelope: &Envelope) {
        let outcome = envelope.outcome.unwrap_or_default();
        let demands_url = envelope.kind == MessageKind::Error
            && error_code(message, outcome).is_some_and(|(code, _)| code == URL_ELICITATION_REQUIRED);
        if demands_url
            && self.request.allows_input()
            && let Some(requests) = parse_url_elicitations(message, outcome)
        {
            let reply = if self.capabilities.has(ClientCapabilities::ELICITATION_URL) {
                LocalResponse::from_message(input_required(&client.id, &requests, None))
            } else {
                let data = json!({"requiredCapabilities": {"elicitation": {"url": {}}}});
                let text = "the server needs a client that can open a page for its user";
                let (status, code) = (StatusCode::BAD_REQUEST, code::MISSING_CAPABILITY);
                LocalResponse::from_error_data(status, &client.id, code, text, Some(&data))
            };
            client.end(reply).await;
            return;
        }
        self.respond(client, message, envelope).await;
    }

    /// Responds with the server's response.
    pub(super) async fn respond(&self, client: ClientResponder, message: &Bytes, envelope: &Envelope) {
        match to_modern_reply(message, envelope, &client.id, self.request.method) {
            Some(reply) => {
                client.end(reply).await;
            }
            None => client.fail(UpstreamError::from_stage(FailureStage::InvalidResponse)),
        }
    }

    /// Responds to an HTTP error status, whose body may be a JSON-RPC error.
    pub(super) async fn respond_to_status(
        &mut self,
        client: ClientResponder,
        status: StatusCode,
        body: &Bytes,
    ) {
        let is_clients_fault = status.is_client_error() && !matches!(status.as_u16(), 401 | 403 | 407 | 429);
        let error = self.scanner.scan(body).ok().filter(|envelope| envelope.kind == MessageKind::Error);
        if let Some(envelope) = error.filter(|_| is_clients_fault) {
            return self.finish(client, body, &envelope).await;
        }
        let (server, status) = (self.pool.upstream().name(), status.as_u16());
        let text = format!("server `{server}` answered with HTTP {status}; the call may have run");
        let data = json!({"origin": "server", "kind": FaultKind::InvalidResponse.label()});
        let (status, code) = (StatusCode::OK, code::INTERNAL);
        let reply = LocalResponse::from_error_data(status, &client.id, code, &text, Some(&data));
        client.end(reply).await;
    }

    /// Responds to a stream that ended without a response.
    pub(super) async fn fail(&mut self, client: ClientResponder, event: CallEvent) {
        match event {
            CallEvent::Refused(status, body) => self.respond_to_status(client, status, &body).await,
            CallEvent::Failed(error) => client.fail(error),
            CallEvent::Message(_) => client.fail(UpstreamError::from_stage(FailureStage::InvalidResponse)),
        }
    }

    /// Cancels the call at the server, because the client has disconnected.
    pub(super) async fn cancel(&self, exchange: &CallExchange) {
        if !exchange.is_sent {
            return;
        }
        self.session.note_cancelled_call();
        let number = exchange.slot.number;
        let message = format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{number},"reason":"the client has gone"}}}}"#
        );
        deliver(
            &self.pool,
            BufferedRequest::legacy(&exchange.upstream_session, McpMethod::Cancelled, message.into()),
            RequestKind::Message,
        )
        .await;
    }
}
