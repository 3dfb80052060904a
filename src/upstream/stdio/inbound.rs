//! What a process says, and whose it is. On a process with several clients only what names its call, its
//! progress token or its subscription is certain; what is not certain goes to nobody.

use bytes::Bytes;

use super::super::shim::{CallEntry, LocalResponse, event, rewritten};
use super::super::{FailureStage, UpstreamError};
use super::link::{Asked, Counts, Link, Pending, State, To, What};
use super::seat::SeatId;
use metamcp_core::frame::{Envelope, IdSpan, MessageKind, ScanError, Span};
use metamcp_core::protocol::{Era, McpMethod, RESOURCE_UPDATED};

/// A process that says nothing but nonsense.
#[derive(Debug, PartialEq, Eq)]
pub struct Babble;

/// Lines in a row that are no message. Banners have a few dozen lines; a program that prints its log there
/// prints messages now and then.
const NONSENSE_MAX: u32 = 1000;

/// Requests of one process that its clients have not answered.
const ASKED_MAX: usize = 256;

/// What a request of the process is refused with.
const NOT_ALONE: &str = "there is no one client here to ask; run this server with sharing = session";
const FULL: &str = "as many of your requests wait for an answer as may; wait for some, or withdraw them";

impl Link {
    /// Takes a line that the process said.
    pub fn take(&self, line: &Bytes) -> Result<(), Babble> {
        if line.trim_ascii().is_empty() {
            return Ok(());
        }
        let scanned = self.common.scanner.borrow_mut().scan(line);
        match scanned {
            Ok(envelope) => self.sort(line, &envelope),
            // Of 2025-03-26.
            Err(refused) if refused.error == ScanError::Batch => {
                let items = self.common.scanner.borrow_mut().batch_items(line);
                let Ok(items) = items else { return self.note_nonsense(line, None) };
                for item in items {
                    let message = line.slice(item.start as usize..item.end as usize);
                    let scanned = self.common.scanner.borrow_mut().scan(&message);
                    match scanned {
                        Ok(envelope) => self.sort(&message, &envelope),
                        Err(refused) => self.note_nonsense(&message, refused.id)?,
                    }
                }
            }
            Err(refused) => return self.note_nonsense(line, refused.id),
        }
        Ok(())
    }

    /// A line that is no message. If it is at least the answer of a call, the call need not wait any longer.
    fn note_nonsense(&self, line: &Bytes, id: Option<IdSpan>) -> Result<(), Babble> {
        Counts::add(&self.common.counts.nonsense);
        let mut state = self.state.borrow_mut();
        state.nonsense_in_a_row += 1;
        let is_babble = state.nonsense_in_a_row >= NONSENSE_MAX;
        let number = id.and_then(|id| state.open_call(id.span.slice(line)));
        let ended = number.and_then(|number| state.table.remove(number));
        drop(state);
        if let (Some(minted), Some(number)) = (ended, number) {
            self.forget(&minted.call);
            minted.call.fail(FailureStage::InvalidResponse);
            self.refuse_asked_during(number);
        }
        if is_babble { Err(Babble) } else { Ok(()) }
    }

    fn sort(&self, message: &Bytes, envelope: &Envelope) {
        self.state.borrow_mut().nonsense_in_a_row = 0;
        let is_taken = match envelope.kind {
            MessageKind::Response | MessageKind::Error => self.take_answer(message, envelope),
            MessageKind::Request => self.take_request(message, envelope),
            MessageKind::Notification => self.take_notification(message, envelope),
        };
        if !is_taken {
            Counts::add(&self.common.counts.unmeant);
        }
    }

    /// An answer gets the id back that its client gave.
    fn take_answer(&self, message: &Bytes, envelope: &Envelope) -> bool {
        let Some(id) = envelope.id else { return false };
        let mut state = self.state.borrow_mut();
        let number = state.open_call(id.span.slice(message));
        let Some(minted) = number.and_then(|number| state.table.remove(number)) else {
            self.note_foreign_id(&state, id.span.slice(message));
            return false;
        };
        if let (What::Subscribe(uri), Some(seat), MessageKind::Response) =
            (&minted.call.what, minted.call.seat, envelope.kind)
        {
            state.seats.subscribe(seat, uri.clone());
        }
        drop(state);
        if !self.has_answered.replace(true) {
            self.settled.notify_one();
        }
        self.forget(&minted.call);
        self.touch();
        let CallEntry { id: own, call: Pending { to, what, .. }, .. } = minted;
        let mut edits = vec![(id.span, &own[..])];
        if what == What::Listen
            && let Some(span) = subscription_in_result(message, envelope)
        {
            edits.push((span, &own[..]));
            edits.sort_unstable_by_key(|(span, _)| span.start);
        }
        match to {
            To::Waiting(reply) => {
                drop(reply.send(Ok(LocalResponse::from_message(rewritten(message, &edits)))))
            }
            To::Streaming(outlet) => outlet.finish(event(message, &edits)),
            // Nobody may be waiting.
            To::Own(answer) => drop(answer.send((message.clone(), envelope.clone()))),
        }
        true
    }

    /// Says once that the server answers under ids that are not those it was asked under, but look like them.
    fn note_foreign_id(&self, state: &State, raw: &[u8]) {
        let unquoted = raw.strip_prefix(b"\"").and_then(|raw| raw.strip_suffix(b"\""));
        if unquoted.is_some_and(|raw| state.open_call(raw).is_some())
            && !self.common.told_of_ids.replace(true)
        {
            let server = &self.common.name;
            tracing::warn!(%server, "it answers under ids that are strings, to requests with ids that are numbers: such \
                an answer belongs to no call (JSON-RPC 2.0, response object), and is dropped");
        }
    }

    /// A request of the process. It waits for an answer, so it gets one, if only a refusal.
    fn take_request(&self, message: &Bytes, envelope: &Envelope) -> bool {
        let Some(id) = envelope.id else { return false };
        let id = id.span.slice(message);
        if method_of(message, envelope) == Some(McpMethod::Ping) {
            let raw = String::from_utf8_lossy(id);
            return self.tell(format!(r#"{{"jsonrpc":"2.0","id":{raw},"result":{{}}}}"#).as_bytes(), &[]);
        }
        let mut state = self.state.borrow_mut();
        let is_full = state.asked.len() >= ASKED_MAX;
        let sole = state.sole().filter(|_| self.era == Era::Legacy && !is_full);
        let is_sent = sole.is_some_and(|seat| {
            let during = state.newest_call(seat);
            let sent = state.send_to(seat, event(message, &[]));
            if sent {
                state.asked.insert(Bytes::copy_from_slice(id), Asked { seat, during });
            }
            sent
        });
        let clients = state.seats.len();
        drop(state);
        if !is_sent {
            Counts::add(&self.common.counts.refused);
            let text = if is_full { FULL } else { NOT_ALONE };
            // Without a client there is nobody to ask, and nothing to be configured.
            if !is_full && clients > 1 && !self.common.told_of_sharing.replace(true) {
                let server = &self.common.name;
                tracing::warn!(%server, clients, "it asks its clients something; consider sharing = \"session\"");
            }
            self.refuse(id, text);
        }
        true
    }

    fn take_notification(&self, message: &Bytes, envelope: &Envelope) -> bool {
        let method = method_of(message, envelope);
        match (method, self.era) {
            (Some(McpMethod::Progress), _) => self.take_progress(message, envelope),
            (Some(McpMethod::Cancelled), Era::Modern) => self.take_listen_end(message, envelope),
            (Some(McpMethod::Cancelled), Era::Legacy) => self.take_withdrawal(message, envelope),
            (_, Era::Modern) => self.take_modern(message, envelope),
            (
                Some(
                    McpMethod::ToolsListChanged
                    | McpMethod::PromptsListChanged
                    | McpMethod::ResourcesListChanged,
                ),
                Era::Legacy,
            ) => {
                let event = event(message, &[]);
                let mut state = self.state.borrow_mut();
                let lost = state
                    .seats
                    .iter_mut()
                    .filter_map(|seat| (!seat.mailbox.send(event.clone())).then_some(()));
                self.note_lost(lost.count());
                true
            }
            _ => self.take_other(message, envelope),
        }
    }

    /// Progress of a call, by the token that is its number.
    fn take_progress(&self, message: &Bytes, envelope: &Envelope) -> bool {
        let Some(token) = envelope.params.progress_token else { return false };
        let mut state = self.state.borrow_mut();
        let number = state.open_call(token.span.slice(message));
        let Some(minted) = number.and_then(|number| state.table.get(number)) else { return false };
        let Some(own) = &minted.token else { return false };
        let event = event(message, &[(token.span, own)]);
        let is_passed = minted.call.pass(event);
        self.note_lost(usize::from(!is_passed));
        true
    }

    /// A subscription that the server ends (MCP 2026-07-28, subscriptions).
    fn take_listen_end(&self, message: &Bytes, envelope: &Envelope) -> bool {
        let Some(id) = envelope.params.request_id else { return false };
        let mut state = self.state.borrow_mut();
        let number = state.open_call(id.span.slice(message));
        let is_listen = |minted: &mut CallEntry<Pending>| minted.call.what == What::Listen;
        let number = number.filter(|number| state.table.get(*number).is_some_and(is_listen));
        let Some(minted) = number.and_then(|number| state.table.remove(number)) else { return false };
        drop(state);
        self.forget(&minted.call);
        match minted.call.to {
            To::Streaming(outlet) => outlet.finish(event(message, &[(id.span, &minted.id)])),
            To::Waiting(reply) => {
                drop(reply.send(Err(UpstreamError::from_stage(FailureStage::BodyIncomplete))))
            }
            To::Own(_) => {}
        }
        true
    }

    /// The process withdraws a request of its own.
    fn take_withdrawal(&self, message: &Bytes, envelope: &Envelope) -> bool {
        let Some(id) = envelope.params.request_id else { return false };
        let mut state = self.state.borrow_mut();
        let Some(asked) = state.asked.remove(id.span.slice(message)) else { return false };
        let is_sent = state.send_to(asked.seat, event(message, &[]));
        self.note_lost(usize::from(!is_sent));
        true
    }

    /// For a subscription, by the id that is its number; a log message, if there is but one call that asked
    /// for any.
    fn take_modern(&self, message: &Bytes, envelope: &Envelope) -> bool {
        let mut state = self.state.borrow_mut();
        if let Some(id) = envelope.params.meta.subscription_id {
            let number = state.open_call(id.span.slice(message));
            let Some(minted) = number.and_then(|number| state.table.get(number)) else { return false };
            let event = event(message, &[(id.span, &minted.id)]);
            let is_passed = minted.call.pass(event);
            self.note_lost(usize::from(!is_passed));
            return true;
        }
        let mut calls = state.table.iter().filter(|(_, minted)| minted.call.what != What::Listen);
        let only = calls.next().filter(|_| calls.next().is_none());
        let number = only.filter(|(_, minted)| minted.call.what == What::Logged).map(|(number, _)| number);
        drop(calls);
        let Some(minted) = number.and_then(|number| state.table.get(number)) else { return false };
        minted.call.pass(event(message, &[]))
    }

    /// Resources that changed, to those who subscribed; anything else to the only client that can be meant.
    fn take_other(&self, message: &Bytes, envelope: &Envelope) -> bool {
        let mut state = self.state.borrow_mut();
        let method = envelope.method.map(|method| method.decode(message)).unwrap_or_default();
        if method == RESOURCE_UPDATED {
            let Some(uri) = envelope.params.uri else { return false };
            let (uri, event) = (uri.decode(message), event(message, &[]));
            let mut sent = 0;
            for seat in state.seats.subscribers(&uri) {
                self.note_lost(usize::from(!seat.mailbox.send(event.clone())));
                sent += 1;
            }
            return sent > 0;
        }
        let Some(seat) = state.sole() else { return false };
        let is_sent = state.send_to(seat, event(message, &[]));
        self.note_lost(usize::from(!is_sent));
        true
    }

    fn note_lost(&self, messages: usize) {
        let lost = &self.common.counts.lost;
        lost.set(lost.get() + messages as u64);
    }
}

impl State {
    /// To a client, on the stream of its newest call, else on its own stream: what a server says while it
    /// answers belongs to the answer.
    fn send_to(&mut self, seat: SeatId, event: Bytes) -> bool {
        let newest = self.newest_call(seat);
        if let Some(minted) = newest.and_then(|number| self.table.get(number)) {
            return minted.call.pass(event);
        }
        self.seats.get(seat).is_some_and(|seat| seat.mailbox.send(event))
    }
}

/// What it is about, when that is a method that the gateway knows.
pub fn method_of(message: &Bytes, envelope: &Envelope) -> Option<McpMethod> {
    McpMethod::parse(envelope.method?.decode(message).as_bytes())
}

/// Where the end of a subscription names it: `result._meta`, which the scanner does not look into.
fn subscription_in_result(message: &Bytes, envelope: &Envelope) -> Option<Span> {
    #[derive(serde::Deserialize)]
    struct Ended<'a> {
        #[serde(borrow, rename = "_meta")]
        meta: Meta<'a>,
    }
    #[derive(serde::Deserialize)]
    struct Meta<'a> {
        #[serde(borrow, rename = "io.modelcontextprotocol/subscriptionId")]
        id: &'a serde_json::value::RawValue,
    }
    let outcome = envelope.outcome.filter(|_| envelope.kind == MessageKind::Response)?;
    let ended: Ended<'_> = serde_json::from_slice(outcome.slice(message)).ok()?;
    Span::locate(message, ended.meta.id.get().as_bytes())
}

#[cfg(test)]
mod tests;
