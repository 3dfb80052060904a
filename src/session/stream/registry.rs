//! Creates streams, and finds out what an event id refers to.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use super::event_id::EventId;
use super::reader::StreamReader;
use super::resumable_stream::{ResumableStream, ResumableStreams};
use super::writer::StreamWriter;
use crate::session::claims::SessionClaims;

impl ResumableStreams {
    /// Creates a stream of a session, with its writer and first reader. `request_id`: the raw id of the call that the
    /// stream answers.
    pub fn begin(
        self: &Arc<Self>,
        claims: &SessionClaims,
        request_id: Option<Bytes>,
    ) -> (StreamWriter, StreamReader) {
        let stream = ResumableStream::new(Arc::clone(self), self.next_number(), claims, request_id);
        let stream = Arc::new(stream);
        let reader = StreamReader::from_start(Arc::clone(&stream));
        (StreamWriter::new(stream), reader)
    }

    /// Opens an event id. `None` if it does not belong to the session.
    pub fn parse_event_id(&self, claims: &SessionClaims, text: &[u8]) -> Option<EventId> {
        EventId::parse(text, &self.sealer, claims)
    }

    /// Whether the stream of an event id was created by this process.
    pub fn is_from_this_process(&self, id: &EventId) -> bool {
        id.process == self.process
    }

    /// Discards the streams whose retention has expired. To be called periodically.
    pub fn expire(&self) {
        let now = Instant::now();
        while let Some(stream) = self.take_ended(now, |_| true) {
            stream.discard();
        }
    }
}
