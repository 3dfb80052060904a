//! The event stream of a Legacy session, on which the endpoint sends messages that belong to no request.

use std::rc::Rc;

use tokio::time::sleep;

use super::super::bridge::StdioBridge;
use super::super::endpoint::{EventStreamState, OpenSession};
use super::super::error::RequestError;
use metamcp_core::protocol::header;
use metamcp_http::{RequestKind, UpstreamRequest, UpstreamResponse};

/// How reading the stream ended.
enum StreamEnd {
    /// The endpoint ended it.
    Closed,
    /// It broke, or could not be opened just now.
    Failed(RequestError),
    /// The endpoint has no stream for this session.
    Unsupported,
    /// The endpoint does not know the session.
    SessionLost,
}

impl StdioBridge {
    /// Forwards what the endpoint sends in each session. Never ends.
    pub async fn read_session_streams(self: Rc<Self>) {
        let mut ready = self.session.subscribe_ready();
        // Not before the handshake is done: the client must have the response to `initialize` first.
        while ready.changed().await.is_ok() {
            let Some(open) = self.session.current() else { continue };
            tokio::select! {
                biased;
                // Another session has replaced this one.
                _ = ready.changed() => ready.mark_changed(),
                () = self.read_session_stream(&open) => {}
            }
        }
    }

    /// Keeps the stream of one session open.
    async fn read_session_stream(&self, open: &Rc<OpenSession>) {
        let mut stream = EventStreamState::default();
        let mut tries = 0;
        loop {
            match self.read_session_stream_once(open, &mut stream).await {
                StreamEnd::Unsupported => return,
                StreamEnd::Closed => {}
                StreamEnd::SessionLost => {
                    return match self.repair_session(open).await {
                        Ok(()) => {}
                        Err(error) => tracing::warn!("stopped reading the session's event stream: {error}"),
                    };
                }
                StreamEnd::Failed(error) => {
                    stream.is_broken |= error.is_transient();
                    tracing::debug!("reopening the session's event stream: {error}");
                }
            }
            if std::mem::take(&mut stream.is_alive) {
                tries = 0;
            }
            sleep(stream.retry_delay(tries)).await;
            tries = tries.saturating_add(1);
        }
    }

    async fn read_session_stream_once(
        &self,
        open: &Rc<OpenSession>,
        stream: &mut EventStreamState<'_>,
    ) -> StreamEnd {
        let mut request = UpstreamRequest::get();
        open.write_headers(&mut request);
        if let Some(last) = &stream.last_event_id {
            request.set_header(&header::LAST_EVENT_ID, last);
        }
        let response = self.pool.send(&request, RequestKind::Stream, None).await;
        let UpstreamResponse { head, mut body } = match response {
            Ok(response) => *response,
            Err(error) => return StreamEnd::Failed(error.into()),
        };
        if head.status.is_success() && head.is_event_stream() && !head.is_encoded {
            // Without an event id to resume after, the endpoint replays nothing.
            if std::mem::take(&mut stream.is_broken) && stream.last_event_id.is_none() {
                self.write_all(open.missed_changes()).await;
            }
            return match self.read_events(&mut body, stream).await {
                Ok(_) => StreamEnd::Closed,
                Err(error) => StreamEnd::Failed(error),
            };
        }
        let error = RequestError::from_status(head.status);
        match error {
            error if error.is_transient() => StreamEnd::Failed(error),
            _ if self.is_session_lost(open, head.status).await => StreamEnd::SessionLost,
            RequestError::NoEndpoint(_) => {
                tracing::debug!("the endpoint has no event stream for the session");
                StreamEnd::Unsupported
            }
            error => {
                tracing::warn!("cannot open the session's event stream: {error}");
                StreamEnd::Unsupported
            }
        }
    }
}
