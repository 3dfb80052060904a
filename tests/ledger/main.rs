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

mod admin;
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
const CALLS: u64 = 2000;

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
    if !report.violations.is_empty() {
        let (smallest, report) = shrink(plan, report);
        println!("\nThe smallest run with a violation:\n{smallest}");
        print_violations(&report);
        println!(
            "To repeat it: METAMCP_LEDGER_SEED={seed} METAMCP_LEDGER_CALLS={calls} cargo test --test ledger a_drawn"
        );
        panic!("{} violations", report.violations.len());
    }
}

/// Runs of plans that are made smaller, unless `METAMCP_LEDGER_SHRINK` says how many.
const SHRINK_RUNS_MAX: u64 = 20;

/// Leaves out of the plan what the violation does not need.
fn shrink(plan: Plan, report: Report) -> (Plan, Report) {
    let (mut smallest, mut last) = (plan, report);
    let runs_max = variable("METAMCP_LEDGER_SHRINK").unwrap_or(SHRINK_RUNS_MAX);
    let mut runs = 0;
    'smaller: loop {
        for half in smallest.halves() {
            if runs >= runs_max {
                break 'smaller;
            }
            runs += 1;
            let report = run(&half);
            if !report.violations.is_empty() {
                (smallest, last) = (half, report);
                continue 'smaller;
            }
        }
        break;
    }
    (smallest, last)
}

fn print(plan: &Plan, report: &Report) {
    for (what, outcomes) in &report.counts {
        let total: u64 = outcomes.values().sum();
        println!("{what:>20}: {total:>9}  {outcomes:?}");
    }
    for slow in &report.slow {
        println!("slow: {slow}");
    }
    for (text, count) in &report.errors {
        println!("{count:>10} times: {text}");
    }
    for connection in &report.connections {
        println!("open connection to {connection}");
    }
    let per_second = plan.calls() * 1000 / u64::try_from(report.time.as_millis().max(1)).unwrap();
    println!("{} calls in {:?}: {per_second} a second", plan.calls(), report.time);
    println!("processor seconds: {:.1} of the gateway, {:.1} of this suite", report.cpu[0], report.cpu[1]);
    println!("before: {}\nafter:  {}, within {:?}", report.baseline, report.residue, report.settling.time);
    report.settling.last.iter().for_each(|text| println!("given back last: {text}"));
    println!("violations: {}", report.violations.len());
    print_violations(report);
}

fn print_violations(report: &Report) {
    let steps = report.violations.iter().filter_map(|violation| violation.tag);
    if let Some(first) = steps.min_by_key(|tag| (tag.sequence, tag.client)) {
        println!("first violating step: {} of client {}", first.sequence, first.client);
    }
    for violation in &report.violations {
        println!("VIOLATION {:?}: {}", violation.tag, violation.what);
    }
}
