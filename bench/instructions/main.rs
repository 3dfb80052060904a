//! Instructions of single steps and of whole requests, counted by callgrind, so that other load on the machine does not change
//! the result. `bench/count` runs this and compares with the committed counts.

#![allow(missing_docs, reason = "the macros make modules of the functions")]

use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use gungraun::{
    Callgrind, EntryPoint, LibraryBenchmarkConfig, library_benchmark, library_benchmark_group, main,
};
use metamcp::route::{Destination, NameIndex, OriginalName};
use metamcp_core::frame::{BoundaryTracker, Scanner, Span, splice};

#[path = "../gateway.rs"]
mod gateway;

use gateway::{Gateway, TOOLS};

/// The allocator of the gateway.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const MODERN_META: &str = r#","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#;

/// A call with a text of `text_bytes` bytes, and a scanner that has scanned it once.
fn message(text_bytes: usize, meta: &str) -> (Scanner, Bytes) {
    let text = "x".repeat(text_bytes);
    let message = format!(
        r#"{{"jsonrpc":"2.0","id":123,"method":"tools/call","params":{{"name":"s0__echo","arguments":{{"text":"{text}"}}{meta}}}}}"#
    );
    let message = Bytes::from(message);
    let mut scanner = Scanner::new();
    // Its buffers have grown then, as those of a worker.
    assert!(scanner.scan(&message).is_ok(), "it is a call");
    (scanner, message)
}

#[library_benchmark]
#[bench::legacy(message(5, ""))]
#[bench::modern(message(5, MODERN_META))]
#[bench::kib_64(message(64 << 10, ""))]
fn scan((mut scanner, message): (Scanner, Bytes)) -> (Scanner, Bytes) {
    assert!(black_box(scanner.scan(&message)).is_ok(), "it is a call");
    (scanner, message)
}

type Edits = (Bytes, [(Span, Bytes); 1]);

fn edits() -> Edits {
    let (mut scanner, message) = message(5, MODERN_META);
    let envelope = scanner.scan(&message).expect("it is a call");
    let name = envelope.params.name.expect("it has a name");
    (message, [(name.span, Bytes::from_static(b"\"echo\""))])
}

#[library_benchmark]
#[bench::own_name(edits())]
fn put_in((message, edits): Edits) -> Edits {
    black_box(splice(&message, &edits).expect("the edit fits"));
    (message, edits)
}

fn events() -> (BoundaryTracker, Vec<u8>) {
    let event = "event: message\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{\"progressToken\":1,\"progress\":1}}\n\n";
    (BoundaryTracker::default(), event.repeat(100).into_bytes())
}

#[library_benchmark]
#[bench::events_100(events())]
fn find_end((mut boundary, events): (BoundaryTracker, Vec<u8>)) -> (BoundaryTracker, Vec<u8>) {
    assert_eq!(black_box(boundary.feed(&events)), events.len());
    (boundary, events)
}

fn names() -> NameIndex {
    let tools = 1000;
    let mut names = NameIndex::with_capacity(tools);
    for tool in 0..tools {
        let name = format!("list_pull_request_reviews_{tool}");
        let (text, json) = (name.clone(), format!("\"{name}\"").into());
        let original_name =
            Some(Arc::new(OriginalName { text, json, header: name.clone().into(), is_listed: true }));
        let earlier = names.insert(&format!("s0__{name}"), Destination { server_index: 0, original_name });
        assert!(earlier.is_none(), "every name is unique");
    }
    names
}

#[library_benchmark]
#[bench::tools_1000(names())]
fn look_up(names: NameIndex) -> NameIndex {
    assert!(names.find(black_box("s0__list_pull_request_reviews_500")).is_some());
    names
}

/// What a client sends.
enum Workload {
    Call(&'static str, usize),
    List,
    Session,
}

const SMALL: Workload = Workload::Call("echo", 5);
const ANSWER: Workload = Workload::Call("big", 5);
const REQUEST: Workload = Workload::Call("echo", 1 << 20);
const STREAM: Workload = Workload::Call("events", 5);

// The number of servers behind the gateway.
const ONE: usize = 1;
const TEN: usize = 10;
/// A client connected to the server without the gateway, to measure the part that is not the gateway's.
const DIRECT: usize = 0;

/// Sends one request more than `times`: the first one opens the connection to the server, and waits for argon2 and for the lists.
fn send_requests(servers: usize, workload: &Workload, times: usize) {
    let era = if matches!(workload, Workload::Session) { "legacy" } else { "modern" };
    let gateway = Gateway::start(servers.max(1), era);
    let mut client = if servers == DIRECT { gateway.connect_server() } else { gateway.connect() };
    let request = match workload {
        Workload::Call(tool, text_bytes) => gateway.call(tool, *text_bytes),
        Workload::List => gateway.request("tools/list", None, ""),
        Workload::Session => {
            (0..=times).for_each(|_| client.run_session(&gateway));
            return;
        }
    };
    let response_bytes = client.send(&request);
    assert!(
        !matches!(workload, Workload::List) || response_bytes > servers * TOOLS,
        "the list has {response_bytes} bytes"
    );
    for _ in 0..times {
        black_box(client.send(&request));
    }
}

// Start and end are counted, too. They do not depend on the number of requests, so the difference of two rows is that of the
// requests.
#[library_benchmark(config = whole_process())]
#[bench::call_small_one_backend_few(ONE, SMALL, 200)]
#[bench::call_small_one_backend_many(ONE, SMALL, 2200)]
#[bench::call_small_ten_backends_few(TEN, SMALL, 200)]
#[bench::call_small_ten_backends_many(TEN, SMALL, 2200)]
#[bench::call_small_direct_few(DIRECT, SMALL, 200)]
#[bench::call_small_direct_many(DIRECT, SMALL, 2200)]
#[bench::call_answer_64kib_few(ONE, ANSWER, 20)]
#[bench::call_answer_64kib_many(ONE, ANSWER, 220)]
#[bench::call_answer_64kib_direct_few(DIRECT, ANSWER, 20)]
#[bench::call_answer_64kib_direct_many(DIRECT, ANSWER, 220)]
#[bench::call_request_1mib_few(ONE, REQUEST, 4)]
#[bench::call_request_1mib_many(ONE, REQUEST, 44)]
#[bench::call_request_1mib_direct_few(DIRECT, REQUEST, 4)]
#[bench::call_request_1mib_direct_many(DIRECT, REQUEST, 44)]
#[bench::stream_100_events_few(ONE, STREAM, 20)]
#[bench::stream_100_events_many(ONE, STREAM, 220)]
#[bench::stream_100_events_direct_few(DIRECT, STREAM, 20)]
#[bench::stream_100_events_direct_many(DIRECT, STREAM, 220)]
#[bench::session_one_call_few(ONE, Workload::Session, 50)]
#[bench::session_one_call_many(ONE, Workload::Session, 550)]
#[bench::session_one_call_direct_few(DIRECT, Workload::Session, 50)]
#[bench::session_one_call_direct_many(DIRECT, Workload::Session, 550)]
#[bench::list_200_tools_ten_backends_few(TEN, Workload::List, 200)]
#[bench::list_200_tools_ten_backends_many(TEN, Workload::List, 1200)]
fn whole(servers: usize, workload: Workload, times: usize) {
    send_requests(servers, &workload, times);
}

/// Counts all threads of the process instead of a single function.
fn whole_process() -> LibraryBenchmarkConfig {
    // Without the cache simulation, which doubles the time.
    let callgrind = Callgrind::with_args(["--cache-sim=no"]).entry_point(EntryPoint::None).clone();
    LibraryBenchmarkConfig::default().tool(callgrind).clone()
}

library_benchmark_group!(name = steps; benchmarks = scan, put_in, find_end, look_up);
library_benchmark_group!(name = way; benchmarks = whole);
main!(library_benchmark_groups = steps, way);
