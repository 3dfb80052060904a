//! One MCP call: parsing it, finding its upstream, sending it, and relaying the response.
//!
//! Invariants: the body of an upstream is forwarded as it arrives, with only the spans changed that must be;
//! every call is counted exactly once, whatever way it ends.
//!
//! Does not know: eras beyond what a call carries, sessions' event streams, or HTTP connections.

pub mod call;
pub mod call_credential;
pub mod call_record;
pub mod candidates;
pub mod dispatch;
pub mod id_prefix;
pub mod local;
pub mod meter;
pub mod relay;
pub mod resolve;
pub mod send;
pub mod target;
pub mod task_list;
pub mod tasks;
pub mod trace;
pub mod trace_position;
pub mod whole_answer;
