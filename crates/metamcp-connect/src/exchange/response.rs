//! Reads the response to a request: one message, or an event stream with other messages before it.

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use tokio::time::sleep;

use super::super::bridge::StdioBridge;
use super::super::client::ClientMessage;
use super::super::endpoint::{
    self, EndpointMessage, EventStreamState, OpenSession, error_with_id, has_error_code, missed_changes,
    split_batch,
};
use super::super::error::RequestError;
use metamcp_config::server::settings::LINE_BYTES;
use metamcp_core::frame::EventReader;
use metamcp_core::protocol::code::HEADER_MISMATCH;
use metamcp_core::protocol::{AnswerMatch, Era, McpMethod, header};
use metamcp_http::{RequestKind, UpstreamBody, UpstreamRequest, UpstreamResponse};

/// One message of the endpoint: the default limit for a message of a stdio server.
const MESSAGE_BYTES_MAX: usize = LINE_BYTES.default;

/// Reconnections to a stream without an event in between, before its request fails.
const RESUMES_MAX: u32 = 5;

impl StdioBridge {
    /// Sends a request and returns the response; messages that arrive before it go to the client.
    pub async fn call(&self, message: &ClientMessage) -> Result<Bytes, RequestError> {
        let response = self.call_once(message).await?;
        // The head lacked a parameter header, because the schema is newer than the list the client has, or because
        // the client never listed the tools. The call did not run.
        if message.is_modern_call()
            && has_error_code(&response, HEADER_MISMATCH)
            && self.refresh_param_headers(message).await
        {
            return self.call_once(message).await;
        }
        Ok(response)
    }

    async fn call_once(&self, message: &ClientMessage) -> Result<Bytes, RequestError> {
        let (response, open) = self.exchange(message, RequestKind::Call).await?;
        let id = message.id();
        let mut stream = EventStreamState::for_request(&id);
        self.read_response(message, *response, open.as_deref(), &mut stream).await
    }

    /// Reads the response to a request to its end.
    pub async fn read_response(
        &self,
        message: &ClientMessage,
        response: UpstreamResponse,
        open: Option<&OpenSession>,
        stream: &mut EventStreamState<'_>,
    ) -> Result<Bytes, RequestError> {
        let UpstreamResponse { head, body } = response;
        let response = if head.is_encoded {
            return Err(RequestError::NotMcp);
        } else if head.is_event_stream() && head.status.is_success() {
            self.read_stream(body, open, stream).await?
        } else {
            self.read_whole(&message.id(), head.status, body).await?
        };
        match (message.method, message.era) {
            (Some(McpMethod::Initialize), Era::Legacy) => {
                self.session.open(&message.bytes, head.session_id, &response);
            }
            (Some(McpMethod::ToolsList), _) => self.param_headers.borrow_mut().learn(&response),
            _ => {}
        }
        Ok(response)
    }

    /// Reads a body that is one message, or a batch with the response in it.
    async fn read_whole(
        &self,
        id: &[u8],
        status: StatusCode,
        mut body: UpstreamBody,
    ) -> Result<Bytes, RequestError> {
        let whole = body.collect(MESSAGE_BYTES_MAX).await?;
        if status == StatusCode::UNAUTHORIZED {
            // Whatever the body says, the user has to check the credential.
            return Err(RequestError::Unauthenticated);
        }
        let mut response = None;
        for message in split_batch(&whole) {
            match endpoint::parse(&message) {
                Some(EndpointMessage::Response { id: other, is_error }) => {
                    match AnswerMatch::of_answer(other.as_deref().map(str::as_bytes), is_error, id) {
                        AnswerMatch::ThisCall => response = Some(message),
                        AnswerMatch::ErrorWithoutId => {
                            response = response.or_else(|| error_with_id(id, &message));
                        }
                        _ => tracing::warn!("dropped the response to another request"),
                    }
                }
                Some(EndpointMessage::Cancelled { id }) => self.forward_cancellation(&message, &id).await,
                Some(EndpointMessage::Call { id: own_id, .. }) => {
                    self.forward(&message, own_id, Some(id)).await;
                }
                None => {}
            }
        }
        response.ok_or_else(|| RequestError::from_status(status))
    }

    /// Reads an event stream to the response. A stream that ends before it is resumed if the endpoint gave event
    /// ids (MCP 2025-11-25, resumability).
    async fn read_stream(
        &self,
        mut body: UpstreamBody,
        open: Option<&OpenSession>,
        stream: &mut EventStreamState<'_>,
    ) -> Result<Bytes, RequestError> {
        let mut resumes = 0;
        loop {
            let error = match self.read_events(&mut body, stream).await {
                Ok(Some(response)) => return Ok(response),
                Ok(None) => RequestError::ConnectionLost,
                Err(error) => error,
            };
            if std::mem::take(&mut stream.is_alive) {
                resumes = 0;
            }
            body = loop {
                let (Some(open), Some(last)) = (open, &stream.last_event_id) else { return Err(error) };
                if resumes >= RESUMES_MAX || !error.is_transient() {
                    return Err(error);
                }
                sleep(stream.retry_delay(resumes)).await;
                resumes += 1;
                match self.resume_stream(open, last).await {
                    Ok(body) => break body,
                    Err(error) if error.is_transient() => {
                        tracing::info!("cannot resume the event stream yet: {error}");
                    }
                    Err(error) => return Err(error),
                }
            };
        }
    }

    /// Reopens an event stream of the session after the event `last`.
    async fn resume_stream(
        &self,
        open: &OpenSession,
        last: &HeaderValue,
    ) -> Result<UpstreamBody, RequestError> {
        let mut request = UpstreamRequest::get();
        open.write_headers(&mut request);
        request.set_header(&header::LAST_EVENT_ID, last);
        let UpstreamResponse { head, body } = *self.send(&request, RequestKind::Stream).await?;
        if head.status.is_success() && head.is_event_stream() {
            Ok(body)
        } else {
            Err(RequestError::from_status(head.status))
        }
    }

    /// Reads events up to the response, which it returns, or to the end of the stream.
    pub async fn read_events(
        &self,
        body: &mut UpstreamBody,
        stream: &mut EventStreamState<'_>,
    ) -> Result<Option<Bytes>, RequestError> {
        let mut reader = EventReader::with_event_limit(MESSAGE_BYTES_MAX);
        while let Some(chunk) = body.chunk().await {
            reader.push(chunk?);
            while let Some(event) = reader.next().map_err(|_too_long| RequestError::ResponseTooLarge)? {
                stream.record(&event);
                let is_message = event.event_name.is_none_or(|name| name == "message");
                let Some(data) = event.data.filter(|data| is_message && !data.is_empty()) else { continue };
                let response = self.read_event(&data, stream).await;
                if response.is_some() {
                    return Ok(response);
                }
            }
        }
        Ok(None)
    }

    /// Returns the response if it is among the messages of an event; the other messages go to the client.
    async fn read_event(&self, data: &Bytes, stream: &mut EventStreamState<'_>) -> Option<Bytes> {
        let mut response = None;
        for message in split_batch(data) {
            match endpoint::parse(&message) {
                Some(EndpointMessage::Cancelled { id }) => self.forward_cancellation(&message, &id).await,
                Some(EndpointMessage::Call { method, id }) => {
                    let is_acknowledgement = method == McpMethod::Acknowledged.as_str();
                    if is_acknowledgement && std::mem::replace(&mut stream.is_acknowledged, true) {
                        self.write_all(missed_changes(&message)).await;
                    } else {
                        self.forward(&message, id, stream.request_id).await;
                    }
                }
                Some(EndpointMessage::Response { id, is_error }) => {
                    let id = id.as_deref().map(str::as_bytes);
                    let found =
                        stream.request_id.map(|call| (AnswerMatch::of_answer(id, is_error, call), call));
                    match found {
                        Some((AnswerMatch::ThisCall, _)) => response = Some(message),
                        Some((AnswerMatch::ErrorWithoutId, call)) => response = error_with_id(call, &message),
                        // Some endpoints replay events of other streams when a stream is resumed.
                        _ => tracing::info!("dropped the response to another request"),
                    }
                }
                None => tracing::warn!("dropped an event that is not a JSON-RPC message"),
            }
        }
        response
    }
}
