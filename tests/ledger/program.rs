//! The ledger's server over standard input and output, of either era. Test equipment.
//!
//! Its arguments are its era (`legacy` or `modern`) and the file to which it appends a record for each call that it
//! executes: so these count even if it is killed. A third argument `stubborn` makes it stay when its input has ended.

#![allow(clippy::disallowed_methods, reason = "its arguments and threads are its own")]
#![allow(clippy::unwrap_used, reason = "a server for tests that fails by panicking is one that fails")]
#![allow(dead_code, reason = "the suite uses the rest")]

mod fault;
mod kind;
mod random;
#[path = "servers/message.rs"]
mod message;
#[path = "servers/record.rs"]
mod record;
mod tag;
mod work;

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead as _, Write as _, stdin, stdout};
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use fault::Fault;
use kind::Kind;
use message::{Call, Message, describe, initialize_result};
use record::Record;

/// Which revisions are spoken: up to 2025-11-25, or 2026-07-28.
#[derive(Clone, Copy, PartialEq)]
pub enum Era {
    Legacy,
    Modern,
}

/// The program, as all its threads share it.
struct Program {
    era: Era,
    records: File,
    /// Calls that wait for the answer of their client: the line that began them, by the id of the request for it.
    questions: Mutex<HashMap<String, String>>,
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let era = if args[1] == "modern" { Era::Modern } else { Era::Legacy };
    let records = File::options().create(true).append(true).open(&args[2]).unwrap();
    let program = Program { era, records, questions: Mutex::default() };
    let is_stubborn = args.get(3).is_some_and(|word| word == "stubborn");
    thread::scope(|scope| {
        for line in stdin().lock().lines() {
            let line = line.unwrap();
            if line.contains("tools/call") && !is_ready_at_once(&line) {
                let program = &program;
                scope.spawn(move || program.take(&line));
            } else {
                program.take(&line);
            }
        }
    });
    // Until it is killed.
    if is_stubborn {
        loop {
            thread::park();
        }
    }
}

/// Whether a thread of its own would cost more than the answer.
fn is_ready_at_once(line: &str) -> bool {
    line.contains(r#""kind":0,"fault":0"#)
}

impl Program {
    fn take(&self, line: &str) {
        let Ok(message) = serde_json::from_str::<Message<'_>>(line) else {
            return self.record(&Record::Violation, &format!("a line that is no message: {line}"));
        };
        let (Some(id), Some(method)) = (message.id, &message.method) else {
            if let (Some(id), None) = (message.id, &message.method) {
                self.take_answer(id.get().trim_matches('"'), line);
            }
            return;
        };
        if method != "tools/call" {
            let outcome = match &**method {
                "initialize" if self.era == Era::Legacy => initialize_result("2025-11-25"),
                method => describe(method, self.era).1.to_owned(),
            };
            return say(&format!(r#"{{"jsonrpc":"2.0","id":{id},{outcome}}}"#));
        }
        match Call::read(id, message.params.as_ref()) {
            Some(call) => self.call(&call, line),
            None => self.record(&Record::Violation, &format!("another call: {line}")),
        }
    }

    fn call(&self, call: &Call<'_>, line: &str) {
        let kind = call.work.kind().unwrap_or(Kind::Plain);
        if kind == Kind::Ask {
            let is_ready = match (self.era, call.input) {
                (Era::Modern, Some(input)) => self.is_accepted(call, input),
                (Era::Modern, None) => return say(&call.input_required()),
                (Era::Legacy, _) => {
                    // The id names the call, and the client that it is for.
                    let id = format!("ask-{}", call.tag);
                    self.questions.lock().unwrap().insert(id.clone(), line.to_owned());
                    return say(&call.question_message(&id));
                }
            };
            if !is_ready {
                return say(&call.error("no input"));
            }
        }
        self.execute(call, kind);
    }

    /// A client answered what a call had asked.
    fn take_answer(&self, id: &str, answer: &str) {
        let Some(line) = self.questions.lock().unwrap().remove(id) else { return };
        let Ok(message) = serde_json::from_str::<Message<'_>>(&line) else { return };
        let Some(call) = message.id.and_then(|id| Call::read(id, message.params.as_ref())) else { return };
        if self.is_accepted(&call, answer) {
            self.execute(&call, Kind::Ask);
        } else {
            say(&call.error("no input"));
        }
    }

    fn is_accepted(&self, call: &Call<'_>, answer: &str) -> bool {
        call.is_answered_by(answer).unwrap_or_else(|_| {
            self.record(&Record::Violation, &format!("the input of another client: {answer}"));
            false
        })
    }

    fn execute(&self, call: &Call<'_>, kind: Kind) {
        let fault = call.work.fault();
        if fault == Fault::Slow {
            thread::sleep(Duration::from_millis(u64::from(call.work.number % 30)));
        }
        self.record(&Record::Execution { tag: call.tag, canary: call.canary }, "");
        match fault {
            Fault::Exit => std::process::exit(3),
            Fault::Hang | Fault::HangBody => return,
            Fault::FloodErrors => eprintln!("{}", "x".repeat(200 << 10)),
            Fault::Garbage => say("<html>no message</html>"),
            Fault::WrongId => say(&call.result_under("\"99.99\"")),
            _ => {}
        }
        if kind.is_stream(call.work.number) {
            (1..=call.steps()).filter_map(|step| call.progress(step)).for_each(|message| say(&message));
        }
        if kind == Kind::Cancel {
            thread::sleep(CANCEL);
        }
        say(&call.result());
        if fault == Fault::TwoAnswers {
            say(&call.result());
        }
    }

    /// Appends a record, in one write.
    fn record(&self, record: &Record, text: &str) {
        (&self.records).write_all(&record.bytes()).unwrap();
        if !text.is_empty() {
            // Not a canary for the gateway's log: the suite looks for them there.
            eprintln!("violation: {}", text.replace("cny-", "canary "));
        }
    }
}

/// A call that is cancelled goes on for so long.
const CANCEL: Duration = Duration::from_millis(100);

fn say(message: &str) {
    let mut out = stdout().lock();
    drop(out.write_all(format!("{message}\n").as_bytes()));
    drop(out.flush());
}
