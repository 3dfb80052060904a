//! The SSE transport of 2024-11-05: messages come in POST requests, and all answers of a session leave on its one event
//! stream. So what a fault does to the stream of one call is done to the session's other calls too.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

use super::message::{Call, Message, Params, describe, initialize_result, log_message};
use super::server::{After, CANCEL_MAX, PACE, Server};
use crate::fault::Fault;
use crate::http::{Request, STREAM_HEAD, Wire, chunk, event};
use crate::kind::Kind;
use crate::tag::Tag;

/// The open event streams, by the number of their session.
#[derive(Default)]
pub struct Streams(Mutex<HashMap<u64, Stream>>);

/// One event stream.
#[derive(Clone)]
struct Stream {
    output: mpsc::Sender<Output>,
    /// The number of the client that opened the session, if its name says so.
    client: Option<u32>,
    /// The beginning of the first messages, to tell what a stream that is left is for.
    notes: Vec<String>,
}

/// What is written on an event stream.
enum Output {
    /// Bytes after the head, in chunks.
    Bytes(Vec<u8>),
    Reset,
    Close,
}

/// Output that waits for its stream. More than the calls that are in flight there; one that waits for room delays only
/// itself.
const OUTPUT_MAX: usize = 256;

/// How long a server waits for its client's answer. Longer than the gateway does.
const ANSWER_MAX: Duration = Duration::from_secs(8);

/// What is kept of the first messages of a session.
const NOTES_MAX: usize = 6;
const NOTE_BYTES_MAX: usize = 300;

/// One call in so many is preceded by a log message for the client of the session.
const LOG_EVERY: u32 = 8;

impl Streams {
    /// Ends all streams.
    pub fn close_all(&self) {
        self.0.lock().unwrap().clear();
    }

    fn find(&self, session: u64) -> Option<Stream> {
        self.0.lock().unwrap().get(&session).cloned()
    }

    fn set_client(&self, session: u64, client: Option<u32>) {
        if let Some(stream) = self.0.lock().unwrap().get_mut(&session) {
            stream.client = client;
        }
    }

    /// Keeps what is to be known of a stream that the gateway does not close.
    fn note(&self, session: u64, message: &[u8]) {
        if let Some(stream) = self.0.lock().unwrap().get_mut(&session)
            && stream.notes.len() < NOTES_MAX
        {
            let text = String::from_utf8_lossy(&message[..message.len().min(NOTE_BYTES_MAX)]);
            stream.notes.push(text.into_owned());
        }
    }

    /// Streams of sessions in which only lists were requested.
    pub fn lists(&self) -> usize {
        let lists_only = |stream: &&Stream| {
            let has = |method: &str| stream.notes.iter().any(|note| note.contains(method));
            stream.client.is_none() && has("tools/list") && !has("tools/call")
        };
        self.0.lock().unwrap().values().filter(lists_only).count()
    }

    /// The client of each stream that was opened for one.
    pub fn clients(&self) -> Vec<u32> {
        self.0.lock().unwrap().values().filter_map(|stream| stream.client).collect()
    }

    /// The open streams: the number of the session and its first messages.
    pub fn describe(&self) -> Vec<String> {
        let streams = self.0.lock().unwrap();
        streams.iter().map(|(session, stream)| format!("stream {session}: {:?}", stream.notes)).collect()
    }
}

impl Stream {
    async fn send(&self, bytes: Vec<u8>) {
        // The stream may have ended.
        drop(self.output.send(Output::Bytes(bytes)).await);
    }

    async fn say(&self, message: &str) {
        self.send(chunk(&event(None, message)).into_bytes()).await;
    }
}

impl Server {
    /// Takes one request of the SSE transport.
    pub(super) async fn respond_sse(
        self: &Arc<Self>,
        request: Request,
        wire: &mut Wire,
    ) -> io::Result<After> {
        if &request.method == b"GET " {
            return self.open_stream(wire).await;
        }
        let session = request.path.rsplit_once('=').and_then(|(_, number)| number.parse().ok());
        let stream = session.and_then(|session| self.streams.find(session));
        let (Some(session), Some(stream)) = (session, stream) else {
            return status(wire, "404 Not Found").await;
        };
        self.streams.note(session, &request.body);
        let Ok(message) = serde_json::from_slice::<Message<'_>>(&request.body) else {
            self.report_unexpected(&request.body);
            return Ok(After::Close);
        };
        let (Some(id), Some(method)) = (message.id, &message.method) else {
            if let (Some(id), None) = (message.id, &message.method) {
                self.take_answer(id, &request.body);
            }
            return status(wire, ACCEPTED).await;
        };
        if method == "tools/call" {
            let Some(call) = Call::read(id, message.params.as_ref()) else {
                self.report_unexpected(&request.body);
                return Ok(After::Close);
            };
            return self.call_sse(&call, &request, stream, wire).await;
        }
        let outcome = match &**method {
            "initialize" => {
                self.streams.set_client(session, client(message.params.as_ref()));
                initialize_result("2024-11-05")
            }
            method => describe(method, self.script.era).1.to_owned(),
        };
        stream.say(&format!(r#"{{"jsonrpc":"2.0","id":{id},{outcome}}}"#)).await;
        status(wire, ACCEPTED).await
    }

    /// The event stream of a new session, until either side ends it.
    async fn open_stream(&self, wire: &mut Wire) -> io::Result<After> {
        let session = self.sessions.fetch_add(1, Ordering::Relaxed);
        let (output, mut outputs) = mpsc::channel(OUTPUT_MAX);
        self.streams.0.lock().unwrap().insert(session, Stream { output, client: None, notes: Vec::new() });
        let endpoint = chunk(&format!("event: endpoint\ndata: /message?session={session}\n\n"));
        wire.send(format!("{STREAM_HEAD}{endpoint}").as_bytes()).await?;
        let after = loop {
            let output = tokio::select! {
                output = outputs.recv() => output.unwrap_or(Output::Close),
                () = wire.closed() => Output::Close,
            };
            match output {
                Output::Bytes(bytes) => {
                    if wire.send(&bytes).await.is_err() {
                        break After::Close;
                    }
                }
                Output::Reset => break After::Reset,
                Output::Close => break After::Close,
            }
        };
        self.streams.0.lock().unwrap().remove(&session);
        Ok(after)
    }

    /// Refuses a call, or accepts it before or after it is executed.
    async fn call_sse(
        self: &Arc<Self>,
        call: &Call<'_>,
        request: &Request,
        stream: Stream,
        wire: &mut Wire,
    ) -> io::Result<After> {
        let fault = call.work.fault();
        match fault {
            Fault::ResetBefore => return Ok(After::Reset),
            Fault::Status503 => return status(wire, "503 Service Unavailable").await,
            Fault::Status429 => return status(wire, "429 Too Many Requests").await,
            Fault::Status401 => return status(wire, "401 Unauthorized").await,
            Fault::Redirect => return status(wire, "307 Temporary Redirect\r\nLocation: /elsewhere").await,
            Fault::Status500 => {
                self.ledger.execute(call.tag, call.canary);
                return status(wire, "500 Internal Server Error").await;
            }
            Fault::Status404 => {
                self.ledger.execute(call.tag, call.canary);
                return status(wire, "404 Not Found").await;
            }
            _ => {}
        }
        if call.work.kind() == Some(Kind::Plain) && fault == Fault::None {
            // The answer comes before the message is accepted, or after.
            let is_early = call.work.number.is_multiple_of(2);
            if !is_early {
                status(wire, ACCEPTED).await?;
            }
            self.perform(call, &stream).await;
            return if is_early { status(wire, ACCEPTED).await } else { Ok(After::Open) };
        }
        let (server, body) = (self.clone(), request.body.clone());
        tokio::spawn(async move {
            let Ok(message) = serde_json::from_slice::<Message<'_>>(&body) else { return };
            if let Some(call) = message.id.and_then(|id| Call::read(id, message.params.as_ref())) {
                server.perform(&call, &stream).await;
            }
        });
        let surplus =
            if fault == Fault::Surplus { "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" } else { "" };
        wire.send(format!("HTTP/1.1 {ACCEPTED}\r\nContent-Length: 0\r\n\r\n{surplus}").as_bytes()).await?;
        Ok(if fault == Fault::CloseAfter { After::Close } else { After::Open })
    }

    /// Executes a call, and answers on the stream with the fault that it asks for.
    async fn perform(&self, call: &Call<'_>, stream: &Stream) {
        let (fault, number) = (call.work.fault(), call.work.number);
        let kind = call.work.kind().unwrap_or(Kind::Plain);
        if fault == Fault::Slow {
            sleep(Duration::from_millis(u64::from(number % 30))).await;
        }
        if kind == Kind::Ask && !self.ask_sse(call, stream).await {
            return stream.say(&call.error("no input")).await;
        }
        self.ledger.execute(call.tag, call.canary);
        if let Some(client) = stream.client.filter(|_| number.is_multiple_of(LOG_EVERY)) {
            stream.say(&log_message(Tag::of_client(client).canary(self.ledger.seed))).await;
        }
        if kind.is_stream(number) {
            for message in (1..=call.steps()).filter_map(|step| call.progress(step)) {
                stream.say(&message).await;
                if kind.is_paced() {
                    sleep(PACE).await;
                }
            }
        }
        if kind == Kind::Cancel {
            sleep(CANCEL_MAX).await;
        }
        answer(call, fault, stream).await;
    }

    /// Asks the client on the stream; true if it gave the right answer.
    async fn ask_sse(&self, call: &Call<'_>, stream: &Stream) -> bool {
        let id = format!("ask-{}", call.tag);
        let (sender, answer) = oneshot::channel();
        self.questions.lock().unwrap().insert(id.clone(), sender);
        stream.say(&call.question_message(&id)).await;
        let answer = timeout(ANSWER_MAX, answer).await.ok().and_then(Result::ok);
        self.questions.lock().unwrap().remove(&id);
        answer.is_some_and(|answer| self.is_accepted(call, &answer))
    }
}

/// The last event of a call, with its fault.
async fn answer(call: &Call<'_>, fault: Fault, stream: &Stream) {
    let last = chunk(&event(None, &call.result())).into_bytes();
    let cut = call.work.number as usize % last.len();
    let end = match fault {
        Fault::Hang | Fault::HangBody => return,
        Fault::ResetAt | Fault::BreakResumable => Some(Output::Reset),
        Fault::ShortBody => Some(Output::Close),
        Fault::BadChunk => {
            stream.send([&b"zz\r\n"[..], &last].concat()).await;
            return drop(stream.output.send(Output::Close).await);
        }
        Fault::Drip => {
            for byte in last {
                stream.send(vec![byte]).await;
            }
            return;
        }
        // What does not answer the call precedes the answer.
        Fault::WrongId => return both(stream, &call.result_under("\"99.99\""), &call.result()).await,
        Fault::Garbage => return both(stream, &format!("<html>{}", call.canary), &call.result()).await,
        Fault::TwoAnswers => return both(stream, &call.result(), &call.result()).await,
        _ => None,
    };
    match end {
        Some(end) => {
            stream.send(last[..cut].to_vec()).await;
            drop(stream.output.send(end).await);
        }
        None => stream.send(last).await,
    }
}

async fn both(stream: &Stream, first: &str, second: &str) {
    stream.say(first).await;
    stream.say(second).await;
}

const ACCEPTED: &str = "202 Accepted";

/// A response without a body.
async fn status(wire: &mut Wire, status: &str) -> io::Result<After> {
    wire.send(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").as_bytes()).await?;
    Ok(After::Open)
}

/// The number in a client's name: `c7` is client 7.
fn client(params: Option<&Params<'_>>) -> Option<u32> {
    params?.client_info.as_ref()?.name.strip_prefix('c')?.parse().ok()
}
