use tokio::sync::mpsc::UnboundedSender;

/// Cancels a call when it is dropped before the response was passed on.
pub struct CancelGuard {
    cancellations: UnboundedSender<u64>,
    /// `None` once there is nothing to cancel.
    call: Option<u64>,
}

impl CancelGuard {
    /// Creates the guard of a call. Its number is sent to `cancellations`.
    pub fn new(cancellations: UnboundedSender<u64>, call: u64) -> Self {
        Self { cancellations, call: Some(call) }
    }

    /// The response was passed on: nothing is left to cancel.
    pub fn disarm(&mut self) {
        self.call = None;
    }
}

impl Drop for CancelGuard {
    fn drop(&mut self) {
        if let Some(call) = self.call.take() {
            // The server's thread may be gone. There is at most one such message for each call.
            let _ = self.cancellations.send(call);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    #[test]
    fn a_call_is_cancelled_once() {
        let (cancellations, mut received) = mpsc::unbounded_channel();
        drop(CancelGuard::new(cancellations.clone(), 7));
        let mut done = CancelGuard::new(cancellations, 8);
        done.disarm();
        drop(done);
        assert_eq!((received.try_recv(), received.try_recv().is_err()), (Ok(7), true));
    }
}
