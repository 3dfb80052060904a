//! The parts of the protocol that a server offers.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use metamcp_core::base::{GATEWAY_ID_MEMBER, gateway_id};
use metamcp_core::protocol::TASKS_EXTENSION;

/// The parts of the protocol that a server offers, derived from its capabilities.
#[expect(clippy::struct_excessive_bools, reason = "each is a member of its own in the protocol")]
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerFeatures {
    pub tools: bool,
    pub prompts: bool,
    pub resources: bool,
    /// The server capability `resources.subscribe`.
    pub subscribe: bool,
    pub logging: bool,
    pub completions: bool,
    /// Instructions to the model.
    pub instructions: Option<String>,
    pub tasks: TaskFeatures,
}

/// What a server does with tasks: the experimental capability of 2025-11-25, or the extension of 2026-07-28.
#[expect(clippy::struct_excessive_bools, reason = "each is a member of its own in the protocol")]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TaskFeatures {
    /// The server capability `tasks.requests.tools.call`.
    pub calls: bool,
    /// The server capability `tasks.list`.
    pub list: bool,
    /// The server capability `tasks.cancel`.
    pub cancel: bool,
    /// The server capability `extensions["io.modelcontextprotocol/tasks"]`.
    pub extension: bool,
}

impl TaskFeatures {
    /// The features that `self` or `other` has.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self {
            calls: self.calls || other.calls,
            list: self.list || other.list,
            cancel: self.cancel || other.cancel,
            extension: self.extension || other.extension,
        }
    }
}

/// The members of `ServerCapabilities` that the gateway acts on.
#[derive(Deserialize, Default)]
pub struct ServerCapabilities {
    tools: Option<IgnoredAny>,
    prompts: Option<IgnoredAny>,
    resources: Option<ResourceCapabilities>,
    logging: Option<IgnoredAny>,
    completions: Option<IgnoredAny>,
    /// Any JSON: a malformed member is no reason to refuse the session.
    #[serde(default)]
    tasks: Value,
    #[serde(default)]
    extensions: Value,
}

/// Whether the `_meta` of a result of `initialize` or `server/discover` is that of this gateway itself.
pub fn is_own_answer(meta: &Value) -> bool {
    gateway_id().is_some_and(|id| meta[GATEWAY_ID_MEMBER] == id)
}

/// Why a server that answers so is not served.
pub const OWN_ANSWER: &str =
    "is this gateway itself: its address leads back here; remove the server, or correct its address";

#[derive(Deserialize)]
struct ResourceCapabilities {
    subscribe: Option<bool>,
}

impl ServerCapabilities {
    pub fn features(self, instructions: Option<String>) -> ServerFeatures {
        ServerFeatures {
            tasks: self.task_features(),
            tools: self.tools.is_some(),
            prompts: self.prompts.is_some(),
            subscribe: self.resources.as_ref().is_some_and(|resources| resources.subscribe == Some(true)),
            resources: self.resources.is_some(),
            logging: self.logging.is_some(),
            completions: self.completions.is_some(),
            instructions,
        }
    }

    fn task_features(&self) -> TaskFeatures {
        let calls = self.tasks["requests"]["tools"]["call"].is_object();
        TaskFeatures {
            calls,
            list: calls && self.tasks["list"].is_object(),
            cancel: calls && self.tasks["cancel"].is_object(),
            extension: self.extensions[TASKS_EXTENSION].is_object(),
        }
    }
}
