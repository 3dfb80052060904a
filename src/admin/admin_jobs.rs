//! Runs jobs that talk to servers on the main thread, because connection pools cannot move between threads.
//! They never run on a worker.

use std::future::Future;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::problem::Problem;
use http::StatusCode;

/// Starts a job on the main thread.
type JobStart = Box<dyn FnOnce() + Send>;

/// Submits jobs to the main thread.
#[derive(Clone)]
pub struct AdminJobs {
    starts: mpsc::Sender<JobStart>,
}

/// Runs submitted jobs, on the main thread.
pub struct AdminJobRunner {
    starts: mpsc::Receiver<JobStart>,
}

/// Jobs that wait to be started. They are started at once, unless the main thread is far behind.
const PENDING_JOBS_MAX: usize = 64;

impl AdminJobs {
    /// Returns the submitting and the running side.
    pub fn new() -> (Self, AdminJobRunner) {
        let (begin, begun) = mpsc::channel(PENDING_JOBS_MAX);
        (Self { starts: begin }, AdminJobRunner { starts: begun })
    }

    /// Runs the future of `make` on the main thread until it completes, `within` has elapsed, or the caller
    /// is gone.
    ///
    /// Cancel safe: if dropped, the job is dropped too.
    pub async fn run<T, F>(
        &self,
        within: Duration,
        make: impl FnOnce() -> F + Send + 'static,
    ) -> Result<T, Problem>
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        let (mut reply, answer) = oneshot::channel();
        let begin: JobStart = Box::new(move || {
            spawn_local(async move {
                let outcome = tokio::select! {
                    // A job is not started if the caller is already gone.
                    biased;
                    () = reply.closed() => return,
                    outcome = timeout(within, make()) => outcome,
                };
                // The caller may be gone by now.
                drop(reply.send(outcome));
            });
        });
        let busy = || Problem::unavailable("the gateway is busy; try again in a moment");
        self.starts.try_send(begin).map_err(|_| busy())?;
        match answer.await {
            Ok(Ok(outcome)) => Ok(outcome),
            Ok(Err(_elapsed)) => {
                let detail =
                    format!("the server did not answer within {} s; the call may have run", within.as_secs());
                Err(Problem::new(StatusCode::GATEWAY_TIMEOUT, detail))
            }
            Err(_gone) => Err(busy()),
        }
    }
}

impl AdminJobRunner {
    /// Runs jobs until every [`AdminJobs`] is dropped. Must run in a `LocalSet`.
    pub async fn run(mut self) {
        while let Some(begin) = self.starts.recv().await {
            begin();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn ends_in_time() {
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                let (admin_jobs, runner) = AdminJobs::new();
                spawn_local(runner.run());
                let limit = Duration::from_secs(1);
                assert_eq!(admin_jobs.run(limit, async || 7).await.expect("it ends at once"), 7);
                let slow = admin_jobs.run(limit, move || tokio::time::sleep(limit * 2)).await;
                assert_eq!(
                    slow.err().map(|problem| problem.to_response().status()),
                    Some(StatusCode::GATEWAY_TIMEOUT)
                );
                let (gone, seen) = oneshot::channel::<()>();
                let unwanted = admin_jobs.run(limit * 100, async move || {
                    let _held = gone;
                    std::future::pending::<()>().await;
                });
                assert!(timeout(limit, unwanted).await.is_err());
                assert!(seen.await.is_err(), "dropped with the one who waited");
            })
            .await;
    }
}
