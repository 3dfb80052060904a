//! Two calls in flight under one id.

use std::io;

use super::exchange::Prepared;
use super::judge::Reading;
use super::{Client, Revision};
use crate::http::Wire;
use crate::ledger::Outcome;
use crate::schedule::Call;

impl Client {
    /// Sends both calls before it reads an answer.
    pub(super) async fn twins(&mut self, calls: &[Call]) -> Vec<Outcome> {
        let mut sent = Vec::new();
        for (call, revision) in calls.iter().zip([Revision::November, Revision::March]) {
            let wire = match self.prepare(call, revision).await {
                Some(mut prepared) => {
                    "2".clone_into(&mut prepared.id);
                    let mut wire = self.connect().await;
                    let request = self.twin(call, &prepared, revision);
                    let is_sent = wire.send(request.as_bytes()).await;
                    Some((prepared, is_sent.map(|()| wire)))
                }
                None => None,
            };
            sent.push(wire);
        }
        let mut outcomes = Vec::new();
        for (call, sent) in calls.iter().zip(sent) {
            outcomes.push(match sent {
                Some((prepared, Ok(wire))) => match self.read_twin(call, &prepared, wire).await {
                    Ok(outcome) => outcome,
                    Err(error) => self.broken(error),
                },
                Some((_, Err(error))) => self.broken(error),
                None => Outcome::Unsent,
            });
        }
        outcomes
    }

    fn twin(&self, call: &Call, prepared: &Prepared, revision: Revision) -> String {
        let message = self.message(call, prepared, "");
        match &prepared.session {
            Some(session) if revision == Revision::March => {
                let headers = format!("Mcp-Session-Id: {session}\r\nMCP-Protocol-Version: 2025-03-26\r\n");
                self.post(&prepared.path, &headers, &message)
            }
            _ => self.request(call, prepared, &message),
        }
    }

    async fn read_twin(&mut self, call: &Call, prepared: &Prepared, mut wire: Wire) -> io::Result<Outcome> {
        let head = wire.head().await?;
        if head.status == 404 {
            self.abandon(&prepared.path);
        }
        let reading = if head.is_stream {
            self.read_stream(call, prepared, head.status, &mut wire, false).await?
        } else {
            let body = wire.body().await?;
            self.read(call, prepared, head.status, &String::from_utf8_lossy(&body))
        };
        Ok(match reading {
            Reading::Answer(outcome) => outcome,
            _ => Outcome::Missing,
        })
    }
}
