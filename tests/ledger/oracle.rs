//! What has to hold for each call when nothing is in flight any more.

use crate::ledger::{Entry, Ledger, Outcome, Violation};

/// All violations: those found on the way, and those of the calls' records.
pub fn judge(ledger: &Ledger) -> Vec<Violation> {
    let mut violations = ledger.violations();
    for entry in ledger.entries() {
        if let Err(what) = check(&entry) {
            violations.push(Violation { tag: Some(entry.tag), what: format!("{what}: {entry:?}") });
        }
        if violations.len() >= SHOWN_MAX {
            break;
        }
    }
    violations
}

/// More of them do not tell more.
const SHOWN_MAX: usize = 100;

/// Checks one call's record.
pub fn check(entry: &Entry) -> Result<(), &'static str> {
    match entry.outcomes {
        0 => return Err("the call has no outcome"),
        1 => {}
        _ => return Err("the call has more than one outcome"),
    }
    if entry.executions > 1 {
        return Err("the call was executed more than once");
    }
    match entry.outcome {
        Outcome::Missing => Err("the call has no outcome"),
        Outcome::Success if entry.kind.executes() && entry.executions == 0 => {
            Err("the call was answered and not executed")
        }
        Outcome::NotRun | Outcome::Refused | Outcome::Unsent if entry.executions > 0 => {
            Err("the client was told that the call did not run, but it was executed")
        }
        _ => Ok(()),
    }
}
