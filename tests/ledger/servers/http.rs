//! The Streamable HTTP transport, of either era.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::Era;
use super::message::{
    Call, DISCOVERED_WITH_TASKS, Message, Params, describe, initialize_result_with_tasks, log_message,
};
use super::server::{After, CANCEL_MAX, PACE, Server};
use super::tasks::wants_task;
use crate::fault::Fault;
use crate::http::{Request, STREAM_HEAD, Wire, chunk, event, json_response};
use crate::kind::Kind;
use crate::tag::Tag;

/// How long a server waits for its client's answer. Longer than the gateway does.
const ANSWER_MAX: Duration = Duration::from_secs(8);

/// Broken streams that are kept; what nobody resumes is forgotten with all others.
const RESTS_MAX: usize = 1024;

/// Between two log messages on the event stream of a session.
const LOG_PACE: Duration = Duration::from_millis(10);

/// Then the server closes the stream; the gateway opens another.
const LOG_COUNT: usize = 50;

impl Server {
    pub(super) async fn respond(&self, request: &Request, wire: &mut Wire) -> io::Result<After> {
        if session_number(request.session.as_deref()).is_some_and(|number| self.is_lost(number)) {
            let error =
                r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32001,"message":"Session not found"}}"#;
            wire.send(&json_response("404 Not Found", "", error)).await?;
            return Ok(After::Open);
        }
        match &request.method {
            b"POST" => {}
            b"GET " => return self.listen(request, wire).await,
            _ => {
                wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await?;
                return Ok(After::Open);
            }
        }
        let Ok(message) = serde_json::from_slice::<Message<'_>>(&request.body) else {
            self.report_unexpected(&request.body);
            return Ok(After::Close);
        };
        let (Some(id), Some(method)) = (message.id, &message.method) else {
            if let (Some(id), None) = (message.id, &message.method) {
                self.take_answer(id, &request.body);
            }
            wire.send(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n").await?;
            return Ok(After::Open);
        };
        if method == "tools/call" {
            let Some(call) = Call::read(id, message.params.as_ref()) else {
                self.report_unexpected(&request.body);
                return Ok(After::Close);
            };
            return self.call(&call, wire).await;
        }
        let client = session_client(request.session.as_deref());
        if let Some(answer) = self.tasks.answer(&message, self.script.era, client) {
            let body = answer.unwrap_or_else(|tag| {
                let text = format!("a server received a request of client {client:?} for this task");
                self.ledger.report(Some(tag), text);
                String::new()
            });
            wire.send(&json_response("200 OK", "", &body)).await?;
            return Ok(After::Open);
        }
        let (status, extra, outcome) = match &**method {
            "initialize" if self.script.era == Era::Legacy => {
                ("200 OK", self.open_session(message.params.as_ref()), initialize_result_with_tasks())
            }
            "server/discover" if self.script.era == Era::Modern => {
                ("200 OK", String::new(), DISCOVERED_WITH_TASKS.to_owned())
            }
            method => {
                let (status, outcome) = describe(method, self.script.era);
                (status, String::new(), outcome.to_owned())
            }
        };
        let body = format!(r#"{{"jsonrpc":"2.0","id":{id},{outcome}}}"#);
        wire.send(&json_response(status, &extra, &body)).await?;
        Ok(After::Open)
    }

    /// A session's id has its number, and the name of its client.
    fn open_session(&self, params: Option<&Params<'_>>) -> String {
        let number = self.sessions.fetch_add(1, Ordering::Relaxed);
        let client = params.and_then(|params| params.client_info.as_ref());
        let client = client.map_or("nobody", |client| &client.name);
        format!("Mcp-Session-Id: {}-{number}-{client}\r\n", self.script.name)
    }

    /// The event stream of a session, or the rest of one of a call.
    async fn listen(&self, request: &Request, wire: &mut Wire) -> io::Result<After> {
        let tag = request.last_event_id.as_ref().and_then(|id| id.split_once('/'));
        if let Some((tag, _)) = tag {
            let rest = self.rests.lock().unwrap().remove(tag);
            let Some(rest) = rest else {
                wire.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await?;
                return Ok(After::Open);
            };
            wire.send(format!("{STREAM_HEAD}{}{}", chunk(&rest), chunk("")).as_bytes()).await?;
            return Ok(After::Open);
        }
        let Some(client) = session_client(request.session.as_deref()) else {
            wire.send(b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n").await?;
            return Ok(After::Open);
        };
        wire.send(STREAM_HEAD.as_bytes()).await?;
        let message = log_message(Tag::of_client(client).canary(self.ledger.seed));
        for _ in 0..LOG_COUNT {
            wire.send(chunk(&event(None, &message)).as_bytes()).await?;
            sleep(LOG_PACE).await;
        }
        wire.send(chunk("").as_bytes()).await?;
        Ok(After::Open)
    }

    /// Executes and answers, with the fault that the call asks for.
    async fn call(&self, call: &Call<'_>, wire: &mut Wire) -> io::Result<After> {
        let fault = if self.script.obeys_faults { call.work.fault() } else { Fault::None };
        let refusal = match fault {
            Fault::ResetBefore => return Ok(After::Reset),
            Fault::Status503 => "503 Service Unavailable",
            Fault::Status429 => "429 Too Many Requests",
            Fault::Status401 => "401 Unauthorized",
            Fault::Redirect => "307 Temporary Redirect",
            _ => "",
        };
        if !refusal.is_empty() {
            let head = format!("HTTP/1.1 {refusal}\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n");
            wire.send(head.as_bytes()).await?;
            return Ok(After::Open);
        }
        if fault == Fault::Slow {
            sleep(Duration::from_millis(u64::from(call.work.number % 30))).await;
        }
        let kind = call.work.kind().unwrap_or(Kind::Plain);
        if kind == Kind::Ask && self.script.era == Era::Modern {
            match self.take_input(call) {
                Ok(true) => {}
                Ok(false) => {
                    wire.send(&json_response("200 OK", "", &call.input_required())).await?;
                    return Ok(After::Open);
                }
                Err(message) => {
                    wire.send(&json_response("200 OK", "", &message)).await?;
                    return Ok(After::Open);
                }
            }
        }
        if kind.is_stream(call.work.number) {
            self.stream(call, kind, fault, wire).await
        } else {
            self.json(call, fault, wire).await
        }
    }

    /// Whether a Modern call has the input that it needs; an error message if it is declined.
    fn take_input(&self, call: &Call<'_>) -> Result<bool, String> {
        let Some(input) = call.input else { return Ok(false) };
        if call.state.is_none_or(|state| state != format!("state-{}", call.tag)) {
            self.ledger.report(Some(call.tag), format!("a server received the state {:?}", call.state));
        }
        if self.is_accepted(call, input) { Ok(true) } else { Err(call.error("no input")) }
    }

    async fn json(&self, call: &Call<'_>, fault: Fault, wire: &mut Wire) -> io::Result<After> {
        self.ledger.execute(call.tag, call.canary);
        let is_task = call.work.kind() == Some(Kind::Task) && wants_task(call.params, self.script.era);
        let body = if is_task { self.tasks.create(call, self.script.era) } else { call.result() };
        let response = json_response("200 OK", "", &body);
        let number = call.work.number as usize;
        match fault {
            Fault::ResetAt => {
                wire.send(&response[..number % response.len()]).await?;
                Ok(After::Reset)
            }
            Fault::ShortBody | Fault::BreakResumable => {
                let long = json_response("200 OK", "", &format!("{body}{}", " ".repeat(100)));
                wire.send(&long[..long.len() - 1 - number % 200]).await?;
                Ok(After::Close)
            }
            Fault::BadChunk => {
                let half = &body[..body.len() / 2];
                let head =
                    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
                wire.send(format!("{head}{}zz\r\n{half}\r\n", chunk(half)).as_bytes()).await?;
                Ok(After::Close)
            }
            Fault::Surplus => {
                let surplus = [&response[..], b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}\n"].concat();
                wire.send(&surplus).await?;
                Ok(After::Open)
            }
            Fault::WrongId => {
                wire.send(&json_response("200 OK", "", &call.result_under("\"99.99\""))).await?;
                Ok(After::Open)
            }
            Fault::Garbage => {
                wire.send(&json_response("200 OK", "", &format!("<html>{}", call.canary))).await?;
                Ok(After::Open)
            }
            Fault::Hang => {
                wire.closed().await;
                Ok(After::Close)
            }
            Fault::HangBody => {
                wire.send(&response[..response.len() - 1]).await?;
                wire.closed().await;
                Ok(After::Close)
            }
            Fault::Drip => {
                for byte in &response {
                    wire.send(&[*byte]).await?;
                    tokio::task::yield_now().await;
                }
                Ok(After::Open)
            }
            _ => self.status(call, fault, &response, wire).await,
        }
    }

    /// With a status after the call was executed, or as it should be.
    async fn status(
        &self,
        call: &Call<'_>,
        fault: Fault,
        response: &[u8],
        wire: &mut Wire,
    ) -> io::Result<After> {
        match fault {
            Fault::Status500 => {
                wire.send(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n").await?;
                Ok(After::Open)
            }
            Fault::Status404 => {
                wire.send(&json_response("404 Not Found", "", &call.error("no such thing"))).await?;
                Ok(After::Open)
            }
            Fault::CloseAfter => {
                wire.send(response).await?;
                Ok(After::Close)
            }
            _ => {
                wire.send(response).await?;
                Ok(After::Open)
            }
        }
    }

    async fn stream(&self, call: &Call<'_>, kind: Kind, fault: Fault, wire: &mut Wire) -> io::Result<After> {
        wire.send(STREAM_HEAD.as_bytes()).await?;
        if kind == Kind::Ask && self.script.era == Era::Legacy && !self.ask(call, wire).await? {
            let error = chunk(&event(None, &call.error("no input")));
            wire.send(format!("{error}{}", chunk("")).as_bytes()).await?;
            return Ok(After::Open);
        }
        self.ledger.execute(call.tag, call.canary);
        let has_ids = fault == Fault::BreakResumable && self.script.era == Era::Legacy;
        let mut events = Vec::new();
        for step in 1..=call.steps() {
            let id = has_ids.then(|| format!("{}/{step}", call.tag));
            let data = call.progress(step);
            events.push(data.map_or_else(|| ": working\n\n".to_owned(), |data| event(id.as_deref(), &data)));
        }
        if kind.is_paced() {
            for text in events.drain(..) {
                wire.send(chunk(&text).as_bytes()).await?;
                sleep(PACE).await;
            }
        }
        if kind == Kind::Cancel {
            drop(timeout(CANCEL_MAX, wire.closed()).await);
        }
        let text = match fault {
            Fault::WrongId => call.result_under("\"99.99\""),
            Fault::Garbage => format!("<html>{}", call.canary),
            _ => call.result(),
        };
        events.push(event(None, &text));
        if fault == Fault::TwoAnswers {
            events.push(event(None, &text));
        }
        self.end_stream(call, fault, has_ids, events, wire).await
    }

    /// Sends the last events, and ends the stream as the fault says.
    async fn end_stream(
        &self,
        call: &Call<'_>,
        fault: Fault,
        has_ids: bool,
        mut events: Vec<String>,
        wire: &mut Wire,
    ) -> io::Result<After> {
        let number = call.work.number as usize;
        if has_ids && call.progress_token.is_some() {
            let rest = events.pop().unwrap_or_default();
            self.keep_rest(call.tag, &rest);
            let begun = chunk(&events.concat());
            let cut = &rest[..number % rest.len()];
            let cut = if cut.is_empty() { String::new() } else { chunk(cut) };
            let begun = if events.is_empty() { String::new() } else { begun };
            wire.send(format!("{begun}{cut}").as_bytes()).await?;
            return Ok(if number.is_multiple_of(2) { After::Close } else { After::Reset });
        }
        let events: String = events.iter().map(|event| chunk(event)).collect();
        match fault {
            Fault::ResetAt | Fault::ShortBody | Fault::BreakResumable => {
                wire.send(&events.as_bytes()[..number % events.len()]).await?;
                Ok(if fault == Fault::ResetAt { After::Reset } else { After::Close })
            }
            Fault::BadChunk => {
                wire.send(format!("zz\r\n{events}").as_bytes()).await?;
                Ok(After::Close)
            }
            Fault::Hang | Fault::HangBody => {
                wire.send(&events.as_bytes()[..events.len() - 4]).await?;
                wire.closed().await;
                Ok(After::Close)
            }
            Fault::Drip => {
                for byte in format!("{events}{}", chunk("")).as_bytes() {
                    wire.send(&[*byte]).await?;
                    tokio::task::yield_now().await;
                }
                Ok(After::Open)
            }
            _ => {
                let surplus = if fault == Fault::Surplus { "HTTP/1.1 200 OK\r\n\r\n" } else { "" };
                wire.send(format!("{events}{}{surplus}", chunk("")).as_bytes()).await?;
                Ok(if fault == Fault::CloseAfter { After::Close } else { After::Open })
            }
        }
    }

    fn keep_rest(&self, tag: Tag, rest: &str) {
        let mut rests = self.rests.lock().unwrap();
        if rests.len() >= RESTS_MAX {
            rests.clear();
        }
        rests.insert(tag.to_string(), rest.to_owned());
    }

    /// Asks the client on the call's stream; true if it gave the right answer.
    async fn ask(&self, call: &Call<'_>, wire: &mut Wire) -> io::Result<bool> {
        let id = format!("ask-{}", call.tag);
        let (sender, answer) = oneshot::channel();
        self.questions.lock().unwrap().insert(id.clone(), sender);
        wire.send(chunk(&event(None, &call.question_message(&id))).as_bytes()).await?;
        let answer = tokio::select! {
            answer = timeout(ANSWER_MAX, answer) => answer.ok().and_then(Result::ok),
            () = wire.closed() => None,
        };
        self.questions.lock().unwrap().remove(&id);
        Ok(answer.is_some_and(|answer| self.is_accepted(call, &answer)))
    }
}

/// The number of the client of a session, if it was opened for one.
fn session_client(session: Option<&str>) -> Option<u32> {
    session?.rsplit('-').next()?.strip_prefix('c')?.parse().ok()
}

/// The number of a session, of which its id says more.
fn session_number(session: Option<&str>) -> Option<u64> {
    session?.split('-').nth(1)?.parse().ok()
}
