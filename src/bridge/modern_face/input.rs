//! What a Legacy server asks of a client, as a Modern client is asked for it.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;
use serde_json::value::RawValue;

use crate::frame::{EVENT_BYTES_MAX, Envelope, Span, json_string};
use crate::protocol::{ClientCapabilities, code};

/// A request of a server that waits for the client.
#[derive(Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its raw id.
    pub id: Bytes,
    /// What the client calls it.
    pub key: String,
    method: String,
    /// Raw; empty when there are none.
    params: Bytes,
}

impl Wanted {
    /// What it takes to keep it.
    pub fn bytes(&self) -> usize {
        self.id.len() + self.params.len()
    }

    /// The answer to the server when nobody is asked: a whole message.
    pub fn refusal(&self, why: &str) -> Bytes {
        let (id, code) = (String::from_utf8_lossy(&self.id), code::METHOD_NOT_FOUND);
        let why = serde_json::Value::from(why);
        format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{code},"message":{why}}}}}"#).into()
    }
}

/// Whether a client can be asked.
#[derive(Debug, PartialEq, Eq)]
pub enum Question {
    /// It can.
    Ask(Wanted),
    /// It cannot, or did not say so; the server is told why.
    Refuse(&'static str),
}

/// Requests of one call that wait at once. More is a runaway loop.
pub const WANTED_MAX: usize = 16;

/// Bytes of them: as much as one event may have.
pub const WANTED_BYTES_MAX: usize = EVENT_BYTES_MAX;

/// Whether it is for the client's user or model, whom only one client has; roots are the client's own.
pub fn is_for_somebody(message: &Bytes, envelope: &Envelope) -> bool {
    let method = envelope.method.map(|method| method.decode(message));
    matches!(method.as_deref(), Some("elicitation/create" | "sampling/createMessage"))
}

/// Reads a request of a server. `key` is what the client is to call it.
pub fn question(
    message: &Bytes,
    envelope: &Envelope,
    capabilities: ClientCapabilities,
    key: String,
) -> Option<Question> {
    let id = envelope.id?.span;
    let method = envelope.method?.decode(message).into_owned();
    let params = envelope.params.object.map_or_else(Bytes::new, |span| raw(message, span));
    let read: Params<'_> = serde_json::from_slice(&params).unwrap_or_default();
    let is_url = read.mode.as_deref() == Some("url");
    let needed = match &*method {
        "roots/list" => ClientCapabilities::ROOTS,
        "sampling/createMessage" if read.tools.is_some() => {
            ClientCapabilities::SAMPLING.with(ClientCapabilities::SAMPLING_TOOLS)
        }
        "sampling/createMessage" => ClientCapabilities::SAMPLING,
        "elicitation/create" if is_url => ClientCapabilities::ELICITATION_URL,
        "elicitation/create" => ClientCapabilities::ELICITATION_FORM,
        _ => return Some(Question::Refuse("this client is not asked for that")),
    };
    if !capabilities.has(needed) {
        return Some(Question::Refuse("the client did not declare the capability for that"));
    }
    // The era has no word for it.
    let params = if is_url { without(&params, "elicitationId")? } else { params };
    Some(Question::Ask(Wanted { id: raw(message, id), key, method, params }))
}

#[derive(Deserialize, Default)]
struct Params<'a> {
    #[serde(borrow)]
    mode: Option<Cow<'a, str>>,
    tools: Option<IgnoredAny>,
}

/// A copy, so that what waits holds no more of the message than is counted.
fn raw(message: &Bytes, span: Span) -> Bytes {
    Bytes::copy_from_slice(span.of(message))
}

/// The object without one of its members, the values of the others as they were written.
fn without(object: &[u8], name: &str) -> Option<Bytes> {
    let mut members: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_slice(object).ok()?;
    members.remove(name);
    serde_json::to_vec(&members).ok().map(Bytes::from)
}

/// The message that asks the client for input (MCP 2026-07-28, multi round-trip requests). `id` is raw.
pub fn input_required(id: &[u8], wanted: &[Wanted], state: Option<&str>) -> Bytes {
    let mut message = Vec::new();
    message.extend_from_slice(br#"{"jsonrpc":"2.0","id":"#);
    message.extend_from_slice(id);
    message.extend_from_slice(br#","result":{"resultType":"input_required","inputRequests":{"#);
    for (at, Wanted { key, method, params, .. }) in wanted.iter().enumerate() {
        message.extend_from_slice(if at > 0 { b"," } else { b"" });
        message.extend_from_slice(&json_string(key));
        message.extend_from_slice(br#":{"method":"#);
        message.extend_from_slice(&json_string(method));
        if !params.is_empty() {
            message.extend_from_slice(br#","params":"#);
            message.extend_from_slice(params);
        }
        message.push(b'}');
    }
    message.push(b'}');
    if let Some(state) = state {
        message.extend_from_slice(br#","requestState":"#);
        message.extend_from_slice(&json_string(state));
    }
    message.extend_from_slice(b"}}");
    message.into()
}

/// The answers to a server, for those of its requests that the client answered; the others are left. Each is
/// a whole message.
pub fn answers(wanted: &mut Vec<Wanted>, responses: &HashMap<String, Bytes>) -> Vec<Bytes> {
    let answered = wanted.extract_if(.., |wanted| responses.contains_key(&wanted.key));
    answered
        .map(|wanted| {
            let result = &responses[&wanted.key];
            [br#"{"jsonrpc":"2.0","id":"#, &wanted.id[..], br#","result":"#, result, b"}"].concat().into()
        })
        .collect()
}

/// What is to be visited before a call can run, as 2025-11-25 says it by an error (`-32042`), in requests of
/// this era. `None` when it names nothing. The call is then made anew.
pub fn visits(message: &Bytes, outcome: Span) -> Option<Vec<Wanted>> {
    #[derive(Deserialize)]
    struct Error {
        data: Data,
    }
    #[derive(Deserialize)]
    struct Data {
        elicitations: Vec<Elicitation>,
    }
    #[derive(Deserialize)]
    struct Elicitation {
        message: String,
        url: String,
    }
    let Error { data } = serde_json::from_slice(outcome.of(message)).ok()?;
    let visits = data.elicitations.into_iter().take(WANTED_MAX).enumerate();
    let wanted: Vec<_> = visits
        .map(|(at, Elicitation { message, url })| Wanted {
            id: Bytes::new(),
            key: (at + 1).to_string(),
            method: "elicitation/create".into(),
            params: json!({"mode": "url", "message": message, "url": url}).to_string().into(),
        })
        .collect();
    (!wanted.is_empty()).then_some(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Scanner;

    fn asked(message: &'static str, capabilities: &str) -> Question {
        let message = Bytes::from_static(message.as_bytes());
        let envelope = Scanner::new().scan(&message).expect("a message");
        let capabilities = ClientCapabilities::from_json(capabilities.as_bytes()).expect("capabilities");
        question(&message, &envelope, capabilities, "1".into()).expect("a request")
    }

    #[test]
    fn a_client_is_asked_for_what_it_declared() {
        let check = |message, capabilities: &str, expected: bool| {
            let question = asked(message, capabilities);
            assert_eq!(matches!(question, Question::Ask(_)), expected, "{message} {capabilities}");
        };
        let form = r#"{"jsonrpc":"2.0","id":1,"method":"elicitation/create","params":{"message":"m","requestedSchema":{}}}"#;
        let url = r#"{"jsonrpc":"2.0","id":1,"method":"elicitation/create","params":{"mode":"url","message":"m","url":"u","elicitationId":"e"}}"#;
        let sampling =
            r#"{"jsonrpc":"2.0","id":1,"method":"sampling/createMessage","params":{"maxTokens":1}}"#;
        let tools = r#"{"jsonrpc":"2.0","id":1,"method":"sampling/createMessage","params":{"maxTokens":1,"tools":[]}}"#;
        let roots = r#"{"jsonrpc":"2.0","id":1,"method":"roots/list"}"#;
        for message in [form, url, sampling, tools, roots] {
            check(message, "{}", false);
            check(
                message,
                r#"{"roots":{},"sampling":{"tools":{}},"elicitation":{"form":{},"url":{}}}"#,
                true,
            );
        }
        check(form, r#"{"elicitation":{}}"#, true);
        check(url, r#"{"elicitation":{}}"#, false);
        check(form, r#"{"elicitation":{"url":{}}}"#, false);
        check(tools, r#"{"sampling":{}}"#, false);
        check(r#"{"jsonrpc":"2.0","id":1,"method":"x/y","params":{}}"#, r#"{"sampling":{}}"#, false);
    }

    #[test]
    fn is_told_without_what_the_era_does_not_have() {
        let check = |message, state: Option<&str>, expected: &str| {
            let Question::Ask(wanted) = asked(message, r#"{"roots":{},"elicitation":{"url":{}}}"#) else {
                panic!("it is asked")
            };
            assert_eq!(input_required(b"\"x\"", &[wanted], state), expected);
        };
        check(
            r#"{"jsonrpc":"2.0","id":"a","method":"elicitation/create","params":{"mode":"url","url":"u","elicitationId":"e","message":"m"}}"#,
            Some("s"),
            r#"{"jsonrpc":"2.0","id":"x","result":{"resultType":"input_required","inputRequests":{"1":{"method":"elicitation/create","params":{"message":"m","mode":"url","url":"u"}}},"requestState":"s"}}"#,
        );
        check(
            r#"{"jsonrpc":"2.0","id":0,"method":"roots/list"}"#,
            None,
            r#"{"jsonrpc":"2.0","id":"x","result":{"resultType":"input_required","inputRequests":{"1":{"method":"roots/list"}}}}"#,
        );
    }

    #[test]
    fn answers_go_to_what_was_asked() {
        let wanted = |id: &'static str, key: &str| Wanted {
            id: id.into(),
            key: key.into(),
            method: "roots/list".into(),
            params: Bytes::new(),
        };
        let mut all = vec![wanted("7", "1"), wanted("\"b\"", "2"), wanted("9", "3")];
        let responses = [("2", r#"{"roots":[]}"#), ("1", "{}"), ("4", "{}")];
        let responses = responses.map(|(key, result)| (key.to_owned(), Bytes::from(result))).into();
        let told = answers(&mut all, &responses);
        assert_eq!(
            told,
            [
                r#"{"jsonrpc":"2.0","id":7,"result":{}}"#,
                r#"{"jsonrpc":"2.0","id":"b","result":{"roots":[]}}"#
            ]
        );
        assert_eq!(all, [wanted("9", "3")]);
    }

    #[test]
    fn visits_before_a_call() {
        let message = Bytes::from_static(
            br#"{"jsonrpc":"2.0","id":1,"error":{"code":-32042,"message":"m","data":{"elicitations":[{"mode":"url","elicitationId":"e","url":"u","message":"v"}]}}}"#,
        );
        let outcome = Scanner::new().scan(&message).expect("a message").outcome.expect("an error");
        let wanted = visits(&message, outcome).expect("a visit");
        assert_eq!(wanted[0].params, r#"{"message":"v","mode":"url","url":"u"}"#);
        let none = Bytes::from_static(br#"{"code":-32042,"data":{"elicitations":[]}}"#);
        let end = u32::try_from(none.len()).expect("short");
        assert!(visits(&none, Span { start: 0, end }).is_none());
    }
}
