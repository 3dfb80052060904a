//! The queue of a server's messages for one call or one listener, bounded in number and in bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::sync::mpsc;

/// Messages that wait. They are taken at once unless the client is slow.
pub const WAITING_MAX: usize = 64;

/// Bytes of the messages that wait. A message of any size fits into an empty queue.
const WAITING_BYTES_MAX: usize = 4 << 20;

pub struct EventSender {
    sender: mpsc::Sender<Bytes>,
    bytes: Arc<AtomicUsize>,
}

pub struct EventReceiver {
    receiver: mpsc::Receiver<Bytes>,
    bytes: Arc<AtomicUsize>,
}

pub fn event_queue() -> (EventSender, EventReceiver) {
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    let bytes = Arc::<AtomicUsize>::default();
    (EventSender { sender, bytes: Arc::clone(&bytes) }, EventReceiver { receiver, bytes })
}

impl EventSender {
    /// Appends a message without waiting. Returns false if there is no room for it or the queue is closed.
    pub fn try_send(&self, message: &Bytes) -> bool {
        let before = self.bytes.fetch_add(message.len(), Ordering::AcqRel);
        let has_room = before == 0 || before.saturating_add(message.len()) <= WAITING_BYTES_MAX;
        let is_sent = has_room && self.sender.try_send(message.clone()).is_ok();
        if !is_sent {
            self.bytes.fetch_sub(message.len(), Ordering::AcqRel);
        }
        is_sent
    }
}

impl EventReceiver {
    /// Returns the next message, or `None` when the queue is closed and empty. Cancel safe.
    pub async fn recv(&mut self) -> Option<Bytes> {
        let message = self.receiver.recv().await?;
        self.bytes.fetch_sub(message.len(), Ordering::AcqRel);
        Some(message)
    }

    /// Returns a message that is in the queue already.
    #[cfg(test)]
    pub fn try_recv(&mut self) -> Result<Bytes, mpsc::error::TryRecvError> {
        self.receiver.try_recv().inspect(|message| {
            self.bytes.fetch_sub(message.len(), Ordering::AcqRel);
        })
    }

    /// Closes the queue for new messages; those that wait can still be received.
    pub fn close(&mut self) {
        self.receiver.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_queue_is_bounded() {
        let check = async |messages: usize, bytes: usize, expected: usize| {
            let (sender, mut events) = event_queue();
            let message = Bytes::from(vec![b'x'; bytes]);
            assert_eq!(
                (0..messages).filter(|_| sender.try_send(&message)).count(),
                expected,
                "{messages} of {bytes}"
            );
            for _ in 0..expected {
                assert_eq!(events.recv().await.map(|message| message.len()), Some(bytes));
            }
            assert!(sender.try_send(&message), "a received message makes room");
            events.close();
            assert!(!sender.try_send(&message));
            assert!(events.recv().await.is_some());
            assert_eq!(events.recv().await, None);
        };
        check(WAITING_MAX + 10, 1, WAITING_MAX).await;
        check(10, 1 << 20, 4).await;
        check(3, WAITING_BYTES_MAX + 1, 1).await;
    }
}
