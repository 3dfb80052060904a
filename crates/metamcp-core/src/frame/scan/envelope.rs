//! The result of scanning a message: what routing needs, as spans of the scanned bytes.

use crate::frame::span::{IdSpan, Span, StringSpan};

/// The kind of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKind {
    /// The message has `method` and `id`.
    Request,
    /// The message has `method` and no `id`.
    Notification,
    /// The message has `result` and `id`.
    Response,
    /// `error`, with the id of its request, with `null`, or without an id.
    Error,
}

impl MessageKind {
    /// Whether the message answers a request. Only other messages give a server more time for a call: an answer to another
    /// call is none of this one, and its own ends it.
    pub fn is_answer(self) -> bool {
        matches!(self, Self::Response | Self::Error)
    }
}

/// The parts of a message that routing needs. All spans refer to the scanned bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    pub kind: MessageKind,
    /// Always present in a request and a response.
    pub id: Option<IdSpan>,
    /// Always present in a request and a notification.
    pub method: Option<StringSpan>,
    /// The value of `result` or `error`. Always present in a response and an error.
    pub outcome: Option<Span>,
    pub params: Box<MessageParams>,
}

/// Whether a message has params.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ParamsForm {
    #[default]
    Absent,
    /// An object, the only form that MCP allows.
    Object,
}

/// The parts of `params` that routing needs.
///
/// A member of the wrong type is an error if its method is routed by it, and counts as absent otherwise. `null` for `cursor`,
/// `requestState` and `_meta` counts as absent, too: some clients send it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MessageParams {
    pub form: ParamsForm,
    /// `name`: a tool or a prompt.
    pub name: Option<StringSpan>,
    /// The `uri` of a resource.
    pub uri: Option<StringSpan>,
    /// `cursor`: a page of a list.
    pub cursor: Option<StringSpan>,
    pub task_id: Option<StringSpan>,
    /// The `level` of `logging/setLevel`.
    pub level: Option<StringSpan>,
    /// The `protocolVersion` of `initialize`.
    pub protocol_version: Option<StringSpan>,
    /// The `requestId` of `notifications/cancelled`.
    pub request_id: Option<IdSpan>,
    /// The `progressToken` of `notifications/progress`.
    pub progress_token: Option<IdSpan>,
    /// `ref.name` of `completion/complete`: a prompt.
    pub ref_name: Option<StringSpan>,
    /// `ref.uri` of `completion/complete`: a resource or a template.
    pub ref_uri: Option<StringSpan>,
    /// `requestState`, from a result with `input_required`.
    pub request_state: Option<StringSpan>,
    /// Whether `inputResponses` is present.
    pub has_input_responses: bool,
    /// The value of `arguments`.
    pub arguments: Option<Span>,
    /// The whole object, braces included.
    pub object: Option<Span>,
    pub meta: MessageMeta,
}

/// The parts of `params._meta` that routing needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MessageMeta {
    pub present: bool,
    /// The whole object, braces included.
    pub object: Option<Span>,
    /// The `_meta` member `io.modelcontextprotocol/protocolVersion`.
    pub protocol_version: Option<StringSpan>,
    /// The value of `io.modelcontextprotocol/clientCapabilities`.
    pub client_capabilities: Option<Span>,
    /// Whether that value is an object, as it must be.
    pub client_capabilities_is_object: bool,
    /// The `_meta` member `progressToken`.
    pub progress_token: Option<IdSpan>,
    /// The `_meta` member `io.modelcontextprotocol/subscriptionId`.
    pub subscription_id: Option<IdSpan>,
    /// The `_meta` member `io.modelcontextprotocol/logLevel`.
    pub log_level: Option<StringSpan>,
}
