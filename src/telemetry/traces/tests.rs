use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message as _;
use tokio::sync::watch;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::Instant;
use url::Url;

use super::*;
use crate::telemetry::exporter::{ExportQueue as _, PostError, PostResponse, export};
use metamcp_config::sections::{ParentPolicy, SamplingRatio, TraceConfig};
use metamcp_core::base::{FaultKind, ShutdownPhase};

fn config(
    sampling_ratio: SamplingRatio,
    parent_policy: ParentPolicy,
    traces_per_second_max: usize,
) -> TraceConfig {
    TraceConfig {
        endpoint: Url::parse("http://localhost/v1/traces").expect("a URL"),
        headers: Vec::new(),
        timeout: Duration::from_secs(1),
        sampling_ratio,
        parent_policy,
        traces_per_second_max,
        service: "test".into(),
        attributes: vec![("service.version".into(), "7".into()), ("a".into(), "b".into())],
    }
}

fn context(flags: u8) -> TraceContext {
    let text = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-{flags:02x}");
    TraceContext::parse(text.as_bytes()).expect("it is valid")
}

fn span(context: TraceContext) -> Span {
    Span {
        context,
        parent: None,
        is_parent_remote: false,
        link: None,
        tracestate: None,
        kind: SpanKind::Server,
        began_ns: 0,
        ended_ns: 0,
        method: "tools/call".into(),
        target: None,
        id: None,
        protocol: None,
        endpoint_or_server: "default".into(),
        outcome: "",
        error: None,
        code: None,
    }
}

fn half() -> SamplingRatio {
    SamplingRatio::new(0.5).expect("the ratio is valid")
}

#[test]
fn sampling_ratios_are_bounded() {
    let check = |ratio: f64, expected: Option<SamplingRatio>| {
        assert_eq!(SamplingRatio::new(ratio), expected, "{ratio}");
    };
    check(0.0, Some(SamplingRatio::NONE));
    check(1.0, Some(SamplingRatio::ALL));
    for wrong in [-0.1, 1.000_001, f64::NAN, f64::INFINITY] {
        check(wrong, None);
    }
    for random in [0, 1, u64::MAX, 1 << 52] {
        assert!(SamplingRatio::ALL.contains(random) && !SamplingRatio::NONE.contains(random), "{random}");
    }
    assert!(half().contains((1 << 52) - 1) && !half().contains(1 << 52));
}

/// Samples a thousand messages with this parent in one second, and checks how many are traced.
#[track_caller]
fn check_sampled(
    config: &TraceConfig,
    parent: Option<TraceContext>,
    expected: std::ops::RangeInclusive<usize>,
) {
    let tracer = Traces::new(config.clone(), 1).tracer().expect("the system has random numbers");
    let sampled: Vec<_> = (0..1000).filter_map(|_| tracer.sample(parent, 1)).collect();
    assert!(expected.contains(&sampled.len()), "{config:?} {parent:?}: {}", sampled.len());
    let spans: std::collections::HashSet<_> = sampled.iter().map(|context| context.span).collect();
    assert_eq!(spans.len(), sampled.len(), "each span has an id of its own");
    for context in sampled {
        assert!(context.is_sampled() && Some(context.span) != parent.map(|parent| parent.span));
        match parent {
            Some(parent) => {
                assert_eq!((context.trace, context.flags), (parent.trace, parent.flags | SAMPLED));
            }
            None => assert_eq!(context.flags, SAMPLED | RANDOM),
        }
        assert_eq!(
            TraceContext::parse(context.traceparent().as_bytes()),
            Some(context),
            "what is sent is valid"
        );
    }
}

#[test]
fn sampling_follows_ratio_policy_and_budget() {
    use ParentPolicy::{Follow, Ignore};
    let plenty = 10_000;
    check_sampled(&config(SamplingRatio::ALL, Follow, plenty), None, 1000..=1000);
    check_sampled(&config(SamplingRatio::NONE, Follow, plenty), None, 0..=0);
    check_sampled(&config(half(), Follow, plenty), None, 350..=650);
    check_sampled(&config(SamplingRatio::NONE, Follow, plenty), Some(context(1)), 1000..=1000);
    check_sampled(&config(SamplingRatio::NONE, Follow, plenty), Some(context(3)), 1000..=1000);
    check_sampled(&config(SamplingRatio::ALL, Follow, plenty), Some(context(0)), 0..=0);
    check_sampled(&config(SamplingRatio::ALL, Follow, plenty), Some(context(2)), 0..=0);
    check_sampled(&config(SamplingRatio::NONE, Ignore, plenty), Some(context(1)), 0..=0);
    check_sampled(&config(half(), Ignore, plenty), Some(context(1)), 350..=650);
    check_sampled(&config(SamplingRatio::ALL, Ignore, plenty), Some(context(0)), 1000..=1000);
    // A client cannot exceed the budget.
    check_sampled(&config(SamplingRatio::ALL, Follow, 7), Some(context(1)), 7..=7);
    check_sampled(&config(SamplingRatio::ALL, Follow, 7), None, 7..=7);
}

#[test]
fn sampled_parents_do_not_use_up_the_budget_of_new_traces() {
    let traces = Traces::new(config(SamplingRatio::ALL, ParentPolicy::Follow, 4), 2);
    let tracer = traces.tracer().expect("the system has random numbers");
    let count = |parent, second| (0..100).filter(|_| tracer.sample(parent, second).is_some()).count();
    // Each of two workers has half of the budget of four.
    assert_eq!((count(Some(context(1)), 1), count(None, 1), count(None, 1), count(None, 2)), (2, 2, 0, 2));
}

/// When each batch arrived, and how many spans it had.
type Arrivals = Rc<RefCell<Vec<(Instant, usize)>>>;

/// Exports spans to a collector with scripted responses, and shuts down after `stop_after`. Returns the batches that arrived,
/// and the counters (exported, dropped).
async fn export_spans(
    spans: usize,
    responses: Vec<PostResponse>,
    stop_after: Duration,
) -> (Vec<(Instant, usize)>, (u64, u64)) {
    let traces = Traces::new(config(SamplingRatio::ALL, ParentPolicy::Follow, 10_000), 1);
    let tracer = traces.tracer().expect("the system has random numbers");
    for _ in 0..spans {
        tracer.start_span(span(context(1))).end("ok", Duration::from_millis(1));
    }
    let arrivals = Arrivals::default();
    let (sender, phase) = watch::channel(ShutdownPhase::Serve);
    let responses = RefCell::new(VecDeque::from(responses));
    let post = {
        let arrivals = Rc::clone(&arrivals);
        async move |batch: Bytes| {
            let read = ExportTraceServiceRequest::decode(batch).expect("the batch is an export request");
            let spans = read.resource_spans[0].scope_spans[0].spans.len();
            arrivals.borrow_mut().push((Instant::now(), spans));
            let response = responses.borrow_mut().pop_front();
            match response {
                Some(response) if response.status == 0 => Err(PostError("refused".into())),
                Some(response) => Ok(response),
                None => std::future::pending().await,
            }
        }
    };
    let counts = Arc::clone(&traces);
    LocalSet::new()
        .run_until(async move {
            let exporting = spawn_local(export(traces, post, phase));
            tokio::time::sleep(stop_after).await;
            sender.send_replace(ShutdownPhase::Abort);
            exporting.await.expect("it does not panic");
        })
        .await;
    let counts = (counts.exported(), counts.dropped());
    (arrivals.take(), counts)
}

fn status(status: u16) -> PostResponse {
    PostResponse { status, retry_after: None, body: Bytes::new() }
}

fn retry_after(seconds: u64) -> PostResponse {
    PostResponse { status: 429, retry_after: Some(Duration::from_secs(seconds)), body: Bytes::new() }
}

/// The collector is unreachable.
fn unreachable() -> PostResponse {
    status(0)
}

/// Checks the sizes of the batches that arrived, and the counters (exported, dropped).
async fn check(spans: usize, responses: Vec<PostResponse>, batches: &[usize], counts: (u64, u64)) {
    let shown = format!("{spans} {responses:?}");
    let began = Instant::now();
    let (arrivals, found) = export_spans(spans, responses, Duration::from_mins(10)).await;
    let sizes: Vec<_> = arrivals.iter().map(|(_, spans)| *spans).collect();
    assert_eq!((sizes.as_slice(), found), (batches, counts), "{shown}");
    assert!(
        arrivals.last().is_none_or(|(at, _)| at.duration_since(began) < Duration::from_mins(11)),
        "{shown}"
    );
}

#[tokio::test(start_paused = true)]
async fn batches_are_bounded_and_retried() {
    check(0, vec![], &[], (0, 0)).await;
    check(3, vec![status(200)], &[3], (3, 0)).await;
    check(1030, vec![status(200), status(204), status(200)], &[512, 512, 6], (1030, 0)).await;
    check(3, vec![unreachable(), status(503), retry_after(3600), status(200)], &[3; 4], (3, 0)).await;
    // Other errors are not retried, and redirects are not followed.
    for code in [301, 307, 400, 401, 404, 413, 500] {
        check(513, vec![status(code), status(200)], &[512, 1], (1, 512)).await;
    }
    check(
        513,
        vec![unreachable(), unreachable(), unreachable(), unreachable(), unreachable(), status(200)],
        &[512, 512, 512, 512, 512, 1],
        (1, 512),
    )
    .await;
    check(3, vec![partial_success(2)], &[3], (1, 2)).await;
    check(3, vec![partial_success(i64::MIN)], &[3], (3, 0)).await;
    check(3, vec![partial_success(i64::MAX)], &[3], (0, 3)).await;
    let garbage = PostResponse { body: Bytes::from(vec![0xff; 60_000]), ..status(200) };
    check(3, vec![garbage], &[3], (3, 0)).await;
}

/// A response by which the collector rejected some spans.
fn partial_success(rejected_spans: i64) -> PostResponse {
    use opentelemetry_proto::tonic::collector::trace::v1::{
        ExportTracePartialSuccess, ExportTraceServiceResponse,
    };
    let partial = ExportTracePartialSuccess { rejected_spans, error_message: "x".repeat(1000) };
    let body = ExportTraceServiceResponse { partial_success: Some(partial) }.encode_to_vec().into();
    PostResponse { status: 200, retry_after: None, body }
}

#[tokio::test(start_paused = true)]
async fn the_flush_at_shutdown_is_bounded() {
    // The shutdown comes before the first export.
    let (arrivals, counts) =
        export_spans(600, vec![status(200), status(200)], Duration::from_millis(10)).await;
    assert_eq!(
        (arrivals.iter().map(|(_, spans)| *spans).collect::<Vec<_>>(), counts),
        (vec![512, 88], (600, 0))
    );
    // The shutdown comes during the delay that the collector asked for.
    let (arrivals, counts) =
        export_spans(3, vec![retry_after(30), status(200)], Duration::from_secs(5)).await;
    assert_eq!((arrivals.len(), counts), (2, (3, 0)));
    assert!(arrivals[1].0 - arrivals[0].0 < Duration::from_secs(6), "the flush retries at once");
    // The collector never responds.
    let began = Instant::now();
    let (arrivals, _) = export_spans(3, vec![], Duration::from_secs(5)).await;
    assert_eq!((arrivals.len(), began.elapsed()), (2, Duration::from_secs(8)));
    // The collector is unreachable: the flush ends at once, and all spans are counted as dropped.
    let (arrivals, counts) = export_spans(2000, vec![unreachable()], Duration::from_millis(10)).await;
    assert_eq!((arrivals.len(), counts), (1, (0, 2000)));
}

#[test]
fn a_full_queue_drops_and_counts() {
    let traces = Traces::new(config(SamplingRatio::ALL, ParentPolicy::Follow, 1), 1);
    let tracer = traces.tracer().expect("the system has random numbers");
    for _ in 0..100 {
        tracer.start_span(span(context(1))).end("ok", Duration::ZERO);
    }
    assert_eq!((traces.queued(), traces.dropped()), (64, 36));
    // A queue of few but large spans is full, too.
    let traces = Traces::new(config(SamplingRatio::ALL, ParentPolicy::Follow, 10_000), 1);
    let tracer = traces.tracer().expect("the system has random numbers");
    let long = || Span { tracestate: Some("x".repeat(1 << 20).into()), ..span(context(1)) };
    for _ in 0..20 {
        tracer.start_span(long()).end("ok", Duration::ZERO);
    }
    let counts = || (traces.queued(), traces.dropped());
    assert_eq!(counts(), (16, 4));
    assert!(traces.dequeue().is_some());
    tracer.start_span(long()).end("ok", Duration::ZERO);
    assert_eq!(counts(), (16, 4));
}

#[test]
fn spans_are_encoded_as_otlp() {
    let traces = Traces::new(config(SamplingRatio::ALL, ParentPolicy::Follow, 1), 1);
    let tracer = traces.tracer().expect("the system has random numbers");
    let server = context(1);
    let mut active = tracer.start_span(Span {
        parent: Some(tracer.child_context(server).span),
        is_parent_remote: true,
        link: Some(context(3)),
        tracestate: Some("a=b".into()),
        target: Some(SpanTarget::Tool(truncate_text("\u{e4}".repeat(1000).as_str()))),
        id: Some("7".into()),
        protocol: Some("2025-11-25"),
        ..span(server)
    });
    active.fail_with_code(FaultKind::TimedOut, -32603);
    active.end("error", Duration::from_secs(2));
    active.end("ok", Duration::from_secs(3));
    let mut active = tracer.start_span(Span { kind: SpanKind::Client, ..span(tracer.child_context(server)) });
    active.set_server("other");
    active.end("gone", Duration::ZERO);
    let spans: Vec<_> = std::iter::from_fn(|| traces.dequeue()).collect();
    assert_eq!(spans.len(), 2, "the first end counts");
    let bytes = super::otlp::encode_batch(traces.config(), "instance", &spans);
    let read = ExportTraceServiceRequest::decode(&*bytes).expect("the batch is an export request");
    let resource = read.resource_spans[0].resource.clone().expect("there is one");
    let texts = |attributes: &[opentelemetry_proto::tonic::common::v1::KeyValue]| {
        let text = |attribute: &opentelemetry_proto::tonic::common::v1::KeyValue| {
            use opentelemetry_proto::tonic::common::v1::any_value::Value;
            match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
                Some(Value::StringValue(text)) => format!("{}={text}", attribute.key),
                other => panic!("{other:?}"),
            }
        };
        attributes.iter().map(text).collect::<Vec<_>>()
    };
    let expected = ["service.name=test", "service.instance.id=instance", "service.version=7", "a=b"];
    assert_eq!(texts(&resource.attributes), expected);
    let [first, second] = &read.resource_spans[0].scope_spans[0].spans[..] else { panic!("{read:?}") };
    let tool = "\u{e4}".repeat(128);
    assert_eq!(first.name, format!("tools/call {tool}"));
    assert_eq!((first.kind, second.kind, first.flags, second.flags), (2, 3, 0x301, 0x101));
    assert_eq!(first.end_time_unix_nano - first.start_time_unix_nano, 2_000_000_000);
    assert!(first.start_time_unix_nano > 1_700_000_000_000_000_000);
    assert_eq!((first.trace_state.as_str(), first.parent_span_id.len()), ("a=b", 8));
    assert_eq!(
        (first.trace_id.as_slice(), first.span_id.as_slice()),
        (&server.trace.0[..], &server.span.0[..])
    );
    assert_eq!((first.links.len(), first.links[0].span_id.as_slice()), (1, &context(3).span.0[..]));
    assert_eq!((first.status.as_ref().map(|status| status.code), second.status.as_ref()), (Some(2), None));
    let attributes = [
        "mcp.method.name=tools/call".to_owned(),
        "gen_ai.operation.name=execute_tool".to_owned(),
        format!("gen_ai.tool.name={tool}"),
        "jsonrpc.request.id=7".to_owned(),
        "mcp.protocol.version=2025-11-25".to_owned(),
        "metamcp.endpoint=default".to_owned(),
        "metamcp.outcome=error".to_owned(),
        "error.type=timed_out".to_owned(),
        "rpc.response.status_code=-32603".to_owned(),
    ];
    assert_eq!(texts(&first.attributes), attributes);
    let attributes = ["mcp.method.name=tools/call", "metamcp.server=other", "metamcp.outcome=gone"];
    assert_eq!(
        (texts(&second.attributes), second.name.as_str()),
        (attributes.map(String::from).into(), "tools/call")
    );
}
