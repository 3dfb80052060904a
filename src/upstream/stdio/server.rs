//! One server's life, as types: only a deployed one can be called.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use http::HeaderValue;
use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;

use super::super::shim::{CallGuard, CallOutcome, HttpOperation, LocalResponse};
use super::super::{EraChoice, FailureStage, UpstreamError};
use super::Program;
use super::supervisor::{Message, Supervisor};
use super::tally::{Processes, Tally};
use crate::auth::KeyId;
use crate::child;
use metamcp_core::base::ServerName;
use metamcp_core::protocol::Era;

/// A server that is a program: `Server<Configured>` becomes a `Server<Deployed>`, which can be called, or a
/// `Server<Failed>`, which says why not and can be configured again.
///
/// A call to a server that is not deployed does not compile:
///
/// ```compile_fail
/// async fn call(server: &metamcp::upstream::stdio::Server<metamcp::upstream::stdio::Configured>) {
///     server.health().await;
/// }
/// ```
///
/// One that is does:
///
/// ```
/// async fn call(server: &metamcp::upstream::stdio::Server<metamcp::upstream::stdio::Deployed>) {
///     server.health().await;
/// }
/// ```
pub struct Server<S> {
    name: ServerName,
    program: Box<Program>,
    era: EraChoice,
    state: S,
}

/// Something that is asked of a server.
pub struct Call {
    /// No other call of the server has or had it.
    pub number: u64,
    /// What is asked.
    pub verb: HttpOperation,
    /// The session it belongs to, when one is named.
    pub session: Option<HeaderValue>,
    /// The key on whose behalf.
    pub owner: Option<KeyId>,
    /// Which session of a client it opens, whether for the first time or again.
    pub place: Option<u64>,
    /// Whether the session that it opens is to have a process to itself.
    pub is_apart: bool,
    /// Where the answer goes.
    pub reply: oneshot::Sender<CallOutcome>,
}

/// Said what it is; nothing runs.
pub struct Configured;

/// Its supervising task runs, and starts processes as they are needed. Dropped, it ends them.
pub struct Deployed {
    asked: mpsc::Sender<Message>,
    given_up: mpsc::UnboundedSender<u64>,
    next_call: AtomicU64,
    tally: Arc<Tally>,
}

/// It could not be deployed.
pub struct Failed {
    why: String,
}

/// How a server is.
#[derive(Debug, Clone)]
pub struct Health {
    /// Processes that are spoken to.
    pub processes: Vec<ProcessHealth>,
    /// All that run: those, a spare, and those that are ending.
    pub running: usize,
    /// Failures without a quiet while between them.
    pub failures_in_a_row: u32,
    /// How long nothing is started because of them.
    pub next_start_in: Duration,
    /// Processes started so far.
    pub started: u64,
    /// Processes that ended when nobody had asked for it, or could not be started.
    pub failed: u64,
    /// Lines that were no message.
    pub nonsense: u64,
    /// Messages that were for nobody in particular, or for a call that is over.
    pub unmeant: u64,
    /// Messages that a client was too slow for.
    pub lost: u64,
    /// Requests of the server that no one client could be asked.
    pub refused: u64,
}

/// How a process is.
#[derive(Debug, Clone)]
pub struct ProcessHealth {
    /// The number of its keeper.
    pub pid: u32,
    /// The era it is spoken to in.
    pub era: Era,
    /// Since it was started.
    pub ran: Duration,
    /// Clients with a session on it.
    pub sessions: usize,
    /// Calls under way.
    pub in_flight: usize,
}

/// Calls on their way to the supervising task, which takes them at once unless it is badly behind: then they
/// wait.
const ASKED_MAX: usize = 256;

/// Nothing on the thread goes deep, and there may be hundreds of servers.
const STACK_BYTES: usize = 512 << 10;

impl Server<Configured> {
    /// As configured.
    pub fn new(name: ServerName, program: Box<Program>, era: EraChoice) -> Self {
        Self { name, program, era, state: Configured }
    }

    /// Starts the task that supervises it, on a thread of its own. A child process is bound to the life of
    /// the thread that started it (`PR_SET_PDEATHSIG`), so it must be one that lives as long.
    pub fn deploy(self) -> Result<Server<Deployed>, Server<Failed>> {
        child::close_memory();
        child::adopt();
        let (asked, taken) = mpsc::channel(ASKED_MAX);
        // At most one message for each call, and calls are bounded.
        let (given_up, over) = mpsc::unbounded_channel();
        let (name, program, era) = (self.name.clone(), self.program.clone(), self.era);
        let tally = Arc::<Tally>::default();
        let counted = Arc::clone(&tally);
        let begun = Builder::new_current_thread().enable_all().build().and_then(|runtime| {
            let named = format!("stdio-{name}");
            thread::Builder::new().name(named).stack_size(STACK_BYTES).spawn(move || {
                let supervisor = Supervisor::new(name, *program, era, counted);
                LocalSet::new().block_on(&runtime, supervisor.run(taken, over));
            })
        });
        let Self { name, program, era, .. } = self;
        match begun {
            Ok(_thread) => {
                let next_call = AtomicU64::new(0);
                let state = Deployed { asked, given_up, next_call, tally };
                Ok(Server { name, program, era, state })
            }
            Err(error) => {
                let why = format!("the thread that would supervise it cannot be started: {error}");
                Err(Server { name, program, era, state: Failed { why } })
            }
        }
    }
}

impl Server<Deployed> {
    /// Asks it something, and waits for what the answer begins with. The hold gives the call up when it is
    /// dropped.
    ///
    /// Not cancel safe: dropping it gives the call up.
    pub async fn call(
        &self,
        verb: HttpOperation,
        session: Option<HeaderValue>,
        owner: Option<KeyId>,
        place: Option<u64>,
        is_apart: bool,
    ) -> Result<(LocalResponse, CallGuard), UpstreamError> {
        let number = self.state.next_call.fetch_add(1, Ordering::Relaxed);
        // Made first, so that it is dropped last: a server that is told that the call is given up sees that
        // nobody waits.
        let hold = CallGuard::new(self.state.given_up.clone(), number);
        let (reply, answer) = oneshot::channel();
        let call = Call { number, verb, session, owner, place, is_apart, reply };
        let gone = |_| UpstreamError::from_stage(FailureStage::NotSent);
        self.state.asked.send(Message::Call(call)).await.map_err(gone)?;
        match answer.await {
            Ok(outcome) => outcome.map(|reply| (reply, hold)),
            Err(_gone) => Err(UpstreamError::from_stage(FailureStage::NoResponse)),
        }
    }

    /// How its processes are. Asks nobody.
    pub fn processes(&self) -> Processes {
        self.state.tally.look()
    }

    /// How it is; `None` when it was stopped. Cancel safe.
    pub async fn health(&self) -> Option<Health> {
        let (reply, answer) = oneshot::channel();
        self.state.asked.send(Message::Health(reply)).await.ok()?;
        answer.await.ok()
    }

    /// Ends all its processes, and waits until they have ended: five seconds and a half at most. None
    /// is started from then on. Cancel safe: they end all the same.
    pub async fn stop(&self) {
        let (reply, ended) = oneshot::channel();
        if self.state.asked.send(Message::Stop(reply)).await.is_ok() {
            // Gone is ended.
            let _ = ended.await;
        }
    }
}

impl Server<Failed> {
    /// Why it could not be deployed.
    pub fn why(&self) -> &str {
        &self.state.why
    }

    /// As configured, to be deployed again.
    pub fn configured(self) -> Server<Configured> {
        Server::new(self.name, self.program, self.era)
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::super::tests::program;
    use super::*;

    #[tokio::test]
    async fn a_deployed_server_can_be_asked_how_it_is_and_stopped() {
        let name = ServerName::new("a").expect("valid");
        let server = Server::new(name, Box::new(program()), EraChoice::Auto);
        let Ok(server) = server.deploy() else { panic!("a thread can be started") };
        let health = server.health().await.unwrap();
        assert_eq!(
            (health.running, health.started, health.processes.len()),
            (0, 0, 0),
            "nothing asked for one"
        );
        // Nothing of this needs a process.
        let check = async |verb, session: Option<&'static str>, expected| {
            let (reply, _hold) =
                server.call(verb, session.map(HeaderValue::from_static), None, None, false).await.unwrap();
            assert_eq!(reply.status, expected);
        };
        check(HttpOperation::Get, None, StatusCode::METHOD_NOT_ALLOWED).await;
        check(HttpOperation::Get, Some("x"), StatusCode::NOT_FOUND).await;
        check(HttpOperation::Delete, Some("x"), StatusCode::NOT_FOUND).await;
        check(HttpOperation::Post("{".into()), None, StatusCode::BAD_REQUEST).await;
        let ping = br#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
        check(HttpOperation::Post(ping[..].into()), None, StatusCode::BAD_REQUEST).await;
        check(HttpOperation::Post(ping[..].into()), Some("x"), StatusCode::NOT_FOUND).await;
        let told = br#"{"jsonrpc":"2.0","method":"notifications/cancelled"}"#;
        check(HttpOperation::Post(told[..].into()), None, StatusCode::ACCEPTED).await;
        server.stop().await;
        assert!(server.health().await.is_some(), "stopped, it can be asked how it is");
    }
}
