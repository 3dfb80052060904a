use std::panic::catch_unwind;

use super::*;
use crate::fuzz::{SeededNumbers, run_corpus};

#[test]
fn corpora() {
    run_corpus("scan", |bytes| _ = scan(bytes));
    run_corpus("generated", |bytes| _ = generated(bytes));
    run_corpus("splice", splice);
    run_corpus("event_stream", event_stream);
    run_corpus("framed_stream", framed_stream);
}

/// Messages for the test below; ten million in `tools/proofs`.
const MESSAGES: u64 = 20_000;

/// The scanner and `serde_json` agree on generated messages, the same ones in every run.
#[test]
#[expect(clippy::disallowed_methods, reason = "this crate knows no configuration")]
fn generated_messages_are_scanned_as_serde_json_reads_them() {
    let written = std::env::var("METAMCP_MESSAGES").ok();
    let count = written.map_or(MESSAGES, |count| count.parse().expect("a number"));
    let (mut accepted, mut disagreements) = (0, 0);
    for seed in 0..count {
        let mut bytes = [0; 256];
        SeededNumbers(seed).fill(&mut bytes);
        if let Ok(is_accepted) = catch_unwind(|| generated(&bytes)) {
            accepted += u64::from(is_accepted);
        } else {
            eprintln!("seed {seed}: {}", generate(&bytes).escape_ascii());
            disagreements += 1;
        }
    }
    println!(
        "{count} generated messages: {accepted} accepted, {disagreements} disagreements with serde_json"
    );
    assert_eq!(disagreements, 0);
    // Otherwise it would compare little.
    assert!(accepted * 3 > count, "{accepted} of {count} messages were accepted");
}
