//! Turns the response of a Modern server into one of the Legacy era (MCP 2026-07-28, results and multi
//! round-trip requests).

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::value::RawValue;

use super::json_object::{find_member, for_each_member, slice_of};
use metamcp_core::frame::{Envelope, MessageKind, Span, splice};
use metamcp_core::protocol::{ClientCapabilities, code};

/// A parsed response of the server.
#[derive(Debug, PartialEq, Eq)]
pub enum ServerReply {
    /// The final response, as the client receives it.
    Final(Bytes),
    /// The server needs input before it can answer.
    InputRequired(InputRequired),
}

/// The input that a server needs before it can answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct InputRequired {
    /// In the server's order.
    pub requests: Vec<InputRequest>,
    /// The raw `requestState`, which goes back unchanged.
    pub state: Option<Bytes>,
}

/// One input request to the client.
#[derive(Debug, PartialEq, Eq)]
pub struct InputRequest {
    /// The server's key for it, under which it expects the response.
    pub key: String,
    pub input: InputKind,
    /// The raw JSON of `params`.
    pub params: Option<Bytes>,
}

/// The kinds of input that a client can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputKind {
    Elicitation,
    Sampling,
    Roots,
}

/// Input requests in one round. The client receives them all at once.
const INPUT_REQUESTS_MAX: usize = 16;

impl InputKind {
    /// Returns the method on the wire.
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

impl InputRequest {
    /// Whether it asks the user to visit a URL instead of filling in a form.
    pub fn is_url_mode(&self) -> bool {
        self.input == InputKind::Elicitation && self.text("mode").as_deref() == Some("url")
    }

    /// Returns the capabilities that the client must have declared.
    pub fn required_capabilities(&self) -> ClientCapabilities {
        match self.input {
            InputKind::Elicitation if self.is_url_mode() => ClientCapabilities::ELICITATION_URL,
            InputKind::Elicitation => ClientCapabilities::ELICITATION_FORM,
            InputKind::Roots => ClientCapabilities::ROOTS,
            InputKind::Sampling if self.has("tools") || self.has("toolChoice") => {
                ClientCapabilities::SAMPLING.with(ClientCapabilities::SAMPLING_TOOLS)
            }
            InputKind::Sampling => ClientCapabilities::SAMPLING,
        }
    }

    fn member(&self, name: &str) -> Option<&RawValue> {
        let params = self.params.as_ref()?;
        let whole = Span::locate(params, params)?;
        find_member(params, whole, name).map(|found| found.value)
    }

    /// Whether the params have that member.
    pub fn has(&self, name: &str) -> bool {
        self.member(name).is_some()
    }

    fn text(&self, name: &str) -> Option<String> {
        serde_json::from_str(self.member(name)?.get()).ok()
    }
}

/// Parses a response and rewrites it for the client whose request has the raw `id`. The error text is for the
/// client.
pub fn parse_reply(message: &Bytes, envelope: &Envelope, id: &Bytes) -> Result<ServerReply, String> {
    let outcome = envelope.outcome.ok_or("it has no result")?;
    if envelope.kind == MessageKind::Error {
        return Ok(ServerReply::Final(error_response(id, outcome.slice(message))));
    }
    let mut edits: Vec<(Span, Bytes)> = Vec::with_capacity(2);
    if let Some(sent) = envelope.id.filter(|sent| sent.span.slice(message) != id) {
        edits.push((sent.span, id.clone()));
    }
    if let Some(found) = find_member(message, outcome, "resultType") {
        match serde_json::from_str::<String>(found.value.get()).as_deref() {
            Ok("complete") => edits.push((found.removal, Bytes::new())),
            Ok("input_required") => {
                return input_required(message, outcome).map(ServerReply::InputRequired);
            }
            _ => return Err("its resultType is unknown".to_owned()),
        }
    }
    edits.sort_by_key(|(span, _)| span.start);
    if edits.is_empty() {
        return Ok(ServerReply::Final(message.clone()));
    }
    let slices = splice(message, &edits).map_err(|error| error.to_string())?;
    let mut whole = BytesMut::with_capacity(slices.remaining_bytes());
    slices.for_each(|slice| whole.put_slice(&slice));
    Ok(ServerReply::Final(whole.freeze()))
}

fn input_required(message: &Bytes, outcome: Span) -> Result<InputRequired, String> {
    let member = |name: &str| find_member(message, outcome, name).map(|found| found.value);
    let raw = |value: &RawValue| {
        Span::locate(message, value.get().as_bytes()).map(|span| slice_of(message, span)).unwrap_or_default()
    };
    let state = member("requestState").filter(|state| state.get() != "null");
    if state.is_some_and(|state| !state.get().starts_with('"')) {
        return Err("its requestState is not a string".to_owned());
    }
    let mut required = InputRequired { requests: Vec::new(), state: state.map(raw) };
    if let Some(requests) = member("inputRequests") {
        let mut problem = None;
        let parsed = for_each_member(requests.get().as_bytes(), |key, value| {
            if required.requests.len() >= INPUT_REQUESTS_MAX {
                problem = Some(format!("it has more than {INPUT_REQUESTS_MAX} input requests"));
                return;
            }
            match parse_input_request(key.into_owned(), value, raw) {
                Some(request) => required.requests.push(request),
                None => problem = Some("it has an input request of an unknown method".to_owned()),
            }
        });
        if parsed.is_err() {
            problem = Some("its inputRequests are not an object".to_owned());
        }
        if let Some(problem) = problem {
            return Err(problem);
        }
    }
    if required == InputRequired::default() {
        return Err("it requires input without any input request".to_owned());
    }
    Ok(required)
}

fn parse_input_request(
    key: String,
    value: &RawValue,
    raw: impl Fn(&RawValue) -> Bytes,
) -> Option<InputRequest> {
    let (mut method, mut params) = (None, None);
    for_each_member(value.get().as_bytes(), |name, value| match &*name {
        "method" => method = serde_json::from_str::<String>(value.get()).ok(),
        "params" => params = Some(raw(value)),
        _ => {}
    })
    .ok()?;
    Some(InputRequest { key, input: InputKind::parse(&method?)?, params })
}

/// Builds an error response with the raw `error` object.
fn error_response(id: &[u8], error: &[u8]) -> Bytes {
    [br#"{"jsonrpc":"2.0","id":"#, id, br#","error":"#, error, b"}"].concat().into()
}

/// Builds an error response of the gateway's own.
pub fn gateway_error(id: &[u8], code: i32, text: &str, data: Option<&str>) -> Bytes {
    let mut error = serde_json::json!({"code": code, "message": text}).to_string();
    if let Some(data) = data {
        error.truncate(error.len() - 1);
        error.push_str(",\"data\":");
        error.push_str(data);
        error.push('}');
    }
    error_response(id, error.as_bytes())
}

/// Returns the code of an error response.
pub fn error_code(message: &[u8], envelope: &Envelope) -> Option<i32> {
    #[derive(serde::Deserialize)]
    struct ErrorObject {
        code: i32,
    }
    let outcome = envelope.outcome.filter(|_| envelope.kind == MessageKind::Error)?;
    serde_json::from_slice(outcome.slice(message)).ok().map(|ErrorObject { code }| code)
}

/// Builds the error for a response of the server that violates the protocol.
pub fn invalid_reply_error(id: &[u8], server: &str, what: &str) -> Bytes {
    let text = format!("server `{server}` sent an invalid response: {what}; the call may have run");
    gateway_error(id, code::INTERNAL, &text, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use metamcp_core::frame::Scanner;

    fn parse(message: &str, id: &str) -> Result<ServerReply, String> {
        let message = Bytes::from(message.to_owned());
        let envelope = Scanner::new().scan(&message).unwrap();
        parse_reply(&message, &envelope, &Bytes::from(id.to_owned()))
    }

    #[track_caller]
    fn check(message: &str, expected: &str) {
        assert_eq!(parse(message, "1"), Ok(ServerReply::Final(expected.to_owned().into())), "{message}");
    }

    #[test]
    fn results_lose_modern_members() {
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
    fn input_requests_are_parsed() {
        let required = |result: &str| match parse(
            &format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{"resultType":"input_required"{result}}}}}"#),
            "1",
        ) {
            Ok(ServerReply::InputRequired(required)) => required
                .requests
                .iter()
                .map(|request| format!("{} {}", request.key, request.required_capabilities().to_json()))
                .chain(required.state.map(|state| String::from_utf8(state.to_vec()).unwrap()))
                .collect::<Vec<_>>(),
            other => vec![format!("{other:?}")],
        };
        let check = |result: &str, expected: &[&str]| assert_eq!(required(result), expected, "{result}");
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
            let reply = parse(
                &format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{"resultType":"input_required"{wrong}}}}}"#),
                "1",
            );
            assert!(reply.is_err(), "{wrong}: {reply:?}");
        }
        let many: Vec<_> =
            (0..=INPUT_REQUESTS_MAX).map(|key| format!(r#""{key}":{{"method":"roots/list"}}"#)).collect();
        assert!(required(&format!(r#","inputRequests":{{{}}}"#, many.join(",")))[0].contains("more than 16"));
        assert!(parse(r#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"task"}}"#, "1").is_err());
    }

    #[test]
    fn gateway_errors_are_json() {
        let error = gateway_error(b"\"a\"", -32603, "say \"no\"", Some("{\"x\":1}"));
        let envelope = Scanner::new().scan(&error).unwrap();
        assert_eq!(error_code(&error, &envelope), Some(-32603));
        assert!(error.ends_with(br#""data":{"x":1}}}"#), "{}", error.escape_ascii());
    }
}
