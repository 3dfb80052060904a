//! The validation of one response. No I/O: takes a body in any chunks, returns a verdict.
//!
//! Invariant: a response counts as correct only when everything about it was checked: the id, the canary, the length, the
//! progress notifications, and that there is exactly one response.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::error::{ErrorKind, RequestError};
use crate::message;
use crate::scenario::{Era, ResponseChecks};
use crate::sse::{EVENT_BYTES_MAX, EventParser};

/// What a correct response to one request contains.
#[derive(Debug, Clone)]
pub struct ExpectedResponse {
    pub id: u64,
    pub canary: String,
    pub checks: ResponseChecks,
    pub era: Era,
}

/// The format of the body.
#[derive(Debug)]
enum BodyFormat {
    Json(Vec<u8>),
    Stream(EventParser),
}

/// Reads and validates one response.
#[derive(Debug)]
pub struct ResponseReader {
    format: BodyFormat,
    validator: ResponseValidator,
    bytes: u64,
}

#[derive(Debug)]
struct ResponseValidator {
    expected: ExpectedResponse,
    is_answered: bool,
    progress: u64,
}

/// The members of a message that determine what it is.
#[derive(Deserialize)]
struct RpcMessage<'a> {
    jsonrpc: Cow<'a, str>,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    error: Option<RpcError>,
    params: Option<ProgressParams<'a>>,
}

#[derive(Deserialize)]
struct RpcError {
    code: i64,
    message: String,
}

#[derive(Deserialize)]
struct ProgressParams<'a> {
    #[serde(borrow, rename = "progressToken")]
    token: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RpcResult<'a> {
    #[serde(borrow)]
    result_type: Option<Cow<'a, str>>,
    is_error: Option<bool>,
    tools: Option<Vec<IgnoredAny>>,
    resources: Option<Vec<IgnoredAny>>,
    resource_templates: Option<Vec<IgnoredAny>>,
    prompts: Option<Vec<IgnoredAny>>,
    contents: Option<Vec<IgnoredAny>>,
    content: Option<Vec<IgnoredAny>>,
}

impl ResponseReader {
    /// Returns `None` for a `Content-Type` that MCP does not allow.
    pub fn new(content_type: &str, expected: ExpectedResponse) -> Option<Self> {
        let format = match content_type.split(';').next().unwrap_or_default().trim() {
            "application/json" => BodyFormat::Json(Vec::new()),
            "text/event-stream" => BodyFormat::Stream(EventParser::default()),
            _ => return None,
        };
        Some(Self {
            format,
            validator: ResponseValidator { expected, is_answered: false, progress: 0 },
            bytes: 0,
        })
    }

    /// Reads the next chunk of the body.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), RequestError> {
        self.bytes += bytes.len() as u64;
        match &mut self.format {
            BodyFormat::Stream(events) => events.feed(bytes, |data| self.validator.check_message(data)),
            BodyFormat::Json(body) if body.len() + bytes.len() > EVENT_BYTES_MAX => {
                let text = format!("the response is longer than {EVENT_BYTES_MAX} bytes");
                Err(RequestError::new(ErrorKind::Malformed, text))
            }
            BodyFormat::Json(body) => {
                body.extend_from_slice(bytes);
                Ok(())
            }
        }
    }

    /// Ends the body. Returns its length in bytes when the response is correct.
    pub fn finish(mut self) -> Result<u64, RequestError> {
        match &self.format {
            BodyFormat::Json(body) => self.validator.check_message(body)?,
            BodyFormat::Stream(events) if events.is_partial() => {
                return Err(RequestError::new(
                    ErrorKind::Truncated,
                    "the event stream ended within an event",
                ));
            }
            BodyFormat::Stream(_) => {}
        }
        let checks = &self.validator.expected.checks;
        if !self.validator.is_answered {
            return Err(RequestError::new(ErrorKind::Truncated, "the event stream ended without a response"));
        }
        if self.validator.progress < checks.progress_min {
            let text =
                format!("{} of {} progress notifications", self.validator.progress, checks.progress_min);
            return Err(RequestError::new(ErrorKind::TooShort, text));
        }
        Ok(self.bytes)
    }
}

impl ResponseValidator {
    fn check_message(&mut self, bytes: &[u8]) -> Result<(), RequestError> {
        // The first event of a Legacy stream may be empty: it only carries an event id (2025-11-25).
        if bytes.is_empty() && self.expected.era == Era::Legacy {
            return Ok(());
        }
        let message: RpcMessage<'_> = match serde_json::from_slice(bytes) {
            Ok(message) => message,
            // A body without Content-Length may have been truncated.
            Err(error) if error.is_eof() => {
                return Err(RequestError::with_excerpt(ErrorKind::Truncated, "the body ends early", bytes));
            }
            Err(error) => {
                return Err(RequestError::with_excerpt(ErrorKind::Malformed, &error.to_string(), bytes));
            }
        };
        if message.jsonrpc != "2.0" {
            return Err(RequestError::with_excerpt(ErrorKind::Malformed, "jsonrpc is not \"2.0\"", bytes));
        }
        if let Some(found) =
            message::find_canaries(bytes).find(|found| *found != self.expected.canary.as_bytes())
        {
            let text = format!("{} got {}", self.expected.canary, String::from_utf8_lossy(found));
            return Err(RequestError::new(ErrorKind::ForeignCanary, text));
        }
        match &message.method {
            Some(method) => {
                self.count_progress(method, &message);
                Ok(())
            }
            None => self.check_response(&message, bytes),
        }
    }

    /// Counts a progress notification that has the progress token of the request.
    fn count_progress(&mut self, method: &str, message: &RpcMessage<'_>) {
        let token = message.params.as_ref().and_then(|params| params.token);
        let is_own = token.is_some_and(|token| token.get().trim_matches('"') == self.expected.canary);
        if method == "notifications/progress" && is_own {
            self.progress += 1;
        }
    }

    fn check_response(&mut self, message: &RpcMessage<'_>, bytes: &[u8]) -> Result<(), RequestError> {
        let id = message.id.map(RawValue::get);
        if id != Some(self.expected.id.to_string().as_str()) {
            // An error about an unreadable request has no id.
            if let (None | Some("null"), Some(error)) = (id, &message.error) {
                return Err(RequestError::new(ErrorKind::Rpc(error.code), error.message.as_str()));
            }
            let text =
                format!("request {} got the response of {}", self.expected.id, id.unwrap_or("nothing"));
            return Err(RequestError::new(ErrorKind::WrongId, text));
        }
        if self.is_answered {
            return Err(RequestError::with_excerpt(ErrorKind::Duplicate, "a second response", bytes));
        }
        self.is_answered = true;
        match (&message.error, message.result) {
            (Some(error), None) => Err(RequestError::new(ErrorKind::Rpc(error.code), error.message.as_str())),
            (None, Some(result)) => self.check_result(result, bytes),
            _ => {
                Err(RequestError::with_excerpt(ErrorKind::Malformed, "neither a result nor an error", bytes))
            }
        }
    }

    fn check_result(&self, raw: &RawValue, bytes: &[u8]) -> Result<(), RequestError> {
        let ExpectedResponse { checks, era, canary, .. } = &self.expected;
        let result: RpcResult<'_> = serde_json::from_str(raw.get())
            .map_err(|error| RequestError::with_excerpt(ErrorKind::Malformed, &error.to_string(), bytes))?;
        if result.is_error == Some(true) {
            return Err(RequestError::with_excerpt(ErrorKind::ErrorResult, "isError is true", bytes));
        }
        match result.result_type.as_deref() {
            Some("complete") => {}
            None if *era == Era::Legacy => {}
            None => {
                return Err(RequestError::with_excerpt(ErrorKind::Malformed, "resultType is missing", bytes));
            }
            Some(_) => {
                return Err(RequestError::with_excerpt(
                    ErrorKind::ErrorResult,
                    "resultType is not complete",
                    bytes,
                ));
            }
        }
        // `bytes` is a response, so a canary in it is not that of a progress token.
        if checks.echoes && message::find_canaries(bytes).next().is_none() {
            return Err(RequestError::with_excerpt(ErrorKind::LostCanary, canary, bytes));
        }
        if (bytes.len() as u64) < checks.answer_bytes_min {
            let text = format!("{} bytes, at least {}", bytes.len(), checks.answer_bytes_min);
            return Err(RequestError::new(ErrorKind::TooShort, text));
        }
        let lists = [
            &result.tools,
            &result.resources,
            &result.resource_templates,
            &result.prompts,
            &result.contents,
            &result.content,
        ];
        let items = lists.into_iter().flatten().map(Vec::len).max().unwrap_or(0) as u64;
        if items < checks.items_min {
            return Err(RequestError::new(
                ErrorKind::TooShort,
                format!("{items} entries, at least {}", checks.items_min),
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
