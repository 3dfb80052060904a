//! Deferred reading of a body.

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;

use super::Fault;

/// Reads a whole body, up to the given number of bytes. The body is not read before the call.
pub type BodyReader<'a> =
    Box<dyn FnOnce(usize) -> Pin<Box<dyn Future<Output = Result<Bytes, Fault>> + 'a>> + 'a>;
