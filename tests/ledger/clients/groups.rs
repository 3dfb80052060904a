//! Several calls in one request: batches and framed streams.

use std::collections::HashMap;
use std::io;

use super::exchange::Prepared;
use super::framing::Framing;
use super::judge::Reading;
use super::{Client, Revision};
use crate::ledger::Outcome;
use crate::schedule::Call;

/// Calls of one request, and what became of those that have ended.
struct Group<'a> {
    calls: &'a [Call],
    prepared: Vec<Prepared>,
    outcomes: HashMap<usize, Outcome>,
    /// What the gateway said of all calls that were not answered, when it ended the stream.
    end: Option<Outcome>,
}

impl Client {
    /// Sends a JSON-RPC batch.
    pub(super) async fn batch(&mut self, calls: &[Call]) -> Vec<Outcome> {
        let Some(mut group) = self.group(calls, Revision::March).await else {
            return vec![Outcome::Unsent; calls.len()];
        };
        let messages = self.messages(&group);
        let (path, session) = (group.prepared[0].path.clone(), group.prepared[0].session.clone());
        let headers = format!("Mcp-Session-Id: {}\r\n", session.unwrap_or_default());
        let request = self.post(&path, &headers, &format!("[{}]", messages.join(",")));
        let sent = self.send_batch(&calls[0], &request, &mut group).await;
        let is_broken = sent.is_err();
        self.broken = sent.err();
        self.outcomes(&group, is_broken)
    }

    async fn send_batch(&mut self, call: &Call, request: &str, group: &mut Group<'_>) -> io::Result<()> {
        let (mut wire, head) = self.begin(call, request.as_bytes()).await?;
        if !head.is_stream {
            let body = wire.body().await?;
            self.keep(wire, &head);
            if head.status == 404 {
                self.abandon(&group.prepared[0].path);
            }
            let outcome = self.read_error(head.status, &String::from_utf8_lossy(&body));
            group.outcomes = (0..group.calls.len()).map(|at| (at, outcome)).collect();
            return Ok(());
        }
        while let Some(event) = wire.event().await? {
            if let Some(data) = event.data {
                self.take(group, head.status, &data);
            }
        }
        self.keep(wire, &head);
        Ok(())
    }

    /// Sends the calls on a framed stream, as lines or as frames.
    pub(super) async fn frames(&mut self, calls: &[Call]) -> Vec<Outcome> {
        let Some(mut group) = self.group(calls, Revision::November).await else {
            return vec![Outcome::Unsent; calls.len()];
        };
        let messages = self.messages(&group);
        let place =
            if calls[0].is_aggregate { String::new() } else { format!("/servers/{}", self.name(&calls[0])) };
        let session = group.prepared[0].session.as_ref();
        let session = session.map(|id| format!("Mcp-Session-Id: {id}\r\n")).unwrap_or_default();
        let framing = if calls[0].number.is_multiple_of(2) { Framing::Lines } else { Framing::Binary };
        let head = format!(
            "POST /api/v1/mcp/stream{place} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\
             Content-Type: {}\r\nTransfer-Encoding: chunked\r\n{session}\r\n",
            self.key,
            framing.media_type()
        );
        let frames = messages.iter().map(|message| framing.encode(message));
        let chunks =
            frames.flat_map(|frame| [format!("{:x}\r\n", frame.len()).as_bytes(), &frame, b"\r\n"].concat());
        let request: Vec<u8> = head.into_bytes().into_iter().chain(chunks).collect();
        let sent = self.send_frames(&request, framing, &mut group).await;
        let is_broken = sent.is_err();
        self.broken = sent.err();
        self.outcomes(&group, is_broken)
    }

    async fn send_frames(
        &mut self,
        request: &[u8],
        framing: Framing,
        group: &mut Group<'_>,
    ) -> io::Result<()> {
        let mut wire = self.wire().await;
        wire.send(request).await?;
        let head = wire.head().await?;
        if head.status != 200 {
            let body = wire.body().await?;
            if head.status == 404 {
                self.abandon(&group.prepared[0].path);
            }
            let outcome = self.read_error(head.status, &String::from_utf8_lossy(&body));
            group.outcomes = (0..group.calls.len()).map(|at| (at, outcome)).collect();
            return Ok(());
        }
        let mut partial = Vec::new();
        let mut is_open = true;
        loop {
            while let Some(message) = framing.decode(&mut partial)? {
                if !message.is_empty() {
                    self.take(group, head.status, &message);
                }
            }
            if is_open && group.outcomes.len() == group.calls.len() {
                wire.send(b"0\r\n\r\n").await?;
                is_open = false;
            }
            if !wire.chunk(&mut partial).await? {
                if !is_open {
                    self.keep(wire, &head);
                }
                return Ok(());
            }
        }
    }

    async fn group<'a>(&mut self, calls: &'a [Call], revision: Revision) -> Option<Group<'a>> {
        let mut prepared = Vec::new();
        for call in calls {
            prepared.push(self.prepare(call, revision).await?);
        }
        Some(Group { calls, prepared, outcomes: HashMap::new(), end: None })
    }

    fn messages(&self, group: &Group<'_>) -> Vec<String> {
        let pairs = group.calls.iter().zip(&group.prepared);
        pairs.map(|(call, prepared)| self.message(call, prepared, "")).collect()
    }

    /// One message of the response: whose it is, and what it means.
    fn take(&self, group: &mut Group<'_>, status: u16, text: &str) {
        let ledger = &self.shared.ledger;
        // Whose it is, is said by its id, or by the token of progress.
        let position = group.prepared.iter().position(|prepared| {
            text.contains(&format!("\"id\":{}", prepared.id))
                || text.contains(&format!("\"progressToken\":{}", prepared.id))
        });
        let Some(at) = position else {
            let is_last = text.contains("\"last\":true");
            if is_last {
                group.end = Some(self.read_error(status, text));
            }
            if is_last || text.contains("\"method\":\"notifications/") {
                // A framed stream carries what belongs to its session, and an error under no id before its end
                // (docs/FRAMES.md, "Ending a stream").
                return ledger.check_canaries(group.calls[0].tag, text.as_bytes());
            }
            return ledger.report(Some(group.calls[0].tag), format!("a message for no call: {text}"));
        };
        if let Reading::Answer(outcome) = self.read(&group.calls[at], &group.prepared[at], status, text)
            && group.outcomes.insert(at, outcome).is_some()
        {
            ledger.report(
                Some(group.calls[at].tag),
                format!("a second answer to {:?}: {text}", group.calls[at]),
            );
        }
    }

    fn outcomes(&self, group: &Group<'_>, is_broken: bool) -> Vec<Outcome> {
        let outcome = |(at, call): (usize, &Call)| {
            group.outcomes.get(&at).copied().unwrap_or_else(|| {
                if let Some(end) = group.end {
                    return end;
                }
                if is_broken {
                    return Outcome::Broken;
                }
                self.shared.ledger.report(Some(call.tag), format!("the group ended without it: {call:?}"));
                Outcome::Missing
            })
        };
        group.calls.iter().enumerate().map(outcome).collect()
    }
}
