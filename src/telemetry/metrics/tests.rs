use std::rc::Rc;
use std::time::Duration;

use super::*;
use crate::base::Kind;

const METHODS: [&str; 2] = ["tools/call", "ping"];

/// Two workers, with the labels of two endpoints and a server.
struct House {
    metrics: Metrics,
    writers: [Rc<Writer>; 2],
    endpoints: Labels,
    servers: Labels,
}

impl House {
    fn new() -> Self {
        let metrics = Metrics::new(2, &METHODS);
        let writers = [0, 1].map(|number| Rc::new(metrics.writer(number).expect("nobody has it")));
        Self { metrics, writers, endpoints: Labels::default(), servers: Labels::default() }
    }

    fn text(&self, format: Format) -> String {
        render(self.metrics.families(&self.endpoints, &self.servers), format).expect("it is text")
    }

    /// The samples that are not zero and no buckets, of names that begin so.
    fn samples(&self, name: &str) -> Vec<String> {
        let text = self.text(Format::Plain);
        let lines = text.lines().filter(|line| line.starts_with(name) && !line.ends_with(" 0"));
        lines
            .filter(|line| !line.contains("_bucket{") && !line.contains("_sum{"))
            .map(str::to_owned)
            .collect()
    }
}

#[track_caller]
fn check(house: &House, name: &str, expected: &[&str]) {
    assert_eq!(house.samples(name), expected);
}

#[test]
fn workers_are_summed_up() {
    let house = House::new();
    let (a, b) = (house.endpoints.label("a"), house.endpoints.label("servers/b"));
    for (at, writer) in house.writers.iter().enumerate() {
        let mut operation = Operation::begin(writer, a, Some(0), 10);
        operation.pass(at + 1);
        operation.pass(100);
        operation.end(Outcome::Answer);
        Operation::begin(writer, a, Some(1), 1).end(Outcome::Error);
        writer.note_fault(Some(a), Kind::TimedOut);
    }
    drop(Operation::begin(&house.writers[0], b, Some(1), 0));
    Operation::begin(&house.writers[1], b, None, 0).break_off(Kind::UnknownMethod);
    house.writers[1].note_fault(Some(b), Kind::UnknownMethodInSession);
    house.writers[1].note_fault(None, Kind::Forbidden);
    check(
        &house,
        "mcp_server_operation",
        &[
            r#"mcp_server_operation_duration_seconds_count{metamcp_endpoint="a",mcp_method_name="tools/call",outcome="ok"} 2"#,
            r#"mcp_server_operation_duration_seconds_count{metamcp_endpoint="a",mcp_method_name="ping",outcome="error"} 2"#,
            r#"mcp_server_operation_duration_seconds_count{metamcp_endpoint="servers/b",mcp_method_name="ping",outcome="gone"} 1"#,
            r#"mcp_server_operation_duration_seconds_count{metamcp_endpoint="servers/b",mcp_method_name="(other)",outcome="error"} 1"#,
        ],
    );
    check(
        &house,
        "metamcp_",
        &[
            r#"metamcp_faults_total{metamcp_endpoint="",error_type="forbidden"} 1"#,
            r#"metamcp_faults_total{metamcp_endpoint="a",error_type="timed_out"} 2"#,
            r#"metamcp_faults_total{metamcp_endpoint="servers/b",error_type="unknown_method"} 2"#,
            r#"metamcp_request_bytes_total{metamcp_endpoint="a"} 22"#,
            r#"metamcp_response_bytes_total{metamcp_endpoint="a"} 203"#,
        ],
    );
}

#[test]
fn what_a_server_did() {
    let house = House::new();
    let label = house.servers.label("s");
    let [one, other] = &house.writers;
    let mut exchange = Exchange::begin(one, label, Some(0));
    exchange.note_first_byte(Duration::from_millis(3));
    exchange.end(Outcome::Answer, Duration::from_millis(30));
    let mut exchange = Exchange::begin(other, label, Some(0));
    exchange.note_fault(Kind::Broken);
    exchange.end(Outcome::Answer, Duration::from_hours(1));
    one.note_idle(label, 3);
    other.note_idle(label, 4);
    assert_eq!(house.metrics.idle(label), 7);
    check(
        &house,
        "metamcp_",
        &[
            r#"metamcp_time_to_first_byte_seconds_count{metamcp_server="s"} 2"#,
            r#"metamcp_server_faults_total{metamcp_server="s",error_type="broken"} 1"#,
        ],
    );
    let text = house.text(Format::OpenMetrics);
    let labels = r#"metamcp_server="s",mcp_method_name="tools/call",outcome="ok"}"#;
    for (bound, count) in [("0.0001", 0), ("0.02", 0), ("0.05", 1), ("300.0", 1), ("+Inf", 2)] {
        let line = format!("mcp_client_operation_duration_seconds_bucket{{le=\"{bound}\",{labels} {count}\n");
        assert!(text.contains(&line), "{line}{text}");
    }
    assert!(
        text.contains(&format!("mcp_client_operation_duration_seconds_sum{{{labels} 3600.03\n")),
        "{text}"
    );
}

#[test]
fn gauges_go_down_again() {
    let house = House::new();
    let streams = house.writers.each_ref().map(|writer| Streaming::open(writer, StreamKind::Call));
    let session = Streaming::open(&house.writers[0], StreamKind::Session);
    house.writers[0].note_connections(Connections { open: 5, at_rest: 2, under_way: 3 });
    house.writers[1].note_connections(Connections { open: 1, at_rest: 0, under_way: 1 });
    check(
        &house,
        "metamcp_streams",
        &[r#"metamcp_streams{kind="call"} 2"#, r#"metamcp_streams{kind="session"} 1"#],
    );
    drop((streams, session));
    check(&house, "metamcp_streams", &[]);
    check(
        &house,
        "metamcp_connections",
        &[r#"metamcp_connections{state="open"} 6"#, r#"metamcp_connections{state="at_rest"} 2"#],
    );
    check(&house, "http_server_active_requests", &["http_server_active_requests 4"]);
}

#[test]
fn both_forms_say_the_same() {
    let house = House::new();
    let label = house.endpoints.label("a");
    Operation::begin(&house.writers[0], label, Some(0), 10).end(Outcome::Answer);
    let (open, plain) = (house.text(Format::OpenMetrics), house.text(Format::Plain));
    let samples = |text: &str| -> Vec<String> {
        text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    };
    assert_eq!(samples(&open), samples(&plain));
    assert!(
        open.contains("# TYPE metamcp_request_bytes counter\n# UNIT metamcp_request_bytes bytes\n"),
        "{open}"
    );
    assert!(open.ends_with("# EOF\n"));
    assert!(plain.contains("# TYPE metamcp_request_bytes_total counter\n"), "{plain}");
    assert!(plain.contains("# TYPE mcp_server_operation_duration_seconds histogram\n"), "{plain}");
    assert!(!plain.contains("# UNIT") && !plain.contains("# EOF"), "{plain}");
    for line in plain.lines().filter(|line| line.starts_with("# HELP")) {
        assert!(line.split(' ').nth(3).is_some(), "{line}");
    }
}

#[test]
fn there_is_an_end_to_names_and_rows() {
    let house = House::new();
    let label = |number: usize| house.endpoints.label(&format!("e{number}"));
    let labels: Vec<Label> = (0..LABELS_MAX + 10).map(label).collect();
    assert_eq!(labels.iter().filter(|label| **label == Label::OTHER).count(), 11);
    assert_eq!(label(7), labels[7], "a name keeps its number");
    for label in &labels {
        for method in [Some(0), Some(1), None] {
            Operation::begin(&house.writers[0], *label, method, 0).end(Outcome::Answer);
            Operation::begin(&house.writers[1], *label, method, 0).end(Outcome::Error);
        }
    }
    let rows = house.samples("mcp_server_operation_duration_seconds_count");
    assert!((SERIES_MAX..SERIES_MAX + 9).contains(&rows.len()), "{}", rows.len());
    let sum: usize = rows.iter().filter_map(|row| row.rsplit_once(' ')?.1.parse::<usize>().ok()).sum();
    assert_eq!(sum, labels.len() * 6, "nothing is lost");
}

#[test]
fn a_desk_has_one_writer() {
    let metrics = Metrics::new(1, &METHODS);
    assert!(metrics.writer(0).is_some());
    assert!(metrics.writer(0).is_none() && metrics.writer(1).is_none());
}
