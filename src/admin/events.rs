//! The answer to a call as an event stream: what the server says on the way as it comes, then the result.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame};
use serde_json::Value;
use tokio::sync::mpsc;

use super::call::Outcome;
use super::problem::Problem;
use super::tally::Tally;
use super::tools::result_of;
use crate::limits::Permit;
use crate::telemetry::metrics;

/// A call that is under way. Dropped, it is given up: the server is told to stop.
pub struct Events {
    /// Until it has come to its end.
    running: Option<Running>,
    /// What is said on the way. Bounded: whoever does not read makes the server wait.
    heard: mpsc::Receiver<Bytes>,
    /// What the call came to, until it is handed out.
    outcome: Option<Result<Outcome, Problem>>,
    /// The first event, until it is handed out.
    first: Option<Bytes>,
    tally: Tally,
    /// Completes when the key that began it is good for nothing any more.
    key_over: KeyOver,
    permit: Permit,
}

/// Completes when a key is switched off, changed, or has expired.
pub type KeyOver = Pin<Box<dyn Future<Output = ()>>>;

/// Ends with the call.
pub type Running = Pin<Box<dyn Future<Output = Result<Outcome, Problem>>>>;

/// What there is to be told next.
enum Step {
    Said(Bytes),
    Ended(Result<Outcome, Problem>),
}

/// How a call begins to answer.
pub enum Begun {
    /// With something on the way: the rest follows.
    Events(Pin<Box<Events>>),
    /// With its result, as the only event; or with what went wrong.
    Whole(Result<Bytes, Problem>, Permit),
}

impl Events {
    /// Waits until there is something to tell. Cancel safe in that it gives the call up.
    pub async fn begin(
        running: Running,
        heard: mpsc::Receiver<Bytes>,
        tally: Tally,
        key_over: KeyOver,
        permit: Permit,
    ) -> Begun {
        let running = Some(running);
        let mut events = Self { running, heard, outcome: None, first: None, tally, key_over, permit };
        match poll_fn(|cx| events.poll_step(cx)).await {
            Some(Step::Said(said)) => {
                events.first = Some(said);
                events.tally.start();
                Begun::Events(Box::pin(events))
            }
            Some(Step::Ended(Ok(outcome))) => {
                let failed = outcome.failed;
                let answer = result_of(&outcome.message).map(|result| write("result", &result));
                Begun::Whole(events.tally.count(answer, failed), events.permit)
            }
            Some(Step::Ended(Err(problem))) => {
                events.tally.end(metrics::Outcome::Error);
                Begun::Whole(Err(problem), events.permit)
            }
            // It has an outcome before it has none.
            None => Begun::Whole(Err(Problem::later("the call has ended")), events.permit),
        }
    }

    /// `None` behind the end.
    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Option<Step>> {
        if self.running.is_some() && self.key_over.as_mut().poll(cx).is_ready() {
            self.running = None;
            self.heard.close();
            // What the key may not hear any more.
            while self.heard.try_recv().is_ok() {}
            return Poll::Ready(Some(Step::Ended(Err(Problem::key_over()))));
        }
        loop {
            if let Poll::Ready(Some(said)) = self.heard.poll_recv(cx) {
                return Poll::Ready(Some(Step::Said(write("notification", &json_of(&said)))));
            }
            let Some(running) = &mut self.running else {
                return Poll::Ready(self.outcome.take().map(Step::Ended));
            };
            let outcome = ready!(running.as_mut().poll(cx));
            self.running = None;
            // What was said before it may have come since it was looked for.
            self.outcome = Some(outcome);
        }
    }

    /// The last event.
    fn end(&mut self, outcome: Result<Outcome, Problem>) -> Bytes {
        let failed = outcome.as_ref().map_or(true, |outcome| outcome.failed);
        let event = match outcome.and_then(|outcome| result_of(&outcome.message)) {
            Ok(result) => write("result", &result),
            Err(problem) => write("error", &json_of(problem.respond().body())),
        };
        self.tally.pass(event.len());
        self.tally.end(if failed { metrics::Outcome::Error } else { metrics::Outcome::Answer });
        event
    }
}

impl Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let said = match self.first.take() {
            Some(first) => first,
            None => match ready!(self.poll_step(cx)) {
                Some(Step::Said(said)) => said,
                Some(Step::Ended(outcome)) => return Poll::Ready(Some(Ok(Frame::data(self.end(outcome))))),
                None => return Poll::Ready(None),
            },
        };
        self.tally.pass(said.len());
        Poll::Ready(Some(Ok(Frame::data(said))))
    }

    fn is_end_stream(&self) -> bool {
        self.running.is_none() && self.outcome.is_none() && self.first.is_none()
    }
}

/// On one line, however it was written: an event ends at an empty one.
fn json_of(bytes: &Bytes) -> Value {
    serde_json::from_slice(bytes).unwrap_or_default()
}

fn write(name: &str, data: &Value) -> Bytes {
    Bytes::from(format!("event: {name}\ndata: {data}\n\n"))
}
