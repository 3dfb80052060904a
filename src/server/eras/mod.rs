//! What differs between the two eras of MCP: the checks on a message, and how its response is delivered.
//!
//! Invariants: a message is dispatched only after the checks of its era; a Modern request never touches a
//! session; the session of a request without one ends with the request.
//!
//! Does not know: how the request arrived, alone, in a batch or as a frame.

pub mod batch;
pub mod client_messages;
mod client_setting;
pub mod initialize;
pub mod legacy;
pub mod legacy_delivery;
pub mod message;
pub mod modern;
pub mod one_request;
