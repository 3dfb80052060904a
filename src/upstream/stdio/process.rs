//! A process: its start, its pipes while it runs, and its end.

use std::cell::RefCell;
use std::io;
use std::process::{ExitStatus, Stdio};
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::{JoinHandle, spawn_local, yield_now};
use tokio::time::{Instant, sleep, timeout};

use super::connection::{ProcessConnection, ServerContext};
use super::exit::{ExitCause, ExitReport};
use super::lines::{Line, LineReader};
use super::process_stats::ProcessStage;
use super::stderr::{StderrTail, drain_stderr};
use crate::child::{self, SpawnSpec};
use crate::runtime::MemoryPurger;
use crate::telemetry::events::{Event, EventKind};
use metamcp_config::server::Program;
use metamcp_http::FailureStage;

/// A process that was started and not used yet.
pub struct SpawnedProcess {
    /// The process id of its reaper.
    pub pid: u32,
    pub started_at: Instant,
    child: Child,
    stdin: ChildStdin,
    stdout: ChildStdout,
    stderr: StderrReader,
}

/// The task that reads standard error, and the lines that it kept.
struct StderrReader {
    tail: Rc<RefCell<StderrTail>>,
    task: JoinHandle<()>,
}

/// How long a process may take to end after its standard input was closed, which asks it to (MCP, stdio,
/// shutdown).
const CLOSE_GRACE: Duration = Duration::from_millis(1500);

/// How long after SIGTERM. The reaper sends SIGKILL after half of it.
const TERM_TIMEOUT: Duration = Duration::from_secs(3);

/// How long after SIGKILL. All three together are under five seconds.
const KILL_TIMEOUT: Duration = Duration::from_millis(400);

/// A process that does not read its standard input for this long has stalled for good.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// A process that ends closes its pipes before its reaper has ended its descendants and passes the exit
/// status on.
const STATUS_TIMEOUT: Duration = Duration::from_millis(500);

/// What a process wrote before it ended is still in the pipe.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(500);

/// How long a line waits for memory before it is given up, so that incomplete lines of several processes cannot wait for
/// each other for ever. Clients that read nothing are disconnected after `idle_timeout`, 75 s by default, which frees what
/// they hold.
const MEMORY_TIMEOUT: Duration = Duration::from_secs(90);

/// How often memory is asked for meanwhile.
const MEMORY_POLL: Duration = Duration::from_millis(20);

/// Lines taken from one process before other tasks on the thread run.
const LINES_IN_A_ROW: usize = 64;

impl SpawnedProcess {
    /// Starts a process. Its standard error is read from now on.
    pub fn start(context: &Rc<ServerContext>) -> io::Result<Self> {
        let mut child = child::spawn_reaper(&mut command(&context.program))?;
        let (Some(stdin), Some(stdout), Some(stderr), Some(pid)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take(), child.id())
        else {
            return Err(io::Error::other("the process has no pipes"));
        };
        let is_restart = context.counters.record_start();
        let kind = if is_restart { EventKind::ServerRestarted } else { EventKind::ServerStarted };
        context.tell(kind, |event| event.with("pid", pid));
        // What a program says that fails again and again was logged the first time.
        let is_logged = context.backoff.borrow().failures() == 0;
        let tail = Rc::new(RefCell::new(StderrTail::new(is_logged)));
        let task = spawn_local(drain_stderr(stderr, Rc::clone(&tail), context.name.to_string(), pid));
        let stderr = StderrReader { tail, task };
        Ok(Self { pid, started_at: Instant::now(), child, stdin, stdout, stderr })
    }

    /// Returns the exit status if the process has ended.
    pub fn try_wait(&mut self) -> Option<io::Result<ExitStatus>> {
        self.child.try_wait().transpose()
    }

    /// Connects the pipes to a connection, until either ends.
    pub fn run(self, connection: Rc<ProcessConnection>) {
        let Self { child, stdin, stdout, stderr, .. } = self;
        let reading = spawn_local(read(stdout, Rc::clone(&connection)));
        let writing = spawn_local(write(stdin, Rc::clone(&connection)));
        spawn_local(supervise(child, reading, writing, stderr, connection));
    }

    /// Ends a process that was never used.
    pub async fn discard(self, context: Rc<ServerContext>) {
        drop(self.stdin);
        end(self.child, self.pid).await;
        record_end(&context, self.pid);
        tell_stopped(&context, self.pid);
    }
}

fn command(program: &Program) -> Command {
    let spec = SpawnSpec {
        parent: std::process::id(),
        uid: program.settings.uid,
        gid: program.settings.gid,
        files: child::initial_file_limit(),
        huge_pages: child::has_disabled_huge_pages(),
        limits: program.settings.limits.clone(),
        confinement: program.settings.confinement.clone(),
    };
    let mut command = Command::new(child::PROGRAM);
    command
        .arg0("metamcp")
        .args(child::reaper_args(&spec))
        .arg(&program.command)
        .args(&program.args)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    command.envs(program.env.iter().map(|(name, value)| (name, value)));
    if let Some(cwd) = &program.cwd {
        command.current_dir(cwd);
    }
    command
}

/// Reads the process's standard output.
async fn read(mut stdout: ChildStdout, connection: Rc<ProcessConnection>) -> ExitCause {
    let mut lines = LineReader::new(connection.context.program.settings.line_bytes_max);
    loop {
        if lines.charge().is_err() && timeout(MEMORY_TIMEOUT, wait_for_memory(&mut lines)).await.is_err() {
            // The program is not at fault, and goes on. The call that the line answers fails when its end has been read.
            tracing::warn!(server = %connection.context.name, pid = connection.pid, "no memory for a line of a process");
            lines.give_up_line();
        }
        match stdout.read_buf(lines.buffer_mut()).await {
            Ok(0) | Err(_) => return ExitCause::StdoutClosed,
            Ok(_) => {}
        }
        let mut in_a_row = 0;
        loop {
            match lines.next() {
                Ok(Some(Line::Complete(line))) if connection.receive_line(&line).is_err() => {
                    return ExitCause::InvalidOutput;
                }
                Ok(Some(Line::Complete(_))) => {}
                Ok(Some(Line::Dropped(messages))) => connection.receive_dropped(&messages),
                Ok(None) => break,
                Err(_) => return ExitCause::LineTooLong,
            }
            in_a_row += 1;
            if in_a_row % LINES_IN_A_ROW == 0 {
                yield_now().await;
            }
        }
    }
}

/// Waits for memory for an incomplete line: its process waits, and those of others do not.
async fn wait_for_memory(lines: &mut LineReader) {
    while lines.retry_charge().is_err() {
        sleep(MEMORY_POLL).await;
    }
}

/// Writes the outbox, all of it at once.
async fn write(mut stdin: ChildStdin, connection: Rc<ProcessConnection>) -> ExitCause {
    loop {
        connection.outbox_ready.notified().await;
        // Collects all that arrived on this thread first.
        yield_now().await;
        let bytes = connection.take_outbox();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            match timeout(WRITE_TIMEOUT, stdin.write(rest)).await {
                Ok(Ok(0) | Err(_)) => return ExitCause::StdinClosed,
                Ok(Ok(count)) => rest = &rest[count..],
                Err(_elapsed) => return ExitCause::StdinStalled,
            }
        }
    }
}

/// Waits for the end of a process, from either side, and completes it.
async fn supervise(
    mut child: Child,
    mut reading: JoinHandle<ExitCause>,
    mut writing: JoinHandle<ExitCause>,
    mut stderr: StderrReader,
    connection: Rc<ProcessConnection>,
) {
    let cause = wait_for_end(&mut child, &mut reading, &mut writing, &connection).await;
    let context = Rc::clone(&connection.context);
    let is_expected = matches!(cause, ExitCause::Requested) || connection.is_probe.get();
    if !matches!(cause, ExitCause::Requested) {
        if !connection.has_answered.get() {
            // Standard error usually says why a program cannot start, and its callers are told.
            drop(timeout(DRAIN_TIMEOUT, &mut stderr.task).await);
        }
        let report = report_failure(&connection, &cause, &stderr.tail.borrow());
        connection.set_exit_report(report);
        connection.record_failure();
    }
    connection.close(FailureStage::NoResponse);
    // Closes standard input.
    writing.abort();
    if !writing.is_finished() {
        // Its end may be why the process ends. Then it has been awaited, and must not be again.
        drop(writing.await);
    }
    end(child, connection.pid).await;
    reading.abort();
    record_end(&context, connection.pid);
    if is_expected {
        tell_stopped(&context, connection.pid);
    }
}

async fn wait_for_end(
    child: &mut Child,
    reading: &mut JoinHandle<ExitCause>,
    writing: &mut JoinHandle<ExitCause>,
    connection: &ProcessConnection,
) -> ExitCause {
    let cause = tokio::select! {
        biased;
        () = connection.end_requested.notified() => ExitCause::Requested,
        () = connection.input_stalled.notified() => ExitCause::StdinStalled,
        status = child.wait() => {
            drop(timeout(DRAIN_TIMEOUT, &mut *reading).await);
            ExitCause::Exited(status)
        }
        cause = &mut *reading => cause.unwrap_or(ExitCause::StdoutClosed),
        cause = writing => cause.unwrap_or(ExitCause::StdinClosed),
    };
    match cause {
        // Usually the process has ended, and its reaper reports that a moment later.
        ExitCause::StdoutClosed | ExitCause::StdinClosed => match timeout(STATUS_TIMEOUT, child.wait()).await
        {
            Ok(status) => ExitCause::Exited(status),
            Err(_elapsed) => cause,
        },
        _ => cause,
    }
}

/// Ends a process whose standard input is closed: waits, then sends SIGTERM, then SIGKILL.
async fn end(mut child: Child, pid: u32) {
    let mut status = timeout(CLOSE_GRACE, child.wait()).await;
    if status.is_err() {
        child::terminate_reaper(pid);
        status = timeout(TERM_TIMEOUT, child.wait()).await;
    }
    if status.is_err() {
        child::kill_reaper(pid);
        status = timeout(KILL_TIMEOUT, child.wait()).await;
    }
    match status {
        // A reaper that was killed did not end what its server left behind.
        Ok(Ok(status)) if status.code().is_none() => child::end_orphans().await,
        Ok(_) => {}
        Err(_elapsed) => tracing::error!(pid, "process does not end, not even after SIGKILL"),
    }
}

fn tell_stopped(context: &ServerContext, reaper: u32) {
    context.tell(EventKind::ServerStopped, |event| event.with("pid", reaper));
}

fn record_end(context: &ServerContext, reaper: u32) {
    child::forget_reaper(reaper);
    // Its buffers are freed.
    MemoryPurger::request();
    context.counters.record_end();
    context.process_ended.notify_waiters();
}

/// Counts and logs a failure. Returns a report for callers.
fn report_failure(connection: &ProcessConnection, cause: &ExitCause, stderr: &StderrTail) -> ExitReport {
    let (context, ran) = (&connection.context, connection.started_at.elapsed());
    let stage = match (connection.has_answered.get(), connection.is_opening.get()) {
        (true, _) => ProcessStage::Run,
        (false, true) => ProcessStage::Initialize,
        (false, false) => ProcessStage::Start,
    };
    let reason = cause.describe(&context.program);
    let lines: Vec<&str> = stderr.lines().iter().map(String::as_str).collect();
    let is_news = context.counters.record_failure(stage, &*reason);
    // JSON has no number of 128 bits.
    let ran_ms = u64::try_from(ran.as_millis()).unwrap_or(u64::MAX);
    let (server, stderr) = (&context.name, lines.join(" | "));
    if !connection.is_probe.get() {
        let complete = |event: Event| {
            event
                .with("pid", connection.pid)
                .with("reason", &*reason)
                .with("stage", stage.text())
                .with("ran_ms", ran_ms)
        };
        context.tell(EventKind::ServerFailed, complete);
    }
    if is_news {
        tracing::warn!(%server, reason, ran_ms, stderr, "server process failed");
    } else {
        tracing::debug!(%server, reason, ran_ms, stderr, "server process failed again");
    }
    ExitReport { reason, last_stderr: lines.last().map(|last| (*last).to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_is_what_is_configured() {
        let program = Program {
            command: "x".into(),
            args: vec!["y z".into()],
            env: vec![("TOKEN".into(), "t".into()), ("HOME".into(), "/tmp".into())],
            cwd: Some("/".into()),
            ..Program::sample()
        };
        let command = command(&program);
        let command = command.as_std();
        let env: Vec<_> =
            command.get_envs().map(|(name, value)| (name.to_str(), value.and_then(|v| v.to_str()))).collect();
        assert_eq!(env, [(Some("HOME"), Some("/tmp")), (Some("TOKEN"), Some("t"))]);
        let args: Vec<_> = command.get_args().skip(3).collect();
        assert_eq!(args, ["x", "y z"]);
    }
}
