//! What a response means for its call.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::Client;
use super::exchange::Prepared;
use crate::fault::Fault;
use crate::kind::Kind;
use crate::ledger::Outcome;
use crate::schedule::Call;

/// What a message of the gateway is to its client.
#[derive(Debug, PartialEq)]
pub enum Reading {
    /// The end of the call.
    Answer(Outcome),
    /// A notification, or what the gateway passes on as it came.
    Notice,
    /// A request of the server, with its raw id.
    Question(String),
    /// The server needs input: its key and its state.
    Input { key: String, state: String },
    /// The call goes on as a task of that id.
    Task(String),
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    method: Option<&'a RawValue>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Input {
    input_requests: std::collections::BTreeMap<String, serde_json::Value>,
    request_state: Option<String>,
}

impl Client {
    /// Reads one message of the response, and reports what must not be in it.
    pub(super) fn read(&self, call: &Call, prepared: &Prepared, status: u16, text: &str) -> Reading {
        let ledger = &self.shared.ledger;
        ledger.check_canaries(call.tag, text.as_bytes());
        let Ok(message) = serde_json::from_str::<Message<'_>>(text) else {
            if call.fault != Fault::Garbage {
                ledger.report(Some(call.tag), format!("HTTP {status} with what is no message: {text}"));
            }
            return Reading::Answer(Outcome::Garbage);
        };
        let id = message.id.map_or("null", RawValue::get);
        if message.method.is_some() {
            let is_question = message.id.is_some();
            return if is_question { Reading::Question(id.to_owned()) } else { Reading::Notice };
        }
        if status == 404 && text.contains("MCP is served at") {
            // The server was removed.
            return Reading::Answer(Outcome::Refused);
        }
        if id != prepared.id && (id != "null" || message.error.is_none()) {
            // docs/OPERATIONS.md, "When a server fails": ids are "checked in responses that are not streams".
            if call.fault == Fault::WrongId && id == "\"99.99\"" && call.is_stream() {
                return Reading::Notice;
            }
            ledger.report(Some(call.tag), format!("answered under the id {id}: {text}"));
        }
        let Some(result) = message.result else {
            return Reading::Answer(self.read_error(status, message.error.map_or("", RawValue::get)));
        };
        if call.kind == Kind::Ask && result.get().contains("input_required") {
            return match serde_json::from_str::<Input>(result.get()) {
                Ok(input) => Reading::Input {
                    key: input.input_requests.into_keys().next().unwrap_or_default(),
                    state: input.request_state.unwrap_or_default(),
                },
                Err(_) => Reading::Answer(Outcome::Garbage),
            };
        }
        if call.kind == Kind::Task
            && let Ok(created) = serde_json::from_str::<serde_json::Value>(result.get())
            && let Some(id) = created["taskId"].as_str().or(created["task"]["taskId"].as_str())
        {
            return Reading::Task(id.to_owned());
        }
        let is_right = match call.kind {
            Kind::List => result.get().contains("\"tools\""),
            _ => result.get().contains(&prepared.expected),
        };
        if !is_right {
            ledger.report(Some(call.tag), format!("answered with another result: {text}"));
        }
        Reading::Answer(Outcome::Success)
    }

    /// The outcome that an error text means.
    pub(super) fn read_error(&self, status: u16, error: &str) -> Outcome {
        let has = |texts: &[&str]| texts.iter().any(|text| error.contains(text));
        // Errors of the server itself, under whatever status (docs/OPERATIONS.md: "the server's rejection").
        let outcome = if has(&["-32050", "-32001"]) {
            Outcome::Error
        } else if has(&["may have run"]) {
            Outcome::MayHaveRun
        } else if has(&["did not run", "nothing was called", "Unknown tool"]) {
            Outcome::NotRun
        } else if matches!(status, 401 | 403 | 404 | 429) {
            Outcome::Refused
        } else {
            Outcome::Error
        };
        if outcome == Outcome::Error && has(&["server `"]) {
            // docs/OPERATIONS.md, "When a server fails": the error "says whether the call may have run".
            let text = format!("an error does not say whether the call ran: {error}");
            self.shared.ledger.report(None, text);
        }
        let text: String = error.chars().filter(|c| !c.is_ascii_digit()).take(ERROR_CHARS_MAX).collect();
        let mut errors = self.shared.errors.lock().unwrap();
        let is_known = errors.contains_key(&text);
        if is_known || errors.len() < ERRORS_MAX {
            *errors.entry(text).or_default() += 1;
        }
        outcome
    }
}

/// What is kept of the texts of errors.
const ERROR_CHARS_MAX: usize = 160;
const ERRORS_MAX: usize = 60;
