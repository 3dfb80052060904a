//! The calls of one session that are in flight.
//!
//! Does not know: sessions, or what a call waits for.

use std::task::Waker;

use bytes::Bytes;

use metamcp_core::protocol::is_same_id;

/// The calls in flight, newest first. A session without any takes no more than a pointer for them.
#[derive(Default)]
pub struct CallsInFlight(Option<Box<InFlightCall>>);

/// A call in flight, and a link to the call that started before it.
struct InFlightCall {
    /// The id as raw JSON.
    id: Bytes,
    /// The id of the server's upstream.
    upstream: u32,
    /// Whether the client cancelled it, so that it waits for no response.
    is_cancelled: bool,
    /// The task that waits for the response, to be woken when the client ends the session.
    waker: Option<Waker>,
    before: Option<Box<Self>>,
}

/// The calls that an end of their session concerns.
#[derive(Default)]
pub struct EndedCalls {
    /// Raw ids and upstreams of the calls that were not cancelled before.
    pub calls: Vec<(Bytes, u32)>,
    pub wakers: Vec<Waker>,
}

/// Calls of one session in flight. An agent has a few dozen; a thousand indicate a runaway loop.
const IN_FLIGHT_MAX: usize = 1024;

impl CallsInFlight {
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    fn iter(&self) -> impl Iterator<Item = &InFlightCall> {
        std::iter::successors(self.0.as_deref(), |call| call.before.as_deref())
    }

    /// Changes each call, newest first.
    fn update(&mut self, mut change: impl FnMut(&mut InFlightCall)) {
        let mut link = self.0.as_mut();
        while let Some(call) = link {
            change(call);
            link = call.before.as_mut();
        }
    }

    /// Adds a call. False if there are too many, or if a call with the same id is in flight.
    #[must_use]
    pub fn add(&mut self, id: Bytes, upstream: u32) -> bool {
        let (mut count, mut is_duplicate) = (0, false);
        for call in self.iter() {
            count += 1;
            is_duplicate |= is_same_id(&call.id, &id);
        }
        if count >= IN_FLIGHT_MAX || is_duplicate {
            return false;
        }
        let before = self.0.take();
        self.0 = Some(Box::new(InFlightCall { id, upstream, is_cancelled: false, waker: None, before }));
        true
    }

    /// Removes the call that was added with this id.
    pub fn remove(&mut self, id: &Bytes) {
        let mut link = &mut self.0;
        while link.as_ref().is_some_and(|call| call.id != *id) {
            let Some(call) = link else { return };
            link = &mut call.before;
        }
        if let Some(call) = link.take() {
            *link = call.before;
        }
    }

    /// The upstream that has the call with this raw id.
    pub fn find_upstream(&self, id: &[u8]) -> Option<u32> {
        self.iter().find(|call| is_same_id(&call.id, id)).map(|call| call.upstream)
    }

    /// Marks the call with this raw id as cancelled by the client.
    pub fn cancel(&mut self, id: &[u8]) {
        self.update(|call| call.is_cancelled |= is_same_id(&call.id, id));
    }

    /// Whether the call that was added with this id is marked.
    pub fn is_cancelled(&self, id: &Bytes) -> bool {
        self.iter().any(|call| call.id == *id && call.is_cancelled)
    }

    /// Replaces the waker of the call that was added with this id. False if there is none.
    pub fn set_waker(&mut self, id: &Bytes, waker: &Waker) -> bool {
        let mut is_set = false;
        self.update(|call| {
            if call.id == *id {
                call.waker = Some(waker.clone());
                is_set = true;
            }
        });
        is_set
    }

    /// What an end of the session concerns. The calls stay until they are removed.
    pub fn take_ended(&mut self) -> EndedCalls {
        let mut ended = EndedCalls::default();
        self.update(|call| {
            ended.wakers.extend(call.waker.take());
            if !call.is_cancelled {
                ended.calls.push((call.id.clone(), call.upstream));
            }
        });
        ended
    }
}
