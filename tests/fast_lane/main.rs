//! The fast lane against hyper: the same bytes go to two gateways which are alike but for `fast_lane`, and
//! neither the client nor the server may see a difference. What the lane reads by itself, what it hands to
//! hyper at once, and what it hands to hyper in the midst must all come out the same.

#![allow(clippy::unwrap_used, reason = "a test that fails by panicking is a test that fails")]

#[path = "../support/mod.rs"]
mod support;

mod answers;
mod requests;
mod under_way;
