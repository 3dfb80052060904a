//! Calls that are answered later: a task is created, looked at until it is completed, and its result fetched; or it is
//! cancelled.

use std::io;
use std::time::Duration;

use serde::Deserialize;
use tokio::time::sleep;

use super::exchange::Prepared;
use super::judge::Reading;
use super::{Client, Revision};
use crate::ledger::Outcome;
use crate::schedule::Call;
use crate::servers::Era;
use crate::support::MODERN;

/// Between two looks at a task.
const LOOK_PAUSE: Duration = Duration::from_millis(4);

/// A server completes a task after fewer looks.
const LOOKS_MAX: usize = 6;

/// The member of `params` that makes a Legacy call a task.
const LEGACY_TASK: &str = r#","task":{"ttl":60000}"#;

#[derive(Deserialize)]
struct Answer {
    result: Option<serde_json::Value>,
}

impl Client {
    /// Sends a call as a task and follows it to its end. A server without tasks, or of the other era, answers at once.
    pub(super) async fn task(&mut self, call: &Call) -> Outcome {
        let Some(prepared) = self.prepare(call, Revision::November).await else { return Outcome::Unsent };
        let more = if self.era == Era::Legacy { LEGACY_TASK } else { "" };
        let message = self.message(call, &prepared, more);
        let request = self.request(call, &prepared, &message);
        let id = match self.round(call, &prepared, &request).await {
            Ok(Reading::Task(id)) => id,
            Ok(Reading::Answer(outcome)) => return outcome,
            Ok(_) => return Outcome::Missing,
            Err(error) => return self.broken(error),
        };
        match self.follow_task(call, &prepared, &id).await {
            Ok(outcome) => outcome,
            Err(error) => self.broken(error),
        }
    }

    async fn follow_task(&mut self, call: &Call, prepared: &Prepared, id: &str) -> io::Result<Outcome> {
        if call.number & 0b1100 == 0b1100 {
            self.ask_of_task(call, prepared, id, "tasks/cancel").await?;
            return Ok(Outcome::Cancelled);
        }
        for _ in 0..LOOKS_MAX {
            // The call itself has run, whatever the error says of this request.
            let Some(task) = self.ask_of_task(call, prepared, id, "tasks/get").await? else {
                return Ok(Outcome::Error);
            };
            if task["taskId"] != id {
                let text = format!("another task than {id}: {task}");
                self.shared.ledger.report(Some(call.tag), text);
            }
            let result = match (task["status"].as_str(), self.era) {
                (Some("completed"), Era::Modern) => task["result"].clone(),
                (Some("completed"), Era::Legacy) => {
                    let result = self.ask_of_task(call, prepared, id, "tasks/result").await?;
                    let Some(result) = result else { return Ok(Outcome::Error) };
                    result
                }
                _ => {
                    sleep(LOOK_PAUSE).await;
                    continue;
                }
            };
            if !result.to_string().contains(&prepared.expected) {
                let text = format!("the task has another result: {result}");
                self.shared.ledger.report(Some(call.tag), text);
            }
            return Ok(Outcome::Success);
        }
        self.shared.ledger.report(Some(call.tag), "the task is never completed".into());
        Ok(Outcome::Missing)
    }

    /// The result of a request of a task; `None` if it is an error.
    async fn ask_of_task(
        &mut self,
        call: &Call,
        prepared: &Prepared,
        id: &str,
        method: &str,
    ) -> io::Result<Option<serde_json::Value>> {
        let meta = match self.era {
            Era::Legacy => String::new(),
            Era::Modern => format!(r#","_meta":{{{}}}"#, Self::modern_meta(call)),
        };
        let raw = &prepared.id;
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":{raw},"method":"{method}","params":{{"taskId":"{id}"{meta}}}}}"#
        );
        let request = if let Some(session) = &prepared.session {
            self.post_in(&prepared.path, session, &body)
        } else {
            let headers =
                format!("MCP-Protocol-Version: {MODERN}\r\nMcp-Method: {method}\r\nMcp-Name: {id}\r\n");
            self.post(&prepared.path, &headers, &body)
        };
        let mut wire = self.wire().await;
        wire.send(request.as_bytes()).await?;
        let head = wire.head().await?;
        let mut text = String::new();
        if head.is_stream {
            while let Some(event) = wire.event().await? {
                let data = event.data.unwrap_or_default();
                self.shared.ledger.check_canaries(call.tag, data.as_bytes());
                if data.contains(&format!("\"id\":{raw}")) {
                    text = data;
                }
            }
        } else {
            text = String::from_utf8_lossy(&wire.body().await?).into_owned();
            self.shared.ledger.check_canaries(call.tag, text.as_bytes());
        }
        if head.status == 404 {
            self.abandon(&prepared.path);
        }
        self.keep(wire, &head);
        let result = serde_json::from_str::<Answer>(&text).ok().and_then(|answer| answer.result);
        if result.is_none() {
            self.read_error(head.status, &text);
        }
        Ok(result)
    }
}
