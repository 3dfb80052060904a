//! Scanning one `tools/call`.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use metamcp_core::frame::Scanner;

/// A call of exactly `len` bytes, padded with one long text argument.
fn text_call(len: usize) -> Vec<u8> {
    let head =
        r#"{"jsonrpc":"2.0","id":123,"method":"tools/call","params":{"name":"s__echo","arguments":{"t":""#;
    let tail = r#""}}}"#;
    let text = "x".repeat(len.saturating_sub(head.len() + tail.len()));
    [head, &text, tail].concat().into_bytes()
}

/// A call of about `len` bytes, padded with numbers and small objects.
fn structured_call(len: usize) -> Vec<u8> {
    let head =
        r#"{"jsonrpc":"2.0","id":123,"method":"tools/call","params":{"name":"s__echo","arguments":{"rows":["#;
    let row = r#"{"id":12345,"name":"someone","tags":["a","b"],"score":0.25,"ok":true}"#;
    let rows = vec![row; len / (row.len() + 1)].join(",");
    [head, &rows, "]}}}"].concat().into_bytes()
}

/// A call with the `_meta` of revision 2026-07-28.
fn modern_call() -> Vec<u8> {
    r#"{"jsonrpc":"2.0","id":123,"method":"tools/call","params":{"name":"s__echo","arguments":{"text":"hello"},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"elicitation":{"form":{}},"sampling":{}},"io.modelcontextprotocol/clientInfo":{"name":"bench","version":"1.0"},"progressToken":17}}}"#
        .into()
}

fn scan(criterion: &mut Criterion) {
    let rows = [
        ("scan_tools_call_100b", text_call(100)),
        ("scan_tools_call_1kib", text_call(1 << 10)),
        ("scan_tools_call_64kib", text_call(64 << 10)),
        ("scan_tools_call_structured_64kib", structured_call(64 << 10)),
        ("scan_tools_call_modern", modern_call()),
    ];
    let mut group = criterion.benchmark_group("scan");
    for (name, message) in rows {
        let mut scanner = Scanner::new();
        assert!(scanner.scan(&message).is_ok(), "{name} is a message");
        group.throughput(Throughput::Bytes(message.len() as u64));
        group.bench_function(name, |bencher| bencher.iter(|| scanner.scan(black_box(&message)).is_ok()));
    }
    group.finish();
}

criterion_group!(benches, scan);
criterion_main!(benches);
