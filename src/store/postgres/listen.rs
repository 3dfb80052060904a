//! A connection that does nothing but listen for changes.

use std::future::poll_fn;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tokio_postgres::AsyncMessage;

use super::{CREATE_TIMEOUT, Postgres};
use crate::store::StoreError;

impl Postgres {
    /// Wakes whoever waits when something changed, and when a change may have been missed. Never ends.
    pub async fn listen(&self, wake: &Notify) {
        let mut pause = PAUSE_MIN;
        loop {
            match self.listen_once(wake, &mut pause).await {
                Ok(()) => tracing::debug!("the connection that listens for changes was closed"),
                Err(error) => tracing::debug!(%error, "the connection that listens for changes broke"),
            }
            wake.notify_one();
            // Not all replicas at once when the server comes back.
            sleep(jitter(pause)).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn listen_once(&self, wake: &Notify, pause: &mut Duration) -> Result<(), StoreError> {
        let opened = timeout(CREATE_TIMEOUT, self.connector.open()).await.map_err(|_| silent())?;
        let (client, mut connection) = opened?;
        let hear = async {
            while let Some(message) = poll_fn(|context| connection.poll_message(context)).await {
                if let AsyncMessage::Notification(_) = message? {
                    wake.notify_one();
                }
            }
            Ok(())
        };
        let beat = async {
            // Listening comes before the read it asks for: a change between the two is heard.
            timeout(BEAT_TIMEOUT, client.batch_execute(LISTEN)).await.map_err(|_| silent())??;
            *pause = PAUSE_MIN;
            wake.notify_one();
            loop {
                sleep(BEAT).await;
                timeout(BEAT_TIMEOUT, client.batch_execute("SELECT 1")).await.map_err(|_| silent())??;
            }
        };
        tokio::select! {
            heard = hear => heard,
            broken = beat => broken,
        }
    }
}

fn silent() -> StoreError {
    StoreError::Unavailable("it does not answer".into())
}

/// Between half of it and all of it.
fn jitter(pause: Duration) -> Duration {
    let mut random = [0];
    // Without random numbers the replicas only come at the same time.
    let share = getrandom::fill(&mut random).map_or(255, |()| random[0]);
    pause / 2 + pause / 2 * u32::from(share) / 255
}

/// The channel that the triggers in `sql/postgres/` tell.
const LISTEN: &str = "LISTEN metamcp_epochs";

/// A connection that hangs is noticed after this and the next together: within 7 s.
const BEAT: Duration = Duration::from_secs(3);
const BEAT_TIMEOUT: Duration = Duration::from_secs(3);
const _: () = assert!(BEAT.as_secs() + BEAT_TIMEOUT.as_secs() < 7);

/// Before the first try to connect again.
const PAUSE_MIN: Duration = Duration::from_millis(100);

/// Before any other: the poll goes on meanwhile.
const PAUSE_MAX: Duration = Duration::from_secs(5);
