//! Whose turn it is to start a process.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::super::{FailureStage, UpstreamError};
use super::link::Link;

/// Places among those that are starting, of one server.
pub struct Turns(Arc<Semaphore>);

/// One of them.
pub struct Turn {
    _of_server: OwnedSemaphorePermit,
    _of_all: SemaphorePermit<'static>,
}

/// Processes, of all servers, that are starting at once. Each is busy with a core.
static STARTING: Semaphore = Semaphore::const_new(STARTING_MAX);
const STARTING_MAX: usize = 8;

/// Of one server: one that is slow, asked by many, leaves room for the others.
const STARTING_OF_ONE_MAX: usize = STARTING_MAX / 2;

/// What has not answered by then waits for something else than a core: a download, or for ever.
const SLICE: Duration = Duration::from_millis(1500);

impl Turns {
    /// All free.
    pub fn new() -> Self {
        Self(Arc::new(Semaphore::new(STARTING_OF_ONE_MAX)))
    }

    /// Waits for a place, up to so long. Cancel safe.
    pub async fn take(&self, patience: Duration) -> Result<Turn, UpstreamError> {
        let both = async {
            let of_server = Arc::clone(&self.0).acquire_owned().await.ok()?;
            let of_all = STARTING.acquire().await.ok()?;
            Some(Turn { _of_server: of_server, _of_all: of_all })
        };
        let taken = timeout(patience, both).await.ok().flatten();
        taken.ok_or_else(|| UpstreamError::new(FailureStage::QueueTimeout, "too many processes are starting"))
    }
}

impl Turn {
    /// Gives the place back once the process has answered or ended, or had its time. In a `LocalSet`.
    pub fn hold_for(self, link: &Rc<Link>) {
        let link = Rc::clone(link);
        spawn_local(async move {
            drop(timeout(SLICE, link.settled.notified()).await);
            drop(self);
        });
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use tokio::task::LocalSet;
    use tokio::time::Instant;

    use super::super::super::EraChoice;
    use super::super::supervisor::Supervisor;
    use super::super::tests::program;
    use super::*;
    use metamcp_core::base::ServerName;
    use metamcp_core::protocol::Era;

    fn link() -> Rc<Link> {
        let name = ServerName::new("a").expect("valid");
        let supervisor = Supervisor::new(name, program(), EraChoice::Auto, Arc::default());
        Link::new(&supervisor.common, Era::Legacy, 1, Instant::now(), Rc::default())
    }

    #[tokio::test(start_paused = true)]
    async fn slow_servers_hold_up_others_for_a_moment_only() {
        let test = async {
            let (mute, other, third) = (Turns::new(), Turns::new(), Turns::new());
            let begun = Instant::now();
            let links: Vec<Rc<Link>> = (0..STARTING_MAX).map(|_| link()).collect();
            for link in &links[..STARTING_OF_ONE_MAX] {
                mute.take(Duration::ZERO).await.expect("a place").hold_for(link);
            }
            assert!(mute.take(Duration::ZERO).await.is_err(), "it has its half");
            for link in &links[STARTING_OF_ONE_MAX..] {
                other.take(Duration::ZERO).await.expect("the other half").hold_for(link);
            }
            assert!(third.take(Duration::ZERO).await.is_err(), "all are taken");
            // One answers.
            links[STARTING_MAX - 1].settled.notify_one();
            drop(third.take(SLICE / 2).await.expect("its place"));
            assert!(begun.elapsed() < SLICE);
            mute.take(2 * SLICE).await.expect("it had its time");
            assert_eq!(begun.elapsed(), SLICE);
        };
        LocalSet::new().run_until(test).await;
    }
}
