//! Sends requests: in their session, with retries while the endpoint is away, and with a new session when the
//! endpoint has lost the old one.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};

use super::super::bridge::StdioBridge;
use super::super::client::ClientMessage;
use super::super::endpoint::{OpenSession, backoff_delay};
use super::super::error::RequestError;
use metamcp_core::protocol::{Era, McpMethod};
use metamcp_http::{RequestKind, UpstreamRequest, UpstreamResponse};

/// Retries while an endpoint that has responded before cannot be reached: some 8 s in all, as long as a gateway
/// takes to restart.
const RETRIES_MAX: u32 = 5;

/// For the endpoint to accept the termination of the session.
const TERMINATE_TIMEOUT: Duration = Duration::from_secs(2);

/// Checks whether the endpoint knows a session. No other request uses this id.
const PING: &[u8] = br#"{"jsonrpc":"2.0","id":"metamcp-ping","method":"ping"}"#;

impl StdioBridge {
    /// Sends a message in the session that it belongs to, and returns the response and that session. If the
    /// endpoint has lost the session, it is opened again and the message is sent again: an endpoint that does
    /// not know the session did not run the request (MCP 2025-11-25, session management).
    pub async fn exchange(
        &self,
        message: &ClientMessage,
        lane: RequestKind,
    ) -> Result<(Box<UpstreamResponse>, Option<Rc<OpenSession>>), RequestError> {
        let mut is_repaired = false;
        loop {
            let is_in_session = message.era == Era::Legacy && message.method != Some(McpMethod::Initialize);
            let open = self.session.current().filter(|_| is_in_session);
            let request = message.to_request(open.as_deref(), &self.param_headers.borrow())?;
            let response = self.send(&request, lane).await?;
            match &open {
                Some(open) if !is_repaired && self.is_session_lost(open, response.head.status).await => {
                    drop(response);
                    self.repair_session(open).await?;
                    is_repaired = true;
                    if message.is_bound_to_session() {
                        return Err(RequestError::ConnectionLost);
                    }
                }
                _ => return Ok((response, open)),
            }
        }
    }

    /// Sends a request. Retries only if nothing of it was delivered and the endpoint has responded before, so
    /// that a restart of the endpoint goes unnoticed.
    pub async fn send(
        &self,
        request: &UpstreamRequest,
        lane: RequestKind,
    ) -> Result<Box<UpstreamResponse>, RequestError> {
        let mut tries = 0;
        loop {
            match self.pool.send(request, lane, None).await {
                Ok(response) => {
                    self.has_responded.set(true);
                    return Ok(response);
                }
                Err(error) if error.is_undelivered() && self.has_responded.get() && tries < RETRIES_MAX => {
                    tracing::info!(%error, "cannot reach the endpoint; retrying");
                    sleep(backoff_delay(tries)).await;
                    tries += 1;
                }
                Err(error) => {
                    tracing::warn!(%error, "request to the endpoint failed");
                    return Err(error.into());
                }
            }
        }
    }

    /// Whether the endpoint does not know the session. HTTP 404 means that (MCP 2025-11-25, session
    /// management); some endpoints answer 400 for this and for other reasons, and then a `ping` decides.
    pub async fn is_session_lost(&self, open: &OpenSession, status: StatusCode) -> bool {
        let is_unknown = |status| matches!(status, StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST);
        if open.id.is_none() || status != StatusCode::BAD_REQUEST {
            return open.id.is_some() && status == StatusCode::NOT_FOUND;
        }
        let mut ping = UpstreamRequest::from_message(Bytes::from_static(PING));
        open.write_headers(&mut ping);
        self.send(&ping, RequestKind::Call).await.is_ok_and(|response| is_unknown(response.head.status))
    }

    /// Opens a session in place of the lost one, unless another request already did. Runs in a task of its own:
    /// if the client cancels the request that found the session lost, or the request times out, the new session
    /// would otherwise be left open without `notifications/initialized`. Cancel safe: the task continues.
    pub async fn repair_session(&self, lost: &Rc<OpenSession>) -> Result<(), RequestError> {
        let bridge = self.this.upgrade().ok_or(RequestError::SessionLost)?;
        let lost = Rc::clone(lost);
        // Boxed, because opening a session sends requests, and sending a request may open a session.
        let opening: Pin<Box<dyn Future<Output = _>>> =
            Box::pin(async move { bridge.reopen_session(&lost).await });
        spawn_local(opening).await.unwrap_or(Err(RequestError::SessionLost))
    }

    /// Not cancel safe: a session may be left open at the endpoint.
    async fn reopen_session(&self, lost: &Rc<OpenSession>) -> Result<(), RequestError> {
        let _repair = self.session.repair_lock.lock().await;
        if !self.session.is_current(lost) {
            return Ok(());
        }
        tracing::warn!(
            "the endpoint has lost the session; opening a new one, without its resource subscriptions and log level"
        );
        let (initialize, initialized) = self.session.handshake_messages().ok_or(RequestError::SessionLost)?;
        let scan = |bytes| {
            ClientMessage::scan(&mut self.scanner.borrow_mut(), bytes).map_err(|_| RequestError::SessionLost)
        };
        self.call(&scan(initialize)?).await?;
        if self.session.is_current(lost) {
            return Err(RequestError::SessionLost);
        }
        if let (Some(initialized), Some(open)) = (initialized, self.session.current()) {
            let mut request = UpstreamRequest::from_message(initialized);
            open.write_headers(&mut request);
            self.send(&request, RequestKind::Call).await?;
            self.write_all(open.missed_changes()).await;
        }
        self.session.mark_ready(None);
        Ok(())
    }

    /// Terminates the session (DELETE); otherwise many endpoints would keep it until it expires.
    pub async fn terminate_session(&self) {
        let Some(open) = self.session.current().filter(|open| open.id.is_some()) else { return };
        let mut request = UpstreamRequest::delete();
        open.write_headers(&mut request);
        // An endpoint that cannot be reached expires the session itself.
        let _ = timeout(TERMINATE_TIMEOUT, self.pool.send(&request, RequestKind::Call, None)).await;
    }
}
