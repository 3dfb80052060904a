//! Records as messages of syslog (RFC 5424) over a datagram socket.

use std::io::{self, ErrorKind, Write as _};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::Duration;

use super::lines::Lines;
use super::writer::RecordSink;

/// A connection to the local syslog daemon. It is opened when it is needed, and again after an error.
pub struct Syslog {
    path: PathBuf,
    socket: Option<UnixDatagram>,
}

/// Facility local0, severity informational (RFC 5424, section 6.2.1).
const PRIORITY: u8 = 16 * 8 + 6;

/// For a daemon that does not read. After that, the record is tried again.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// What precedes the time of a line: `{"time":"`.
const TIME_START: usize = 9;

/// The length of a time such as `2026-07-28T12:00:00.000Z`.
const TIME_BYTES: usize = 24;

impl Syslog {
    pub fn new(path: PathBuf) -> Self {
        Self { path, socket: None }
    }

    fn send(&mut self, line: &[u8]) -> io::Result<()> {
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => connect(&self.path)?,
        };
        socket.send(&message(line))?;
        self.socket = Some(socket);
        Ok(())
    }
}

fn connect(path: &std::path::Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    socket.set_write_timeout(Some(SEND_TIMEOUT))?;
    Ok(socket)
}

/// `<134>1 TIME - metamcp PID call - JSON`. The host is left to the daemon, which knows it.
fn message(line: &[u8]) -> Vec<u8> {
    let json = line.strip_suffix(b"\n").unwrap_or(line);
    let time = json.get(TIME_START..TIME_START + TIME_BYTES).unwrap_or(b"-");
    let mut message = Vec::with_capacity(json.len() + 64);
    // Writing to a Vec cannot fail.
    let _ = write!(message, "<{PRIORITY}>1 ");
    message.extend_from_slice(time);
    let _ = write!(message, " - metamcp {} call - ", std::process::id());
    message.extend_from_slice(json);
    message
}

impl RecordSink for Syslog {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn write(&mut self, lines: &Lines) -> (usize, io::Result<()>) {
        for (count, line) in lines.iter().enumerate() {
            loop {
                match self.send(line) {
                    Ok(()) => break,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => return (count, Err(error)),
                }
            }
        }
        (lines.count(), Ok(()))
    }

    fn reopen(&mut self) {
        self.socket = None;
    }
}
