use std::rc::Rc;
use std::time::Duration;

use super::*;
use metamcp_core::base::FaultKind;

const METHODS: [&str; 2] = ["tools/call", "ping"];

/// Metrics of two workers, with their writers and label interners.
struct Fixture {
    metrics: Metrics,
    writers: [Rc<MetricsWriter>; 2],
    endpoints: LabelInterner,
    servers: LabelInterner,
}

impl Fixture {
    fn new() -> Self {
        let metrics = Metrics::new(2, &METHODS);
        let writers = [0, 1].map(|number| Rc::new(metrics.writer(number).expect("the writer is free")));
        Self { metrics, writers, endpoints: LabelInterner::default(), servers: LabelInterner::default() }
    }

    fn text(&self, format: ExpositionFormat) -> String {
        render(self.metrics.families(&self.endpoints, &self.servers), format)
            .expect("the families are encodable")
    }

    /// The samples whose line begins with `name`, except zeros, buckets and sums.
    fn samples(&self, name: &str) -> Vec<String> {
        let text = self.text(ExpositionFormat::Plain);
        let lines = text.lines().filter(|line| line.starts_with(name) && !line.ends_with(" 0"));
        lines
            .filter(|line| !line.contains("_bucket{") && !line.contains("_sum{"))
            .map(str::to_owned)
            .collect()
    }
}

#[track_caller]
fn check(fixture: &Fixture, name: &str, expected: &[&str]) {
    assert_eq!(fixture.samples(name), expected);
}

#[test]
fn workers_are_summed_up() {
    let fixture = Fixture::new();
    let (a, b) = (fixture.endpoints.intern("a"), fixture.endpoints.intern("servers/b"));
    for (at, writer) in fixture.writers.iter().enumerate() {
        let mut operation = Operation::begin(writer, a, Some(0), 10);
        operation.add_response_bytes(at + 1);
        operation.add_response_bytes(100);
        operation.end(OperationOutcome::Answer);
        Operation::begin(writer, a, Some(1), 1).end(OperationOutcome::Error);
        writer.record_fault(Some(a), FaultKind::TimedOut);
    }
    drop(Operation::begin(&fixture.writers[0], b, Some(1), 0));
    Operation::begin(&fixture.writers[1], b, None, 0).fail_streaming(FaultKind::UnknownMethod);
    fixture.writers[1].record_fault(Some(b), FaultKind::UnknownMethodInSession);
    fixture.writers[1].record_fault(None, FaultKind::Forbidden);
    check(
        &fixture,
        "mcp_server_operation",
        &[
            r#"mcp_server_operation_duration_seconds_count{metamcp_endpoint="a",mcp_method_name="tools/call",outcome="ok"} 2"#,
            r#"mcp_server_operation_duration_seconds_count{metamcp_endpoint="a",mcp_method_name="ping",outcome="error"} 2"#,
            r#"mcp_server_operation_duration_seconds_count{metamcp_endpoint="servers/b",mcp_method_name="ping",outcome="gone"} 1"#,
            r#"mcp_server_operation_duration_seconds_count{metamcp_endpoint="servers/b",mcp_method_name="(other)",outcome="error"} 1"#,
        ],
    );
    check(
        &fixture,
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
fn upstream_operations_are_recorded() {
    let fixture = Fixture::new();
    let label = fixture.servers.intern("s");
    let [one, other] = &fixture.writers;
    let mut exchange = UpstreamOperation::begin(one, label, Some(0));
    exchange.record_first_byte(Duration::from_millis(3));
    exchange.end(OperationOutcome::Answer, Duration::from_millis(30));
    let mut exchange = UpstreamOperation::begin(other, label, Some(0));
    exchange.record_fault(FaultKind::ConnectionLost);
    exchange.end(OperationOutcome::Answer, Duration::from_hours(1));
    one.set_idle_connections(label, 3);
    other.set_idle_connections(label, 4);
    assert_eq!(fixture.metrics.idle_connections(label), 7);
    check(
        &fixture,
        "metamcp_",
        &[
            r#"metamcp_time_to_first_byte_seconds_count{metamcp_server="s"} 2"#,
            r#"metamcp_server_faults_total{metamcp_server="s",error_type="broken"} 1"#,
        ],
    );
    let text = fixture.text(ExpositionFormat::OpenMetrics);
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
    let fixture = Fixture::new();
    let streams = fixture.writers.each_ref().map(|writer| OpenStreamGuard::open(writer, StreamKind::Call));
    let session = OpenStreamGuard::open(&fixture.writers[0], StreamKind::Session);
    fixture.writers[0].set_connection_counts(ConnectionCounts { open: 5, idle: 2, requests_in_flight: 3 });
    fixture.writers[1].set_connection_counts(ConnectionCounts { open: 1, idle: 0, requests_in_flight: 1 });
    check(
        &fixture,
        "metamcp_streams",
        &[r#"metamcp_streams{kind="call"} 2"#, r#"metamcp_streams{kind="session"} 1"#],
    );
    drop((streams, session));
    check(&fixture, "metamcp_streams", &[]);
    check(
        &fixture,
        "metamcp_connections",
        &[r#"metamcp_connections{state="open"} 6"#, r#"metamcp_connections{state="at_rest"} 2"#],
    );
    check(&fixture, "http_server_active_requests", &["http_server_active_requests 4"]);
}

#[test]
fn both_formats_have_the_same_samples() {
    let fixture = Fixture::new();
    let label = fixture.endpoints.intern("a");
    Operation::begin(&fixture.writers[0], label, Some(0), 10).end(OperationOutcome::Answer);
    let (open, plain) = (fixture.text(ExpositionFormat::OpenMetrics), fixture.text(ExpositionFormat::Plain));
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
fn labels_and_series_are_bounded() {
    let fixture = Fixture::new();
    let label = |number: usize| fixture.endpoints.intern(&format!("e{number}"));
    let labels: Vec<LabelId> = (0..LABELS_MAX + 10).map(label).collect();
    assert_eq!(labels.iter().filter(|label| **label == LabelId::OTHER).count(), 11);
    assert_eq!(label(7), labels[7], "a name keeps its number");
    for label in &labels {
        for method in [Some(0), Some(1), None] {
            Operation::begin(&fixture.writers[0], *label, method, 0).end(OperationOutcome::Answer);
            Operation::begin(&fixture.writers[1], *label, method, 0).end(OperationOutcome::Error);
        }
    }
    let rows = fixture.samples("mcp_server_operation_duration_seconds_count");
    assert!((SERIES_MAX..SERIES_MAX + 9).contains(&rows.len()), "{}", rows.len());
    let sum: usize = rows.iter().filter_map(|row| row.rsplit_once(' ')?.1.parse::<usize>().ok()).sum();
    assert_eq!(sum, labels.len() * 6, "no operation is lost");
}

#[test]
fn a_worker_has_one_writer() {
    let metrics = Metrics::new(1, &METHODS);
    assert!(metrics.writer(0).is_some());
    assert!(metrics.writer(0).is_none() && metrics.writer(1).is_none());
}
