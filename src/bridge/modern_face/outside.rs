//! What a server asks outside of any call, in one session: it waits for the next call of that session that can
//! be asked, and comes to its client as if it had been asked during that.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use crate::frame::Envelope;
use crate::protocol::is_same_id;

/// Requests of a server that wait, in the order in which they came.
#[derive(Default)]
pub struct Outside {
    waiting: Vec<Waiting>,
}

struct Waiting {
    message: Bytes,
    /// Its raw id.
    id: Bytes,
    until: Instant,
    /// Of those that may wait in all sessions.
    _place: OwnedSemaphorePermit,
}

/// Of one session at once. A server asks for roots when its session is open, and perhaps for one thing more.
pub const WAITING_MAX: usize = 4;

/// Bytes of them: what is asked outside of calls is a word or a form, and no conversation to sample from.
const WAITING_BYTES_MAX: usize = 64 << 10;

/// In all sessions at once: with the bound above they keep 64 MiB at the most.
pub const WAITING_IN_ALL_MAX: usize = 1024;

impl Outside {
    /// Keeps a request for so long; false when there is no room for it.
    pub fn keep(
        &mut self,
        message: &Bytes,
        envelope: &Envelope,
        wait_max: Duration,
        place: OwnedSemaphorePermit,
    ) -> bool {
        let Some(id) = envelope.id else { return false };
        let bytes: usize = self.waiting.iter().map(|waiting| waiting.message.len()).sum();
        if self.waiting.len() >= WAITING_MAX || bytes.saturating_add(message.len()) > WAITING_BYTES_MAX {
            return false;
        }
        // A copy: the message may be a slice of something bigger, which is not counted.
        let (message, id) = (Bytes::copy_from_slice(message), Bytes::copy_from_slice(id.span.of(message)));
        self.waiting.push(Waiting { message, id, until: Instant::now() + wait_max, _place: place });
        true
    }

    /// All of them, for a call that can be asked.
    pub fn take(&mut self) -> Vec<Bytes> {
        self.waiting.drain(..).map(|waiting| waiting.message).collect()
    }

    /// Those that no such call came for in time.
    pub fn overdue(&mut self) -> Vec<Bytes> {
        let now = Instant::now();
        self.waiting.extract_if(.., |waiting| waiting.until <= now).map(|waiting| waiting.message).collect()
    }

    /// The server does not wait for that one any more. `id` is raw.
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
    use crate::frame::Scanner;

    const WAIT: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn what_waits_is_bounded_and_found_once() {
        pause();
        let places = Arc::new(Semaphore::new(WAITING_MAX));
        let mut outside = Outside::default();
        let mut check = |id: usize, bytes: usize, expected: bool| {
            let padding = "x".repeat(bytes);
            let message = Bytes::from(format!(
                r#"{{"jsonrpc":"2.0","id":{id},"method":"roots/list","params":{{"_meta":{{"a":"{padding}"}}}}}}"#
            ));
            let envelope = Scanner::new().scan(&message).expect("a message");
            let place = Arc::clone(&places).try_acquire_owned();
            let is_kept = place.is_ok_and(|place| outside.keep(&message, &envelope, WAIT, place));
            assert_eq!(is_kept, expected, "{id}");
        };
        check(0, WAITING_BYTES_MAX, false);
        for id in 1..=WAITING_MAX {
            check(id, 1, true);
        }
        check(9, 1, false);
        outside.cancel(b"2");
        assert_eq!(places.available_permits(), 1, "it gave its place up");
        advance(WAIT / 2).await;
        assert!(outside.overdue().is_empty());
        assert_eq!(outside.take().len(), WAITING_MAX - 1);
        assert!(outside.take().is_empty() && places.available_permits() == WAITING_MAX);
    }

    #[tokio::test]
    async fn what_nobody_comes_for_is_overdue() {
        pause();
        let places = Arc::new(Semaphore::new(2));
        let mut outside = Outside::default();
        for id in 1..=2 {
            let message = Bytes::from(format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"roots/list"}}"#));
            let envelope = Scanner::new().scan(&message).expect("a message");
            let place = Arc::clone(&places).try_acquire_owned().expect("there is one");
            assert!(outside.keep(&message, &envelope, WAIT, place));
            advance(WAIT / 2).await;
        }
        let overdue = outside.overdue();
        assert_eq!(overdue.len(), 1);
        assert!(overdue[0].starts_with(br#"{"jsonrpc":"2.0","id":1,"#));
        assert_eq!((outside.take().len(), places.available_permits()), (1, 2));
    }
}
