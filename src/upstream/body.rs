//! The body of a request to a upstream: slices of what the client sent, and of what replaces parts of it.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use metamcp_core::frame::SplicedMessage;

/// Slices written one behind another. Content-Length is the sum of their lengths, nothing else.
///
/// Clones share the bytes.
#[derive(Clone)]
pub struct RequestBody {
    /// Boxed: a request is moved a dozen times on its way, and nine slices are 300 bytes.
    slices: Box<SplicedMessage>,
    left: u64,
}

impl RequestBody {
    /// Of these slices.
    pub fn new(slices: SplicedMessage) -> Self {
        let left = slices.remaining_bytes() as u64;
        Self { slices: Box::new(slices), left }
    }

    /// Of one piece.
    pub fn whole(bytes: Bytes) -> Self {
        Self::new(SplicedMessage::unedited(bytes))
    }

    /// No body: a GET or DELETE.
    pub fn empty() -> Self {
        Self::whole(Bytes::new())
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = self.slices.by_ref().find(|slice| !slice.is_empty());
        if let Some(slice) = &next {
            self.left -= slice.len() as u64;
        }
        Poll::Ready(next.map(|slice| Ok(Frame::data(slice))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
