//! Takes each line of the client apart and starts what it asks for.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::bridge::StdioBridge;
use super::client::{ClientMessage, find_request_id};
use super::endpoint::{HandshakeGuard, HandshakeStep, error_response};
use super::error::RequestError;
use metamcp_core::frame::{ScanError, ScanRejection};
use metamcp_core::protocol::{Era, InsertError, McpMethod, code};
use metamcp_http::RequestKind;

/// For the endpoint to accept a notification: it only has to acknowledge it.
const NOTIFICATION_TIMEOUT: Duration = Duration::from_secs(30);

/// The tasks of a bridge; they end with it.
pub struct Tasks {
    /// Requests, and the task that sends notifications.
    pub calls: JoinSet<()>,
    /// Subscriptions and session streams, which do not end by themselves.
    pub streams: JoinSet<()>,
    pub notifications: mpsc::Sender<OneWayMessage>,
}

/// A message without a response: a notification, or a response to a request of the endpoint.
pub struct OneWayMessage {
    message: ClientMessage,
    /// Held until a `notifications/initialized` is delivered.
    handshake: Option<HandshakeGuard>,
}

impl StdioBridge {
    /// Dispatches a line: one message, or a batch (MCP 2025-03-26).
    pub async fn dispatch_line(self: &Rc<Self>, line: Bytes, tasks: &mut Tasks) {
        let scanned = ClientMessage::scan(&mut self.scanner.borrow_mut(), line.clone());
        match scanned {
            Ok(message) => self.dispatch(message, tasks).await,
            Err(ScanRejection { error: ScanError::Batch, .. }) => self.dispatch_batch(&line, tasks).await,
            Err(refused) => self.reject(&line, refused).await,
        }
    }

    async fn dispatch_batch(self: &Rc<Self>, line: &Bytes, tasks: &mut Tasks) {
        let items = self.scanner.borrow_mut().batch_items(line);
        match items {
            Ok(items) => {
                for item in items {
                    let item = line.slice_ref(item.slice(line));
                    let scanned = ClientMessage::scan(&mut self.scanner.borrow_mut(), item.clone());
                    match scanned {
                        Ok(message) => self.dispatch(message, tasks).await,
                        Err(refused) => self.reject(&item, refused).await,
                    }
                }
            }
            Err(error) => self.reject(line, ScanRejection { error, id: None }).await,
        }
    }

    /// Rejects a line that is not a message. If it may be a request, the client waits for a response, so it gets
    /// an error under the id of the line where one can be found.
    async fn reject(&self, line: &Bytes, ScanRejection { error, id }: ScanRejection) {
        tracing::warn!(%error, bytes = line.len(), "client line is not a JSON-RPC message; not sent");
        let id = match id {
            Some(id) => Some(line.slice_ref(id.span.slice(line))),
            None => self.find_unused_id(line, line),
        };
        if let Some(id) = id {
            self.write(&error_response(&id, error.code(), &error.to_string())).await;
        }
    }

    /// Rejects a line that was too long to be held, in the same way.
    pub async fn reject_long_line(&self, first: &[u8], last: &[u8], bytes_max: usize) {
        tracing::warn!(bytes_max, "client line is too long; not sent");
        let Some(id) = self.find_unused_id(first, last) else { return };
        let text =
            format!("the message is longer than {bytes_max} bytes, so it was not sent: send less at once");
        self.write(&error_response(&id, code::INVALID_REQUEST, &text)).await;
    }

    /// Returns the id of what may be a request, found in its first and last bytes; `null` if there is none in
    /// them (JSON-RPC 2.0, section 5.1). `None` if another request in flight has the id: its response would be
    /// confused with this error.
    fn find_unused_id(&self, first: &[u8], last: &[u8]) -> Option<Bytes> {
        let id = Bytes::from(find_request_id(first, last)?);
        let is_in_use = self.client_requests.era(&id).is_some();
        if is_in_use {
            tracing::warn!("its id belongs to another request in flight; no error sent");
        }
        Some(id).filter(|_| !is_in_use)
    }

    async fn dispatch(self: &Rc<Self>, message: ClientMessage, tasks: &mut Tasks) {
        if message.is_request() {
            return self.start_request(message, tasks).await;
        }
        if message.is_response() {
            self.endpoint_requests.close(&message.id());
        }
        if let Some(id) = message.cancelled_id() {
            match self.client_requests.era(&id) {
                // Closing the connection cancels the request (MCP 2026-07-28, Streamable HTTP).
                Some(Era::Modern) => return self.client_requests.abort(&id),
                Some(Era::Legacy) => self.client_requests.cancel(&id),
                None => return tracing::debug!("client cancelled a request that is not in flight"),
            }
        }
        let is_initialized = message.method == Some(McpMethod::Initialized);
        let handshake = is_initialized.then(|| self.session.begin(HandshakeStep::Initialized));
        // The receiver lives as long as `tasks.calls`.
        let _ = tasks.notifications.send(OneWayMessage { message, handshake }).await;
    }

    async fn start_request(self: &Rc<Self>, message: ClientMessage, tasks: &mut Tasks) {
        let id = message.id();
        let permit = match self.client_requests.admit(&id, message.era, message.bytes.len()) {
            Ok(permit) => permit,
            // An error response would be taken for the response to the other one.
            Err(InsertError::IdInUse) => {
                return tracing::warn!("client reused the id of a request in flight; request ignored");
            }
            Err(InsertError::TooMany) => {
                return self.fail(&message, &RequestError::TooManyRequests).await;
            }
        };
        let is_initialize = message.method == Some(McpMethod::Initialize) && message.era == Era::Legacy;
        let handshake = is_initialize.then(|| self.session.begin(HandshakeStep::Initialize));
        let is_subscription = message.method == Some(McpMethod::Listen);
        let bridge = Rc::clone(self);
        let set = if is_subscription { &mut tasks.streams } else { &mut tasks.calls };
        let task = set.spawn_local(async move {
            {
                let _send_permit = bridge.client_requests.acquire_send_permit(is_subscription).await;
                bridge.answer(&message, is_initialize).await;
            }
            drop((permit, handshake));
        });
        self.client_requests.set_task(&id, task);
    }

    /// Runs one request, up to its response or an error in its place.
    async fn answer(&self, message: &ClientMessage, is_initialize: bool) {
        if message.era == Era::Legacy && !is_initialize && message.method != Some(McpMethod::Ping) {
            self.session.wait_for(&[HandshakeStep::Initialize, HandshakeStep::Initialized]).await;
        }
        let response = match message.method {
            Some(McpMethod::Listen) => self.listen(message).await,
            _ => self.call(message).await,
        };
        self.endpoint_requests.close_during(&message.id());
        if self.client_requests.is_cancelled(&message.id()) {
            return;
        }
        match response {
            Ok(response) => self.write(&response).await,
            Err(error) => self.fail(message, &error).await,
        }
    }

    async fn fail(&self, message: &ClientMessage, error: &RequestError) {
        tracing::warn!(method = message.log_name(), "{error}");
        self.write_error(&message.id(), message.era, error).await;
    }

    /// Answers a request with an error.
    pub async fn write_error(&self, id: &[u8], era: Era, error: &RequestError) {
        self.write(&error_response(id, error.code(era), &error.to_string())).await;
    }

    /// Sends messages without a response one after the other, since the meaning of some depends on their order.
    pub async fn send_notifications(self: Rc<Self>, mut queued: mpsc::Receiver<OneWayMessage>) {
        while let Some(OneWayMessage { message, handshake }) = queued.recv().await {
            if message.method == Some(McpMethod::Initialized) {
                self.session.wait_for(&[HandshakeStep::Initialize]).await;
            }
            let sent = timeout(NOTIFICATION_TIMEOUT, self.send_notification(&message)).await;
            match sent.unwrap_or(Err(RequestError::TimedOut)) {
                Ok(()) if message.method == Some(McpMethod::Initialized) => {
                    self.session.mark_ready(Some(&message.bytes));
                }
                Ok(()) => {}
                Err(error) => tracing::warn!(method = message.log_name(), "not delivered: {error}"),
            }
            if let Some(id) = message.cancelled_id() {
                self.client_requests.abort(&id);
            }
            drop(handshake);
        }
    }

    async fn send_notification(&self, message: &ClientMessage) -> Result<(), RequestError> {
        let (response, _) = self.exchange(message, RequestKind::Call).await?;
        let status = response.head.status;
        if status.is_success() { Ok(()) } else { Err(RequestError::from_status(status)) }
    }
}
