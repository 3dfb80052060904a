use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message as _;
use tokio::sync::watch;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::Instant;

use super::*;
use crate::base::{Kind, Phase};

fn config(share: Share, parents: Parents, traces_per_second_max: usize) -> Config {
    Config {
        endpoint: Url::parse("http://localhost/v1/traces").expect("a URL"),
        headers: Vec::new(),
        timeout: Duration::from_secs(1),
        share,
        parents,
        traces_per_second_max,
        service: "test".into(),
        attributes: vec![("service.version".into(), "7".into()), ("a".into(), "b".into())],
    }
}

fn context(flags: u8) -> Context {
    let text = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-{flags:02x}");
    Context::parse(text.as_bytes()).expect("it is valid")
}

fn span(context: Context) -> Span {
    Span {
        context,
        parent: None,
        is_parent_remote: false,
        link: None,
        tracestate: None,
        side: Side::Server,
        began_ns: 0,
        ended_ns: 0,
        method: "tools/call".into(),
        target: None,
        id: None,
        protocol: None,
        place: "default".into(),
        outcome: "",
        error: None,
        code: None,
    }
}

fn half() -> Share {
    Share::new(0.5).expect("a share")
}

#[test]
fn shares_are_bounded() {
    let check = |share: f64, expected: Option<Share>| assert_eq!(Share::new(share), expected, "{share}");
    check(0.0, Some(Share::NONE));
    check(1.0, Some(Share::ALL));
    for wrong in [-0.1, 1.000_001, f64::NAN, f64::INFINITY] {
        check(wrong, None);
    }
    for random in [0, 1, u64::MAX, 1 << 52] {
        assert!(Share::ALL.has(random) && !Share::NONE.has(random), "{random}");
    }
    assert!(half().has((1 << 52) - 1) && !half().has(1 << 52));
}

/// Of a thousand messages with that parent in one second, so many are traced.
#[track_caller]
fn check_sampled(config: &Config, parent: Option<Context>, expected: std::ops::RangeInclusive<usize>) {
    let tracer = Traces::new(config.clone(), 1).tracer().expect("there are random numbers");
    let sampled: Vec<_> = (0..1000).filter_map(|_| tracer.sample(parent, 1)).collect();
    assert!(expected.contains(&sampled.len()), "{config:?} {parent:?}: {}", sampled.len());
    let spans: std::collections::HashSet<_> = sampled.iter().map(|context| context.span).collect();
    assert_eq!(spans.len(), sampled.len(), "each has an id of its own");
    for context in sampled {
        assert!(context.is_sampled() && Some(context.span) != parent.map(|parent| parent.span));
        match parent {
            Some(parent) => {
                assert_eq!((context.trace, context.flags), (parent.trace, parent.flags | SAMPLED));
            }
            None => assert_eq!(context.flags, SAMPLED | RANDOM),
        }
        assert_eq!(Context::parse(context.traceparent().as_bytes()), Some(context), "what is sent is valid");
    }
}

#[test]
fn who_is_traced() {
    use Parents::{Follow, Ignore};
    let plenty = 10_000;
    check_sampled(&config(Share::ALL, Follow, plenty), None, 1000..=1000);
    check_sampled(&config(Share::NONE, Follow, plenty), None, 0..=0);
    check_sampled(&config(half(), Follow, plenty), None, 350..=650);
    check_sampled(&config(Share::NONE, Follow, plenty), Some(context(1)), 1000..=1000);
    check_sampled(&config(Share::NONE, Follow, plenty), Some(context(3)), 1000..=1000);
    check_sampled(&config(Share::ALL, Follow, plenty), Some(context(0)), 0..=0);
    check_sampled(&config(Share::ALL, Follow, plenty), Some(context(2)), 0..=0);
    check_sampled(&config(Share::NONE, Ignore, plenty), Some(context(1)), 0..=0);
    check_sampled(&config(half(), Ignore, plenty), Some(context(1)), 350..=650);
    check_sampled(&config(Share::ALL, Ignore, plenty), Some(context(0)), 1000..=1000);
    // Whatever a client says: no more than there may be.
    check_sampled(&config(Share::ALL, Follow, 7), Some(context(1)), 7..=7);
    check_sampled(&config(Share::ALL, Follow, 7), None, 7..=7);
}

#[test]
fn those_who_say_that_they_are_traced_take_no_place_from_others() {
    let traces = Traces::new(config(Share::ALL, Parents::Follow, 4), 2);
    let tracer = traces.tracer().expect("there are random numbers");
    let count = |parent, second| (0..100).filter(|_| tracer.sample(parent, second).is_some()).count();
    // Each of two workers has half of the four.
    assert_eq!((count(Some(context(1)), 1), count(None, 1), count(None, 1), count(None, 2)), (2, 2, 0, 2));
}

/// What each batch is answered by, and when it came.
type Came = Rc<RefCell<Vec<(Instant, usize)>>>;

/// Exports so many spans to a collector that answers so; stops after that. Gives what came, and (exported, dropped).
async fn exported(
    spans: usize,
    answers: Vec<Answer>,
    stop_after: Duration,
) -> (Vec<(Instant, usize)>, (u64, u64)) {
    let traces = Traces::new(config(Share::ALL, Parents::Follow, 10_000), 1);
    let tracer = traces.tracer().expect("there are random numbers");
    for _ in 0..spans {
        tracer.open(span(context(1))).end("ok", Duration::from_millis(1));
    }
    let came = Came::default();
    let (ended, end) = watch::channel(Phase::Serve);
    let answers = RefCell::new(VecDeque::from(answers));
    let post = {
        let came = Rc::clone(&came);
        async move |batch: Bytes| {
            let read = ExportTraceServiceRequest::decode(batch).expect("it is of the form");
            let spans = read.resource_spans[0].scope_spans[0].spans.len();
            came.borrow_mut().push((Instant::now(), spans));
            let answer = answers.borrow_mut().pop_front();
            match answer {
                Some(answer) if answer.status == 0 => Err(Unsent("refused".into())),
                Some(answer) => Ok(answer),
                None => std::future::pending().await,
            }
        }
    };
    let counts = Arc::clone(&traces);
    LocalSet::new()
        .run_until(async move {
            let exporting = spawn_local(export(traces, post, end));
            tokio::time::sleep(stop_after).await;
            ended.send_replace(Phase::Cut);
            exporting.await.expect("it does not panic");
        })
        .await;
    let counts = (counts.exported.load(Ordering::Relaxed), counts.dropped.load(Ordering::Relaxed));
    (came.take(), counts)
}

fn status(status: u16) -> Answer {
    Answer { status, retry_after: None, body: Bytes::new() }
}

fn later(seconds: u64) -> Answer {
    Answer { status: 429, retry_after: Some(Duration::from_secs(seconds)), body: Bytes::new() }
}

/// None at all.
fn away() -> Answer {
    status(0)
}

/// The sizes of the batches that came, and what became of the spans.
async fn check(spans: usize, answers: Vec<Answer>, batches: &[usize], counts: (u64, u64)) {
    let shown = format!("{spans} {answers:?}");
    let began = Instant::now();
    let (came, found) = exported(spans, answers, Duration::from_mins(10)).await;
    let sizes: Vec<_> = came.iter().map(|(_, spans)| *spans).collect();
    assert_eq!((sizes.as_slice(), found), (batches, counts), "{shown}");
    assert!(came.last().is_none_or(|(at, _)| at.duration_since(began) < Duration::from_mins(11)), "{shown}");
}

#[tokio::test(start_paused = true)]
async fn batches_are_bounded_and_tried_again() {
    check(0, vec![], &[], (0, 0)).await;
    check(3, vec![status(200)], &[3], (3, 0)).await;
    check(1030, vec![status(200), status(204), status(200)], &[512, 512, 6], (1030, 0)).await;
    check(3, vec![away(), status(503), later(3600), status(200)], &[3; 4], (3, 0)).await;
    // What is no use is not tried again; redirects are not followed.
    for code in [301, 307, 400, 401, 404, 413, 500] {
        check(513, vec![status(code), status(200)], &[512, 1], (1, 512)).await;
    }
    check(
        513,
        vec![away(), away(), away(), away(), away(), status(200)],
        &[512, 512, 512, 512, 512, 1],
        (1, 512),
    )
    .await;
    let partly = ExportPartly::answer(2);
    check(3, vec![partly], &[3], (1, 2)).await;
    check(3, vec![ExportPartly::answer(i64::MIN)], &[3], (3, 0)).await;
    check(3, vec![ExportPartly::answer(i64::MAX)], &[3], (0, 3)).await;
    let nonsense = Answer { body: Bytes::from(vec![0xff; 60_000]), ..status(200) };
    check(3, vec![nonsense], &[3], (3, 0)).await;
}

/// An answer by which some spans were not wanted.
struct ExportPartly;

impl ExportPartly {
    fn answer(rejected_spans: i64) -> Answer {
        use opentelemetry_proto::tonic::collector::trace::v1::{
            ExportTracePartialSuccess, ExportTraceServiceResponse,
        };
        let partial = ExportTracePartialSuccess { rejected_spans, error_message: "x".repeat(1000) };
        let body = ExportTraceServiceResponse { partial_success: Some(partial) }.encode_to_vec().into();
        Answer { status: 200, retry_after: None, body }
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_spans_are_handed_on_in_a_bounded_time() {
    // Told to stop before the first look.
    let (came, counts) = exported(600, vec![status(200), status(200)], Duration::from_millis(10)).await;
    assert_eq!((came.iter().map(|(_, spans)| *spans).collect::<Vec<_>>(), counts), (vec![512, 88], (600, 0)));
    // While it is waited for a collector that wants to be left alone.
    let (came, counts) = exported(3, vec![later(30), status(200)], Duration::from_secs(5)).await;
    assert_eq!((came.len(), counts), (2, (3, 0)));
    assert!(came[1].0 - came[0].0 < Duration::from_secs(6), "once more at the end, and not later");
    // One that never answers.
    let began = Instant::now();
    let (came, _) = exported(3, vec![], Duration::from_secs(5)).await;
    assert_eq!((came.len(), began.elapsed()), (2, Duration::from_secs(8)));
    // One that is away: nobody waits for it, and all of it is counted.
    let (came, counts) = exported(2000, vec![away()], Duration::from_millis(10)).await;
    assert_eq!((came.len(), counts), (1, (0, 2000)));
}

#[test]
fn a_full_queue_drops_and_counts() {
    let traces = Traces::new(config(Share::ALL, Parents::Follow, 1), 1);
    let tracer = traces.tracer().expect("there are random numbers");
    for _ in 0..100 {
        tracer.open(span(context(1))).end("ok", Duration::ZERO);
    }
    assert_eq!((traces.queue.len(), traces.dropped.load(Ordering::Relaxed)), (64, 36));
    // Likewise one of few spans that clients made long.
    let traces = Traces::new(config(Share::ALL, Parents::Follow, 10_000), 1);
    let tracer = traces.tracer().expect("there are random numbers");
    let long = || Span { tracestate: Some("x".repeat(1 << 20).into()), ..span(context(1)) };
    for _ in 0..20 {
        tracer.open(long()).end("ok", Duration::ZERO);
    }
    let counts = || (traces.queue.len(), traces.dropped.load(Ordering::Relaxed));
    assert_eq!(counts(), (16, 4));
    assert!(traces.take().is_some());
    tracer.open(long()).end("ok", Duration::ZERO);
    assert_eq!(counts(), (16, 4));
}

#[test]
fn what_a_collector_reads() {
    let traces = Traces::new(config(Share::ALL, Parents::Follow, 1), 1);
    let tracer = traces.tracer().expect("there are random numbers");
    let server = context(1);
    let mut open = tracer.open(Span {
        parent: Some(tracer.below(server).span),
        is_parent_remote: true,
        link: Some(context(3)),
        tracestate: Some("a=b".into()),
        target: Some(Target::Tool(clip("\u{e4}".repeat(1000).as_str()))),
        id: Some("7".into()),
        protocol: Some("2025-11-25"),
        ..span(server)
    });
    open.answer_error(Kind::TimedOut, -32603);
    open.end("error", Duration::from_secs(2));
    open.end("ok", Duration::from_secs(3));
    let mut open = tracer.open(Span { side: Side::Client, ..span(tracer.below(server)) });
    open.move_to("other");
    open.end("gone", Duration::ZERO);
    let spans: Vec<_> = std::iter::from_fn(|| traces.queue.pop()).collect();
    assert_eq!(spans.len(), 2, "the first end counts");
    let bytes = super::wire::encode(traces.config(), "instance", &spans);
    let read = ExportTraceServiceRequest::decode(&*bytes).expect("it is of the form");
    let resource = read.resource_spans[0].resource.clone().expect("there is one");
    let said = |attributes: &[opentelemetry_proto::tonic::common::v1::KeyValue]| {
        let text = |of: &opentelemetry_proto::tonic::common::v1::KeyValue| {
            use opentelemetry_proto::tonic::common::v1::any_value::Value;
            match of.value.as_ref().and_then(|value| value.value.as_ref()) {
                Some(Value::StringValue(text)) => format!("{}={text}", of.key),
                other => panic!("{other:?}"),
            }
        };
        attributes.iter().map(text).collect::<Vec<_>>()
    };
    let expected = ["service.name=test", "service.instance.id=instance", "service.version=7", "a=b"];
    assert_eq!(said(&resource.attributes), expected);
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
    assert_eq!(said(&first.attributes), attributes);
    let attributes = ["mcp.method.name=tools/call", "metamcp.server=other", "metamcp.outcome=gone"];
    assert_eq!(
        (said(&second.attributes), second.name.as_str()),
        (attributes.map(String::from).into(), "tools/call")
    );
}
