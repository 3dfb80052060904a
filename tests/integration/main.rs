//! Tests over sockets: the built programs, clients that send exactly the bytes they are given, and scripted servers.
//!
//! One binary, so that it is linked once; each file is one subject. Run one with `cargo test --test integration NAME::`.

#![allow(clippy::unwrap_used, reason = "a test that fails by panicking is a test that fails")]

mod support;

mod admin;
mod answer_ids;
mod api_examples;
mod asking;
mod batches;
mod bound;
mod bridge_legacy;
mod bridge_modern;
mod cancelled;
mod catalog_lists;
mod connect;
mod credentials;
mod fast_lane;
mod endings;
mod endings_unread;
mod events;
mod event_streams;
mod faults;
mod flood;
mod framed;
mod grants;
mod half_close;
mod handover;
mod idle;
mod isolation;
mod journal_kill;
mod live_changes;
mod log;
mod log_secrets;
mod memory;
mod metrics;
mod no_progress;
mod outage;
mod own_server;
mod passing;
mod pins;
mod places_taken;
mod record_loss;
mod records;
mod refusals;
mod reload;
mod reload_settings;
mod repeat;
mod replicas;
mod quotas;
mod rest;
mod resume;
mod revocation;
mod server_states;
mod session_ends;
mod sessionless;
mod sessions;
mod shutdown;
mod sse;
mod sse_server;
mod startup;
mod stdio;
mod store_reads;
mod stored;
mod stored_programs;
mod strict_http;
mod strict_http2;
mod strict_upstream;
mod task_server;
mod tasks;
mod tls;
mod traces;
mod transports;
mod usage;
mod webhooks;
