//! A call that waits until its client comes back with what its server asked for.

use bytes::Bytes;
use tokio::time::{Instant, sleep_until};

use super::super::client::Client;
use super::super::hold::{Place, Resume};
use super::super::input::{answers, input_required};
use super::super::result;
use super::super::session::tell;
use super::super::voice::Said;
use super::{Line, Meaning, Next, Run, Source};
use crate::frame::Envelope;
use crate::protocol::Method;
use crate::upstream::shim::Reply;
use crate::upstream::{Stage, UpstreamError};

impl Run {
    /// Asks the client for what the server wants, and holds the call until it comes back with all of that;
    /// `None` when it does not, or the call is over.
    pub(super) async fn hold(&mut self, mut client: Client, line: &mut Line) -> Option<Client> {
        // What came with the first request goes with it.
        let mut ended = None;
        while let Some(message) = line.voice.ready() {
            match self.take(line, &message, Source::Own).await {
                Meaning::Answer(message, envelope) => {
                    ended = Some((message, envelope));
                    break;
                }
                Meaning::Pass(message) => self.pass(&mut client, line, &message).await,
                Meaning::Done => {}
            }
        }
        while !self.wanted.is_empty() && ended.is_none() {
            let binding = self.asked.binding(self.pool.upstream().name());
            let Ok(place) = self.holds.hold(self.asked.owner, &binding) else {
                self.refuse_wanted(line, "too many calls wait for input already").await;
                break;
            };
            let message = input_required(&client.id, &self.wanted, Some(&place.state));
            let is_asked = client.end(Reply::message(message)).await;
            line.voice.set_aside(None);
            let resumed = if is_asked { self.wait(place, line, &mut ended).await } else { None };
            line.voice.set_aside(Some(self.pool.upstream().config.stream_idle_timeout));
            let Some(Resume { client: back, responses, capabilities }) = resumed else {
                self.cancel(line).await;
                return None;
            };
            client = back;
            self.capabilities = self.capabilities.and(capabilities);
            for answer in answers(&mut self.wanted, &responses) {
                tell(&self.pool, &line.ready, Method::ToolsCall, answer).await;
            }
        }
        match ended {
            None => Some(client),
            Some((message, envelope)) => {
                self.refuse_wanted(line, "the call is over").await;
                let reply = result::answer(&message, &envelope, &client.id, self.asked.method);
                match reply {
                    Some(reply) => {
                        client.end(reply).await;
                    }
                    None => client.fail(UpstreamError::bare(Stage::Nonsense)),
                }
                None
            }
        }
    }

    /// Until the client comes back, or its time is over. What the server says meanwhile is taken; its answer
    /// is kept.
    async fn wait(
        &mut self,
        mut place: Place,
        line: &mut Line,
        ended: &mut Option<(Bytes, Envelope)>,
    ) -> Option<Resume> {
        let deadline = Instant::now() + place.timeout;
        // A call that was not sent yet waits until what was asked before it is answered.
        let mut is_silent = !line.is_sent;
        loop {
            let next = tokio::select! {
                biased;
                resumed = &mut place.resumed => return resumed.ok(),
                () = sleep_until(deadline) => return None,
                Some(message) = line.seat.aside.recv() => Next::Heard(message, Source::Aside),
                said = line.voice.next(), if !is_silent => match said {
                    Said::Message(message) => Next::Heard(message, Source::Own),
                    said => Next::Ended(said),
                },
            };
            match next {
                Next::Heard(message, source) => {
                    if let Meaning::Answer(message, envelope) = self.take(line, &message, source).await {
                        *ended = Some((message, envelope));
                        is_silent = true;
                    }
                }
                // The client is told when it comes back.
                Next::Ended(_) | Next::Over => is_silent = true,
            }
        }
    }

    pub(super) async fn refuse_wanted(&mut self, line: &Line, why: &str) {
        for wanted in std::mem::take(&mut self.wanted) {
            let message = wanted.refusal(why);
            tell(&self.pool, &line.ready, Method::ToolsCall, message).await;
        }
    }
}
