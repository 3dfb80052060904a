//! What a server wants to know before it answers, asked of the client as sessions ask: by requests on the
//! stream of the call.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::time::{Instant, timeout_at};

use super::result::{Input, InputRequired, Question, own_error};
use super::session::{Asked, Session};
use crate::frame::{Kind, Scanner, json_string, write_event};
use crate::protocol::{ClientCapabilities, code};
use crate::upstream::shim::Outlet;

/// Why the call cannot go on: the answer for the client.
pub struct Given(pub Bytes);

/// Asks the client all of it at once, and waits that long. Gives the raw object of its answers, `None` when
/// nothing was asked.
///
/// Cancel safe: answers that come later are nobody's.
pub async fn ask(
    session: &Arc<Session>,
    outlet: &Outlet,
    id: &[u8],
    asks: &InputRequired,
    patience: Duration,
) -> Result<Option<Bytes>, Given> {
    if asks.questions.is_empty() {
        return Ok(None);
    }
    check(session.introduced.capabilities, &asks.questions, id)?;
    let mut asked: Vec<Asked> = Vec::with_capacity(asks.questions.len());
    for question in &asks.questions {
        let number = session.mint();
        let one = session.expect(format!("metamcp-input-{number}"));
        outlet.send(write_event(&request(question, &one.id))).await;
        asked.push(one);
    }
    let deadline = Instant::now() + patience;
    let mut responses = BytesMut::new();
    for at in 0..asked.len() {
        let question = &asks.questions[at];
        let Ok(answer) = timeout_at(deadline, asked[at].answer()).await else {
            withdraw(outlet, &asked[at..]).await;
            let (method, seconds) = (question.input.method(), patience.as_secs());
            let text = format!("the client did not answer {method} in {seconds} s; the call was given up");
            return Err(Given(own_error(id, code::INTERNAL, &text, None)));
        };
        let Some(answer) = answer else {
            return Err(Given(own_error(id, code::INTERNAL, "the session has ended", None)));
        };
        let response = response(question, &answer).map_err(|text| {
            let text = format!("the client did not answer {}: {text}", question.input.method());
            Given(own_error(id, code::INTERNAL, &text, None))
        });
        let response = match response {
            Ok(response) => response,
            Err(given) => {
                withdraw(outlet, &asked[at + 1..]).await;
                return Err(given);
            }
        };
        responses.put_u8(if responses.is_empty() { b'{' } else { b',' });
        responses.put_slice(&json_string(&question.key));
        responses.put_u8(b':');
        responses.put_slice(&response);
    }
    responses.put_u8(b'}');
    Ok(Some(responses.freeze()))
}

/// A server may ask only for what the client declared (MCP 2026-07-28, multi round-trip requests: -32021).
fn check(declared: ClientCapabilities, questions: &[Question], id: &[u8]) -> Result<(), Given> {
    let undeclared = questions.iter().find(|question| !declared.has(question.needs()));
    let Some(question) = undeclared else { return Ok(()) };
    let text = format!("the call needs {}, which this client did not declare", question.input.method());
    let data = format!(r#"{{"requiredCapabilities":{}}}"#, question.needs().to_json());
    Err(Given(own_error(id, code::MISSING_CAPABILITY, &text, Some(&data))))
}

/// The question as a request of a session. A visit has an id there (MCP 2025-11-25, elicitation).
fn request(question: &Question, id: &str) -> Bytes {
    let method = question.input.method();
    let mut message = BytesMut::new();
    message.put_slice(format!(r#"{{"jsonrpc":"2.0","id":"{id}","method":"{method}""#).as_bytes());
    let params = question.params.as_deref().and_then(|params| params.strip_suffix(b"}"));
    if let Some(params) = params {
        message.put_slice(b",\"params\":");
        message.put_slice(params);
        if question.is_visit() && !question.has("elicitationId") {
            message.put_slice(format!(r#","elicitationId":"{id}""#).as_bytes());
        }
        message.put_u8(b'}');
    }
    message.put_u8(b'}');
    message.freeze()
}

/// The raw result in the client's answer. To fail to ask a user is to be told nothing by one; else the error
/// is in the client's own words.
fn response(question: &Question, answer: &Bytes) -> Result<Bytes, String> {
    #[derive(serde::Deserialize)]
    struct Error {
        message: String,
    }
    let envelope = Scanner::new().scan(answer).map_err(|refused| refused.error.to_string())?;
    let outcome = envelope.outcome.map_or(&b""[..], |span| span.of(answer));
    match (envelope.kind, question.input) {
        (Kind::Response, _) => Ok(Bytes::copy_from_slice(outcome)),
        (_, Input::Elicitation) => Ok(Bytes::from_static(br#"{"action":"cancel"}"#)),
        _ => Err(serde_json::from_slice(outcome).map_or_else(
            |_| "it says nothing".to_owned(),
            |Error { message }| message.chars().take(SAID_CHARS_MAX).collect(),
        )),
    }
}

/// Of what a client says, in an error of ours.
const SAID_CHARS_MAX: usize = 300;

/// Nobody waits for these answers any more (MCP, cancellation).
async fn withdraw(outlet: &Outlet, asked: &[Asked]) {
    for one in asked {
        let message = format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":"{}","reason":"the call was given up"}}}}"#,
            one.id
        );
        outlet.send(write_event(message.as_bytes())).await;
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::super::session::tests::session;
    use super::*;
    use crate::upstream::shim::{Events, stream_of};

    fn question(key: &str, input: Input, params: &'static str) -> Question {
        let params = (!params.is_empty()).then(|| Bytes::from_static(params.as_bytes()));
        Question { key: key.to_owned(), input, params }
    }

    fn sent(events: &mut Events) -> Vec<String> {
        let mut sent = Vec::new();
        let mut cx = Context::from_waker(Waker::noop());
        while let Poll::Ready(Some(Ok(event))) = events.poll_next(&mut cx) {
            let text = String::from_utf8(event.to_vec()).unwrap();
            sent.push(text.trim_start_matches("event: message\ndata: ").trim_end().to_owned());
        }
        sent
    }

    /// What the client is asked, and what comes of its answers, each under the id of its question.
    async fn check(
        declared: &'static str,
        questions: Vec<Question>,
        answers: &[&str],
        expected_asked: &[&str],
        expected: Result<&str, &str>,
    ) {
        let session = session(declared);
        let (outlet, mut events) = stream_of(8);
        let asks = InputRequired { questions, state: None };
        let asking = ask(&session, &outlet, b"7", &asks, Duration::from_mins(10));
        let answering = async {
            tokio::task::yield_now().await;
            for (number, answer) in (1..).zip(answers) {
                let id = format!("metamcp-input-{number}");
                session.answered(&id, format!(r#"{{"jsonrpc":"2.0","id":"{id}",{answer}}}"#).into());
            }
        };
        let (given, ()) = tokio::join!(asking, answering);
        let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        let given = given.map(|given| text(given.unwrap())).map_err(|Given(error)| text(error));
        match (&given, expected) {
            (Ok(given), Ok(expected)) => assert_eq!(given, expected),
            (Err(given), Err(part)) => assert!(given.contains(part), "{given}"),
            _ => panic!("{given:?}, and not {expected:?}"),
        }
        assert_eq!(sent(&mut events), expected_asked);
    }

    const FORM: &str = r#"{"message":"?","requestedSchema":{}}"#;

    #[tokio::test(start_paused = true)]
    async fn clients_answer() {
        check(
            r#"{"elicitation":{},"roots":{}}"#,
            vec![question("b", Input::Elicitation, FORM), question("a\"", Input::Roots, "")],
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
            vec![question("k", Input::Elicitation, r#"{"mode":"url","url":"https://x"}"#)],
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
        let asked =
            r#"{"jsonrpc":"2.0","id":"metamcp-input-1","method":"sampling/createMessage","params":{}}"#;
        let sampling = || vec![question("k", Input::Sampling, "{}")];
        check(
            r#"{"sampling":{}}"#,
            sampling(),
            &[r#""error":{"code":-1,"message":"User rejected"}"#],
            &[asked],
            Err("did not answer sampling/createMessage: User rejected"),
        )
        .await;
        let cancelled = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"metamcp-input-1","reason":"the call was given up"}}"#;
        check(
            r#"{"sampling":{}}"#,
            sampling(),
            &[],
            &[asked, cancelled],
            Err("in 600 s; the call was given up"),
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
            vec![question("k", Input::Elicitation, r#"{"mode":"url"}"#)],
            &[],
            &[],
            Err("-32021"),
        )
        .await;
    }
}
