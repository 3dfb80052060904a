//! Whole requests, from a client's socket through the gateway to a server and back.

use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};

mod gateway;

use gateway::{Gateway, TOOLS};

/// The allocator of the gateway.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn bench(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, gateway: &Gateway, request: &[u8]) {
    let mut client = gateway.connect();
    // The first request opens the connection to the server, and waits for argon2 and for the lists.
    let response_bytes = client.send(request);
    group.throughput(Throughput::Bytes((request.len() + response_bytes) as u64));
    group.bench_function(name, |bencher| bencher.iter(|| client.send(request)));
}

fn calls(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("call");
    let one = Gateway::start(1, "modern");
    bench(&mut group, "call_small_one_backend", &one, &one.call("echo", 5));
    bench(&mut group, "call_answer_64kib", &one, &one.call("big", 5));
    bench(&mut group, "call_request_1mib", &one, &one.call("echo", 1 << 20));
    bench(&mut group, "stream_100_events", &one, &one.call("events", 5));
    let legacy = Gateway::start(1, "legacy");
    let mut client = legacy.connect();
    group.throughput(Throughput::Elements(1));
    group.bench_function("session_one_call", |bencher| bencher.iter(|| client.run_session(&legacy)));
    let ten = Gateway::start(10, "modern");
    bench(&mut group, "call_small_ten_backends", &ten, &ten.call("echo", 5));
    let list = ten.request("tools/list", None, "");
    let list_bytes = ten.connect().send(&list);
    // The definition of a tool is longer than that.
    assert!(list_bytes > 10 * TOOLS * 64, "the list has {list_bytes} bytes");
    bench(&mut group, "list_200_tools_ten_backends", &ten, &list);
    group.finish();
}

criterion_group!(benches, calls);
criterion_main!(benches);
