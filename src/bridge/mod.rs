//! Between the eras of MCP: what one side says in one, told to the other in the other.
//!
//! A bridge is a *face*: to the rest of the gateway a server that speaks one era looks like a Streamable HTTP
//! server of the other, as `upstream::stdio` makes a child process look like one. It stands behind
//! `upstream::Pool::send` and asks the server through the same pool, so it serves every kind of server there
//! is.
//!
//! Invariants: a server is told of no capability that the client did not declare; what a server says to one
//! client never reaches another; whatever waits has a bound in number and in time; pairs of one era never
//! come here.
//!
//! Does not know: HTTP towards clients, endpoints, or how tools are named there.

mod legacy_face;
mod level;
mod modern_face;

pub use legacy_face::LegacyFace;
pub use modern_face::{Config, ModernFace};
