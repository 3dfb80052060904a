//! The event stream of a Legacy session, on which the endpoint speaks of its own accord.

use std::rc::Rc;

use tokio::time::sleep;

use super::Bridge;
use super::answer::Hearing;
use super::session::Open;
use super::trouble::Trouble;
use crate::protocol::header;
use crate::upstream::{Answered, Lane, Outgoing};

/// What became of a stream.
enum Over {
    /// The endpoint ended it.
    Ended,
    /// It broke off, or could not be had just now.
    Again(Trouble),
    /// There is none in this session.
    Never,
    /// The session is gone.
    Lost,
}

impl Bridge {
    /// Passes on what the endpoint says in each session, as long as there is one. Never ends.
    pub(super) async fn follow(self: Rc<Self>) {
        let mut changes = self.session.changes();
        // The first: the client has to have been told what was agreed on.
        while changes.changed().await.is_ok() {
            let Some(open) = self.session.now() else { continue };
            tokio::select! {
                biased;
                // Another session takes its place.
                _ = changes.changed() => changes.mark_changed(),
                () = self.follow_session(&open) => {}
            }
        }
    }

    async fn follow_session(&self, open: &Rc<Open>) {
        let mut hearing = Hearing::default();
        let mut tries = 0;
        loop {
            match self.follow_once(open, &mut hearing).await {
                Over::Never => return,
                Over::Ended => {}
                Over::Lost => {
                    return match self.repair(open).await {
                        Ok(()) => {}
                        Err(trouble) => tracing::warn!("the endpoint is no longer listened to: {trouble}"),
                    };
                }
                Over::Again(trouble) => {
                    hearing.is_broken |= trouble.may_pass();
                    tracing::debug!("the event stream is opened again: {trouble}");
                }
            }
            if std::mem::take(&mut hearing.is_alive) {
                tries = 0;
            }
            sleep(hearing.pause(tries)).await;
            tries = tries.saturating_add(1);
        }
    }

    async fn follow_once(&self, open: &Rc<Open>, hearing: &mut Hearing<'_>) -> Over {
        let mut request = Outgoing::get();
        open.write_headers(&mut request);
        if let Some(last) = &hearing.last_event_id {
            request.set(&header::LAST_EVENT_ID, last);
        }
        let answered = self.pool.send(&request, Lane::Stream).await;
        let Answered { head, mut body } = match answered {
            Ok(answered) => *answered,
            Err(error) => return Over::Again(error.into()),
        };
        if head.status.is_success() && head.is_event_stream() && !head.is_packed {
            // What was said meanwhile is played back only where there is a place to begin at.
            if std::mem::take(&mut hearing.is_broken) && hearing.last_event_id.is_none() {
                self.say_all(open.missed()).await;
            }
            return match self.hear_events(&mut body, hearing).await {
                Ok(_) => Over::Ended,
                Err(trouble) => Over::Again(trouble),
            };
        }
        let trouble = Trouble::of_status(head.status);
        match trouble {
            trouble if trouble.may_pass() => Over::Again(trouble),
            _ if self.is_lost(open, head.status).await => Over::Lost,
            Trouble::NoEndpoint(_) => {
                tracing::debug!("the endpoint has no event stream");
                Over::Never
            }
            trouble => {
                tracing::warn!("the endpoint is not listened to: {trouble}");
                Over::Never
            }
        }
    }
}
