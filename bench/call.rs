//! The whole way of a request, from a client's socket to a server's and back.

use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};

mod gateway;

use gateway::{Gateway, TOOLS};

/// As the product has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn bench(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, gateway: &Gateway, request: &[u8]) {
    let mut client = gateway.connect();
    // The first one opens the connection to the server, and waits for argon2 and for the lists.
    let answer_bytes = client.ask(request);
    group.throughput(Throughput::Bytes((request.len() + answer_bytes) as u64));
    group.bench_function(name, |bencher| bencher.iter(|| client.ask(request)));
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
    group.bench_function("session_one_call", |bencher| bencher.iter(|| client.live(&legacy)));
    let ten = Gateway::start(10, "modern");
    bench(&mut group, "call_small_ten_backends", &ten, &ten.call("echo", 5));
    let list = ten.request("tools/list", None, "");
    let listed_bytes = ten.connect().ask(&list);
    // Each is described by more than that.
    assert!(listed_bytes > 10 * TOOLS * 64, "the list has {listed_bytes} bytes");
    bench(&mut group, "list_200_tools_ten_backends", &ten, &list);
    group.finish();
}

criterion_group!(benches, calls);
criterion_main!(benches);
