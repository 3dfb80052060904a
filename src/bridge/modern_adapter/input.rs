//! Requests of a Legacy server for input, in the form in which a Modern client receives them.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;
use serde_json::value::RawValue;

use metamcp_core::frame::{EVENT_BYTES_MAX, Envelope, Span, json_string};
use metamcp_core::protocol::{ClientCapabilities, code};

/// A request of a server that waits for the client.
#[derive(Debug, PartialEq, Eq)]
pub struct InputRequest {
    /// The raw JSON of the id.
    pub id: Bytes,
    /// The key under which the client responds.
    pub key: String,
    method: String,
    /// Raw; empty if there are none.
    params: Bytes,
}

impl InputRequest {
    /// Returns the bytes that count against [`INPUT_REQUESTS_BYTES_MAX`].
    pub fn bytes(&self) -> usize {
        self.id.len() + self.params.len()
    }

    /// Returns the error response to the server, as a whole message.
    pub fn refusal(&self, why: &str) -> Bytes {
        let (id, code) = (String::from_utf8_lossy(&self.id), code::METHOD_NOT_FOUND);
        let why = serde_json::Value::from(why);
        format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{code},"message":{why}}}}}"#).into()
    }
}

/// Whether a client can be asked.
#[derive(Debug, PartialEq, Eq)]
pub enum InputDecision {
    Ask(InputRequest),
    /// It cannot, or did not declare it; the server receives the reason.
    Refuse(&'static str),
}

/// Waiting requests of one call. More is a runaway loop.
pub const INPUT_REQUESTS_MAX: usize = 16;

/// Bytes of the waiting requests of one call: the size of one event.
pub const INPUT_REQUESTS_BYTES_MAX: usize = EVENT_BYTES_MAX;

/// Whether the request is for the user or the model of one certain client. `roots/list` is not: any client of
/// the session can answer it.
pub fn needs_user_or_model(message: &Bytes, envelope: &Envelope) -> bool {
    let method = envelope.method.map(|method| method.decode(message));
    matches!(method.as_deref(), Some("elicitation/create" | "sampling/createMessage"))
}

/// Decides whether the client is asked. `key` is the key under which the client responds.
pub fn decide_input(
    message: &Bytes,
    envelope: &Envelope,
    capabilities: ClientCapabilities,
    key: String,
) -> Option<InputDecision> {
    let id = envelope.id?.span;
    let method = envelope.method?.decode(message).into_owned();
    let params = envelope.params.object.map_or_else(Bytes::new, |span| raw(message, span));
    let parsed: InputParams<'_> = serde_json::from_slice(&params).unwrap_or_default();
    let is_url = parsed.mode.as_deref() == Some("url");
    let needed = match &*method {
        "roots/list" => ClientCapabilities::ROOTS,
        "sampling/createMessage" if parsed.tools.is_some() => {
            ClientCapabilities::SAMPLING.with(ClientCapabilities::SAMPLING_TOOLS)
        }
        "sampling/createMessage" => ClientCapabilities::SAMPLING,
        "elicitation/create" if is_url => ClientCapabilities::ELICITATION_URL,
        "elicitation/create" => ClientCapabilities::ELICITATION_FORM,
        _ => return Some(InputDecision::Refuse("the client cannot be asked for that")),
    };
    if !capabilities.has(needed) {
        return Some(InputDecision::Refuse("the client did not declare the capability for that"));
    }
    // The Modern era has no `elicitationId`.
    let params = if is_url { remove_member(&params, "elicitationId")? } else { params };
    Some(InputDecision::Ask(InputRequest { id: raw(message, id), key, method, params }))
}

#[derive(Deserialize, Default)]
struct InputParams<'a> {
    #[serde(borrow)]
    mode: Option<Cow<'a, str>>,
    tools: Option<IgnoredAny>,
}

/// Returns a copy, so that a waiting request holds no more memory than is counted.
fn raw(message: &Bytes, span: Span) -> Bytes {
    Bytes::copy_from_slice(span.slice(message))
}

/// Returns the object without one of its members; the other values are unchanged.
fn remove_member(object: &[u8], name: &str) -> Option<Bytes> {
    let mut members: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_slice(object).ok()?;
    members.remove(name);
    serde_json::to_vec(&members).ok().map(Bytes::from)
}

/// Builds the response that asks the client for input (MCP 2026-07-28, multi round-trip requests). `id` is
/// raw.
pub fn input_required(id: &[u8], input_requests: &[InputRequest], state: Option<&str>) -> Bytes {
    let mut message = Vec::new();
    message.extend_from_slice(br#"{"jsonrpc":"2.0","id":"#);
    message.extend_from_slice(id);
    message.extend_from_slice(br#","result":{"resultType":"input_required","inputRequests":{"#);
    for (index, InputRequest { key, method, params, .. }) in input_requests.iter().enumerate() {
        message.extend_from_slice(if index > 0 { b"," } else { b"" });
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

/// Removes the requests that the client responded to, and returns the responses to the server as whole
/// messages.
pub fn take_responses(
    input_requests: &mut Vec<InputRequest>,
    responses: &HashMap<String, Bytes>,
) -> Vec<Bytes> {
    let answered = input_requests.extract_if(.., |request| responses.contains_key(&request.key));
    answered
        .map(|request| {
            let result = &responses[&request.key];
            [br#"{"jsonrpc":"2.0","id":"#, &request.id[..], br#","result":"#, result, b"}"].concat().into()
        })
        .collect()
}

/// Turns the error by which a server of 2025-11-25 demands URL elicitations before a call (`-32042`) into
/// input requests. `None` if the error lists none. The client repeats the call afterwards.
pub fn parse_url_elicitations(message: &Bytes, outcome: Span) -> Option<Vec<InputRequest>> {
    #[derive(Deserialize)]
    struct ErrorObject {
        data: ErrorData,
    }
    #[derive(Deserialize)]
    struct ErrorData {
        elicitations: Vec<Elicitation>,
    }
    #[derive(Deserialize)]
    struct Elicitation {
        message: String,
        url: String,
    }
    let ErrorObject { data } = serde_json::from_slice(outcome.slice(message)).ok()?;
    let elicitations = data.elicitations.into_iter().take(INPUT_REQUESTS_MAX).enumerate();
    let input_requests: Vec<_> = elicitations
        .map(|(index, Elicitation { message, url })| InputRequest {
            id: Bytes::new(),
            key: (index + 1).to_string(),
            method: "elicitation/create".into(),
            params: json!({"mode": "url", "message": message, "url": url}).to_string().into(),
        })
        .collect();
    (!input_requests.is_empty()).then_some(input_requests)
}

#[cfg(test)]
mod tests {
    use super::*;
    use metamcp_core::frame::Scanner;

    fn request(message: &'static str, capabilities: &str) -> InputDecision {
        let message = Bytes::from_static(message.as_bytes());
        let envelope = Scanner::new().scan(&message).expect("a message");
        let capabilities = ClientCapabilities::from_json(capabilities.as_bytes()).expect("capabilities");
        decide_input(&message, &envelope, capabilities, "1".into()).expect("a request")
    }

    #[test]
    fn clients_are_asked_for_declared_input_only() {
        let check = |message, capabilities: &str, expected: bool| {
            let decision = request(message, capabilities);
            assert_eq!(matches!(decision, InputDecision::Ask(_)), expected, "{message} {capabilities}");
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
    fn input_requests_lose_legacy_members() {
        let check = |message, state: Option<&str>, expected: &str| {
            let InputDecision::Ask(input_requests) =
                request(message, r#"{"roots":{},"elicitation":{"url":{}}}"#)
            else {
                panic!("it is asked")
            };
            assert_eq!(input_required(b"\"x\"", &[input_requests], state), expected);
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
    fn responses_go_to_their_requests() {
        let input_requests = |id: &'static str, key: &str| InputRequest {
            id: id.into(),
            key: key.into(),
            method: "roots/list".into(),
            params: Bytes::new(),
        };
        let mut all = vec![input_requests("7", "1"), input_requests("\"b\"", "2"), input_requests("9", "3")];
        let responses = [("2", r#"{"roots":[]}"#), ("1", "{}"), ("4", "{}")];
        let responses = responses.map(|(key, result)| (key.to_owned(), Bytes::from(result))).into();
        let messages = take_responses(&mut all, &responses);
        assert_eq!(
            messages,
            [
                r#"{"jsonrpc":"2.0","id":7,"result":{}}"#,
                r#"{"jsonrpc":"2.0","id":"b","result":{"roots":[]}}"#
            ]
        );
        assert_eq!(all, [input_requests("9", "3")]);
    }

    #[test]
    fn url_elicitations_are_parsed() {
        let message = Bytes::from_static(
            br#"{"jsonrpc":"2.0","id":1,"error":{"code":-32042,"message":"m","data":{"elicitations":[{"mode":"url","elicitationId":"e","url":"u","message":"v"}]}}}"#,
        );
        let outcome = Scanner::new().scan(&message).expect("a message").outcome.expect("an error");
        let input_requests = parse_url_elicitations(&message, outcome).expect("an elicitation");
        assert_eq!(input_requests[0].params, r#"{"message":"v","mode":"url","url":"u"}"#);
        let none = Bytes::from_static(br#"{"code":-32042,"data":{"elicitations":[]}}"#);
        let end = u32::try_from(none.len()).expect("short");
        assert!(parse_url_elicitations(&none, Span { start: 0, end }).is_none());
    }
}
