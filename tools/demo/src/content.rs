//! What a server offers, apart from how it is carried: the trait that `demo` and other servers implement.
//!
//! A handler is written once for both eras; where they differ (asking the client for input), [`Call`] hides
//! it: in the Legacy era `call.ask(..)` sends a request and waits; in the Modern era it ends the call
//! with `input_required`, and the client calls again with the answer in hand.

use std::future::Future;

use serde_json::{Map, Value, json};

use crate::{
    call::Call,
    protocol::{Era, RpcError},
};

/// Why a handler has no result.
#[derive(Debug, PartialEq)]
pub enum Stop {
    /// A JSON-RPC error.
    Error(RpcError),
    /// The tool was run and failed; a model may read why and try something else (`isError`).
    Failed(String),
    /// Modern: the client is to call again with these answers.
    InputRequired {
        /// `inputRequests`.
        requests: Map<String, Value>,
        /// `requestState`, sealed.
        state: Option<String>,
    },
}

impl From<RpcError> for Stop {
    fn from(error: RpcError) -> Self {
        Self::Error(error)
    }
}

/// The result of a request, or why there is none.
pub type Answer = Result<Value, Stop>;

/// A server's content. Lists are in a fixed order and do not depend on who asks.
pub trait Content: 'static {
    /// `serverInfo`: name and version.
    fn info(&self) -> Value;

    /// A sentence or two for the model, if any.
    fn instructions(&self) -> Option<&str>;

    /// All tools.
    fn tools(&self, era: Era) -> Vec<Value>;

    /// All resources.
    fn resources(&self) -> Vec<Value>;

    /// All resource templates.
    fn resource_templates(&self) -> Vec<Value>;

    /// All prompts.
    fn prompts(&self) -> Vec<Value>;

    /// Runs the tool `name`. The future is dropped when the client cancels.
    fn call_tool(&self, name: &str, call: &Call) -> impl Future<Output = Answer>;

    /// The prompt `name`.
    fn get_prompt(&self, name: &str, call: &Call) -> impl Future<Output = Answer>;

    /// The contents of a resource: `{contents: [...]}`.
    fn read_resource(&self, uri: &str, call: &Call) -> impl Future<Output = Answer>;

    /// Values that begin with `prefix` for the argument of a prompt or template.
    fn complete(&self, reference: &Value, argument: &str, prefix: &str) -> Vec<String>;
}

/// A tool result with one text.
pub fn text(text: impl Into<String>) -> Value {
    json!({ "content": [{ "type": "text", "text": text.into() }] })
}

/// A tool result with `structuredContent`, and the same as text for older clients.
pub fn structured(value: &Value) -> Value {
    json!({ "content": [{ "type": "text", "text": value.to_string() }], "structuredContent": value })
}

/// The contents of one text resource.
pub fn text_resource(uri: &str, mime_type: &str, text: &str) -> Value {
    json!({ "contents": [{ "uri": uri, "mimeType": mime_type, "text": text }] })
}

/// A prompt of one message from the user.
pub fn user_prompt(text: &str) -> Value {
    json!({ "messages": [{ "role": "user", "content": { "type": "text", "text": text } }] })
}
