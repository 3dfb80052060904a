//! Names, faults, units and small helpers that every module may use.
//!
//! Does not know: any other module of this crate, or a wire format.

mod clock;
mod credential;
mod decimal;
mod event_kind;
mod fault;
mod gateway_id;
mod glob;
mod hex;
mod key_id;
mod log_limit;
mod log_list;
mod memory;
mod names;
mod outage_log;
mod phase;
mod printable;
mod recent_interner;
mod request_id;
mod usage_label;
mod body_reader;
pub mod units;

pub use body_reader::BodyReader;
pub use clock::unix_seconds;
pub use credential::CredentialLifetime;
pub use decimal::write_decimal;
pub use event_kind::{EventKind, Severity};
pub use fault::{Fault, FaultKind, FaultOrigin, FaultScope};
pub use gateway_id::{GATEWAY_ID_MEMBER, gateway_id, set_gateway_id};
pub use glob::{GLOB_CHARS_MAX, Glob, InvalidGlob};
pub use hex::write_hex;
pub use key_id::{KEY_ID_BYTES, KeyId, is_base62};
pub use log_limit::LogLimit;
pub use log_list::{LogList, log_list_mark};
pub use memory::{
    ChargedBuffer, MEMORY, MemoryAccount, MemoryCharge, MemoryShortage, OutOfMemory, ReclaimMemory,
    STEP_BYTES as CHARGED_BYTES_MIN, charge_bytes,
};
pub use names::{EndpointName, InvalidName, ServerName};
pub use outage_log::{OutageLine, OutageLog};
pub use phase::ShutdownPhase;
pub use printable::Printable;
pub use recent_interner::RecentInterner;
pub use request_id::RequestId;
pub use usage_label::{OTHER, USAGE_LABEL_BYTES_MAX, UsageLabel};
