//! The body of a request as hyper sends it.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use metamcp_core::frame::SplicedMessage;

/// Slices of the client's message and of what replaces parts of it, sent one after the other. The sum
/// of their lengths is the Content-Length.
///
/// Clones share the bytes.
#[derive(Clone)]
pub struct RequestBody {
    /// Boxed: a request is moved a dozen times on its way, and nine slices are 300 bytes.
    slices: Box<SplicedMessage>,
    remaining: u64,
}

impl RequestBody {
    /// Creates a body of these slices.
    pub fn new(slices: SplicedMessage) -> Self {
        let remaining = slices.remaining_bytes() as u64;
        Self { slices: Box::new(slices), remaining }
    }

    /// Creates an empty body, such as that of a GET or DELETE.
    pub fn empty() -> Self {
        Self::new(SplicedMessage::unedited(Bytes::new()))
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
            self.remaining -= slice.len() as u64;
        }
        Poll::Ready(next.map(|slice| Ok(Frame::data(slice))))
    }

    fn is_end_stream(&self) -> bool {
        self.remaining == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.remaining)
    }
}
