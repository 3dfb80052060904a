//! Hearing the answer to a request: one message, or an event stream with others before it.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use tokio::time::sleep;

use super::Bridge;
use super::heard::{self, Heard};
use super::listen::missed;
use super::message::Message;
use super::pause::pause;
use super::session::Open;
use super::trouble::Trouble;
use crate::admin::definition::bounds::LINE_BYTES;
use crate::frame::{Event, EventReader};
use crate::protocol::code::HEADER_MISMATCH;
use crate::protocol::{Era, Method, header, is_same_id};
use crate::upstream::{Answer, Answered, Lane, Outgoing};

/// One message of the endpoint: what a server that is a program may say in one, unless it is told otherwise.
const MESSAGE_BYTES_MAX: usize = LINE_BYTES.default;

/// Times that a stream is taken up again without a word from it before its request is given up.
const RESUMES_MAX: u32 = 5;

/// Before that, where the endpoint does not say how long: one that ends its streams at once is not to be
/// flooded.
const RETRY_USUAL: Duration = Duration::from_secs(1);

/// The longest that an endpoint may ask to be left alone before its stream is taken up again.
const RETRY_MAX: Duration = Duration::from_mins(1);

/// What is known of an event stream as it is heard.
#[derive(Default)]
pub struct Hearing<'a> {
    /// The id of the request it answers; `None`: it answers none.
    id: Option<&'a [u8]>,
    /// Where it can be taken up again, when the endpoint said so.
    pub last_event_id: Option<HeaderValue>,
    /// How long to wait before that, when it said so.
    retry: Option<Duration>,
    /// Whether anything came since it was last opened.
    pub is_alive: bool,
    /// Whether it broke off before it was last opened: what was said meanwhile is not known.
    pub is_broken: bool,
    /// Whether the acknowledgement of a subscription has come: the client has no use for another.
    pub is_acknowledged: bool,
}

impl Bridge {
    /// Sends a request and gives the answer to it; what the endpoint says before goes to the client.
    pub(super) async fn call(&self, message: &Message) -> Result<Bytes, Trouble> {
        let answer = self.call_once(message).await?;
        // The head lacked what a newer schema asks for, or the client never listed: then the call did not
        // run.
        if message.is_modern_call()
            && heard::is_error_of(&answer, HEADER_MISMATCH)
            && self.learn_again(message).await
        {
            return self.call_once(message).await;
        }
        Ok(answer)
    }

    async fn call_once(&self, message: &Message) -> Result<Bytes, Trouble> {
        let (answered, open) = self.exchange(message, Lane::Call).await?;
        let id = message.id();
        let mut hearing = Hearing::of(&id);
        self.hear(message, *answered, open.as_deref(), &mut hearing).await
    }

    /// Hears the answer to a request to its end.
    pub(super) async fn hear(
        &self,
        message: &Message,
        answered: Answered,
        open: Option<&Open>,
        hearing: &mut Hearing<'_>,
    ) -> Result<Bytes, Trouble> {
        let Answered { head, body } = answered;
        let answer = if head.is_packed {
            return Err(Trouble::NotMcp);
        } else if head.is_event_stream() && head.status.is_success() {
            self.hear_stream(body, open, hearing).await?
        } else {
            self.hear_whole(&message.id(), head.status, body).await?
        };
        match (message.method, message.era) {
            (Some(Method::Initialize), Era::Legacy) => {
                self.session.note_answer(&message.bytes, head.session_id, &answer);
            }
            (Some(Method::ToolsList), _) => self.params.borrow_mut().learn(&answer),
            _ => {}
        }
        Ok(answer)
    }

    /// One message, or a batch with the answer in it.
    async fn hear_whole(&self, id: &[u8], status: StatusCode, mut body: Answer) -> Result<Bytes, Trouble> {
        let whole = body.collect(MESSAGE_BYTES_MAX).await?;
        if status == StatusCode::UNAUTHORIZED {
            // Whatever it says there, the credential is to be looked at.
            return Err(Trouble::Unauthenticated);
        }
        let mut answer = None;
        for message in heard::each(&whole) {
            match heard::read(&message) {
                Some(Heard::Response { id: Some(of), .. }) if is_same_id(of.as_bytes(), id) => {
                    answer = Some(message);
                }
                // Told before it was known who asked.
                Some(Heard::Response { id: None, is_error: true }) => {
                    answer = answer.or_else(|| heard::error_under(id, &message));
                }
                Some(Heard::Response { .. }) => {
                    tracing::warn!("an answer to another request came; it was dropped");
                }
                Some(Heard::TakenBack { id }) => self.take_back(&message, &id).await,
                Some(Heard::Call { id: asked, .. }) => self.pass(&message, asked, Some(id)).await,
                None => {}
            }
        }
        answer.ok_or_else(|| Trouble::of_status(status))
    }

    /// A stream that ends before the answer is taken up again where the endpoint said that it can be
    /// (MCP 2025-11-25, resumability).
    async fn hear_stream(
        &self,
        mut body: Answer,
        open: Option<&Open>,
        hearing: &mut Hearing<'_>,
    ) -> Result<Bytes, Trouble> {
        let mut resumes = 0;
        loop {
            let trouble = match self.hear_events(&mut body, hearing).await {
                Ok(Some(answer)) => return Ok(answer),
                Ok(None) => Trouble::BrokenOff,
                Err(trouble) => trouble,
            };
            if std::mem::take(&mut hearing.is_alive) {
                resumes = 0;
            }
            body = loop {
                let (Some(open), Some(last)) = (open, &hearing.last_event_id) else { return Err(trouble) };
                if resumes >= RESUMES_MAX || !trouble.may_pass() {
                    return Err(trouble);
                }
                sleep(hearing.pause(resumes)).await;
                resumes += 1;
                match self.resume(open, last).await {
                    Ok(body) => break body,
                    Err(trouble) if trouble.may_pass() => {
                        tracing::info!("a stream is not taken up yet: {trouble}");
                    }
                    Err(trouble) => return Err(trouble),
                }
            };
        }
    }

    /// Opens a stream of the session, behind that event.
    async fn resume(&self, open: &Open, last: &HeaderValue) -> Result<Answer, Trouble> {
        let mut request = Outgoing::get();
        open.write_headers(&mut request);
        request.set(&header::LAST_EVENT_ID, last);
        let Answered { head, body } = *self.send(&request, Lane::Stream).await?;
        if head.status.is_success() && head.is_event_stream() {
            Ok(body)
        } else {
            Err(Trouble::of_status(head.status))
        }
    }

    /// What a stream says, to the answer or to its end.
    pub(super) async fn hear_events(
        &self,
        body: &mut Answer,
        hearing: &mut Hearing<'_>,
    ) -> Result<Option<Bytes>, Trouble> {
        let mut reader = EventReader::of_events(MESSAGE_BYTES_MAX);
        while let Some(chunk) = body.chunk().await {
            reader.push(chunk?);
            while let Some(event) = reader.next().map_err(|_too_long| Trouble::TooLarge)? {
                hearing.note(&event);
                let is_message = event.event_name.is_none_or(|name| name == "message");
                let Some(data) = event.data.filter(|data| is_message && !data.is_empty()) else { continue };
                let answer = self.hear_event(&data, hearing).await;
                if answer.is_some() {
                    return Ok(answer);
                }
            }
        }
        Ok(None)
    }

    /// The answer, when it is among the messages of an event; the others go to the client.
    async fn hear_event(&self, data: &Bytes, hearing: &mut Hearing<'_>) -> Option<Bytes> {
        let mut answer = None;
        for message in heard::each(data) {
            match heard::read(&message) {
                Some(Heard::TakenBack { id }) => self.take_back(&message, &id).await,
                Some(Heard::Call { method, id }) => {
                    let is_acknowledgement = method == Method::Acknowledged.as_str();
                    if is_acknowledgement && std::mem::replace(&mut hearing.is_acknowledged, true) {
                        self.say_all(missed(&message)).await;
                    } else {
                        self.pass(&message, id, hearing.id).await;
                    }
                }
                Some(Heard::Response { id, is_error }) => {
                    let asked = hearing.id.filter(|asked| match &id {
                        Some(id) => is_same_id(id.as_bytes(), asked),
                        None => is_error,
                    });
                    match asked {
                        Some(_) if id.is_some() => answer = Some(message),
                        Some(asked) => answer = heard::error_under(asked, &message),
                        // Some play back what belongs to others when a stream is taken up again.
                        None => tracing::info!("an answer to another request came; it was dropped"),
                    }
                }
                None => tracing::warn!("the endpoint said what is no message; it was dropped"),
            }
        }
        answer
    }
}

impl<'a> Hearing<'a> {
    /// Of the answer to that request.
    pub fn of(id: &'a [u8]) -> Self {
        Self { id: Some(id), ..Self::default() }
    }

    fn note(&mut self, event: &Event) {
        self.is_alive = true;
        if let Some(id) = &event.id {
            // An empty one takes the last back.
            self.last_event_id =
                HeaderValue::from_maybe_shared(id.clone()).ok().filter(|value| !value.is_empty());
        }
        self.retry = event.retry.map(Duration::from_millis).or(self.retry);
    }

    /// How long to leave the endpoint alone after so many tries.
    pub fn pause(&self, tries: u32) -> Duration {
        self.retry.unwrap_or(RETRY_USUAL).min(RETRY_MAX).max(pause(tries))
    }
}
