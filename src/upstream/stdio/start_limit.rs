//! The bound on processes that are starting at once.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::connection::ProcessConnection;
use metamcp_http::{FailureStage, UpstreamError};

/// How many processes of one server may be starting at once.
pub struct StartLimit(Arc<Semaphore>);

/// Permission to start a process.
pub struct StartPermit {
    _of_server: OwnedSemaphorePermit,
    _of_all: SemaphorePermit<'static>,
}

/// Processes of all servers that are starting at once. Each keeps a core busy.
static STARTING: Semaphore = Semaphore::const_new(STARTING_MAX);
const STARTING_MAX: usize = 8;

/// Processes of one server that are starting at once: a slow server with many callers leaves room for the
/// others.
const STARTING_PER_SERVER_MAX: usize = STARTING_MAX / 2;

/// A process that has not answered by then waits for something else than a core: a download, or forever.
const PERMIT_TIME_MAX: Duration = Duration::from_millis(1500);

impl StartLimit {
    pub fn new() -> Self {
        Self(Arc::new(Semaphore::new(STARTING_PER_SERVER_MAX)))
    }

    /// Waits for a permit, for up to `wait_max`. Cancel safe.
    pub async fn acquire(&self, wait_max: Duration) -> Result<StartPermit, UpstreamError> {
        let both = async {
            let of_server = Arc::clone(&self.0).acquire_owned().await.ok()?;
            let of_all = STARTING.acquire().await.ok()?;
            Some(StartPermit { _of_server: of_server, _of_all: of_all })
        };
        let permit = timeout(wait_max, both).await.ok().flatten();
        permit
            .ok_or_else(|| UpstreamError::new(FailureStage::QueueTimeout, "too many processes are starting"))
    }
}

impl StartPermit {
    /// Returns the permit once the process has answered or ended, or some time has passed. In a `LocalSet`.
    pub fn hold_for(self, process: &Rc<ProcessConnection>) {
        let process = Rc::clone(process);
        spawn_local(async move {
            drop(timeout(PERMIT_TIME_MAX, process.settled.notified()).await);
            drop(self);
        });
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use tokio::task::LocalSet;
    use tokio::time::Instant;

    use super::super::supervisor::Supervisor;
    use super::super::target::StdioTarget;
    use super::*;
    use metamcp_core::protocol::Era;

    fn process() -> Rc<ProcessConnection> {
        let supervisor = Supervisor::new(StdioTarget::sample(), Arc::default());
        ProcessConnection::new(&supervisor.context, Era::Legacy, 1, Instant::now(), Rc::default())
    }

    #[tokio::test(start_paused = true)]
    async fn slow_servers_delay_others_briefly() {
        let test = async {
            let (slow, other, third) = (StartLimit::new(), StartLimit::new(), StartLimit::new());
            let start = Instant::now();
            let processes: Vec<Rc<ProcessConnection>> = (0..STARTING_MAX).map(|_| process()).collect();
            for process in &processes[..STARTING_PER_SERVER_MAX] {
                slow.acquire(Duration::ZERO).await.expect("a permit").hold_for(process);
            }
            assert!(slow.acquire(Duration::ZERO).await.is_err(), "it has its half");
            for process in &processes[STARTING_PER_SERVER_MAX..] {
                other.acquire(Duration::ZERO).await.expect("the other half").hold_for(process);
            }
            assert!(third.acquire(Duration::ZERO).await.is_err(), "none is left");
            // One answers.
            processes[STARTING_MAX - 1].settled.notify_one();
            drop(third.acquire(PERMIT_TIME_MAX / 2).await.expect("its permit"));
            assert!(start.elapsed() < PERMIT_TIME_MAX);
            slow.acquire(2 * PERMIT_TIME_MAX).await.expect("it had its time");
            assert_eq!(start.elapsed(), PERMIT_TIME_MAX);
        };
        LocalSet::new().run_until(test).await;
    }
}
