//! The standard error of a process: logged, and its last lines kept for when the process fails.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::task::yield_now;
use tokio::time::Instant;

use metamcp_core::base::LogLimit;

/// The last lines of standard error, and the rate limit of their log lines.
pub struct StderrTail {
    lines: VecDeque<String>,
    /// `None` if the lines are only logged for debugging.
    log_limit: Option<LogLimit>,
}

/// Bytes kept of a line.
const LINE_BYTES_MAX: usize = 1024;

/// The number of last lines to keep.
const LINES_MAX: usize = 16;

/// Lines that go to the log within a second. The pipe is drained all the same.
const LOGGED_MAX: u32 = 20;

/// Reads standard error to its end, whatever happens to the lines: a full pipe would stop the process.
pub async fn drain_stderr(
    mut stderr: impl AsyncRead + Unpin,
    tail: Rc<RefCell<StderrTail>>,
    server: String,
    pid: u32,
) {
    let mut buffer = vec![0; 4 << 10];
    let mut line = Vec::new();
    loop {
        let count = match stderr.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(count) => count,
        };
        for piece in buffer[..count].split_inclusive(|byte| *byte == b'\n') {
            let room = LINE_BYTES_MAX.saturating_sub(line.len());
            line.extend_from_slice(&piece[..piece.len().min(room)]);
            if piece.ends_with(b"\n") {
                tail.borrow_mut().add_line(&line, &server, pid);
                line.clear();
            }
        }
        yield_now().await;
    }
    tail.borrow_mut().add_line(&line, &server, pid);
}

impl StderrTail {
    /// Keeps lines, and logs them too.
    pub fn new(is_logged: bool) -> Self {
        let log_limit = is_logged.then(|| LogLimit::new(LOGGED_MAX, Duration::from_secs(1)));
        Self { lines: VecDeque::new(), log_limit }
    }

    /// Returns the last lines, the oldest first.
    pub fn lines(&self) -> &VecDeque<String> {
        &self.lines
    }

    fn add_line(&mut self, line: &[u8], server: &str, pid: u32) {
        let text = printable(line);
        if text.is_empty() {
            return;
        }
        match self.log_limit.as_mut().map(|limit| limit.admit(Instant::now().into_std())) {
            Some(Some(suppressed)) => {
                if suppressed > 0 {
                    tracing::info!(server, pid, lines = suppressed, "suppressed lines of standard error");
                }
                tracing::info!(server, pid, "stderr: {text}");
            }
            Some(None) => {}
            None => tracing::debug!(server, pid, "stderr: {text}"),
        }
        if self.lines.len() == LINES_MAX {
            self.lines.pop_front();
        }
        self.lines.push_back(text);
    }
}

/// Replaces control characters, which could do something to a terminal.
fn printable(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    text.trim().chars().map(|c| if c.is_control() && c != '\t' { '.' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn keeps_the_last_lines() {
        let tail = Rc::new(RefCell::new(StderrTail::new(true)));
        let mut flood = vec![b'x'; 300 << 10];
        flood.extend_from_slice(b"\n\n");
        for n in 0..1000 {
            flood.extend_from_slice(format!("line \x1b[31m{n}\r\n").as_bytes());
        }
        flood.extend_from_slice(b"no end \xff");
        drain_stderr(&flood[..], Rc::clone(&tail), "a".into(), 1).await;
        tokio::time::advance(Duration::from_secs(1)).await;
        let mut tail = tail.borrow_mut();
        assert_eq!(tail.lines.len(), LINES_MAX);
        assert_eq!(tail.lines.back().unwrap(), "no end \u{fffd}");
        assert_eq!(tail.lines[LINES_MAX - 2], "line .[31m999");
        let limit = tail.log_limit.as_mut().expect("lines are logged");
        assert_eq!(limit.admit(Instant::now().into_std()), Some(1002 - u64::from(LOGGED_MAX)));
    }
}
