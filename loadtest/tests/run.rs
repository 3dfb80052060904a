//! Whole runs against a server in the same process, in paused time. The server misbehaves in one way, and the run must count
//! exactly that.

#![allow(clippy::unwrap_used, reason = "a test that fails by panicking is a test that fails")]

mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mcpload::bounds::{Bounds, ErrorLimit};
use mcpload::client::Target;
use mcpload::error::ErrorKind;
use mcpload::preflight::preflight;
use mcpload::report::{RunReport, render_run, render_sweep, render_text};
use mcpload::run::{Executor, Measurement, RunSettings, measure};
use mcpload::scenario::{RequestIds, RequestKind, Scenario};
use mcpload::sweep::{Sweep, SweepStep};
use support::{InProcessConnector, ServerBehavior, TestServer};

const URL: &str = "http://server.test/mcp";

/// Two connections and twenty calls of the tool `echo`. A case adds to it.
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

struct Case<'a> {
    behavior: ServerBehavior,
    era: &'a str,
    load: &'a str,
    call: &'a str,
}

const CASE: Case<'_> = Case { behavior: ServerBehavior::Correct, era: "modern", load: "", call: "" };

fn prepare(case: &Case<'_>, server: &Arc<TestServer>) -> RunSettings {
    let era = format!("era = {:?}", case.era);
    let text = SCENARIO.replace("ERA", &era).replace("LOAD", case.load).replace("CALL", case.call);
    // A case may override the number of requests.
    let text = if case.load.contains("requests") { text.replacen("requests = 20\n", "", 1) } else { text };
    let scenario = Scenario::parse("test.toml", &text).unwrap_or_else(|errors| panic!("{errors}"));
    let connector = Arc::new(InProcessConnector(Arc::clone(server)));
    let (url, key) = (URL.parse().unwrap(), Some("mcp_secret".to_owned()));
    let target =
        Target::new(&url, key, http::HeaderMap::new(), scenario.load.timeout, RequestIds::Unique, connector);
    RunSettings {
        scenario,
        target: Arc::new(target.unwrap()),
        executor: Executor::CurrentRuntime,
        pid: None,
        stop: Arc::default(),
    }
}

async fn run(case: &Case<'_>) -> (RunSettings, Measurement, Arc<TestServer>) {
    let server = TestServer::new(case.behavior);
    let run = prepare(case, &server);
    let measurement = measure(&run, &mut |_| {}).await.unwrap();
    (run, measurement, server)
}

/// Checks the number of correct responses, and the errors by kind.
#[track_caller]
fn check(case: &Case<'_>, correct: u64, errors: &[(ErrorKind, u64)]) -> RunReport {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(async {
        let (run, measurement, server) = run(case).await;
        let found: Vec<_> = measurement.counters.errors().into_iter().collect();
        let examples = &measurement.counters.examples;
        assert_eq!((measurement.counters.sum().correct(), &found[..]), (correct, errors), "{examples:?}");
        assert_eq!(server.sessions.load(Ordering::Relaxed), 0, "a session was not ended");
        let mut report = RunReport::new(&run, URL, 1, &measurement);
        report.bounds =
            Bounds { p99_max: None, errors_max: ErrorLimit::Count(0), growth_max: None }.evaluate(&report);
        assert_eq!(report.is_good(), errors.is_empty());
        report
    })
}

#[test]
fn responses_are_correct_or_counted_by_error_kind() {
    check(&CASE, 20, &[]);
    check(&Case { era: "legacy", ..CASE }, 20, &[]);
    check(&Case { era: "both", load: "calls_per_session = 3", ..CASE }, 20, &[]);
    check(&Case { behavior: ServerBehavior::Closes, ..CASE }, 20, &[]);
    check(&Case { behavior: ServerBehavior::Closes, era: "legacy", ..CASE }, 20, &[]);
    let lost = [(ErrorKind::Status(404), 4)];
    check(&Case { behavior: ServerBehavior::LosesSession, era: "legacy", ..CASE }, 16, &lost);
    check(&Case { behavior: ServerBehavior::Stream, call: "progress_min = 2", ..CASE }, 20, &[]);
    check(
        &Case { behavior: ServerBehavior::Stream, call: "progress_min = 3", ..CASE },
        0,
        &[(ErrorKind::TooShort, 20)],
    );
    check(&Case { call: "answer_bytes_min = 1000", ..CASE }, 0, &[(ErrorKind::TooShort, 20)]);
    check(&Case { behavior: ServerBehavior::Busy, ..CASE }, 0, &[(ErrorKind::Status(503), 20)]);
    check(&Case { behavior: ServerBehavior::Refuse, ..CASE }, 0, &[(ErrorKind::Rpc(-32000), 20)]);
    check(&Case { behavior: ServerBehavior::NotMcp, ..CASE }, 0, &[(ErrorKind::Malformed, 20)]);
    check(&Case { behavior: ServerBehavior::Broken, ..CASE }, 0, &[(ErrorKind::Truncated, 20)]);
    check(&Case { behavior: ServerBehavior::ForeignId, ..CASE }, 0, &[(ErrorKind::WrongId, 20)]);
    check(&Case { behavior: ServerBehavior::LostCanary, ..CASE }, 0, &[(ErrorKind::LostCanary, 20)]);
    check(&Case { behavior: ServerBehavior::Twice, ..CASE }, 0, &[(ErrorKind::Duplicate, 20)]);
    // The first call has no predecessor whose canary it could get.
    let foreign = [(ErrorKind::ForeignCanary, 19), (ErrorKind::LostCanary, 1)];
    check(&Case { behavior: ServerBehavior::ForeignCanary, ..CASE }, 0, &foreign);
    // Two connections wait one second for each response, for ten seconds.
    check(&Case { behavior: ServerBehavior::Silent, ..CASE }, 0, &[(ErrorKind::Timeout, 20)]);
    check(&Case { behavior: ServerBehavior::Slow(Duration::from_millis(900)), ..CASE }, 20, &[]);
}

/// A response that is truncated at any offset is never correct, and never causes a panic.
#[test]
fn streams_truncated_at_any_byte() {
    let mut cut = 0;
    loop {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let case = Case { behavior: ServerBehavior::CutAt(cut), load: "requests = 2", ..CASE };
        let (right, errors) = runtime.unwrap().block_on(async {
            let (_, measurement, _) = run(&case).await;
            (measurement.counters.sum().correct(), measurement.counters.errors())
        });
        if right == 2 {
            break;
        }
        assert_eq!(errors.into_iter().collect::<Vec<_>>(), [(ErrorKind::Truncated, 2)], "cut at {cut}");
        cut += 1;
    }
    assert!(cut > 100, "a response is longer than {cut} bytes");
}

/// In the open loop, a stall of half a second is in the latency of all requests that were due meanwhile. In the closed loop,
/// which waits for the server, it is in one latency.
#[test]
fn latency_counts_from_the_due_time() {
    let stall = ServerBehavior::SlowOnce(0, Duration::from_millis(500));
    let slow = |load: &str| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.unwrap().block_on(async {
            let case = Case { behavior: stall, load, ..CASE };
            let server = TestServer::new(case.behavior);
            let mut run = prepare(&case, &server);
            run.scenario.load.connections = 1;
            let measurement = measure(&run, &mut |_| {}).await.unwrap();
            assert!(measurement.counters.errors().is_empty(), "{:?}", measurement.counters.examples);
            let all = measurement.counters.sum();
            let waited = all.latencies.count_between(100_000_000, u64::MAX);
            (all.correct(), waited, all.latencies.max() / 1_000_000)
        })
    };
    assert_eq!(slow("requests = 100"), (100, 1, 500));
    let (right, waited, longest) = slow("seconds = 2\nrate = 100\nrequests = 100000");
    // Due every 10 ms: at 0 ms it takes 500, at 10 ms 490, ... at 400 ms 100.
    assert_eq!((right, longest), (200, 500));
    assert!((40..=42).contains(&waited), "{waited}");
}

#[test]
fn unsent_requests_are_errors() {
    let load = "seconds = 2\nrate = 10\nrequests = 100000";
    // Two connections with one response per second each, while ten requests per second are due.
    let case = Case { behavior: ServerBehavior::Slow(Duration::from_millis(999)), load, ..CASE };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let (right, errors) = runtime.unwrap().block_on(async {
        let (_, measurement, _) = run(&case).await;
        (measurement.counters.sum().correct(), measurement.counters.errors())
    });
    assert_eq!(right + errors.get(&ErrorKind::Unsent).copied().unwrap_or(0), 20, "{errors:?}");
    assert!((4..=8).contains(&right), "{right}");
}

#[test]
fn idle_connections_are_held_and_woken() {
    let text = "seconds = 1\nrate = 10\nrequests = 10000\n[idle]\nconnections = 6\nstreams = 4";
    for era in ["modern", "both"] {
        let report = check(&Case { era, load: text, ..CASE }, 10, &[]);
        let held = report.held.unwrap();
        assert_eq!((held.connections, held.streams, held.closed), (6, 4, 0));
        let woken = report.operations.iter().find(|operation| operation.name == "(wake)").unwrap();
        assert_eq!(woken.right, 6);
    }
    let report = check(&Case { behavior: ServerBehavior::Closes, load: text, ..CASE }, 10, &[]);
    assert_eq!(report.held.unwrap().closed, 6);
    let case = Case { behavior: ServerBehavior::DropsStream, load: text, ..CASE };
    check(&case, 10, &[(ErrorKind::IdleClosed, 1)]);
}

#[tokio::test(start_paused = true)]
async fn preflight_errors_are_one_sentence() {
    let sentence = async |behavior: ServerBehavior, tool: &str| {
        let server = TestServer::new(behavior);
        let mut run = prepare(&CASE, &server);
        let text =
            format!("name = \"x\"\n[[calls]]\ntool = {tool:?}\narguments = {{ text = \"{{canary}}\" }}");
        run.scenario.operations = Scenario::parse("x", &text).unwrap().operations;
        preflight(&run.target, run.scenario.clone())
            .await
            .map(|scenario| scenario.operations[0].request.clone())
    };
    let found = sentence(ServerBehavior::Correct, "echo").await.unwrap();
    assert_eq!(found, RequestKind::Tool("demo__echo".to_owned()));
    let none = sentence(ServerBehavior::Correct, "sing").await.unwrap_err();
    assert_eq!(none, "the target has no tool sing; write one of: demo__echo");
    let busy = sentence(ServerBehavior::Busy, "echo").await.unwrap_err();
    assert_eq!(busy, "echo (Modern): status 503: busy");
    let refused = sentence(ServerBehavior::Refuse, "echo").await.unwrap_err();
    assert_eq!(refused, "echo (Modern): JSON-RPC error -32000: not with [credential]");
}

#[test]
fn the_page_is_well_formed_and_complete() {
    let load = "seconds = 2\nrate = 20\nrequests = 10000\n[idle]\nconnections = 2";
    let slow =
        check(&Case { behavior: ServerBehavior::Slow(Duration::from_millis(30)), load, ..CASE }, 40, &[]);
    let refused =
        check(&Case { behavior: ServerBehavior::Refuse, ..CASE }, 0, &[(ErrorKind::Rpc(-32000), 20)]);
    let broken = check(&Case { behavior: ServerBehavior::NotMcp, ..CASE }, 0, &[(ErrorKind::Malformed, 20)]);
    for (report, texts) in [
        (&slow, &["30.0 ms", "every response was correct", "A test &lt;with&gt; &amp; marks", "(wake)"][..]),
        (&refused, &["JSON-RPC error -32000", "a bound is broken", "[credential]"]),
        (&broken, &["20 wrong responses", "malformed"]),
    ] {
        let page = render_run(report);
        well_formed(&page);
        for text in texts {
            assert!(page.contains(text), "{text} is not in the page");
        }
        assert!(!page.contains("mcp_secret") && !render_text(report).contains("mcp_secret"));
        assert!(!page.contains("<script") && !page.contains("http-equiv") && !page.contains("<link"));
        // Two plots over time and one of the distribution.
        assert_eq!(page.matches("<svg").count(), 3);
        let again: RunReport = serde_json::from_str(&serde_json::to_string(report).unwrap()).unwrap();
        assert_eq!(again.total, report.total);
    }
    let text = render_text(&slow);
    assert!(text.contains("30.0 ms") && text.contains("held    errors at most 0"), "{text}");
}

#[test]
fn the_page_of_a_sweep_is_well_formed_and_complete() {
    let load = "seconds = 1\nrate = 20\nrequests = 10000";
    let report =
        check(&Case { behavior: ServerBehavior::Slow(Duration::from_millis(30)), load, ..CASE }, 20, &[]);
    let mut sweep = Sweep::new("a <name>", URL, 30_000.0);
    sweep.steps = [20.0, 40.0].map(|rate| SweepStep::new(rate, &report)).to_vec();
    sweep.knee = Some(20.0);
    let page = render_sweep(&sweep);
    well_formed(&page);
    for text in
        ["a &lt;name&gt;", "only 20 correct responses/s", "30.0 ms", "highest rate that held, requests/s"]
    {
        assert!(page.contains(text), "{text} is not in the page");
    }
    assert_eq!(sweep.steps.iter().map(|step| step.held).collect::<Vec<_>>(), [true, false]);
    assert!(sweep.render_text().contains("sustains 20 requests/s"), "{}", sweep.render_text());
}

/// Checks that every element is closed by its own end tag, and that every `&` begins an entity.
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
