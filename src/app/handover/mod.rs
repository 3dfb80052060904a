//! Hand-over: a gateway that replaces a running one without a refused connection, and the sockets that systemd passes.
//!
//! At SIGUSR2, the running process (the predecessor) starts its program again (the successor) and passes it every listening
//! socket over a socket pair (`passing`). No socket is bound again, so no connection is lost from a kernel queue. The
//! predecessor stops accepting when the successor says that it accepts (`predecessor`), and completes what it has.
//!
//! Invariants: until then the predecessor serves, whatever becomes of the successor; a successor that may not take over yet does
//! not outlive its predecessor. What a failed successor changed in the database, a migration for instance, stays.
//!
//! Does not know: what is served.

mod inheritance;
mod notify;
mod passing;
mod predecessor;
mod program;

pub use inheritance::{Inheritance, InheritanceError};
pub use notify::ServiceManager;
pub use passing::PassingError;
pub use predecessor::HandoverSwitch;
