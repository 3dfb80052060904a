//! Subscriptions of a Modern client: one request whose stream is to last as long as the client.

use bytes::Bytes;
use tokio::time::sleep;

use super::Bridge;
use super::answer::Hearing;
use super::message::Message;
use super::trouble::Trouble;
use crate::backend::{Lane, Outgoing};

impl Bridge {
    /// Listens until the endpoint says that it is over. A client at a pipe sees no connection break, so a stream that
    /// breaks off is asked for again, as long as it takes; the client has its acknowledgement already. It reads nothing,
    /// so it may be repeated.
    pub(super) async fn listen(&self, message: &Message) -> Result<Bytes, Trouble> {
        let id = message.id();
        let mut hearing = Hearing::of(&id);
        let mut tries = 0;
        loop {
            let trouble = match self.listen_once(message, &mut hearing).await {
                Ok(answer) => return Ok(answer),
                Err(trouble) if hearing.is_acknowledged && trouble.may_pass() => trouble,
                Err(trouble) => return Err(trouble),
            };
            if std::mem::take(&mut hearing.is_alive) {
                tries = 0;
            }
            tracing::info!("a subscription broke off, and is asked for again: {trouble}");
            sleep(hearing.pause(tries)).await;
            tries = tries.saturating_add(1);
        }
    }

    async fn listen_once(&self, message: &Message, hearing: &mut Hearing<'_>) -> Result<Bytes, Trouble> {
        let request: Outgoing = message.outgoing(None, &self.params.borrow())?;
        let answered = self.pool.send(&request, Lane::Stream).await?;
        self.was_there.set(true);
        self.hear(message, *answered, None, hearing).await
    }
}
