//! Asks a client for the input that a server needs, by requests on the stream of the call.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::time::{Instant, timeout_at};

use super::result::{InputKind, InputRequest, InputRequired, gateway_error};
use super::session::{PendingInput, Session};
use metamcp_core::frame::{MessageKind, Scanner, json_string, write_event};
use metamcp_core::protocol::{ClientCapabilities, code};
use metamcp_http::multiplex::EventSink;

/// The call cannot continue.
#[derive(Debug)]
pub struct InputFailure {
    /// The error response for the client.
    pub message: Bytes,
}

/// Sends all input requests to the client at once and waits for the responses until the timeout. Returns the
/// raw object of the responses, or `None` if the server asked nothing.
///
/// Cancel safe: responses that come later are ignored.
pub async fn request_input(
    session: &Arc<Session>,
    sink: &EventSink,
    id: &[u8],
    required: &InputRequired,
    input_timeout: Duration,
) -> Result<Option<Bytes>, InputFailure> {
    if required.requests.is_empty() {
        return Ok(None);
    }
    check_capabilities(session.introduction.capabilities, &required.requests, id)?;
    let mut pending: Vec<PendingInput> = Vec::with_capacity(required.requests.len());
    for input_request in &required.requests {
        let number = session.next_number();
        let expected = session.expect_input(format!("metamcp-input-{number}"));
        sink.send(write_event(&client_request(input_request, &expected.id))).await;
        pending.push(expected);
    }
    let deadline = Instant::now() + input_timeout;
    let mut responses = BytesMut::new();
    for (at, input_request) in required.requests.iter().enumerate() {
        let method = input_request.input.method();
        let Ok(answer) = timeout_at(deadline, pending[at].response()).await else {
            withdraw(sink, &pending[at..]).await;
            let seconds = input_timeout.as_secs();
            let text = format!("the client did not answer {method} in {seconds} s; the call was cancelled");
            return Err(InputFailure::internal(id, &text));
        };
        let Some(answer) = answer else {
            return Err(InputFailure::internal(id, "the session has ended"));
        };
        let result = match parse_result(input_request, &answer) {
            Ok(result) => result,
            Err(text) => {
                withdraw(sink, &pending[at + 1..]).await;
                let text = format!("the client did not answer {method}: {text}");
                return Err(InputFailure::internal(id, &text));
            }
        };
        responses.put_u8(if responses.is_empty() { b'{' } else { b',' });
        responses.put_slice(&json_string(&input_request.key));
        responses.put_u8(b':');
        responses.put_slice(&result);
    }
    responses.put_u8(b'}');
    Ok(Some(responses.freeze()))
}

impl InputFailure {
    fn internal(id: &[u8], text: &str) -> Self {
        Self { message: gateway_error(id, code::INTERNAL, text, None) }
    }
}

/// Checks that the client declared every requested capability (MCP 2026-07-28, multi round-trip requests:
/// -32021).
fn check_capabilities(
    declared: ClientCapabilities,
    requests: &[InputRequest],
    id: &[u8],
) -> Result<(), InputFailure> {
    let undeclared = requests.iter().find(|request| !declared.has(request.required_capabilities()));
    let Some(request) = undeclared else { return Ok(()) };
    let text = format!("the call needs {}, which this client did not declare", request.input.method());
    let data = format!(r#"{{"requiredCapabilities":{}}}"#, request.required_capabilities().to_json());
    Err(InputFailure { message: gateway_error(id, code::MISSING_CAPABILITY, &text, Some(&data)) })
}

/// Builds the request to the client. In the Legacy era a URL elicitation has an id (MCP 2025-11-25,
/// elicitation).
fn client_request(request: &InputRequest, id: &str) -> Bytes {
    let method = request.input.method();
    let mut message = BytesMut::new();
    message.put_slice(format!(r#"{{"jsonrpc":"2.0","id":"{id}","method":"{method}""#).as_bytes());
    let params = request.params.as_deref().and_then(|params| params.strip_suffix(b"}"));
    if let Some(params) = params {
        message.put_slice(b",\"params\":");
        message.put_slice(params);
        if request.is_url_mode() && !request.has("elicitationId") {
            message.put_slice(format!(r#","elicitationId":"{id}""#).as_bytes());
        }
        message.put_u8(b'}');
    }
    message.put_u8(b'}');
    message.freeze()
}

/// Returns the raw result in the client's response. A failed elicitation counts as one that the user
/// cancelled; for the other kinds the error text is the client's own.
fn parse_result(request: &InputRequest, response: &Bytes) -> Result<Bytes, String> {
    #[derive(serde::Deserialize)]
    struct ErrorObject {
        message: String,
    }
    let envelope = Scanner::new().scan(response).map_err(|refused| refused.error.to_string())?;
    let outcome = envelope.outcome.map_or(&b""[..], |span| span.slice(response));
    match (envelope.kind, request.input) {
        (MessageKind::Response, _) => Ok(Bytes::copy_from_slice(outcome)),
        (_, InputKind::Elicitation) => Ok(Bytes::from_static(br#"{"action":"cancel"}"#)),
        _ => Err(serde_json::from_slice(outcome).map_or_else(
            |_| "it gave no reason".to_owned(),
            |ErrorObject { message }| message.chars().take(CLIENT_ERROR_CHARS_MAX).collect(),
        )),
    }
}

/// Characters of a client's error text in an error of the gateway.
const CLIENT_ERROR_CHARS_MAX: usize = 300;

/// Cancels input requests whose responses are not needed any more (MCP, cancellation).
async fn withdraw(sink: &EventSink, pending: &[PendingInput]) {
    for request in pending {
        let message = format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":"{}","reason":"the call was cancelled"}}}}"#,
            request.id
        );
        sink.send(write_event(message.as_bytes())).await;
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::super::session::tests::session;
    use super::*;
    use metamcp_http::multiplex::{EventSource, event_channel_with_capacity};

    fn request(key: &str, input: InputKind, params: &'static str) -> InputRequest {
        let params = (!params.is_empty()).then(|| Bytes::from_static(params.as_bytes()));
        InputRequest { key: key.to_owned(), input, params }
    }

    fn sent(events: &mut EventSource) -> Vec<String> {
        let mut sent = Vec::new();
        let mut cx = Context::from_waker(Waker::noop());
        while let Poll::Ready(Some(Ok(event))) = events.poll_next(&mut cx) {
            let text = String::from_utf8(event.to_vec()).unwrap();
            sent.push(text.trim_start_matches("event: message\ndata: ").trim_end().to_owned());
        }
        sent
    }

    /// Checks what the client is asked, and the responses object or error that its answers give.
    async fn check(
        declared: &'static str,
        requests: Vec<InputRequest>,
        answers: &[&str],
        expected_requests: &[&str],
        expected: Result<&str, &str>,
    ) {
        let session = session(declared);
        let (sink, mut events) = event_channel_with_capacity(8);
        let required = InputRequired { requests, state: None };
        let asking = request_input(&session, &sink, b"7", &required, Duration::from_mins(10));
        let answering = async {
            tokio::task::yield_now().await;
            for (number, answer) in (1..).zip(answers) {
                let id = format!("metamcp-input-{number}");
                session.deliver_input(&id, format!(r#"{{"jsonrpc":"2.0","id":"{id}",{answer}}}"#).into());
            }
        };
        let (result, ()) = tokio::join!(asking, answering);
        let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        let result =
            result.map(|responses| text(responses.unwrap())).map_err(|failure| text(failure.message));
        match (&result, expected) {
            (Ok(result), Ok(expected)) => assert_eq!(result, expected),
            (Err(error), Err(part)) => assert!(error.contains(part), "{error}"),
            _ => panic!("{result:?} instead of {expected:?}"),
        }
        assert_eq!(sent(&mut events), expected_requests);
    }

    const FORM: &str = r#"{"message":"?","requestedSchema":{}}"#;

    #[tokio::test(start_paused = true)]
    async fn clients_answer() {
        check(
            r#"{"elicitation":{},"roots":{}}"#,
            vec![request("b", InputKind::Elicitation, FORM), request("a\"", InputKind::Roots, "")],
            &[r#""result":{"action":"decline"}"#, r#""result":{"roots":[1.0e2]}"#],
            &[
                r#"{"jsonrpc":"2.0","id":"metamcp-input-1","method":"elicitation/create","params":{"message":"?","requestedSchema":{}}}"#,
                r#"{"jsonrpc":"2.0","id":"metamcp-input-2","method":"roots/list"}"#,
            ],
            Ok(r#"{"b":{"action":"decline"},"a\"":{"roots":[1.0e2]}}"#),
        )
        .await;
        check(
            r#"{"elicitation":{"url":{}}}"#,
            vec![request("k", InputKind::Elicitation, r#"{"mode":"url","url":"https://x"}"#)],
            &[r#""error":{"code":-1,"message":"no"}"#],
            &[
                r#"{"jsonrpc":"2.0","id":"metamcp-input-1","method":"elicitation/create","params":{"mode":"url","url":"https://x","elicitationId":"metamcp-input-1"}}"#,
            ],
            Ok(r#"{"k":{"action":"cancel"}}"#),
        )
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn clients_do_not_answer() {
        let pending =
            r#"{"jsonrpc":"2.0","id":"metamcp-input-1","method":"sampling/createMessage","params":{}}"#;
        let sampling = || vec![request("k", InputKind::Sampling, "{}")];
        check(
            r#"{"sampling":{}}"#,
            sampling(),
            &[r#""error":{"code":-1,"message":"User rejected"}"#],
            &[pending],
            Err("did not answer sampling/createMessage: User rejected"),
        )
        .await;
        let cancelled = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"metamcp-input-1","reason":"the call was cancelled"}}"#;
        check(
            r#"{"sampling":{}}"#,
            sampling(),
            &[],
            &[pending, cancelled],
            Err("in 600 s; the call was cancelled"),
        )
        .await;
        check(
            r#"{"roots":{}}"#,
            sampling(),
            &[],
            &[],
            Err(r#""data":{"requiredCapabilities":{"sampling":{}}}"#),
        )
        .await;
        check(
            r#"{"elicitation":{}}"#,
            vec![request("k", InputKind::Elicitation, r#"{"mode":"url"}"#)],
            &[],
            &[],
            Err("-32021"),
        )
        .await;
    }
}
