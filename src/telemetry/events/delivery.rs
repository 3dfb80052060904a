//! Delivers events to one webhook: one after the other, signed as Standard Webhooks 1.0 says, each until it is accepted, for a
//! time.

use std::pin::pin;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use metamcp_core::base::{OutageLine, OutageLog, ShutdownPhase, unix_seconds};
use metamcp_store::auth::{format_time, hmac_sha256};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use zeroize::Zeroizing;

use super::log::{EventRead, EventReader};
use crate::telemetry::exporter::{PostError, PostResponse};

/// An event with its signature, as it is posted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedEvent {
    /// The same for each attempt, so that a receiver can recognize an event that it has.
    pub id: String,
    /// When the attempt is made: Unix time in seconds.
    pub timestamp: u64,
    pub signature: String,
    pub body: Bytes,
}

/// The receiver of a webhook.
pub struct Receiver<P> {
    /// Its address without credentials, for the log.
    pub address: String,
    pub secret: Zeroizing<Vec<u8>>,
    /// Sends one event; has a timeout of its own.
    pub post: P,
}

/// The delays before the attempts after the first, as in the schedule that Standard Webhooks gives for an example, but shorter:
/// events wait for each other, and the log of events is bounded.
const RETRY_DELAYS: [Duration; 5] = [
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_mins(2),
    Duration::from_mins(10),
];

/// The time for sending what is left when the gateway shuts down.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// The status by which a receiver says that it wants no more events (Standard Webhooks).
const GONE: u16 = 410;

struct Delivery<P> {
    reader: EventReader,
    receiver: Receiver<P>,
    /// Taken from the log, and not accepted yet. Kept here, so that the flush repeats an attempt that the shutdown interrupted.
    pending: Option<(String, Bytes)>,
    /// Events that were given up since the last that was accepted.
    lost: u64,
    outage: OutageLog,
}

/// The receiver wants no more events.
struct ReceiverGone;

/// Delivers events until `phase` becomes [`ShutdownPhase::Abort`], then tries once to deliver the rest.
pub async fn deliver<P>(reader: EventReader, receiver: Receiver<P>, mut phase: watch::Receiver<ShutdownPhase>)
where
    P: AsyncFn(SignedEvent) -> Result<PostResponse, PostError>,
{
    let mut delivery = Delivery { reader, receiver, pending: None, lost: 0, outage: OutageLog::default() };
    {
        let ended = pin!(phase.wait_for(|phase| *phase == ShutdownPhase::Abort));
        tokio::select! {
            ReceiverGone = delivery.run() => {
                let webhook = delivery.receiver.address;
                tracing::error!(webhook, "webhook says that it is gone; it gets no more events until a restart");
                return;
            }
            // An error means that the sender is gone, which ends the delivery, too.
            _ = ended => {}
        }
    }
    let webhook = delivery.receiver.address.clone();
    if timeout(FLUSH_TIMEOUT, delivery.flush()).await.is_err() {
        tracing::warn!(webhook, "webhook did not accept the last events in time");
    }
}

impl<P: AsyncFn(SignedEvent) -> Result<PostResponse, PostError>> Delivery<P> {
    async fn run(&mut self) -> ReceiverGone {
        loop {
            let read = self.reader.next().await;
            self.pending = Some(self.message(read));
            if let Err(gone) = self.send_until_accepted().await {
                return gone;
            }
        }
    }

    /// The id and the body of what was read.
    fn message(&self, read: EventRead) -> (String, Bytes) {
        match read {
            EventRead::Event(event) => (self.reader.id_of(&event).to_string(), event.json.clone()),
            EventRead::Missed { count, position } => {
                let id = format!("{position}-missed");
                let body = missed(&id, count);
                (id, body)
            }
        }
    }

    /// Sends the pending event, and again after a while if it is not accepted.
    async fn send_until_accepted(&mut self) -> Result<(), ReceiverGone> {
        for delay in RETRY_DELAYS.into_iter().map(Some).chain([None]) {
            let Some((id, body)) = self.pending.clone() else { return Ok(()) };
            let wait = match self.attempt(&id, body).await? {
                Attempt::Accepted => {
                    self.pending = None;
                    return self.tell_lost(&id).await;
                }
                Attempt::Failed(asked) => asked,
            };
            if let Some(delay) = delay {
                sleep(wait.unwrap_or_default().clamp(delay, RETRY_DELAYS[4])).await;
            } else {
                self.pending = None;
                self.lost += 1;
            }
        }
        Ok(())
    }

    /// Tells the receiver how many events it did not get. Tried once: it counts again with the next event.
    async fn tell_lost(&mut self, id: &str) -> Result<(), ReceiverGone> {
        if self.lost > 0 {
            let id = format!("{id}-missed");
            let body = missed(&id, Some(self.lost));
            if let Attempt::Accepted = self.attempt(&id, body).await? {
                self.lost = 0;
            }
        }
        Ok(())
    }

    async fn attempt(&mut self, id: &str, body: Bytes) -> Result<Attempt, ReceiverGone> {
        let event = sign(&self.receiver.secret, id, unix_seconds(), body);
        let response = (self.receiver.post)(event).await;
        let webhook = self.receiver.address.as_str();
        let failure = match &response {
            Ok(PostResponse { status: 200..=299, .. }) => {
                if self.outage.succeed(Instant::now()).is_some() {
                    tracing::info!(webhook, "webhook accepts events again");
                }
                return Ok(Attempt::Accepted);
            }
            Ok(PostResponse { status: GONE, .. }) => return Err(ReceiverGone),
            Ok(PostResponse { status, .. }) => format!("HTTP {status}"),
            Err(error) => error.to_string(),
        };
        match self.outage.fail(Instant::now()) {
            Some(OutageLine::Begin) => {
                tracing::warn!(webhook, failure, "webhook does not accept an event; it is sent again");
            }
            Some(OutageLine::Continue { failures }) => {
                tracing::warn!(webhook, failure, failures, "webhook still does not accept events");
            }
            None => {}
        }
        Ok(Attempt::Failed(response.ok().and_then(|response| response.retry_after)))
    }

    /// Sends what is left, each event once.
    async fn flush(&mut self) {
        loop {
            let next = self.pending.take().or_else(|| {
                let read = self.reader.try_next()?;
                Some(self.message(read))
            });
            let Some((id, body)) = next else { return };
            if !matches!(self.attempt(&id, body).await, Ok(Attempt::Accepted)) {
                return;
            }
        }
    }
}

/// What came of one attempt.
enum Attempt {
    Accepted,
    /// With the delay that the receiver asks for.
    Failed(Option<Duration>),
}

fn missed(id: &str, count: Option<u64>) -> Bytes {
    let timestamp = format_time(unix_seconds());
    json!({"id": id, "type": "missed", "timestamp": timestamp, "data": {"count": count}}).to_string().into()
}

/// Signs the id, the time and the body (Standard Webhooks, "Signature scheme": version 1, HMAC-SHA256).
fn sign(secret: &[u8], id: &str, timestamp: u64, body: Bytes) -> SignedEvent {
    let mut signed = format!("{id}.{timestamp}.").into_bytes();
    signed.extend_from_slice(&body);
    let signature = format!("v1,{}", STANDARD.encode(hmac_sha256(secret, &signed)));
    SignedEvent { id: id.to_owned(), timestamp, signature, body }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;
    use std::sync::Arc;

    use metamcp_core::base::{EventKind, ServerName, Severity};

    use super::super::event::Event;
    use super::super::filter::EventFilter;
    use super::super::log::EventLog;
    use super::*;

    /// The example of Standard Webhooks (its specification, "Verifying signatures").
    #[test]
    fn signatures_are_those_of_the_specification() {
        let secret = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("base64");
        let body = Bytes::from_static(br#"{"test": 2432232314}"#);
        let event = sign(&secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
        assert_eq!(event.signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    /// Delivers so many events to a receiver with these responses, and then with 200. 0 stands for no response. Returns the seconds
    /// and the names of what arrived.
    async fn run(events: usize, statuses: &[u16]) -> Vec<String> {
        let log = Arc::new(EventLog::default());
        let reader = log.read(EventFilter::new(&[], Severity::Info), None);
        let seen = Rc::new(RefCell::new(Vec::new()));
        let statuses = RefCell::new(statuses.iter().copied().collect::<std::collections::VecDeque<_>>());
        let begun = tokio::time::Instant::now();
        let post = {
            let seen = Rc::clone(&seen);
            async move |event: SignedEvent| {
                let text: serde_json::Value = serde_json::from_slice(&event.body).expect("JSON");
                let name = text["server"]
                    .as_str()
                    .map_or_else(|| format!("missed {}", text["data"]["count"]), str::to_owned);
                seen.borrow_mut().push(format!("{} {name}", begun.elapsed().as_secs()));
                let status = statuses.borrow_mut().pop_front().unwrap_or(200);
                let retry_after = (status == 429).then_some(Duration::from_mins(1));
                match status {
                    0 => Err(PostError("refused".to_owned())),
                    status => Ok(PostResponse { status, retry_after, body: Bytes::new() }),
                }
            }
        };
        let phase = watch::Sender::new(ShutdownPhase::Serve);
        let receiver = Receiver { address: "http://a".to_owned(), secret: Zeroizing::new(vec![1; 24]), post };
        let delivering = deliver(reader, receiver, phase.subscribe());
        for number in 0..events {
            let server = ServerName::new(&format!("s{number}")).expect("a name");
            log.add(Event::of_server(EventKind::ServerFailed, &server));
        }
        let stopping = async {
            sleep(Duration::from_hours(2)).await;
            phase.send_replace(ShutdownPhase::Abort);
        };
        tokio::join!(delivering, stopping);
        seen.take()
    }

    #[tokio::test(start_paused = true)]
    async fn events_are_sent_in_order_until_they_are_accepted() {
        assert_eq!(run(3, &[]).await, ["0 s0", "0 s1", "0 s2"]);
        assert_eq!(run(2, &[500, 0, 302]).await, ["0 s0", "1 s0", "6 s0", "36 s0", "36 s1"]);
        assert_eq!(run(1, &[429]).await, ["0 s0", "60 s0"], "as long as the receiver asks for");
        // Given up after the last attempt, which the receiver is told with the next event.
        let given_up = ["0 s0", "1 s0", "6 s0", "36 s0", "156 s0", "756 s0", "756 s1", "756 missed 1"];
        assert_eq!(run(2, &[500; 6]).await, given_up);
        assert_eq!(run(3, &[200, 410]).await, ["0 s0", "0 s1"], "one that is gone gets no more");
    }
}
