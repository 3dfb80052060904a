//! A load generator for MCP gateways and servers over Streamable HTTP. It checks every response.
//!
//! It implements the protocol by itself and imports nothing of the gateway, so that a bug of the gateway cannot hide in
//! shared code. From a scenario to a report:
//!
//! - [`scenario`] parses and validates what to send;
//! - [`message`] and [`response`] encode requests and validate responses, without I/O;
//! - [`net`] and [`client`] send them over connections;
//! - [`schedule`], [`counters`] and [`run`] time, count and drive the load;
//! - [`report`], [`bounds`], [`compare`] and [`sweep`] evaluate and present the results.

pub mod scenario;
pub mod message;
pub mod error;
pub mod response;
mod sse;
pub mod net;
pub mod client;
pub mod schedule;
pub mod counters;
pub mod preflight;
mod process;
pub mod run;
pub mod report;
pub mod bounds;
pub mod compare;
pub mod sweep;
pub mod progress;
