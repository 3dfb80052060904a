//! Requests that a server sends to its clients, until they are answered.

use std::collections::HashMap;

use bytes::Bytes;
use foldhash::fast::RandomState;

/// The server's requests that wait for a response, by their raw ids. `O` identifies the client that got the
/// request.
pub struct ServerRequests<O> {
    origins: HashMap<Bytes, O, RandomState>,
}

/// Requests of one server that its clients have not answered.
const REQUESTS_MAX: usize = 256;

/// The error text of one more.
pub const TOO_MANY_REQUESTS: &str =
    "too many of your requests wait for a response; wait for some responses, or cancel some requests";

impl<O> ServerRequests<O> {
    pub fn new() -> Self {
        Self { origins: HashMap::default() }
    }

    pub fn is_full(&self) -> bool {
        self.origins.len() >= REQUESTS_MAX
    }

    /// Adds a request. The caller has checked [`Self::is_full`].
    pub fn insert(&mut self, id: &[u8], origin: O) {
        self.origins.insert(Bytes::copy_from_slice(id), origin);
    }

    pub fn remove(&mut self, id: &[u8]) -> Option<O> {
        self.origins.remove(id)
    }

    /// Removes the request with this id if the predicate holds. Returns whether it did.
    pub fn remove_if(&mut self, id: &[u8], predicate: impl Fn(&O) -> bool) -> bool {
        let is_match = self.origins.get(id).is_some_and(predicate);
        if is_match {
            self.origins.remove(id);
        }
        is_match
    }

    /// Removes all requests for which the predicate holds, and returns their ids.
    pub fn remove_all(&mut self, predicate: impl Fn(&O) -> bool) -> Vec<Bytes> {
        self.origins.extract_if(|_, origin| predicate(origin)).map(|(id, _)| id).collect()
    }

    pub fn clear(&mut self) {
        self.origins.clear();
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.origins.len()
    }
}

#[cfg(test)]
impl<O> ServerRequests<O> {
    pub const MAX: usize = REQUESTS_MAX;
}
