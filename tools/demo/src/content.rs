//! The content of a server, independent of transport: the trait that `demo` and other servers implement.
//!
//! A handler serves both eras. Where they differ, [`Call`] hides it: in the Legacy era `call.ask(..)` sends a request and
//! waits; in the Modern era it ends the call with `input_required`, and the client calls again with the answer.

use std::future::Future;

use serde_json::{Value, json};

use crate::{call::Call, handler_result::HandlerResult, protocol::Era};

/// A server's content. Lists have a fixed order and are the same for all clients.
pub trait ServerContent: 'static {
    /// Returns `serverInfo`: name and version.
    fn info(&self) -> Value;

    /// Returns a sentence or two for the model, if any.
    fn instructions(&self) -> Option<&str>;

    /// Lists all tools, as an era defines them.
    fn tools(&self, era: Era) -> Vec<Value>;

    fn resources(&self) -> Vec<Value>;

    /// Lists all resource templates.
    fn resource_templates(&self) -> Vec<Value>;

    fn prompts(&self) -> Vec<Value>;

    /// Runs the tool `name`. The future is dropped when the client cancels.
    fn call_tool(&self, name: &str, call: &Call) -> impl Future<Output = HandlerResult>;

    /// Renders the prompt `name`.
    fn get_prompt(&self, name: &str, call: &Call) -> impl Future<Output = HandlerResult>;

    /// Reads a resource: `{contents: [...]}`.
    fn read_resource(&self, uri: &str, call: &Call) -> impl Future<Output = HandlerResult>;

    /// Suggests values that begin with `prefix` for an argument of a prompt or template.
    fn complete(&self, reference: &Value, argument: &str, prefix: &str) -> Vec<String>;
}

/// Builds a tool result with one text.
pub fn text(text: impl Into<String>) -> Value {
    json!({ "content": [{ "type": "text", "text": text.into() }] })
}

/// Builds a tool result with `structuredContent`, and the same as text for older clients.
pub fn structured(value: &Value) -> Value {
    json!({ "content": [{ "type": "text", "text": value.to_string() }], "structuredContent": value })
}

/// Builds the contents of one text resource.
pub fn text_resource(uri: &str, mime_type: &str, text: &str) -> Value {
    json!({ "contents": [{ "uri": uri, "mimeType": mime_type, "text": text }] })
}

/// Builds a prompt with one user message.
pub fn user_prompt(text: &str) -> Value {
    json!({ "messages": [{ "role": "user", "content": { "type": "text", "text": text } }] })
}
