//! Messages of a server for one call or one client that listens, on their way: bounded in number and in
//! bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::sync::mpsc;

/// Messages that wait. Whoever they are for takes them at once, unless its client is slow.
pub const WAITING_MAX: usize = 64;

/// Bytes of them. One of any size has room where none waits.
const WAITING_BYTES_MAX: usize = 4 << 20;

/// Where they are put.
pub struct Mouth {
    sender: mpsc::Sender<Bytes>,
    bytes: Arc<AtomicUsize>,
}

/// Where they come out.
pub struct Aside {
    receiver: mpsc::Receiver<Bytes>,
    bytes: Arc<AtomicUsize>,
}

/// The two ends.
pub fn aside() -> (Mouth, Aside) {
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    let bytes = Arc::<AtomicUsize>::default();
    (Mouth { sender, bytes: Arc::clone(&bytes) }, Aside { receiver, bytes })
}

impl Mouth {
    /// Puts one behind the others, without a wait; false when there is no room for it, or nobody takes it.
    pub fn put(&self, message: &Bytes) -> bool {
        let before = self.bytes.fetch_add(message.len(), Ordering::AcqRel);
        let has_room = before == 0 || before.saturating_add(message.len()) <= WAITING_BYTES_MAX;
        let is_put = has_room && self.sender.try_send(message.clone()).is_ok();
        if !is_put {
            self.bytes.fetch_sub(message.len(), Ordering::AcqRel);
        }
        is_put
    }
}

impl Aside {
    /// The next; `None` when none is to come. Cancel safe.
    pub async fn recv(&mut self) -> Option<Bytes> {
        let message = self.receiver.recv().await?;
        self.bytes.fetch_sub(message.len(), Ordering::AcqRel);
        Some(message)
    }

    /// What has come already.
    #[cfg(test)]
    pub fn try_recv(&mut self) -> Result<Bytes, mpsc::error::TryRecvError> {
        self.receiver.try_recv().inspect(|message| {
            self.bytes.fetch_sub(message.len(), Ordering::AcqRel);
        })
    }

    /// Nothing more is put; what waits still comes out.
    pub fn close(&mut self) {
        self.receiver.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_waits_is_bounded() {
        let check = async |messages: usize, bytes: usize, expected: usize| {
            let (mouth, mut aside) = aside();
            let message = Bytes::from(vec![b'x'; bytes]);
            assert_eq!(
                (0..messages).filter(|_| mouth.put(&message)).count(),
                expected,
                "{messages} of {bytes}"
            );
            for _ in 0..expected {
                assert_eq!(aside.recv().await.map(|message| message.len()), Some(bytes));
            }
            assert!(mouth.put(&message), "what was taken makes room");
            aside.close();
            assert!(!mouth.put(&message));
            assert!(aside.recv().await.is_some());
            assert_eq!(aside.recv().await, None);
        };
        check(WAITING_MAX + 10, 1, WAITING_MAX).await;
        check(10, 1 << 20, 4).await;
        check(3, WAITING_BYTES_MAX + 1, 1).await;
    }
}
