//! Whole runs against a server within the process, in paused time: what it does wrong is what is counted.

#![allow(clippy::unwrap_used, reason = "a test that fails by panicking is a test that fails")]

mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mcpload::answer::Kind;
use mcpload::bounds::{Bounds, ErrorsMax};
use mcpload::client::Target;
use mcpload::preflight::preflight;
use mcpload::report::{Report, html, sweep_html, table};
use mcpload::run::{Measured, Place, Run, measure};
use mcpload::scenario::{Ids, Scenario};
use mcpload::sweep::{Step, Sweep};
use support::{Manner, Server, Within};

const URL: &str = "http://server.test/mcp";

/// Two connections, twenty calls of the tool `echo`; then what a row adds.
const SCENARIO: &str = "
name = \"test\"
about = \"A test <with> & marks\"
ERA
[load]
connections = 2
warm_up_s = 0
timeout_s = 1
requests = 20
LOAD
[[calls]]
tool = \"demo__echo\"
arguments = { text = \"{canary}\" }
CALL
";

struct Row<'a> {
    manner: Manner,
    era: &'a str,
    load: &'a str,
    call: &'a str,
}

const ROW: Row<'_> = Row { manner: Manner::Right, era: "modern", load: "", call: "" };

fn prepare(row: &Row<'_>, server: &Arc<Server>) -> Run {
    let era = format!("era = {:?}", row.era);
    let text = SCENARIO.replace("ERA", &era).replace("LOAD", row.load).replace("CALL", row.call);
    // What a row says of requests is instead of what the scenario says.
    let text = if row.load.contains("requests") { text.replacen("requests = 20\n", "", 1) } else { text };
    let scenario = Scenario::parse("test.toml", &text).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    let connect = Arc::new(Within(Arc::clone(server)));
    let (url, key) = (URL.parse().unwrap(), Some("mcp_secret".to_owned()));
    let target = Target::new(&url, key, http::HeaderMap::new(), scenario.load.timeout, Ids::Unique, connect);
    Run { scenario, target: Arc::new(target.unwrap()), place: Place::Here, pid: None, stop: Arc::default() }
}

async fn run(row: &Row<'_>) -> (Run, Measured, Arc<Server>) {
    let server = Server::new(row.manner);
    let run = prepare(row, &server);
    let measured = measure(&run, &mut |_| {}).await.unwrap();
    (run, measured, server)
}

/// Right answers, and errors by kind.
#[track_caller]
fn check(row: &Row<'_>, right: u64, errors: &[(Kind, u64)]) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(async {
        let (run, measured, server) = run(row).await;
        let found: Vec<_> = measured.tally.errors().into_iter().collect();
        let examples = &measured.tally.examples;
        assert_eq!((measured.tally.all().right(), &found[..]), (right, errors), "{examples:?}");
        assert_eq!(server.sessions.load(Ordering::Relaxed), 0, "a session was not ended");
        let mut report = Report::new(&run, URL, 1, &measured);
        report.bounds =
            Bounds { p99_max: None, errors_max: ErrorsMax::Count(0), growth_max: None }.judge(&report);
        assert_eq!(report.is_good(), errors.is_empty());
        report
    })
}

#[test]
fn answers_are_right_or_counted_by_what_is_wrong() {
    check(&ROW, 20, &[]);
    check(&Row { era: "legacy", ..ROW }, 20, &[]);
    check(&Row { era: "both", load: "calls_per_session = 3", ..ROW }, 20, &[]);
    check(&Row { manner: Manner::Closes, ..ROW }, 20, &[]);
    check(&Row { manner: Manner::Closes, era: "legacy", ..ROW }, 20, &[]);
    let lost = [(Kind::Status(404), 4)];
    check(&Row { manner: Manner::LosesSession, era: "legacy", ..ROW }, 16, &lost);
    check(&Row { manner: Manner::Stream, call: "progress_min = 2", ..ROW }, 20, &[]);
    check(&Row { manner: Manner::Stream, call: "progress_min = 3", ..ROW }, 0, &[(Kind::Short, 20)]);
    check(&Row { call: "answer_bytes_min = 1000", ..ROW }, 0, &[(Kind::Short, 20)]);
    check(&Row { manner: Manner::Busy, ..ROW }, 0, &[(Kind::Status(503), 20)]);
    check(&Row { manner: Manner::Refuse, ..ROW }, 0, &[(Kind::Rpc(-32000), 20)]);
    check(&Row { manner: Manner::NotMcp, ..ROW }, 0, &[(Kind::Malformed, 20)]);
    check(&Row { manner: Manner::Broken, ..ROW }, 0, &[(Kind::Cut, 20)]);
    check(&Row { manner: Manner::ForeignId, ..ROW }, 0, &[(Kind::WrongId, 20)]);
    check(&Row { manner: Manner::LostCanary, ..ROW }, 0, &[(Kind::LostCanary, 20)]);
    check(&Row { manner: Manner::Twice, ..ROW }, 0, &[(Kind::Doubled, 20)]);
    // The first call has none before it whose canary it could get.
    let foreign = [(Kind::ForeignCanary, 19), (Kind::LostCanary, 1)];
    check(&Row { manner: Manner::ForeignCanary, ..ROW }, 0, &foreign);
    // Two connections wait a second each for every answer, ten seconds long.
    check(&Row { manner: Manner::Silent, ..ROW }, 0, &[(Kind::Timeout, 20)]);
    check(&Row { manner: Manner::Slow(Duration::from_millis(900)), ..ROW }, 20, &[]);
}

/// Whatever the offset, no call counts as right, and no panic.
#[test]
fn streams_cut_at_any_byte() {
    let mut cut = 0;
    loop {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let row = Row { manner: Manner::CutAt(cut), load: "requests = 2", ..ROW };
        let (right, errors) = runtime.unwrap().block_on(async {
            let (_, measured, _) = run(&row).await;
            (measured.tally.all().right(), measured.tally.errors())
        });
        if right == 2 {
            break;
        }
        assert_eq!(errors.into_iter().collect::<Vec<_>>(), [(Kind::Cut, 2)], "cut at {cut}");
        cut += 1;
    }
    assert!(cut > 100, "an answer is longer than {cut} bytes");
}

/// A stall of half a second is in the latency of everyone who would have come meanwhile; in the closed loop, which
/// waits with the server, it is in one.
#[test]
fn latency_counts_from_when_a_request_was_due() {
    let stall = Manner::SlowOnce(0, Duration::from_millis(500));
    let slow = |load: &str| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.unwrap().block_on(async {
            let row = Row { manner: stall, load, ..ROW };
            let server = Server::new(row.manner);
            let mut run = prepare(&row, &server);
            run.scenario.load.connections = 1;
            let measured = measure(&run, &mut |_| {}).await.unwrap();
            assert!(measured.tally.errors().is_empty(), "{:?}", measured.tally.examples);
            let all = measured.tally.all();
            let waited = all.latencies.count_between(100_000_000, u64::MAX);
            (all.right(), waited, all.latencies.max() / 1_000_000)
        })
    };
    assert_eq!(slow("requests = 100"), (100, 1, 500));
    let (right, waited, longest) = slow("seconds = 2\nrate = 100\nrequests = 100000");
    // Due every 10 ms: at 0 ms it takes 500, at 10 ms 490, ... at 400 ms 100.
    assert_eq!((right, longest), (200, 500));
    assert!((40..=42).contains(&waited), "{waited}");
}

#[test]
fn what_could_not_be_sent_is_an_error() {
    let load = "seconds = 2\nrate = 10\nrequests = 100000";
    // One answer a second on each of two connections, of ten that are due.
    let row = Row { manner: Manner::Slow(Duration::from_millis(999)), load, ..ROW };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let (right, errors) = runtime.unwrap().block_on(async {
        let (_, measured, _) = run(&row).await;
        (measured.tally.all().right(), measured.tally.errors())
    });
    assert_eq!(right + errors.get(&Kind::Unsent).copied().unwrap_or(0), 20, "{errors:?}");
    assert!((4..=8).contains(&right), "{right}");
}

#[test]
fn a_herd_is_held_and_woken() {
    let text = "seconds = 1\nrate = 10\nrequests = 10000\n[idle]\nconnections = 6\nstreams = 4";
    for era in ["modern", "both"] {
        let report = check(&Row { era, load: text, ..ROW }, 10, &[]);
        let held = report.held.unwrap();
        assert_eq!((held.connections, held.streams, held.closed), (6, 4, 0));
        let woken = report.operations.iter().find(|found| found.name == "(wake)").unwrap();
        assert_eq!(woken.right, 6);
    }
    let report = check(&Row { manner: Manner::Closes, load: text, ..ROW }, 10, &[]);
    assert_eq!(report.held.unwrap().closed, 6);
    let row = Row { manner: Manner::DropsStream, load: text, ..ROW };
    check(&row, 10, &[(Kind::Dropped, 1)]);
}

#[tokio::test(start_paused = true)]
async fn before_the_load_mistakes_are_one_sentence() {
    let sentence = async |manner: Manner, tool: &str| {
        let server = Server::new(manner);
        let mut run = prepare(&ROW, &server);
        let text =
            format!("name = \"x\"\n[[calls]]\ntool = {tool:?}\narguments = {{ text = \"{{canary}}\" }}");
        run.scenario.operations = Scenario::parse("x", &text).unwrap().operations;
        preflight(&run.target, run.scenario.clone()).await.map(|found| found.operations[0].ask.clone())
    };
    let found = sentence(Manner::Right, "echo").await.unwrap();
    assert_eq!(found, mcpload::scenario::Ask::Tool("demo__echo".to_owned()));
    let none = sentence(Manner::Right, "sing").await.unwrap_err();
    assert_eq!(none, "there is no tool sing here; write one of these: demo__echo");
    let busy = sentence(Manner::Busy, "echo").await.unwrap_err();
    assert_eq!(busy, "echo (Modern): status 503: busy");
    let refused = sentence(Manner::Refuse, "echo").await.unwrap_err();
    assert_eq!(refused, "echo (Modern): JSON-RPC error -32000: not with [credential]");
}

#[test]
fn the_page_is_well_formed_and_holds_what_was_measured() {
    let load = "seconds = 2\nrate = 20\nrequests = 10000\n[idle]\nconnections = 2";
    let slow = check(&Row { manner: Manner::Slow(Duration::from_millis(30)), load, ..ROW }, 40, &[]);
    let refused = check(&Row { manner: Manner::Refuse, ..ROW }, 0, &[(Kind::Rpc(-32000), 20)]);
    let broken = check(&Row { manner: Manner::NotMcp, ..ROW }, 0, &[(Kind::Malformed, 20)]);
    for (report, holds) in [
        (&slow, &["30.0 ms", "every answer was right", "A test &lt;with&gt; &amp; marks", "(wake)"][..]),
        (&refused, &["JSON-RPC error -32000", "a stated bound is broken", "[credential]"]),
        (&broken, &["20 wrong answers", "malformed"]),
    ] {
        let page = html(report);
        well_formed(&page);
        for text in holds {
            assert!(page.contains(text), "{text} is not in the page");
        }
        assert!(!page.contains("mcp_secret") && !table(report).contains("mcp_secret"));
        assert!(!page.contains("<script") && !page.contains("http-equiv") && !page.contains("<link"));
        // Two plots over time and one of the distribution.
        assert_eq!(page.matches("<svg").count(), 3);
        let again: Report = serde_json::from_str(&serde_json::to_string(report).unwrap()).unwrap();
        assert_eq!(again.total, report.total);
    }
    let text = table(&slow);
    assert!(text.contains("30.0 ms") && text.contains("held    errors at most 0"), "{text}");
}

#[test]
fn the_page_of_a_sweep_is_well_formed_and_holds_its_steps() {
    let load = "seconds = 1\nrate = 20\nrequests = 10000";
    let report = check(&Row { manner: Manner::Slow(Duration::from_millis(30)), load, ..ROW }, 20, &[]);
    let mut sweep = Sweep::new("a <name>", URL, 30_000.0);
    sweep.steps = [20.0, 40.0].map(|rate| Step::of(rate, &report)).to_vec();
    sweep.knee = Some(20.0);
    let page = sweep_html(&sweep);
    well_formed(&page);
    for text in ["a &lt;name&gt;", "only 20 right answers/s", "30.0 ms", "requests/s it bears"] {
        assert!(page.contains(text), "{text} is not in the page");
    }
    assert_eq!(sweep.steps.iter().map(|step| step.held).collect::<Vec<_>>(), [true, false]);
    assert!(sweep.table().contains("bears 20 requests/s"), "{}", sweep.table());
}

/// Every element is closed by its own end, and no mark stands alone.
#[track_caller]
fn well_formed(page: &str) {
    let mut open = Vec::new();
    let mut rest = page.strip_prefix("<!DOCTYPE html>\n").expect("it says what it is");
    while let Some((text, after)) = rest.split_once('<') {
        for (at, _) in text.match_indices('&') {
            let entity =
                ["&amp;", "&lt;", "&gt;", "&quot;"].iter().any(|entity| text[at..].starts_with(entity));
            assert!(entity, "{}", &text[at..]);
        }
        let (tag, after) = after.split_once('>').expect("a tag ends");
        rest = after;
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "closed by another end");
        } else if !tag.ends_with('/') {
            open.push(tag.split_whitespace().next().expect("a tag has a name"));
        }
        assert!(tag.matches('"').count().is_multiple_of(2), "{tag}");
    }
    assert!(open.is_empty(), "{open:?} are open");
    assert!(rest.trim().is_empty());
}
