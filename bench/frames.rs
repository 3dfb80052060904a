//! Splitting a framed stream into messages, and parsing the fixed header.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use metamcp_core::frame::{FrameHeader, MessageFraming, MessageReader, StreamItem};

const MESSAGES: u64 = 64;

/// A stream of messages of a hundred bytes.
fn stream(framing: MessageFraming) -> Bytes {
    let message =
        format!(r#"{{"jsonrpc":"2.0","id":123,"method":"ping","params":{{"t":"{}"}}}}"#, "x".repeat(42));
    let length = u32::try_from(message.len()).expect("short");
    let one = match framing {
        MessageFraming::Lines => [message.as_bytes(), b"\n"].concat(),
        MessageFraming::Frames => [FrameHeader::new(0, 2, length).as_bytes(), message.as_bytes()].concat(),
    };
    one.repeat(usize::try_from(MESSAGES).expect("small")).into()
}

/// Splits a stream, and counts its messages.
fn split(framing: MessageFraming, chunks: &[Bytes]) -> u64 {
    let mut reader = MessageReader::new(framing, 4 << 20);
    let mut count = 0;
    for chunk in chunks {
        reader.push(chunk.clone());
        while let Ok(Some(StreamItem::Message { bytes, .. })) = reader.next() {
            black_box(bytes);
            count += 1;
        }
    }
    count
}

fn frames(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("frames");
    group.throughput(Throughput::Elements(MESSAGES));
    for (name, framing) in [
        ("frames_split_lines_100b", MessageFraming::Lines),
        ("frames_split_headers_100b", MessageFraming::Frames),
    ] {
        let whole = [stream(framing)];
        assert_eq!(split(framing, &whole), MESSAGES, "{name}");
        group.bench_function(name, |bencher| bencher.iter(|| split(framing, black_box(&whole))));
        // As it arrives from a client that does not align its writes with packets.
        let torn: Vec<Bytes> = whole[0].chunks(1448).map(Bytes::copy_from_slice).collect();
        assert_eq!(split(framing, &torn), MESSAGES, "{name}");
        group.bench_function(format!("{name}_torn"), |bencher| {
            bencher.iter(|| split(framing, black_box(&torn)));
        });
    }
    group.throughput(Throughput::Elements(1));
    let header = FrameHeader::new(0, 6, 300);
    group.bench_function("frames_header_read", |bencher| {
        bencher.iter(|| FrameHeader::parse(black_box(header.as_bytes())));
    });
    group.finish();
}

criterion_group!(benches, frames);
criterion_main!(benches);
