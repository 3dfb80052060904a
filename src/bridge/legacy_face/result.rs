//! What a server answers a request that stands alone, as a client of a session takes it (MCP 2026-07-28,
//! results and multi round-trip requests).

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::value::RawValue;

use super::object::{each, find, shared};
use crate::frame::{Envelope, Kind, Span, splice};
use crate::protocol::{ClientCapabilities, code};

/// What an answer comes to.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn {
    /// This is the answer for the client.
    Answer(Bytes),
    /// The server wants to know something first.
    Asks(InputRequired),
}

/// What a server wants to know before it answers.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct InputRequired {
    /// Its questions, in its order.
    pub questions: Vec<Question>,
    /// The raw `requestState`, which goes back as it is.
    pub state: Option<Bytes>,
}

/// A question to the client.
#[derive(Debug, PartialEq, Eq)]
pub struct Question {
    /// The server's name for it, which its answer is given under.
    pub key: String,
    /// What is asked for.
    pub input: Input,
    /// The raw `params`.
    pub params: Option<Bytes>,
}

/// What a client can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// `elicitation/create`
    Elicitation,
    /// `sampling/createMessage`
    Sampling,
    /// `roots/list`
    Roots,
}

/// Questions of one round, all of which the client is asked at once.
const QUESTIONS_MAX: usize = 16;

impl Input {
    /// The method on the wire.
    pub fn method(self) -> &'static str {
        match self {
            Self::Elicitation => "elicitation/create",
            Self::Sampling => "sampling/createMessage",
            Self::Roots => "roots/list",
        }
    }

    fn parse(method: &str) -> Option<Self> {
        [Self::Elicitation, Self::Sampling, Self::Roots].into_iter().find(|input| input.method() == method)
    }
}

impl Question {
    /// Whether it asks the user to visit a page, instead of filling in a form.
    pub fn is_visit(&self) -> bool {
        self.input == Input::Elicitation && self.text("mode").as_deref() == Some("url")
    }

    /// What a client must have declared to be asked it.
    pub fn needs(&self) -> ClientCapabilities {
        match self.input {
            Input::Elicitation if self.is_visit() => ClientCapabilities::ELICITATION_URL,
            Input::Elicitation => ClientCapabilities::ELICITATION_FORM,
            Input::Roots => ClientCapabilities::ROOTS,
            Input::Sampling if self.has("tools") || self.has("toolChoice") => {
                ClientCapabilities::SAMPLING.with(ClientCapabilities::SAMPLING_TOOLS)
            }
            Input::Sampling => ClientCapabilities::SAMPLING,
        }
    }

    fn member(&self, name: &str) -> Option<&RawValue> {
        let params = self.params.as_ref()?;
        let whole = Span::within(params, params)?;
        find(params, whole, name).map(|found| found.value)
    }

    /// Whether its params have that member.
    pub fn has(&self, name: &str) -> bool {
        self.member(name).is_some()
    }

    fn text(&self, name: &str) -> Option<String> {
        serde_json::from_str(self.member(name)?.get()).ok()
    }
}

/// Reads an answer, and makes of it what the client that asked under the raw `id` is to get. The error is for
/// the client.
pub fn read(message: &Bytes, envelope: &Envelope, id: &Bytes) -> Result<Turn, String> {
    let outcome = envelope.outcome.ok_or("it answered no result")?;
    if envelope.kind == Kind::Error {
        return Ok(Turn::Answer(error_of(id, outcome.of(message))));
    }
    let mut edits: Vec<(Span, Bytes)> = Vec::with_capacity(2);
    if let Some(theirs) = envelope.id.filter(|theirs| theirs.span.of(message) != id) {
        edits.push((theirs.span, id.clone()));
    }
    if let Some(found) = find(message, outcome, "resultType") {
        match serde_json::from_str::<String>(found.value.get()).as_deref() {
            Ok("complete") => edits.push((found.cut, Bytes::new())),
            Ok("input_required") => {
                return input_required(message, outcome).map(Turn::Asks);
            }
            _ => return Err("it answered a result of a type that the client does not know".to_owned()),
        }
    }
    edits.sort_by_key(|(span, _)| span.start);
    if edits.is_empty() {
        return Ok(Turn::Answer(message.clone()));
    }
    let slices = splice(message, &edits).map_err(|error| error.to_string())?;
    let mut whole = BytesMut::with_capacity(slices.len_bytes());
    slices.for_each(|slice| whole.put_slice(&slice));
    Ok(Turn::Answer(whole.freeze()))
}

fn input_required(message: &Bytes, outcome: Span) -> Result<InputRequired, String> {
    let member = |name: &str| find(message, outcome, name).map(|found| found.value);
    let raw = |value: &RawValue| {
        Span::within(message, value.get().as_bytes()).map(|span| shared(message, span)).unwrap_or_default()
    };
    let state = member("requestState").filter(|state| state.get() != "null");
    if state.is_some_and(|state| !state.get().starts_with('"')) {
        return Err("its requestState is no string".to_owned());
    }
    let mut asks = InputRequired { questions: Vec::new(), state: state.map(raw) };
    if let Some(requests) = member("inputRequests") {
        let mut wrong = None;
        let read = each(requests.get().as_bytes(), |key, value| {
            if asks.questions.len() >= QUESTIONS_MAX {
                wrong = Some(format!("it asks for more than {QUESTIONS_MAX} things at once"));
                return;
            }
            match question(key.into_owned(), value, raw) {
                Some(question) => asks.questions.push(question),
                None => wrong = Some("it asks for what no client can give".to_owned()),
            }
        });
        if read.is_err() {
            wrong = Some("its inputRequests are no object".to_owned());
        }
        if let Some(wrong) = wrong {
            return Err(wrong);
        }
    }
    if asks == InputRequired::default() {
        return Err("it wants input and does not say which".to_owned());
    }
    Ok(asks)
}

fn question(key: String, value: &RawValue, raw: impl Fn(&RawValue) -> Bytes) -> Option<Question> {
    let (mut method, mut params) = (None, None);
    each(value.get().as_bytes(), |name, value| match &*name {
        "method" => method = serde_json::from_str::<String>(value.get()).ok(),
        "params" => params = Some(raw(value)),
        _ => {}
    })
    .ok()?;
    Some(Question { key, input: Input::parse(&method?)?, params })
}

/// An error for the client, as the server said it.
fn error_of(id: &[u8], error: &[u8]) -> Bytes {
    [br#"{"jsonrpc":"2.0","id":"#, id, br#","error":"#, error, b"}"].concat().into()
}

/// An error of our own.
pub fn own_error(id: &[u8], code: i32, text: &str, data: Option<&str>) -> Bytes {
    let mut error = serde_json::json!({"code": code, "message": text}).to_string();
    if let Some(data) = data {
        error.truncate(error.len() - 1);
        error.push_str(",\"data\":");
        error.push_str(data);
        error.push('}');
    }
    error_of(id, error.as_bytes())
}

/// The code of an error message.
pub fn error_code(message: &[u8], envelope: &Envelope) -> Option<i32> {
    #[derive(serde::Deserialize)]
    struct Error {
        code: i32,
    }
    let outcome = envelope.outcome.filter(|_| envelope.kind == Kind::Error)?;
    serde_json::from_slice(outcome.of(message)).ok().map(|Error { code }| code)
}

/// The server did what it should not.
pub fn misbehaved(id: &[u8], server: &str, what: &str) -> Bytes {
    own_error(id, code::INTERNAL, &format!("server `{server}` answered what is no answer: {what}"), None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Scanner;

    fn turn(message: &str, id: &str) -> Result<Turn, String> {
        let message = Bytes::from(message.to_owned());
        let envelope = Scanner::new().scan(&message).unwrap();
        read(&message, &envelope, &Bytes::from(id.to_owned()))
    }

    #[track_caller]
    fn check(message: &str, expected: &str) {
        assert_eq!(turn(message, "1"), Ok(Turn::Answer(expected.to_owned().into())), "{message}");
    }

    #[test]
    fn answers_are_what_a_session_knows() {
        check(
            r#"{"jsonrpc":"2.0","id":1,"result":{"content":[],"resultType":"complete","ttlMs":1}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{"content":[],"ttlMs":1}}"#,
        );
        check(
            r#"{"result":{"resultType":"complete","x":1.0e2},"id":"again-1","jsonrpc":"2.0"}"#,
            r#"{"result":{"x":1.0e2},"id":1,"jsonrpc":"2.0"}"#,
        );
        let old = r#"{"jsonrpc":"2.0","id":1,"result":{"content":[{"resultType":"x"}]}}"#;
        check(old, old);
        check(
            r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32601,"message":"no","data":{"a":1}}}"#,
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"no","data":{"a":1}}}"#,
        );
    }

    #[test]
    fn questions_are_read() {
        let asks = |result: &str| match turn(
            &format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{"resultType":"input_required"{result}}}}}"#),
            "1",
        ) {
            Ok(Turn::Asks(asks)) => asks
                .questions
                .iter()
                .map(|question| format!("{} {}", question.key, question.needs().to_json()))
                .chain(asks.state.map(|state| String::from_utf8(state.to_vec()).unwrap()))
                .collect::<Vec<_>>(),
            other => vec![format!("{other:?}")],
        };
        let check = |result: &str, expected: &[&str]| assert_eq!(asks(result), expected, "{result}");
        check(r#","requestState":"a\u0062\/c""#, &[r#""a\u0062\/c""#]);
        check(
            r#","inputRequests":{"b":{"method":"roots/list"},"a":{"method":"elicitation/create","params":{"message":"x"}}}"#,
            &[r#"b {"roots":{}}"#, r#"a {"elicitation":{"form":{}}}"#],
        );
        check(
            r#","inputRequests":{"k":{"method":"elicitation/create","params":{"mode":"url"}},"s":{"params":{"tools":[]},"method":"sampling/createMessage"}},"requestState":null"#,
            &[r#"k {"elicitation":{"url":{}}}"#, r#"s {"sampling":{"tools":{}}}"#],
        );
        for wrong in [
            "",
            r#","inputRequests":{}"#,
            r#","inputRequests":[]"#,
            r#","inputRequests":{"k":{"method":"tools/call"}}"#,
            r#","inputRequests":{"k":{}}"#,
            r#","requestState":7"#,
        ] {
            let read = turn(
                &format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{"resultType":"input_required"{wrong}}}}}"#),
                "1",
            );
            assert!(read.is_err(), "{wrong}: {read:?}");
        }
        let many: Vec<_> =
            (0..=QUESTIONS_MAX).map(|key| format!(r#""{key}":{{"method":"roots/list"}}"#)).collect();
        assert!(asks(&format!(r#","inputRequests":{{{}}}"#, many.join(",")))[0].contains("more than 16"));
        assert!(turn(r#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"task"}}"#, "1").is_err());
    }

    #[test]
    fn errors_of_our_own_are_json() {
        let error = own_error(b"\"a\"", -32603, "say \"no\"", Some("{\"x\":1}"));
        let envelope = Scanner::new().scan(&error).unwrap();
        assert_eq!(error_code(&error, &envelope), Some(-32603));
        assert!(error.ends_with(br#""data":{"x":1}}}"#), "{}", error.escape_ascii());
    }
}
