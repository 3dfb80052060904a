//! Subscriptions of a Modern client: one request whose event stream lasts as long as the client.

use bytes::Bytes;
use tokio::time::sleep;

use super::super::bridge::StdioBridge;
use super::super::client::ClientMessage;
use super::super::endpoint::EventStreamState;
use super::super::error::RequestError;
use metamcp_http::{RequestKind, UpstreamRequest};

impl StdioBridge {
    /// Keeps a subscription open until the endpoint ends it with a response. A client on a pipe cannot notice a
    /// broken connection, so the request is repeated, without limit, once it was acknowledged; it changes nothing
    /// at the endpoint, so repeating it is safe.
    pub async fn listen(&self, message: &ClientMessage) -> Result<Bytes, RequestError> {
        let id = message.id();
        let mut stream = EventStreamState::for_request(&id);
        let mut tries = 0;
        loop {
            let error = match self.listen_once(message, &mut stream).await {
                Ok(response) => return Ok(response),
                Err(error) if stream.is_acknowledged && error.is_transient() => error,
                Err(error) => return Err(error),
            };
            if std::mem::take(&mut stream.is_alive) {
                tries = 0;
            }
            tracing::info!("subscription interrupted; subscribing again: {error}");
            sleep(stream.retry_delay(tries)).await;
            tries = tries.saturating_add(1);
        }
    }

    async fn listen_once(
        &self,
        message: &ClientMessage,
        stream: &mut EventStreamState<'_>,
    ) -> Result<Bytes, RequestError> {
        let request: UpstreamRequest = message.to_request(None, &self.param_headers.borrow())?;
        let response = self.pool.send(&request, RequestKind::Stream, None).await?;
        self.has_responded.set(true);
        self.read_response(message, *response, None, stream).await
    }
}
