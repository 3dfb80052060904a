//! The ledger: a randomised run of clients, servers and faults against the built program, which proves that
//!
//! - each call has exactly one outcome,
//! - no call that must not be repeated is executed twice,
//! - no client receives bytes that are meant for another,
//! - what was answered was executed as it was answered,
//! - memory, descriptors, threads, processes and places are given back at the end.
//!
//! Calls, faults and what happens meanwhile are drawn from a seed, which is printed. `METAMCP_LEDGER_SEED` sets it,
//! `METAMCP_LEDGER_CALLS` the number of calls.

#![allow(clippy::unwrap_used, reason = "a test that fails by panicking is a test that fails")]

#[path = "../integration/support/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the integration tests use the rest")]
mod support;

mod clients;
mod fault;
mod http;
mod kind;
mod ledger;
mod oracle;
mod random;
mod residue;
mod run;
mod schedule;
mod servers;
mod tag;
mod work;

use std::time::{SystemTime, UNIX_EPOCH};

use crate::random::mix;
use crate::run::{Report, SERVERS_COUNT, run};
use crate::schedule::Plan;

/// The seed of the run that is the same each time.
const FIXED_SEED: u64 = 1;

/// Calls of a run that nobody asked to be longer.
const CALLS: u64 = 4000;

#[test]
fn a_fixed_seed() {
    if variable("METAMCP_LEDGER_SEED").is_none() && variable("METAMCP_LEDGER_CALLS").is_none() {
        check(FIXED_SEED, CALLS);
    }
}

#[test]
fn a_drawn_seed() {
    let drawn = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos();
    let seed = variable("METAMCP_LEDGER_SEED").unwrap_or_else(|| mix(drawn.into()));
    check(seed, variable("METAMCP_LEDGER_CALLS").unwrap_or(CALLS));
}

/// A number in the environment.
#[allow(clippy::disallowed_methods, reason = "it is how a run is repeated")]
fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number")))
}

#[track_caller]
fn check(seed: u64, calls: u64) {
    let plan = Plan::draw(seed, calls, SERVERS_COUNT);
    println!("{plan}");
    let report = run(&plan);
    print(&plan, &report);
    assert!(report.violations.is_empty(), "{} violations", report.violations.len());
}

fn print(plan: &Plan, report: &Report) {
    for (what, count) in &report.counts {
        println!("{count:>10} {what}");
    }
    let per_second = plan.calls() * 1000 / u64::try_from(report.time.as_millis().max(1)).unwrap();
    for slow in &report.slow {
        println!("slow: {slow}");
    }
    for (text, count) in &report.errors {
        println!("{count:>10} times: {text}");
    }
    for connection in &report.connections {
        println!("open connection to {connection}");
    }
    println!("{} calls in {:?}: {per_second} a second", plan.calls(), report.time);
    println!("before: {}\nafter:  {}, within {:?}", report.baseline, report.residue, report.settling);
    for violation in &report.violations {
        println!("VIOLATION {:?}: {}", violation.tag, violation.what);
    }
}
