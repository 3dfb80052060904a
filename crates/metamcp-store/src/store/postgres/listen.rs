//! The connection that listens for changes.

use std::future::poll_fn;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tokio_postgres::AsyncMessage;

use super::engine::{CREATE_TIMEOUT, Postgres};
use crate::store::error::StoreError;

impl Postgres {
    /// Wakes the waiter when something changed, and when a change may have been missed. Never returns.
    pub async fn listen(&self, wake: &Notify) {
        let mut pause = PAUSE_MIN;
        loop {
            match self.listen_once(wake, &mut pause).await {
                Ok(()) => tracing::debug!("change listener connection closed"),
                Err(error) => tracing::debug!(%error, "change listener connection failed"),
            }
            wake.notify_one();
            // Jitter, so that not all replicas reconnect at once when the server comes back.
            sleep(jitter(pause)).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn listen_once(&self, wake: &Notify, pause: &mut Duration) -> Result<(), StoreError> {
        let opened = timeout(CREATE_TIMEOUT, self.connector.open()).await.map_err(|_| no_response())?;
        let (client, mut connection) = opened?;
        let receive = async {
            while let Some(message) = poll_fn(|context| connection.poll_message(context)).await {
                if let AsyncMessage::Notification(_) = message? {
                    wake.notify_one();
                }
            }
            Ok(())
        };
        let heartbeat = async {
            // Listens before the read that the wake-up causes: a change between the two is not missed.
            timeout(HEARTBEAT_TIMEOUT, client.batch_execute(LISTEN)).await.map_err(|_| no_response())??;
            *pause = PAUSE_MIN;
            wake.notify_one();
            loop {
                sleep(HEARTBEAT).await;
                timeout(HEARTBEAT_TIMEOUT, client.batch_execute("SELECT 1"))
                    .await
                    .map_err(|_| no_response())??;
            }
        };
        tokio::select! {
            result = receive => result,
            result = heartbeat => result,
        }
    }
}

fn no_response() -> StoreError {
    StoreError::Unavailable("it does not answer".into())
}

/// A random duration between half of `pause` and all of it.
fn jitter(pause: Duration) -> Duration {
    let mut random = [0];
    // Without random numbers the replicas merely reconnect at the same time.
    let share = getrandom::fill(&mut random).map_or(255, |()| random[0]);
    pause / 2 + pause / 2 * u32::from(share) / 255
}

/// The channel that the triggers in `sql/postgres/` notify.
const LISTEN: &str = "LISTEN metamcp_epochs";

/// A connection that hangs is noticed after both intervals together: within 7 s.
const HEARTBEAT: Duration = Duration::from_secs(3);
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(3);
const _: () = assert!(HEARTBEAT.as_secs() + HEARTBEAT_TIMEOUT.as_secs() < 7);

/// The pause before the first attempt to reconnect.
const PAUSE_MIN: Duration = Duration::from_millis(100);

/// The longest pause between attempts. The poll continues meanwhile.
const PAUSE_MAX: Duration = Duration::from_secs(5);
