//! One JSON-RPC message: what routing needs of it, as places in the received bytes.

mod read;
mod types;

use crate::frame::fault::{ScanError, ScanRejection};
use crate::frame::members::Names;
use crate::frame::span::{IdSpan, Span, StringSpan};
use crate::frame::tokens::Parser;

/// Messages in one batch. Revision 2025-03-26 sets no number; clients that batch send a handful.
pub const BATCH_ITEMS_MAX: usize = 64;

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKind {
    /// `method` and `id`: an answer is expected.
    Request,
    /// `method` without `id`.
    Notification,
    /// `result` and `id`.
    Response,
    /// `error`, with the id of its request, `null` or none.
    Error,
}

/// A message taken apart as far as routing needs. All places are offsets in the scanned bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// What it is.
    pub kind: MessageKind,
    /// Its id. Always there in a request and a response.
    pub id: Option<IdSpan>,
    /// Its method. Always there in a request and a notification.
    pub method: Option<StringSpan>,
    /// The value of `result` or `error`. Always there in a response and an error.
    pub outcome: Option<Span>,
    /// Its params.
    pub params: Box<MessageParams>,
}

/// Whether a message has params.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ParamsForm {
    /// None.
    #[default]
    Absent,
    /// An object: the only form that MCP knows.
    Object,
}

/// What routing needs of `params`.
///
/// A member of the wrong type is refused where its method routes by it, and reads as absent elsewhere. So
/// does `null` for `cursor`, `requestState` and `_meta`, which some clients write for "none".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MessageParams {
    /// Whether there are any.
    pub form: ParamsForm,
    /// `name`: a tool or a prompt.
    pub name: Option<StringSpan>,
    /// `uri`: a resource.
    pub uri: Option<StringSpan>,
    /// `cursor`: a page of a list.
    pub cursor: Option<StringSpan>,
    /// `taskId`.
    pub task_id: Option<StringSpan>,
    /// `level` of `logging/setLevel`.
    pub level: Option<StringSpan>,
    /// `protocolVersion` of `initialize`.
    pub protocol_version: Option<StringSpan>,
    /// `requestId` of `notifications/cancelled`.
    pub request_id: Option<IdSpan>,
    /// `progressToken` of `notifications/progress`.
    pub progress_token: Option<IdSpan>,
    /// `ref.name` of `completion/complete`: a prompt.
    pub ref_name: Option<StringSpan>,
    /// `ref.uri` of `completion/complete`: a resource or a template.
    pub ref_uri: Option<StringSpan>,
    /// `requestState`: what a server gave with `input_required`.
    pub request_state: Option<StringSpan>,
    /// Whether there is an `inputResponses`.
    pub has_input_responses: bool,
    /// The value of `arguments`.
    pub arguments: Option<Span>,
    /// The whole object, braces included.
    pub object: Option<Span>,
    /// `_meta`.
    pub meta: MessageMeta,
}

/// What routing needs of `params._meta`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MessageMeta {
    /// Whether there is one.
    pub present: bool,
    /// The whole object, braces included.
    pub object: Option<Span>,
    /// `io.modelcontextprotocol/protocolVersion`.
    pub protocol_version: Option<StringSpan>,
    /// The value of `io.modelcontextprotocol/clientCapabilities`.
    pub client_capabilities: Option<Span>,
    /// Whether that is an object, as it must be.
    pub client_capabilities_is_object: bool,
    /// `progressToken`.
    pub progress_token: Option<IdSpan>,
    /// `io.modelcontextprotocol/subscriptionId`.
    pub subscription_id: Option<IdSpan>,
    /// `io.modelcontextprotocol/logLevel`.
    pub log_level: Option<StringSpan>,
}

/// Scans messages one after the other, with buffers that are kept: nothing is allocated for a usual
/// message after the first few. One for each worker.
pub struct Scanner {
    parser: Parser,
    names: Names,
}

impl Default for Scanner {
    fn default() -> Self {
        Self::new()
    }
}

impl Scanner {
    /// A scanner without buffers yet.
    pub fn new() -> Self {
        Self { parser: Parser::new(), names: Names::default() }
    }

    /// Reads exactly one JSON-RPC message (2.0, as MCP narrows it: no batch, ids are strings or integers,
    /// params are an object).
    ///
    /// Takes time linear in the length of `bytes`, and memory up to some 35 times of it while it runs, for
    /// a message of nothing but brackets; what exceeds [`SCRATCH_BYTES_KEPT`] is given back at once.
    ///
    /// # Errors
    /// [`Refused`], with the id to answer with where the message was JSON and its id beyond doubt.
    ///
    /// [`SCRATCH_BYTES_KEPT`]: crate::frame::SCRATCH_BYTES_KEPT
    pub fn scan(&mut self, bytes: &[u8]) -> Result<Envelope, ScanRejection> {
        let scanned = match self.parser.parse(bytes) {
            Ok(()) => read::envelope(self.parser.tokens(bytes), &mut self.names),
            Err(error) => Err(ScanRejection { error, id: None }),
        };
        self.parser.shrink();
        scanned
    }

    /// The messages of a batch, to be scanned one by one: for sessions of revision 2025-03-26, the only
    /// one that has batches. The array counts as one level of depth.
    ///
    /// # Errors
    /// [`ScanError::BatchSize`] unless it is an array of 1 to [`BATCH_ITEMS_MAX`] values.
    pub fn batch_items(&mut self, bytes: &[u8]) -> Result<Vec<Span>, ScanError> {
        let items = self.parser.parse(bytes).and_then(|()| read::batch(self.parser.tokens(bytes)));
        self.parser.shrink();
        items
    }
}

#[cfg(test)]
mod tests;
