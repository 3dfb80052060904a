//! Tool pins: fingerprints of the tools that a server lists, what was approved, and what waits for approval.
//!
//! Invariants: a tool is approved with one definition; a definition that an administrator did not see is never
//! approved.

mod fingerprint;
mod pins;
mod raw_members;

pub use fingerprint::{ListedTool, ToolFingerprint, format_code_points};
pub use pins::{
    ApprovalSelection, LOGGED_TOOLS_MAX, PinApprovalError, PinChange, ToolPins, summarize_changes,
};
pub use raw_members::RawMembers;
