//! Measures an MCP gateway or server over Streamable HTTP, and checks every answer.
//!
//! Knows the protocol and nothing of the gateway it was written beside, so that a mistake there is not made
//! here a second time. From a scenario to a report:
//!
//! - [`scenario`] is what was asked for; every mistake in it is named;
//! - [`message`] and [`answer`] turn it into bytes and judge what comes back, without any I/O;
//! - [`net`] and [`client`] carry them over connections;
//! - [`schedule`], [`tally`] and [`run`] say when, count, and drive it all;
//! - [`report`], [`bounds`], [`compare`] and [`sweep`] tell people.

pub mod scenario;
pub mod message;
pub mod answer;
mod sse;
pub mod net;
pub mod client;
pub mod schedule;
pub mod tally;
pub mod preflight;
mod herd;
mod process;
pub mod run;
pub mod report;
pub mod bounds;
pub mod compare;
pub mod sweep;
pub mod progress;
