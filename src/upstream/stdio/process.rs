//! A process: its start, its pipes while it runs, and its end.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::process::{ExitStatus, Stdio};
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::{JoinHandle, spawn_local, yield_now};
use tokio::time::{Instant, timeout};

use super::super::FailureStage;
use super::Program;
use super::fate::End;
use super::lines::Lines;
use super::link::{Common, Fate, Link};
use super::tally::ProcessStage;
use crate::child::{self, Orders};

/// A process that was started and not spoken to.
pub struct Spawned {
    /// Its keeper.
    pub pid: u32,
    /// When it was started.
    pub began: Instant,
    child: Child,
    stdin: ChildStdin,
    stdout: ChildStdout,
    said: Rc<RefCell<Said>>,
    /// Until its standard error is read to its end.
    hearing: JoinHandle<()>,
}

/// The newest lines of its standard error.
#[derive(Default)]
struct Said {
    lines: VecDeque<String>,
    /// In this second, and since when.
    logged: u32,
    since: Option<Instant>,
    unlogged: u64,
}

/// After its standard input was closed, which asks a server to end (MCP, stdio, shutdown).
const CLOSE_GRACE: Duration = Duration::from_millis(1500);

/// After SIGTERM: its keeper sends SIGKILL after half of it.
const TERM_PATIENCE: Duration = Duration::from_secs(3);

/// After SIGKILL. All three are under five seconds.
const KILL_PATIENCE: Duration = Duration::from_millis(400);

/// A process that takes none of what is written to it for so long will not.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// A process that has ended closes its pipes before its keeper has seen to what it left, and ends with its status.
const STATUS_TIMEOUT: Duration = Duration::from_millis(500);

/// What a process said before it ended is still in the pipe.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(500);

/// Lines taken of one process before others on the thread get their turn.
const LINES_IN_A_ROW: usize = 64;

/// A line of standard error, and how many are kept for when it fails.
const SAID_BYTES_MAX: usize = 1024;
const SAID_LINES_MAX: usize = 16;

/// Lines of standard error that go to the log within a second; it is drained all the same.
const LOGGED_MAX: u32 = 20;

impl Spawned {
    /// Starts one. Its standard error is read from now on.
    pub fn start(common: &Rc<Common>) -> io::Result<Self> {
        let mut child = child::start(&mut command(&common.program))?;
        let (Some(stdin), Some(stdout), Some(stderr), Some(pid)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take(), child.id())
        else {
            return Err(io::Error::other("a process without its pipes"));
        };
        common.tally.start();
        let said = Rc::new(RefCell::new(Said::default()));
        let hearing = spawn_local(hear(stderr, Rc::clone(&said), common.name.to_string(), pid));
        Ok(Self { pid, began: Instant::now(), child, stdin, stdout, said, hearing })
    }

    /// Whether it has ended, and with what.
    pub fn ended(&mut self) -> Option<io::Result<ExitStatus>> {
        self.child.try_wait().transpose()
    }

    /// Lets calls be asked of it over a link, until either ends.
    pub fn run(self, link: Rc<Link>) {
        let Self { child, stdin, stdout, said, hearing, began, .. } = self;
        let reading = spawn_local(read(stdout, Rc::clone(&link)));
        let writing = spawn_local(write(stdin, Rc::clone(&link)));
        spawn_local(watch(child, reading, writing, link, (said, hearing), began));
    }

    /// Ends one that was never used.
    pub async fn discard(self, common: Rc<Common>) {
        drop(self.stdin);
        end(self.child, self.pid).await;
        note_ended(&common, self.pid);
    }
}

fn command(program: &Program) -> Command {
    let orders = Orders {
        parent: std::process::id(),
        uid: program.settings.uid,
        gid: program.settings.gid,
        files: child::files_before(),
        huge_pages: child::gave_up_huge_pages(),
        limits: program.settings.limits.clone(),
        confinement: program.settings.confinement.clone(),
    };
    let mut command = Command::new(child::PROGRAM);
    command
        .arg0("metamcp")
        .args(child::keeper_args(&orders))
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

/// Reads what it says.
async fn read(mut stdout: ChildStdout, link: Rc<Link>) -> End {
    let mut lines = Lines::new(link.common.program.settings.line_bytes_max);
    loop {
        match stdout.read_buf(lines.room()).await {
            Ok(0) | Err(_) => return End::Silent,
            Ok(_) => {}
        }
        let mut in_a_row = 0;
        loop {
            match lines.next() {
                Ok(Some(line)) if link.take(&line).is_err() => return End::Babble,
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return End::TooLong,
            }
            in_a_row += 1;
            if in_a_row % LINES_IN_A_ROW == 0 {
                yield_now().await;
            }
        }
    }
}

/// Writes what waits to be written: all of it at once.
async fn write(mut stdin: ChildStdin, link: Rc<Link>) -> End {
    loop {
        link.to_write.notified().await;
        // All that has come on this thread is taken first.
        yield_now().await;
        let bytes = link.take_outbox();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            match timeout(WRITE_TIMEOUT, stdin.write(rest)).await {
                Ok(Ok(0) | Err(_)) => return End::Deaf,
                Ok(Ok(count)) => rest = &rest[count..],
                Err(_elapsed) => return End::Stalled,
            }
        }
    }
}

/// Waits for the end of a process, from either side, and sees it through.
async fn watch(
    mut child: Child,
    mut reading: JoinHandle<End>,
    mut writing: JoinHandle<End>,
    link: Rc<Link>,
    (said, mut hearing): (Rc<RefCell<Said>>, JoinHandle<()>),
    began: Instant,
) {
    let why = tokio::select! {
        biased;
        () = link.to_end.notified() => End::Asked,
        status = child.wait() => {
            drop(timeout(DRAIN_TIMEOUT, &mut reading).await);
            End::Exited(status)
        }
        why = &mut reading => why.unwrap_or(End::Silent),
        why = &mut writing => why.unwrap_or(End::Deaf),
    };
    let why = match why {
        // Mostly it has ended, which its keeper tells a moment later.
        End::Silent | End::Deaf => match timeout(STATUS_TIMEOUT, child.wait()).await {
            Ok(status) => End::Exited(status),
            Err(_elapsed) => why,
        },
        _ => why,
    };
    let common = Rc::clone(&link.common);
    if !matches!(why, End::Asked) {
        if !link.has_answered.get() {
            // Why it cannot be started stands there, most often, and whoever waits for it is told.
            drop(timeout(DRAIN_TIMEOUT, &mut hearing).await);
        }
        link.note_fate(note_failure(&common, &why, &said.borrow(), began.elapsed()));
        link.note_failure();
    }
    link.close(FailureStage::NoResponse);
    // With it its end of the pipe.
    writing.abort();
    drop(writing.await);
    end(child, link.pid).await;
    reading.abort();
    note_ended(&common, link.pid);
}

/// Closed standard input, SIGTERM, SIGKILL, each after its time.
async fn end(mut child: Child, pid: u32) {
    let mut status = timeout(CLOSE_GRACE, child.wait()).await;
    if status.is_err() {
        child::ask_to_end(pid);
        status = timeout(TERM_PATIENCE, child.wait()).await;
    }
    if status.is_err() {
        child::kill(pid);
        status = timeout(KILL_PATIENCE, child.wait()).await;
    }
    match status {
        // Not by its own word, so it did not see to what its server has left.
        Ok(Ok(status)) if status.code().is_none() => child::end_strays().await,
        Ok(_) => {}
        Err(_elapsed) => tracing::error!(pid, "a process does not end, not even by SIGKILL"),
    }
}

fn note_ended(common: &Common, keeper: u32) {
    child::forget(keeper);
    common.tally.end();
    common.ended.notify_waiters();
}

/// Logs it, and gives why in short, with the last that it said.
fn note_failure(common: &Common, why: &End, said: &Said, ran: Duration) -> Fate {
    let why = why.text(&common.program);
    let said: Vec<&String> = said.lines.iter().collect();
    common.tally.fail(ProcessStage::Run, &*why);
    tracing::warn!(server = %common.name, why, ran_ms = ran.as_millis(), ?said, "a server process failed");
    Fate { why, said: said.last().map(|last| (*last).clone()) }
}

/// Reads standard error to its end, whatever becomes of the lines: a full pipe would stop the process.
async fn hear(mut stderr: impl AsyncRead + Unpin, said: Rc<RefCell<Said>>, server: String, pid: u32) {
    let mut buffer = vec![0; 4 << 10];
    let mut line = Vec::new();
    loop {
        let count = match stderr.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(count) => count,
        };
        for piece in buffer[..count].split_inclusive(|byte| *byte == b'\n') {
            let room = SAID_BYTES_MAX.saturating_sub(line.len());
            line.extend_from_slice(&piece[..piece.len().min(room)]);
            if piece.ends_with(b"\n") {
                said.borrow_mut().note(&line, &server, pid);
                line.clear();
            }
        }
        yield_now().await;
    }
    said.borrow_mut().note(&line, &server, pid);
}

impl Said {
    fn note(&mut self, line: &[u8], server: &str, pid: u32) {
        let text = printable(line);
        if text.is_empty() {
            return;
        }
        let now = Instant::now();
        if self.since.is_none_or(|since| now.duration_since(since) >= Duration::from_secs(1)) {
            if self.unlogged > 0 {
                tracing::info!(server, pid, lines = self.unlogged, "more on its standard error, not logged");
            }
            (self.since, self.logged, self.unlogged) = (Some(now), 0, 0);
        }
        if self.logged < LOGGED_MAX {
            self.logged += 1;
            tracing::info!(server, pid, "stderr: {text}");
        } else {
            self.unlogged += 1;
        }
        if self.lines.len() == SAID_LINES_MAX {
            self.lines.pop_front();
        }
        self.lines.push_back(text);
    }
}

/// Without what would do something to a terminal.
fn printable(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    text.trim().chars().map(|c| if c.is_control() && c != '\t' { '.' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn keeps_the_newest_of_what_is_said_aside() {
        let said = Rc::new(RefCell::new(Said::default()));
        let mut flood = vec![b'x'; 300 << 10];
        flood.extend_from_slice(b"\n\n");
        for n in 0..1000 {
            flood.extend_from_slice(format!("line \x1b[31m{n}\r\n").as_bytes());
        }
        flood.extend_from_slice(b"no end \xff");
        hear(&flood[..], Rc::clone(&said), "a".into(), 1).await;
        let said = said.borrow();
        assert_eq!(said.lines.len(), SAID_LINES_MAX);
        assert_eq!(said.lines.back().unwrap(), "no end \u{fffd}");
        assert_eq!(said.lines[SAID_LINES_MAX - 2], "line .[31m999");
        assert_eq!((said.logged, said.unlogged), (LOGGED_MAX, 982));
    }

    #[test]
    fn a_servers_environment_is_what_is_configured() {
        let program = Program {
            command: "x".into(),
            args: vec!["y z".into()],
            env: vec![("TOKEN".into(), "t".into()), ("HOME".into(), "/tmp".into())],
            cwd: Some("/".into()),
            ..super::super::tests::program()
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
