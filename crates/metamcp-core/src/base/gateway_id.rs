//! The id by which a gateway recognizes its own answers. Without it, a gateway whose server is the gateway itself, behind a
//! name or a proxy, would list its own tools again and again. HTTP has header fields for this (Via in RFC 9110, section
//! 7.6.3; CDN-Loop in RFC 8586), but programs in between do not pass header fields on, and every request would carry one.

use std::sync::OnceLock;

/// The member of `_meta` with the id, in the gateway's results of `initialize` and `server/discover`.
pub const GATEWAY_ID_MEMBER: &str = "dev.metamcp/gateway";

/// Set once at the start, so that all that answers and asks within the process has the same.
static GATEWAY_ID: OnceLock<String> = OnceLock::new();

/// Sets the id of this process. Only the first call has an effect.
pub fn set_gateway_id(id: String) {
    // A second start in the same process is the same gateway.
    drop(GATEWAY_ID.set(id));
}

/// Returns the id of this process, if it is a gateway.
pub fn gateway_id() -> Option<&'static str> {
    GATEWAY_ID.get().map(String::as_str)
}
