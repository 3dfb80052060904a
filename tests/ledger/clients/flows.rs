//! Calls of one request each: answered, asked for input, cancelled, left, resumed.

use std::io;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::exchange::Prepared;
use super::judge::Reading;
use super::{Client, Revision};
use crate::fault::Fault;
use crate::http::Wire;
use crate::kind::Kind;
use crate::ledger::Outcome;
use crate::run::RESUME_FOR;
use crate::schedule::Call;
use crate::servers::Era;

/// A Modern call is sent again with the input so often: the server asks once.
const ROUNDS_MAX: usize = 3;

impl Client {
    /// Sends a call and follows it to its end.
    pub(super) async fn follow(&mut self, call: &Call) -> Outcome {
        let Some(mut prepared) = self.prepare(call, Revision::November).await else { return Outcome::Unsent };
        let mut more = String::new();
        for round in 0..ROUNDS_MAX {
            let message = self.message(call, &prepared, &more);
            let request = self.request(call, &prepared, &message);
            match self.round(call, &prepared, &request).await {
                Ok(Reading::Answer(outcome)) => return outcome,
                Ok(Reading::Input { key, state }) => {
                    let word = call.tag.canary(self.shared.plan.seed);
                    more = format!(
                        r#","inputResponses":{{"{key}":{{"action":"accept","content":{{"word":"{word}"}}}}}},"requestState":{}"#,
                        serde_json::Value::from(state)
                    );
                    prepared.id = format!("\"{}-{round}\"", call.tag);
                }
                Ok(Reading::Notice | Reading::Question(_) | Reading::Task(_)) => return Outcome::Missing,
                Err(error) => return self.broken(error),
            }
        }
        self.shared.ledger.report(Some(call.tag), "the server asked again and again".into());
        Outcome::Missing
    }

    /// One request and its response.
    pub(super) async fn round(
        &mut self,
        call: &Call,
        prepared: &Prepared,
        request: &str,
    ) -> io::Result<Reading> {
        let (mut wire, head) = self.begin(call, request.as_bytes()).await?;
        if head.status == 404 {
            self.abandon(&prepared.path);
        }
        if !head.is_stream {
            let body = wire.body().await?;
            self.keep(wire, &head);
            return Ok(self.read(call, prepared, head.status, &String::from_utf8_lossy(&body)));
        }
        let mut is_over = false;
        if self.is_to_cancel(call) {
            if self.era == Era::Modern {
                drop(wire.event().await?);
                return Ok(Reading::Answer(Outcome::Cancelled));
            }
            self.cancel(call, prepared, &mut wire).await?;
            is_over = true;
        }
        let reading = self.read_stream(call, prepared, head.status, &mut wire, is_over).await?;
        self.keep(wire, &head);
        Ok(reading)
    }

    pub(super) fn broken(&mut self, error: io::Error) -> Outcome {
        self.broken = Some(error);
        Outcome::Broken
    }

    fn is_to_cancel(&self, call: &Call) -> bool {
        call.kind == Kind::Cancel || (call.kind == Kind::EndSession && self.era == Era::Legacy)
    }

    /// Cancels a Legacy call that has begun, or ends its session.
    async fn cancel(&mut self, call: &Call, prepared: &Prepared, wire: &mut Wire) -> io::Result<()> {
        if call.number.is_multiple_of(2)
            && let Some(event) = wire.event().await?
            && let Some(data) = event.data
        {
            self.shared.ledger.check_canaries(call.tag, data.as_bytes());
        }
        let Some(session) = &prepared.session else { return Ok(()) };
        let request = if call.kind == Kind::EndSession {
            self.bare("DELETE", &prepared.path, session, "")
        } else {
            let id = &prepared.id;
            let text = format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{id}}}}}"#
            );
            self.post_in(&prepared.path, session, &text)
        };
        self.beside(&request).await;
        if call.kind == Kind::EndSession {
            self.abandon(&prepared.path);
        }
        Ok(())
    }

    /// Reads a stream to its end. `is_over`: the client does not wait for an answer any more, so there may be none.
    pub(super) async fn read_stream(
        &mut self,
        call: &Call,
        prepared: &Prepared,
        status: u16,
        wire: &mut Wire,
        is_over: bool,
    ) -> io::Result<Reading> {
        let mut end = None;
        while let Some(event) = wire.event().await? {
            let Some(data) = event.data else { continue };
            match self.read(call, prepared, status, &data) {
                Reading::Notice => {}
                Reading::Question(id) => self.answer(call, prepared, &id).await,
                // docs/OPERATIONS.md: text that is no message passes unchanged; an error may follow.
                reading if end == Some(Reading::Answer(Outcome::Garbage)) => end = Some(reading),
                reading => {
                    if end.is_some() {
                        self.shared
                            .ledger
                            .report(Some(call.tag), format!("a second answer to {call:?}: {data}"));
                    }
                    end = Some(reading);
                }
            }
        }
        Ok(end.unwrap_or_else(|| {
            if is_over {
                // docs/COMPATIBILITY.md: "A cancelled call gets no response: its event stream ends without one."
                return Reading::Answer(Outcome::Cancelled);
            }
            if call.fault == Fault::WrongId {
                return Reading::Answer(Outcome::Garbage);
            }
            let text = format!("the stream ended without an answer: {call:?}");
            self.shared.ledger.report(Some(call.tag), text);
            Reading::Answer(Outcome::Missing)
        }))
    }

    /// Answers what the server asks during a Legacy call.
    async fn answer(&mut self, call: &Call, prepared: &Prepared, id: &str) {
        let Some(session) = &prepared.session else {
            return self
                .shared
                .ledger
                .report(Some(call.tag), format!("a Modern client was sent a request: {id}"));
        };
        let word = call.tag.canary(self.shared.plan.seed);
        let text = format!(
            r#"{{"jsonrpc":"2.0","id":{id},"result":{{"action":"accept","content":{{"word":"{word}"}}}}}}"#
        );
        let request = self.post_in(&prepared.path, session, &text);
        self.beside(&request).await;
    }

    /// Leaves: within the request, right after it, after the head, after the first event, or with its sending side only.
    pub(super) async fn leave(&mut self, call: &Call) -> Outcome {
        let Some(prepared) = self.prepare(call, Revision::November).await else { return Outcome::Unsent };
        let message = self.message(call, &prepared, "");
        let request = self.request(call, &prepared, &message);
        let mut wire = self.wire().await;
        let way = call.number % 5;
        let length = if way == 0 { request.len() - 1 - call.number as usize % 100 } else { request.len() };
        let is_sent = wire.send(&request.as_bytes()[..length]).await.is_ok();
        match way {
            2 if is_sent => drop(wire.head().await),
            3 if is_sent && wire.head().await.is_ok() => drop(wire.event().await),
            4 => {
                // docs/COMPATIBILITY.md: a half-close while its only request is in flight cancels it (C2).
                wire.half_close().await;
                wire.closed().await;
            }
            _ => {}
        }
        if call.number & 4 == 0 {
            wire.reset();
        }
        // A request that is not complete cannot have run.
        if way == 0 { Outcome::Unsent } else { Outcome::Cancelled }
    }

    /// Breaks the stream after its first event, and resumes it.
    pub(super) async fn resume(&mut self, call: &Call) -> Outcome {
        let Some(prepared) = self.prepare(call, Revision::November).await else { return Outcome::Unsent };
        let message = self.message(call, &prepared, "");
        let request = self.request(call, &prepared, &message);
        match self.break_and_resume(call, &prepared, &request).await {
            Ok(outcome) => outcome,
            Err(error) => self.broken(error),
        }
    }

    async fn break_and_resume(
        &mut self,
        call: &Call,
        prepared: &Prepared,
        request: &str,
    ) -> io::Result<Outcome> {
        let (mut wire, head) = self.begin(call, request.as_bytes()).await?;
        if !head.is_stream {
            if head.status == 404 {
                self.abandon(&prepared.path);
            }
            let body = wire.body().await?;
            self.keep(wire, &head);
            return Ok(match self.read(call, prepared, head.status, &String::from_utf8_lossy(&body)) {
                Reading::Answer(outcome) => outcome,
                _ => Outcome::Missing,
            });
        }
        let mut id = None;
        let mut answer = None;
        while id.is_none() || call.number.is_multiple_of(3) && answer.is_none() {
            let Some(event) = wire.event().await? else { break };
            id = event.id.or(id);
            if let Some(data) = event.data
                && let Reading::Answer(outcome) = self.read(call, prepared, head.status, &data)
            {
                answer = Some(outcome);
            }
        }
        drop(wire);
        let left_at = Instant::now();
        let (Some(id), Some(session)) = (id, &prepared.session) else {
            return Ok(answer.unwrap_or(Outcome::Cancelled));
        };
        sleep(Duration::from_millis(u64::from(call.number % 40))).await;
        let headers = format!("MCP-Protocol-Version: 2025-11-25\r\nLast-Event-ID: {id}\r\n");
        let request = self.bare("GET", &prepared.path, session, &headers);
        let mut wire = self.connect().await;
        wire.send(request.as_bytes()).await?;
        let head = wire.head().await?;
        if head.status != 200 {
            let body = wire.body().await?;
            self.shared.ledger.check_canaries(call.tag, &body);
            self.read_error(head.status, &String::from_utf8_lossy(&body));
            return Ok(answer.unwrap_or(Outcome::Cancelled));
        }
        let reading = self.read_stream(call, prepared, head.status, &mut wire, answer.is_some()).await?;
        self.keep(wire, &head);
        Ok(match (answer, reading) {
            (Some(answer), Reading::Answer(Outcome::Cancelled)) => answer,
            // docs/COMPATIBILITY.md: "If a stream can no longer be resumed, its call fails". A gateway that was started
            // again has none of the streams before, and on a busy machine this client may come too late.
            (Some(answer), Reading::Answer(Outcome::MayHaveRun))
                if !self.is_same_gateway() || left_at.elapsed() >= RESUME_FOR =>
            {
                answer
            }
            // What is no answer was read as one, and the gateway's own error follows it.
            (Some(Outcome::Garbage), Reading::Answer(outcome)) => outcome,
            (Some(_), reading) => {
                let text = format!("what was received already came again: {reading:?}");
                self.shared.ledger.report(Some(call.tag), text);
                Outcome::Error
            }
            (None, Reading::Answer(outcome)) => outcome,
            (None, _) => Outcome::Missing,
        })
    }

    /// Reads the event stream of a session for a while.
    pub(super) async fn listen(&mut self, call: &Call) -> Outcome {
        let Some(prepared) = self.prepare(call, Revision::November).await else { return Outcome::Unsent };
        let Some(session) = &prepared.session else { return Outcome::Unsent };
        let request = self.bare("GET", &prepared.path, session, "MCP-Protocol-Version: 2025-11-25\r\n");
        let mut wire = self.connect().await;
        if wire.send(request.as_bytes()).await.is_err() {
            return Outcome::Broken;
        }
        let Ok(head) = wire.head().await else { return Outcome::Broken };
        if !head.is_stream {
            self.abandon(&prepared.path);
            return Outcome::Refused;
        }
        let until = Instant::now() + Duration::from_millis(u64::from(20 + call.number % 100));
        while let Ok(Ok(Some(event))) = timeout_at(until, wire.event()).await {
            self.shared.ledger.check_canaries(call.tag, event.data.unwrap_or_default().as_bytes());
        }
        Outcome::Success
    }

    /// Calls the tool over REST.
    pub(super) async fn execute(&mut self, call: &Call) -> Outcome {
        let (body, expected) = (self.work(call).json(), self.work(call).answer_text());
        let path = format!("/api/v1/mcp/servers/{}/tools/record/execute", self.name(call));
        let request =
            self.post(&path, "", &body).replace("application/json, text/event-stream", "application/json");
        let (mut wire, head) = match self.begin(call, request.as_bytes()).await {
            Ok(begun) => begun,
            Err(error) => return self.broken(error),
        };
        let body = match wire.body().await {
            Ok(body) => body,
            Err(error) => return self.broken(error),
        };
        self.keep(wire, &head);
        self.shared.ledger.check_canaries(call.tag, &body);
        let text = String::from_utf8_lossy(&body);
        if head.status != 200 {
            return self.read_error(head.status, &text);
        }
        if !text.contains(&expected) {
            self.shared
                .ledger
                .report(Some(call.tag), format!("answered over REST with another result: {text}"));
        }
        Outcome::Success
    }
}
