//! The Legacy session at the endpoint: what its requests carry, and what it takes to open it again.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use http::HeaderValue;
use serde::Deserialize;
use tokio::sync::{Mutex, watch};

use super::message;
use metamcp_core::protocol::{McpMethod, header};
use metamcp_http::UpstreamRequest;

/// A session that the endpoint has opened.
pub struct OpenSession {
    /// The `Mcp-Session-Id`; some endpoints assign none.
    pub id: Option<HeaderValue>,
    revision: HeaderValue,
    /// The list changes that the endpoint announces.
    announced_changes: Vec<McpMethod>,
}

/// The client's session, whether open or not, and the progress of its handshake.
#[derive(Default)]
pub struct LegacySession {
    current: RefCell<Option<Rc<OpenSession>>>,
    /// The client's own `initialize`, once it was answered.
    initialize: RefCell<Option<Bytes>>,
    /// The client's own `notifications/initialized`.
    initialized: RefCell<Option<Bytes>>,
    /// Held while the session is being opened again.
    pub repair_lock: Mutex<()>,
    /// Incremented whenever a session is open and the endpoint has `notifications/initialized`.
    ready_count: watch::Sender<u64>,
    handshake: watch::Sender<PendingHandshake>,
}

/// The handshake messages that were read from the client and are not done yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct PendingHandshake {
    initialize: usize,
    initialized: usize,
}

/// One step of the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandshakeStep {
    /// `initialize`, until it is answered.
    Initialize,
    /// `notifications/initialized`, until the endpoint has it.
    Initialized,
}

/// A handshake step in flight; done when dropped.
pub struct HandshakeGuard(Rc<LegacySession>, HandshakeStep);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct InitializeResult {
    protocol_version: String,
    #[serde(default)]
    capabilities: Capabilities,
}

#[derive(Default, Deserialize)]
struct Capabilities {
    tools: Option<ListCapability>,
    prompts: Option<ListCapability>,
    resources: Option<ListCapability>,
}

#[derive(Deserialize)]
struct ListCapability {
    #[serde(rename = "listChanged")]
    list_changed: Option<bool>,
}

impl Capabilities {
    fn announced_changes(&self) -> Vec<McpMethod> {
        let lists = [
            (&self.tools, McpMethod::ToolsListChanged),
            (&self.prompts, McpMethod::PromptsListChanged),
            (&self.resources, McpMethod::ResourcesListChanged),
        ];
        let is_announced =
            |list: &Option<ListCapability>| list.as_ref().is_some_and(|list| list.list_changed == Some(true));
        lists.into_iter().filter(|(list, _)| is_announced(list)).map(|(_, method)| method).collect()
    }
}

impl OpenSession {
    /// Builds a change notification for every list, for a client that may have missed some.
    pub fn missed_changes(&self) -> Vec<String> {
        let notification =
            |method: &McpMethod| format!(r#"{{"jsonrpc":"2.0","method":"{}"}}"#, method.as_str());
        self.announced_changes.iter().map(notification).collect()
    }

    /// Adds the headers that every request within the session carries.
    pub fn write_headers(&self, request: &mut UpstreamRequest) {
        request.set_header(&header::PROTOCOL_VERSION, &self.revision);
        if let Some(id) = &self.id {
            request.set_header(&header::SESSION_ID, id);
        }
    }
}

impl LegacySession {
    /// Returns the open session.
    pub fn current(&self) -> Option<Rc<OpenSession>> {
        self.current.borrow().clone()
    }

    pub fn is_current(&self, open: &Rc<OpenSession>) -> bool {
        self.current.borrow().as_ref().is_some_and(|current| Rc::ptr_eq(current, open))
    }

    /// Opens a session from the response to `initialize`. An error, or a response without a revision, opens
    /// none.
    pub fn open(&self, initialize: &Bytes, id: Option<HeaderValue>, response: &[u8]) {
        let result = message::result(response).map(serde_json::value::RawValue::get);
        let result = result.and_then(|result| serde_json::from_str::<InitializeResult>(result).ok());
        let Some(InitializeResult { protocol_version, capabilities }) = result else { return };
        let Ok(revision) = HeaderValue::from_str(&protocol_version) else {
            tracing::warn!("the endpoint's protocol version is not a valid header value; session not opened");
            return;
        };
        let opened =
            Rc::new(OpenSession { id, revision, announced_changes: capabilities.announced_changes() });
        let before = self.current.replace(Some(Rc::clone(&opened)));
        if before.is_some_and(|before| before.revision != opened.revision) {
            tracing::warn!(
                "the endpoint changed the protocol version; the client still uses the one from before"
            );
        }
        *self.initialize.borrow_mut() = Some(initialize.clone());
    }

    /// Marks the session ready: the endpoint has `notifications/initialized`. `initialized` is the client's
    /// message, to be repeated when the session is opened again.
    pub fn mark_ready(&self, initialized: Option<&Bytes>) {
        if let Some(initialized) = initialized {
            *self.initialized.borrow_mut() = Some(initialized.clone());
        }
        self.ready_count.send_modify(|count| *count += 1);
    }

    /// Returns the client's `initialize` and its `notifications/initialized`, to repeat the handshake with.
    pub fn handshake_messages(&self) -> Option<(Bytes, Option<Bytes>)> {
        let initialize = self.initialize.borrow().clone()?;
        Some((initialize, self.initialized.borrow().clone()))
    }

    /// Changes whenever a session becomes ready.
    pub fn subscribe_ready(&self) -> watch::Receiver<u64> {
        self.ready_count.subscribe()
    }

    /// Records that a handshake message was read.
    pub fn begin(self: &Rc<Self>, step: HandshakeStep) -> HandshakeGuard {
        self.handshake.send_modify(|pending| *pending.count_mut(step) += 1);
        HandshakeGuard(Rc::clone(self), step)
    }

    /// Waits until these steps are done: `Initialized` waits for `Initialize`, any other message for both.
    /// Cancel safe.
    pub async fn wait_for(&self, steps: &[HandshakeStep]) {
        let mut handshake = self.handshake.subscribe();
        let is_done =
            |pending: &PendingHandshake| steps.iter().all(|step| *pending.clone().count_mut(*step) == 0);
        // It fails only without a sender, which is `self`.
        let _ = handshake.wait_for(is_done).await;
    }
}

impl PendingHandshake {
    fn count_mut(&mut self, step: HandshakeStep) -> &mut usize {
        match step {
            HandshakeStep::Initialize => &mut self.initialize,
            HandshakeStep::Initialized => &mut self.initialized,
        }
    }
}

impl Drop for HandshakeGuard {
    fn drop(&mut self) {
        self.0.handshake.send_modify(|pending| *pending.count_mut(self.1) -= 1);
    }
}
