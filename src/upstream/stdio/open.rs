//! Starting processes under limits, initializing them, and assigning clients to them.

use std::cell::RefCell;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use tokio::select;
use tokio::time::{Instant, sleep, timeout};

use super::call::{StdioCall, StdioRequest};
use super::client_slots::SessionOrigin;
use super::connection::ProcessConnection;
use super::exit::describe_spawn_error;
use super::initialize::{
    DISCOVER_PARAMS, capabilities_of, detect_era, own_initialize_params, sharing_key, with_id, without_tasks,
};
use super::process::SpawnedProcess;
use super::process_stats::ProcessStage;
use super::slots::{InitializedProcess, ProcessKey, ProcessOwner};
use super::supervisor::Supervisor;
use crate::telemetry::events::EventKind;
use metamcp_config::server::{EraChoice, Sharing};
use metamcp_core::frame::{Envelope, MessageKind};
use metamcp_core::protocol::{Era, McpMethod, code};
use metamcp_http::multiplex::{Backoff, CallOutcome, LocalResponse, new_session_id, raw_id};
use metamcp_http::{FailureStage, UpstreamError};

/// A call waits for a back-off of up to this long, and fails at once if it is longer.
const BACKOFF_WAIT_MAX: Duration = Duration::from_secs(2);

/// A server that does not answer `server/discover` for this long does not know the method (MCP 2026-07-28,
/// versioning: silence means the other era), or has not started yet. It is then sent `initialize`, which
/// every server knows.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long after the response to `initialize` the response to the earlier `server/discover` may take.
const PROBE_GRACE: Duration = Duration::from_secs(1);

impl Supervisor {
    /// Starts a process and connects to it. Fails at once when the server is being stopped.
    async fn start(
        self: &Rc<Self>,
        era: Era,
        backoff: &Rc<RefCell<Backoff>>,
    ) -> Result<Rc<ProcessConnection>, UpstreamError> {
        let stopping = self.stopping.notified();
        tokio::pin!(stopping);
        stopping.as_mut().enable();
        if self.is_stopping.get() {
            return Err(UpstreamError::from_stage(FailureStage::NotSent));
        }
        tokio::select! {
            biased;
            () = stopping => Err(UpstreamError::from_stage(FailureStage::NotSent)),
            started = self.start_within_limits(era, backoff) => started,
        }
    }

    async fn start_within_limits(
        self: &Rc<Self>,
        era: Era,
        backoff: &Rc<RefCell<Backoff>>,
    ) -> Result<Rc<ProcessConnection>, UpstreamError> {
        let context = &self.context;
        let now = Instant::now();
        let waits = [&context.backoff, &**backoff].map(|backoff| backoff.borrow().wait(now));
        let wait = waits[0].max(waits[1]);
        if wait > BACKOFF_WAIT_MAX {
            let failures = context.backoff.borrow().failures().max(backoff.borrow().failures());
            // Rounded up, so that a client does not retry too early.
            let wait = wait.as_millis().div_ceil(1000);
            let text = format!("it failed {failures} times in a row; the next try is in {wait} s");
            return Err(UpstreamError::start_failure(text, None));
        }
        sleep(wait).await;
        // Before the permit: whoever waits for capacity keeps no other server from starting.
        let _reservation = self.reserve_process().await?;
        let permit = self.start_limit.acquire(context.program.settings.start_timeout).await?;
        let spare = self.take_spare();
        let is_spare = spare.is_some();
        let spawned = match spare {
            Some(spare) => spare,
            None => self.spawn()?,
        };
        self.request_spare();
        let connection =
            ProcessConnection::new(context, era, spawned.pid, spawned.started_at, Rc::clone(backoff));
        connection.is_spare.set(is_spare);
        spawned.run(Rc::clone(&connection));
        permit.hold_for(&connection);
        Ok(connection)
    }

    pub fn spawn(&self) -> Result<SpawnedProcess, UpstreamError> {
        if self.is_stopping.get() {
            return Err(UpstreamError::from_stage(FailureStage::NotSent));
        }
        SpawnedProcess::start(&self.context).map_err(|error| {
            self.context.counters.record_failure(ProcessStage::Start, error.to_string());
            self.context.backoff.borrow_mut().fail(Duration::ZERO);
            tracing::debug!(server = %self.context.name, %error, "cannot start a server process");
            self.context.tell(EventKind::ServerFailed, |event| {
                event.with("reason", error.to_string()).with("stage", ProcessStage::Start.text())
            });
            let reason = describe_spawn_error(&error, &self.context.program);
            UpstreamError::start_failure(reason, Some(error.to_string()))
        })
    }

    /// Opens a Legacy session, on a process that was initialized in the same way or on a new one.
    pub async fn initialize(self: Rc<Self>, call: StdioCall, message: Bytes, envelope: Envelope) {
        let outcome = self.open_session(&call, &message, &envelope).await;
        let session = outcome.as_ref().ok().and_then(|response| response.session_id.clone());
        let is_abandoned = call.reply.send(outcome).is_err();
        if let Some(session) = session.filter(|_| is_abandoned) {
            self.end_session(&session);
        }
    }

    async fn open_session(
        self: &Rc<Self>,
        call: &StdioCall,
        message: &Bytes,
        envelope: &Envelope,
    ) -> CallOutcome {
        let (id, sharing) = (raw_id(message, envelope), self.context.program.settings.sharing);
        let Some(params) = envelope.params.object.map(|span| span.slice(message)) else {
            let text = "initialize needs params";
            return Ok(LocalResponse::from_error(StatusCode::OK, id, code::INVALID_PARAMS, text));
        };
        if self.era == EraChoice::Modern {
            let text = "this server speaks revision 2026-07-28 only";
            return Ok(LocalResponse::from_error(StatusCode::OK, id, code::UNSUPPORTED_VERSION, text));
        }
        let request = &call.request;
        if request.is_exclusive && !self.can_start_exclusive() {
            return Err(UpstreamError::new(FailureStage::QueueFull, "half of its processes are in use"));
        }
        let capabilities = capabilities_of(params);
        let owner = self.process_owner(call.number, request, capabilities);
        let params = match sharing {
            Sharing::Shared => own_initialize_params(),
            Sharing::Auto | Sharing::Key | Sharing::Session => Bytes::copy_from_slice(params),
        };
        let is_exclusive = matches!(owner, ProcessOwner::Session(_) | ProcessOwner::ClientSession(_));
        let key = ProcessKey::Legacy(owner, sharing_key(&params));
        let process = self.initialized_process(key, &params).await?;
        let InitializedProcess { connection, response, envelope } = &*process;
        let response = with_id(id, response, envelope);
        if envelope.kind != MessageKind::Response {
            return Ok(LocalResponse::from_message(response));
        }
        if !connection.is_alive() {
            return Err(UpstreamError::from_stage(FailureStage::NotSent));
        }
        connection.is_exclusive.set(is_exclusive);
        self.request_spare();
        let session = new_session_id()?;
        let StdioRequest { owner, client_session, is_exclusive: is_additional, .. } = *request;
        let origin = SessionOrigin {
            session: session.clone(),
            owner,
            client_session,
            params,
            capabilities,
            is_additional,
        };
        let client = connection.state.borrow_mut().clients.add(origin);
        connection.is_opening.set(false);
        self.context.sessions.borrow_mut().insert(session.clone(), (Rc::clone(connection), client));
        let response = match sharing {
            Sharing::Shared => without_tasks(response),
            Sharing::Auto | Sharing::Key | Sharing::Session => response,
        };
        Ok(LocalResponse { session_id: Some(session), ..LocalResponse::from_message(response) })
    }

    /// Returns the process of a slot, started and initialized if there is none.
    pub async fn initialized_process(
        self: &Rc<Self>,
        key: ProcessKey,
        params: &Bytes,
    ) -> Result<Rc<InitializedProcess>, UpstreamError> {
        let slot = self.slot(key);
        let mut process = slot.legacy.lock().await;
        if let Some(process) = process.as_ref().filter(|process| process.connection.is_alive()) {
            return Ok(Rc::clone(process));
        }
        let connection = self.start(Era::Legacy, &slot.backoff).await?;
        connection.is_opening.set(true);
        let waiting = connection.send_request(McpMethod::Initialize, params);
        let (response, envelope) = match timeout(self.context.program.settings.start_timeout, waiting).await {
            Ok(Ok(response)) => response,
            // The process ended, which was recorded.
            Ok(Err(_gone)) => {
                self.detected_era.set(None);
                return Err(connection.start_error());
            }
            Err(_elapsed) => return Err(self.fail_initialize(&connection)),
        };
        if envelope.kind == MessageKind::Response {
            // Each client sends this as well; the process receives it once, whichever client is first.
            connection.queue_control(br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
        } else {
            self.detected_era.set(None);
            connection.request_end();
        }
        self.note_start(&connection);
        let initialized = Rc::new(InitializedProcess { connection, response, envelope });
        *process = Some(Rc::clone(&initialized));
        Ok(initialized)
    }

    /// Ends a process that did not answer `initialize` in time.
    fn fail_initialize(&self, connection: &ProcessConnection) -> UpstreamError {
        self.detected_era.set(None);
        connection.record_failure();
        let reason = "it did not answer `initialize` within start_timeout";
        self.context.counters.record_failure(ProcessStage::Initialize, reason);
        tracing::debug!(server = %self.context.name, "server process did not answer `initialize` in time");
        connection.close(FailureStage::ProcessStart);
        connection.request_end();
        UpstreamError::start_failure("it did not answer within start_timeout", None)
    }

    /// Returns the process for Modern requests, started if there is none.
    pub async fn modern_process(
        self: &Rc<Self>,
        request: &StdioRequest,
    ) -> Result<Rc<ProcessConnection>, UpstreamError> {
        let owner = match self.context.program.settings.sharing {
            Sharing::Shared => ProcessOwner::Everybody,
            // The era has no sessions.
            Sharing::Auto | Sharing::Key | Sharing::Session => ProcessOwner::Key(request.owner),
        };
        let slot = self.slot(ProcessKey::Modern(owner));
        let mut process = slot.modern.lock().await;
        if let Some(connection) = process.as_ref().filter(|connection| connection.is_alive()) {
            return Ok(Rc::clone(connection));
        }
        let connection = self.start(Era::Modern, &slot.backoff).await?;
        *process = Some(Rc::clone(&connection));
        Ok(connection)
    }

    /// Whether the server speaks the Modern era: as configured, or as detected on a process that is used for
    /// nothing else, once, and again after a session could not be opened. Some servers exit at any message
    /// before `initialize`, others stay with the era of the first message.
    pub async fn is_modern(self: &Rc<Self>) -> Result<bool, UpstreamError> {
        match self.era {
            EraChoice::Modern => return Ok(true),
            EraChoice::Legacy => return Ok(false),
            EraChoice::Auto => {}
        }
        let _probing = self.probe_lock.lock().await;
        if let Some(era) = self.detected_era.get() {
            return Ok(era == Era::Modern);
        }
        let connection = self.start(Era::Modern, &Rc::default()).await?;
        connection.is_probe.set(true);
        let backoff_before = self.context.backoff.borrow().clone();
        let stats_before = self.context.counters.snapshot();
        let discovering = connection.send_request(McpMethod::Discover, DISCOVER_PARAMS);
        let initialize = || connection.send_request(McpMethod::Initialize, &own_initialize_params());
        let response = probe(discovering, initialize, self.context.program.settings.start_timeout).await;
        let era = match &response {
            Some(Ok((response, envelope))) => detect_era(response, envelope),
            Some(Err(_gone)) => {
                // Exiting at an unknown message is not a failure.
                *self.context.backoff.borrow_mut() = backoff_before;
                self.context.counters.restore_failures(stats_before);
                Era::Legacy
            }
            None => Era::Legacy,
        };
        connection.close(FailureStage::NoResponse);
        connection.request_end();
        if matches!(response, Some(Ok(_))) {
            tracing::info!(server = %self.context.name, era = era_name(era), "detected protocol era");
        }
        self.detected_era.set(Some(era));
        Ok(era == Era::Modern)
    }
}

/// Waits for the response to `server/discover`. `None` if there is none, although the server answers
/// `initialize` or has had time to start.
async fn probe<T, I: Future>(
    discovering: impl Future<Output = T>,
    initialize: impl FnOnce() -> I,
    start_timeout: Duration,
) -> Option<T> {
    let mut discovering = pin!(discovering);
    if let Ok(response) = timeout(PROBE_TIMEOUT.min(start_timeout), &mut discovering).await {
        return Some(response);
    }
    let initializing = async {
        initialize().await;
        sleep(PROBE_GRACE).await;
    };
    select! {
        biased;
        response = discovering => Some(response),
        () = initializing => None,
        () = sleep(start_timeout.saturating_sub(PROBE_TIMEOUT)) => None,
    }
}

fn era_name(era: Era) -> &'static str {
    match era {
        Era::Legacy => "legacy",
        Era::Modern => "modern",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::task::{LocalSet, spawn_local, yield_now};

    use super::super::target::StdioTarget;
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn stopping_fails_pending_starts() {
        let test = async {
            let supervisor = Supervisor::new(StdioTarget::sample(), Arc::default());
            supervisor.context.backoff.borrow_mut().fail(Duration::ZERO);
            let begun = Instant::now();
            let start = async |supervisor: Rc<Supervisor>| {
                supervisor.start(Era::Modern, &Rc::default()).await.map(drop).map_err(|error| error.stage)
            };
            let waiting = spawn_local(start(Rc::clone(&supervisor)));
            yield_now().await;
            supervisor.stop().await;
            assert_eq!(waiting.await.expect("no panic"), Err(FailureStage::NotSent));
            assert_eq!(start(supervisor).await, Err(FailureStage::NotSent), "nor is one started later");
            assert_eq!(begun.elapsed(), Duration::ZERO, "nobody waited for the next try");
        };
        LocalSet::new().run_until(test).await;
    }

    #[tokio::test]
    async fn a_slow_start_is_not_taken_for_silence() {
        /// When each is answered, in seconds, and how long the start may take; the expected response, and when.
        async fn check(discover: u64, initialize: u64, start: u64, expected: Option<u64>, after: u64) {
            let begun = Instant::now();
            let response = probe(
                async {
                    sleep(Duration::from_secs(discover)).await;
                    discover
                },
                || sleep((begun + Duration::from_secs(initialize)).duration_since(Instant::now())),
                Duration::from_secs(start),
            );
            assert_eq!(response.await, expected, "{discover} {initialize} {start}");
            assert_eq!(begun.elapsed().as_secs(), after, "{discover} {initialize} {start}");
        }
        const NEVER: u64 = 1 << 30;
        tokio::time::pause();
        check(0, NEVER, 60, Some(0), 0).await;
        check(4, NEVER, 60, Some(4), 4).await;
        check(30, 30, 60, Some(30), 30).await;
        check(NEVER, 0, 60, None, 6).await;
        check(NEVER, 30, 60, None, 31).await;
        check(NEVER, NEVER, 60, None, 60).await;
        check(NEVER, NEVER, 3, None, 3).await;
    }
}
