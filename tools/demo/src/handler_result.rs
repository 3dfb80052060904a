//! The result of a handler.

use serde_json::{Map, Value};

use crate::protocol::RpcError;

/// Why a handler has no result.
#[derive(Debug, PartialEq)]
pub enum HandlerError {
    Error(RpcError),
    /// The tool ran and failed; the model can read why and try something else (`isError`).
    Failed(String),
    /// Modern era: the client must call again with these inputs.
    InputRequired {
        /// The `inputRequests` member of the result.
        requests: Map<String, Value>,
        /// The sealed `requestState` member.
        state: Option<String>,
    },
}

impl From<RpcError> for HandlerError {
    fn from(error: RpcError) -> Self {
        Self::Error(error)
    }
}

/// The result of a request, or why there is none.
pub type HandlerResult = Result<Value, HandlerError>;
