//! Requests that a server sends outside of any call: they wait for the next call of the session that allows
//! input, and reach its client as if the server had sent them during that call.

use std::time::Duration;

use bytes::Bytes;
use metamcp_core::frame::Envelope;
use metamcp_core::protocol::is_same_id;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

/// Waiting requests of one session, in the order of their arrival.
#[derive(Default)]
pub struct UnsolicitedRequests {
    waiting: Vec<WaitingRequest>,
}

struct WaitingRequest {
    message: Bytes,
    /// The raw JSON of the id.
    id: Bytes,
    until: Instant,
    /// Counts the request among those that wait in all sessions.
    _permit: OwnedSemaphorePermit,
}

/// Waiting requests of one session. A server asks for roots when its session is open, and perhaps for one
/// thing more.
pub const WAITING_MAX: usize = 4;

/// Bytes of them: a server asks for a word or a form outside of calls, and does not send a conversation to
/// sample from.
const WAITING_BYTES_MAX: usize = 64 << 10;

/// Waiting requests of all sessions: with the bound above they hold at most 64 MiB.
pub const WAITING_TOTAL_MAX: usize = 1024;

impl UnsolicitedRequests {
    /// Queues a request for that time. Returns false if there is no room for it.
    pub fn queue(
        &mut self,
        message: &Bytes,
        envelope: &Envelope,
        wait_max: Duration,
        permit: OwnedSemaphorePermit,
    ) -> bool {
        let Some(id) = envelope.id else { return false };
        let bytes: usize = self.waiting.iter().map(|waiting| waiting.message.len()).sum();
        if self.waiting.len() >= WAITING_MAX || bytes.saturating_add(message.len()) > WAITING_BYTES_MAX {
            return false;
        }
        // Copied: the message may be a slice of a larger buffer, which is not counted.
        let (message, id) = (Bytes::copy_from_slice(message), Bytes::copy_from_slice(id.span.slice(message)));
        self.waiting.push(WaitingRequest { message, id, until: Instant::now() + wait_max, _permit: permit });
        true
    }

    /// Takes all requests, for a call that allows input.
    pub fn take(&mut self) -> Vec<Bytes> {
        self.waiting.drain(..).map(|waiting| waiting.message).collect()
    }

    /// Takes the requests that no such call came for in time.
    pub fn take_overdue(&mut self) -> Vec<Bytes> {
        let now = Instant::now();
        self.waiting.extract_if(.., |waiting| waiting.until <= now).map(|waiting| waiting.message).collect()
    }

    /// Removes a request that the server cancelled. `id` is raw.
    pub fn cancel(&mut self, id: &[u8]) {
        self.waiting.retain(|waiting| !is_same_id(&waiting.id, id));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Semaphore;
    use tokio::time::{advance, pause};

    use super::*;
    use metamcp_core::frame::Scanner;

    const WAIT: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn waiting_requests_are_bounded_and_taken_once() {
        pause();
        let permits = Arc::new(Semaphore::new(WAITING_MAX));
        let mut unsolicited = UnsolicitedRequests::default();
        let mut check = |id: usize, bytes: usize, expected: bool| {
            let padding = "x".repeat(bytes);
            let message = Bytes::from(format!(
                r#"{{"jsonrpc":"2.0","id":{id},"method":"roots/list","params":{{"_meta":{{"a":"{padding}"}}}}}}"#
            ));
            let envelope = Scanner::new().scan(&message).expect("a message");
            let permit = Arc::clone(&permits).try_acquire_owned();
            let is_queued = permit.is_ok_and(|permit| unsolicited.queue(&message, &envelope, WAIT, permit));
            assert_eq!(is_queued, expected, "{id}");
        };
        check(0, WAITING_BYTES_MAX, false);
        for id in 1..=WAITING_MAX {
            check(id, 1, true);
        }
        check(9, 1, false);
        unsolicited.cancel(b"2");
        assert_eq!(permits.available_permits(), 1, "its permit is free");
        advance(WAIT / 2).await;
        assert!(unsolicited.take_overdue().is_empty());
        assert_eq!(unsolicited.take().len(), WAITING_MAX - 1);
        assert!(unsolicited.take().is_empty() && permits.available_permits() == WAITING_MAX);
    }

    #[tokio::test]
    async fn requests_become_overdue() {
        pause();
        let permits = Arc::new(Semaphore::new(2));
        let mut unsolicited = UnsolicitedRequests::default();
        for id in 1..=2 {
            let message = Bytes::from(format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"roots/list"}}"#));
            let envelope = Scanner::new().scan(&message).expect("a message");
            let permit = Arc::clone(&permits).try_acquire_owned().expect("there is one");
            assert!(unsolicited.queue(&message, &envelope, WAIT, permit));
            advance(WAIT / 2).await;
        }
        let overdue = unsolicited.take_overdue();
        assert_eq!(overdue.len(), 1);
        assert!(overdue[0].starts_with(br#"{"jsonrpc":"2.0","id":1,"#));
        assert_eq!((unsolicited.take().len(), permits.available_permits()), (1, 2));
    }
}
