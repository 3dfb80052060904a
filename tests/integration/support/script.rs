//! What a scripted server does with a call.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use super::PATIENCE;

/// How long a slow server pauses: less than any timeout that a test sets, and a hundred of them are more.
const PAUSE: Duration = Duration::from_millis(40);

/// One thing to do on the connection that a call came on.
#[derive(Clone, Debug)]
pub enum Step {
    /// Sends these bytes.
    Send(Vec<u8>),
    /// Sends a whole response with this message, in which `@id` stands for the raw id of the request.
    Answer(String),
    /// Does nothing for [`PAUSE`].
    Pause,
    /// Does nothing until the test opens the gate.
    Wait(Gate),
    /// Opens the gate, for a test that waits for what was sent before.
    Open(Gate),
    /// Does nothing until the gateway closes.
    Hold,
    /// Sends the bytes again and again, until the gateway closes or as often as said.
    Flood(Vec<u8>, usize),
    /// Ends the connection with RST.
    Reset,
    /// Ends it with FIN.
    Close,
}

/// Opened once, by the test or by the script.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    pub fn wait(&self) {
        let guard = self.0.0.lock().unwrap();
        drop(self.0.1.wait_timeout_while(guard, PATIENCE, |open| !*open).unwrap());
    }
}

/// What becomes of the connection.
#[derive(PartialEq)]
pub enum After {
    /// The next request may come.
    Open,
    /// The gateway closed it.
    ClosedByGateway,
    /// The script closed it.
    Closed,
}

impl Step {
    /// Does it. `sent` counts what was written.
    pub fn run(&self, stream: &mut TcpStream, mut sent: impl FnMut(usize)) -> After {
        match self {
            Self::Send(bytes) => {
                if stream.write_all(bytes).is_err() {
                    return After::ClosedByGateway;
                }
                sent(bytes.len());
            }
            Self::Answer(_) => unreachable!("who knows the request makes bytes of it"),
            Self::Pause => thread::park_timeout(PAUSE),
            Self::Wait(gate) => gate.wait(),
            Self::Open(gate) => gate.open(),
            Self::Hold => {
                let mut rest = [0; 1024];
                while stream.read(&mut rest).is_ok_and(|count| count > 0) {}
                return After::ClosedByGateway;
            }
            Self::Flood(bytes, times) => {
                for _ in 0..*times {
                    if stream.write_all(bytes).is_err() {
                        return After::ClosedByGateway;
                    }
                    sent(bytes.len());
                }
            }
            Self::Reset => {
                socket2::SockRef::from(&*stream).set_linger(Some(Duration::ZERO)).unwrap();
                return After::Closed;
            }
            Self::Close => return After::Closed,
        }
        After::Open
    }
}

/// A whole response with a JSON body.
pub fn answer(status: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}")
        .into_bytes()
}

/// A result message under an id.
pub fn result(id: &str, text: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"result":{{"content":[{{"type":"text","text":"{text}"}}],"resultType":"complete"}}}}"#
    )
}

/// The head of an event stream, chunked.
pub fn events() -> Vec<u8> {
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec()
}

/// One chunk; an empty one ends the body.
pub fn chunk(text: &str) -> Vec<u8> {
    format!("{:x}\r\n{text}\r\n", text.len()).into_bytes()
}
