//! What the tests over sockets are made of: the built gateway on a free port, a client that sends exactly
//! the bytes it is given, and scripted servers that record all they received.
//!
//! Invariant: every wait is bounded by [`PATIENCE`], so a test that waits for what never comes fails. Nothing
//! here uses the gateway's own HTTP or JSON code: it must not share its mistakes.

mod client;
mod cluster;
mod database;
mod desk;
mod foreign;
mod forms;
mod gateway;
mod load;
mod message;
mod peer;
mod script;
mod stream;
mod transport;
mod twins;
mod wait;

use std::process::Command;
use std::time::Duration;

pub use client::{Client, Request, Response};
pub use cluster::Cluster;
pub use database::{Database, ENCRYPTION_KEY, gateway_on, is_long, run, sealer, sql, within};
pub use desk::{Desk, modern_params, text};
pub use foreign::{FOREIGN_HEADERS, with_checksum};
pub use forms::call_in_other_forms;
pub use gateway::{Gateway, Keys, Setup};
pub use load::{Load, LoadPlan};
pub use message::{
    MODERN, assert_unanswered, call, error, initialize, legacy, legacy_call, listed, message, modern,
    modern_call, notification, open_session, tool_text,
};
pub use peer::{Peer, Seen};
pub use script::{Gate, Step, answer, chunk, events, result};
pub use stream::{Form, Stream, chunked, frame};
pub use transport::{HyperClient, Transport, connect_tls, convert, http2_connection, with_certificate};
pub use twins::{
    AGGREGATED, Answered, Pace, Reached, SINGLE, Side, TWO_WAYS, Twins, WAYS, Way, both_readers,
};
pub use wait::{until, until_within};

/// Nothing here takes this long on a busy machine; what does has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Leaves a program nothing of the environment, except where it counts which of its lines run (`tools/coverage`).
pub fn clear_environment(command: &mut Command) -> &mut Command {
    command.env_clear().envs(std::env::vars_os().filter(|(name, _)| name == "LLVM_PROFILE_FILE"))
}
