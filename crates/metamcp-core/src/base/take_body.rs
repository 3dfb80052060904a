//! A body that is not read before somebody wants it.

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;

use super::Fault;

/// Takes the whole of a body, when it has no more bytes than that.
pub type BodyReader<'a> =
    Box<dyn FnOnce(usize) -> Pin<Box<dyn Future<Output = Result<Bytes, Fault>> + 'a>> + 'a>;
