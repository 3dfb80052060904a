//! The Legacy session at the endpoint: what later requests carry, and what it takes to open it again.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use http::HeaderValue;
use serde::Deserialize;
use tokio::sync::{Mutex, watch};

use super::heard;
use crate::protocol::{Method, header};
use crate::upstream::Outgoing;

/// A session that is open.
pub struct Open {
    /// As the endpoint gave it; some have none.
    pub id: Option<HeaderValue>,
    /// What was agreed on.
    revision: HeaderValue,
    /// What the endpoint tells of lists that change.
    tells: Vec<Method>,
}

/// The place of the session.
#[derive(Default)]
pub struct Session {
    now: RefCell<Option<Rc<Open>>>,
    /// The client's own `initialize`, once it was answered, and what it said when it had the answer.
    introduction: RefCell<Option<Bytes>>,
    announcement: RefCell<Option<Bytes>>,
    /// Held by the one who opens it again.
    pub repairing: Mutex<()>,
    /// Moves when a session can be listened to: it was opened, and the endpoint was told.
    announced: watch::Sender<u64>,
    handshake: watch::Sender<Handshake>,
}

/// What of a handshake was read from the client and is not done yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Handshake {
    /// `initialize`
    opening: usize,
    /// `notifications/initialized`
    announcing: usize,
}

/// A part of the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// `initialize`, until it is answered.
    Open,
    /// `notifications/initialized`, until the endpoint has it.
    Announce,
}

/// A part of the handshake under way; done when dropped.
pub struct UnderWay(Rc<Session>, Step);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct InitializeResult {
    protocol_version: String,
    #[serde(default)]
    capabilities: Capabilities,
}

#[derive(Default, Deserialize)]
struct Capabilities {
    tools: Option<Lists>,
    prompts: Option<Lists>,
    resources: Option<Lists>,
}

#[derive(Deserialize)]
struct Lists {
    #[serde(rename = "listChanged")]
    list_changed: Option<bool>,
}

impl Capabilities {
    fn tells(&self) -> Vec<Method> {
        let lists = [
            (&self.tools, Method::ToolsListChanged),
            (&self.prompts, Method::PromptsListChanged),
            (&self.resources, Method::ResourcesListChanged),
        ];
        let is_told =
            |lists: &Option<Lists>| lists.as_ref().is_some_and(|lists| lists.list_changed == Some(true));
        lists.into_iter().filter(|(lists, _)| is_told(lists)).map(|(_, method)| method).collect()
    }
}

impl Open {
    /// That every list may have changed, for a client that was not told what did.
    pub fn missed(&self) -> Vec<String> {
        let notification = |method: &Method| format!(r#"{{"jsonrpc":"2.0","method":"{}"}}"#, method.as_str());
        self.tells.iter().map(notification).collect()
    }

    /// Adds what every request within the session carries.
    pub fn write_headers(&self, request: &mut Outgoing) {
        request.set(&header::PROTOCOL_VERSION, &self.revision);
        if let Some(id) = &self.id {
            request.set(&header::SESSION_ID, id);
        }
    }
}

impl Session {
    /// The session, when it is open.
    pub fn now(&self) -> Option<Rc<Open>> {
        self.now.borrow().clone()
    }

    /// Whether that one is still the session.
    pub fn is_now(&self, open: &Rc<Open>) -> bool {
        self.now.borrow().as_ref().is_some_and(|now| Rc::ptr_eq(now, open))
    }

    /// The endpoint answered `initialize`. An error, or an answer that agrees on nothing, opens nothing.
    pub fn note_answer(&self, introduction: &Bytes, id: Option<HeaderValue>, answer: &[u8]) {
        let result = heard::result(answer).map(serde_json::value::RawValue::get);
        let result = result.and_then(|result| serde_json::from_str::<InitializeResult>(result).ok());
        let Some(InitializeResult { protocol_version, capabilities }) = result else { return };
        let Ok(revision) = HeaderValue::from_str(&protocol_version) else {
            tracing::warn!("the endpoint chose a revision that no header can hold; the session is not used");
            return;
        };
        let opened = Rc::new(Open { id, revision, tells: capabilities.tells() });
        let before = self.now.replace(Some(Rc::clone(&opened)));
        if before.is_some_and(|before| before.revision != opened.revision) {
            tracing::warn!("the endpoint speaks another revision than before; the client was told that one");
        }
        *self.introduction.borrow_mut() = Some(introduction.clone());
    }

    /// The endpoint was told that the client has the answer.
    pub fn note_announced(&self, announcement: Option<&Bytes>) {
        if let Some(announcement) = announcement {
            *self.announcement.borrow_mut() = Some(announcement.clone());
        }
        self.announced.send_modify(|count| *count += 1);
    }

    /// How the client introduced itself, and what it said then.
    pub fn introduction(&self) -> Option<(Bytes, Option<Bytes>)> {
        let introduction = self.introduction.borrow().clone()?;
        Some((introduction, self.announcement.borrow().clone()))
    }

    /// Moves with each session that can be listened to.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.announced.subscribe()
    }

    /// A part of the handshake was read.
    pub fn begin(self: &Rc<Self>, step: Step) -> UnderWay {
        self.handshake.send_modify(|handshake| *handshake.count(step) += 1);
        UnderWay(Rc::clone(self), step)
    }

    /// Waits until what has to come before the other is done: before `Announce` the opening, before anything
    /// else both. Cancel safe.
    pub async fn wait_for(&self, steps: &[Step]) {
        let mut handshake = self.handshake.subscribe();
        let is_done = |handshake: &Handshake| steps.iter().all(|step| *handshake.clone().count(*step) == 0);
        // The sender is here as long as this is.
        let _ = handshake.wait_for(is_done).await;
    }
}

impl Handshake {
    fn count(&mut self, step: Step) -> &mut usize {
        match step {
            Step::Open => &mut self.opening,
            Step::Announce => &mut self.announcing,
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.handshake.send_modify(|handshake| *handshake.count(self.1) -= 1);
    }
}
