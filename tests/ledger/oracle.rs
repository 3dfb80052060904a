//! What has to hold for each call when nothing is in flight any more.

use crate::ledger::{Entry, Ledger, Outcome, Violation};

/// All violations: those found on the way, and those of the calls' records.
pub fn judge(ledger: &Ledger) -> Vec<Violation> {
    let mut violations = ledger.violations();
    for violation in &mut violations {
        if let Some(entry) = violation.tag.and_then(|tag| ledger.entry(tag)) {
            violation.what = format!("{}: {entry:?}", violation.what);
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Fault;
    use crate::kind::Kind;
    use crate::tag::Tag;

    /// A call as it should be: executed once, and answered.
    const RIGHT: Entry = Entry {
        tag: Tag { client: 0, sequence: 0 },
        kind: Kind::Plain,
        fault: Fault::None,
        server: 0,
        is_aggregate: false,
        executions: 1,
        outcome: Outcome::Success,
        outcomes: 1,
    };

    #[track_caller]
    fn check_row(entry: Entry, expected: Result<(), &'static str>) {
        assert_eq!(check(&entry), expected, "{entry:?}");
    }

    #[test]
    fn records_that_are_right() {
        check_row(RIGHT, Ok(()));
        check_row(Entry { kind: Kind::List, executions: 0, ..RIGHT }, Ok(()));
        check_row(Entry { outcome: Outcome::NotRun, executions: 0, ..RIGHT }, Ok(()));
        for executions in [0, 1] {
            for outcome in
                [Outcome::MayHaveRun, Outcome::Broken, Outcome::Cancelled, Outcome::Error, Outcome::Garbage]
            {
                check_row(Entry { executions, outcome, ..RIGHT }, Ok(()));
            }
        }
    }

    #[test]
    fn each_violation_is_found() {
        let twice = Err("the call was executed more than once");
        let ran = Err("the client was told that the call did not run, but it was executed");
        check_row(Entry { executions: 2, ..RIGHT }, twice);
        check_row(Entry { executions: 2, outcome: Outcome::MayHaveRun, ..RIGHT }, twice);
        check_row(Entry { executions: 2, outcome: Outcome::Cancelled, ..RIGHT }, twice);
        check_row(Entry { executions: 0, ..RIGHT }, Err("the call was answered and not executed"));
        for outcome in [Outcome::NotRun, Outcome::Refused, Outcome::Unsent] {
            check_row(Entry { outcome, ..RIGHT }, ran);
        }
        check_row(Entry { outcomes: 0, ..RIGHT }, Err("the call has no outcome"));
        check_row(Entry { outcome: Outcome::Missing, ..RIGHT }, Err("the call has no outcome"));
        check_row(Entry { outcomes: 2, ..RIGHT }, Err("the call has more than one outcome"));
    }

    /// What the ledger itself finds, as the violations' texts begin.
    #[track_caller]
    fn check_ledger(act: impl FnOnce(&Ledger, Tag), expected: &[&str]) {
        let ledger = Ledger::new(7, 2, 2);
        let plan = crate::schedule::Plan::draw(7, 4, 1);
        let tag = Tag { client: 1, sequence: 1 };
        let call = crate::schedule::Call { kind: Kind::Plain, ..plan.call(tag) };
        ledger.begin(&call, 0);
        act(&ledger, tag);
        let found = judge(&ledger);
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (violation, text) in found.iter().zip(expected) {
            assert!(violation.what.starts_with(text), "{violation:?}, not {text}");
        }
    }

    #[test]
    fn what_happens_is_entered() {
        let run = |ledger: &Ledger, tag: Tag| {
            ledger.execute(tag, tag.canary(7));
            ledger.finish(tag, Outcome::Success);
        };
        let other = Tag { client: 0, sequence: 0 };
        check_ledger(run, &[]);
        check_ledger(
            |ledger, tag| {
                run(ledger, tag);
                ledger.execute(tag, tag.canary(7));
            },
            &["the call was executed more than once"],
        );
        check_ledger(
            |ledger, tag| {
                run(ledger, tag);
                ledger.finish(tag, Outcome::Broken);
            },
            &["the call has more than one outcome"],
        );
        check_ledger(|_, _| (), &["the call has no outcome"]);
        check_ledger(
            |ledger, tag| {
                run(ledger, tag);
                ledger.execute(other, other.canary(7));
            },
            &["a server received a call that nobody sent"],
        );
        check_ledger(
            |ledger, tag| {
                run(ledger, tag);
                ledger.execute(tag, other.canary(7));
            },
            &["a server received a call that nobody sent"],
        );
        let text = |tag: Tag| format!(r#"{{"text":"{}"}}"#, tag.canary(7));
        check_ledger(
            |ledger, tag| {
                run(ledger, tag);
                ledger.check_canaries(tag, text(tag).as_bytes());
                ledger.check_canaries(tag, text(Tag::of_client(1)).as_bytes());
                ledger.check_canaries(tag, text(other).as_bytes());
            },
            &["the client received the foreign"],
        );
    }
}
