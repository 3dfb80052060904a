//! An event stream that answers a tool call: notifications of the server as they arrive, then the result.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame};
use tokio::sync::mpsc;

use super::call::Outcome;
use super::call_meter::CallMeter;
use super::problem::Problem;
use super::tool_result::result_of;
use crate::limits::Permit;
use crate::telemetry::metrics;
use metamcp_core::base::charge_bytes;

/// An in-flight call. If dropped, the call is cancelled.
pub struct CallEvents {
    /// `None` once the call has ended.
    running: Option<RunningCall>,
    /// Notifications during the call. Bounded, so that a slow reader exerts back-pressure on the server.
    notifications: mpsc::Receiver<Bytes>,
    /// The outcome of the call, until it is sent.
    outcome: Option<Result<Outcome, Problem>>,
    /// The first event, until it is sent.
    first: Option<Bytes>,
    meter: CallMeter,
    /// Completes when the key of the call is no longer valid.
    key_over: KeyInvalidation,
    permit: Permit,
}

/// Completes when a key is revoked, changed, or expired.
pub type KeyInvalidation = Pin<Box<dyn Future<Output = ()>>>;

/// A call with its outcome.
pub type RunningCall = Pin<Box<dyn Future<Output = Result<Outcome, Problem>>>>;

/// The next thing to send.
enum CallStep {
    Notification(Bytes),
    Ended(Result<Outcome, Problem>),
}

/// The start of a response.
pub enum CallStart {
    /// The first notification arrived; the rest follows.
    Events(Pin<Box<CallEvents>>),
    /// The call ended without notifications: its only event, or an error.
    Whole(Result<Bytes, Problem>, Permit),
}

impl CallEvents {
    /// Waits for the first event or the outcome. Not cancel safe: if dropped, the call is cancelled.
    pub async fn begin(
        running: RunningCall,
        notifications: mpsc::Receiver<Bytes>,
        meter: CallMeter,
        key_over: KeyInvalidation,
        permit: Permit,
    ) -> CallStart {
        let running = Some(running);
        let mut events = Self { running, notifications, outcome: None, first: None, meter, key_over, permit };
        match poll_fn(|cx| events.poll_step(cx)).await {
            Some(CallStep::Notification(notification)) => {
                events.first = Some(notification);
                events.meter.note_first_part();
                CallStart::Events(Box::pin(events))
            }
            Some(CallStep::Ended(Ok(outcome))) => {
                let failed = outcome.failed;
                let answer = result_event(&outcome);
                CallStart::Whole(events.meter.finish_with(answer, failed), events.permit)
            }
            Some(CallStep::Ended(Err(problem))) => {
                events.meter.end(metrics::OperationOutcome::Error);
                CallStart::Whole(Err(problem), events.permit)
            }
            // Unreachable: `poll_step` returns the outcome before it returns `None`.
            None => CallStart::Whole(Err(Problem::unavailable("the call has ended")), events.permit),
        }
    }

    /// `None` after the end.
    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Option<CallStep>> {
        if self.running.is_some() && self.key_over.as_mut().poll(cx).is_ready() {
            self.running = None;
            self.notifications.close();
            // Discards notifications that the key may no longer see.
            while self.notifications.try_recv().is_ok() {}
            return Poll::Ready(Some(CallStep::Ended(Err(Problem::key_invalidated()))));
        }
        loop {
            if let Poll::Ready(Some(notification)) = self.notifications.poll_recv(cx) {
                return Poll::Ready(Some(CallStep::Notification(write_event("notification", &notification))));
            }
            let Some(running) = &mut self.running else {
                return Poll::Ready(self.outcome.take().map(CallStep::Ended));
            };
            let outcome = ready!(running.as_mut().poll(cx));
            self.running = None;
            // Checks for notifications again: some may have arrived before the outcome did.
            self.outcome = Some(outcome);
        }
    }

    /// Writes the last event.
    fn end(&mut self, outcome: Result<Outcome, Problem>) -> Bytes {
        let failed = outcome.as_ref().map_or(true, |outcome| outcome.failed);
        let event = match outcome.and_then(|outcome| result_event(&outcome)) {
            Ok(event) => event,
            Err(problem) => write_event("error", problem.to_response().body()),
        };
        self.meter.add_bytes(event.len());
        self.meter.end(if failed {
            metrics::OperationOutcome::Error
        } else {
            metrics::OperationOutcome::Answer
        });
        event
    }
}

impl Body for CallEvents {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let notification = match self.first.take() {
            Some(first) => first,
            None => match ready!(self.poll_step(cx)) {
                Some(CallStep::Notification(notification)) => notification,
                Some(CallStep::Ended(outcome)) => {
                    return Poll::Ready(Some(Ok(Frame::data(self.end(outcome)))));
                }
                None => return Poll::Ready(None),
            },
        };
        self.meter.add_bytes(notification.len());
        Poll::Ready(Some(Ok(Frame::data(notification))))
    }

    fn is_end_stream(&self) -> bool {
        self.running.is_none() && self.outcome.is_none() && self.first.is_none()
    }
}

/// The event of a result, charged for until the client has taken it.
fn result_event(outcome: &Outcome) -> Result<Bytes, Problem> {
    let result = result_of(&outcome.message)?;
    Ok(charge_bytes(write_event("result", &result))?)
}

/// Writes JSON as an event. Line breaks in it, which are white space between tokens, become blanks: an empty line would end
/// the event.
fn write_event(name: &str, json: &[u8]) -> Bytes {
    let mut event = BytesMut::with_capacity(json.len() + name.len() + 32);
    write!(event, "event: {name}\ndata: ").expect("memory takes any text");
    event.extend(json.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }));
    event.extend_from_slice(b"\n\n");
    event.freeze()
}
