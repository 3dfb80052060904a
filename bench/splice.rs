//! Replacing the name and the id of one `tools/call`.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use metamcp_core::frame::{Scanner, splice};

fn splice_call(criterion: &mut Criterion) {
    let text = "x".repeat(920);
    let message = Bytes::from(format!(
        r#"{{"jsonrpc":"2.0","id":123,"method":"tools/call","params":{{"name":"s__echo","arguments":{{"t":"{text}"}}}}}}"#
    ));
    let envelope = Scanner::new().scan(&message).expect("the message above is a call");
    let id = envelope.id.expect("it has an id");
    let name = envelope.params.name.expect("it has a name");
    let edits = [(id.span, Bytes::from_static(b"7")), (name.span, Bytes::from_static(b"\"echo\""))];
    criterion.bench_function("splice_tools_call_1kib", |bencher| {
        bencher.iter(|| {
            let spliced = splice(black_box(&message), black_box(&edits)).expect("the edits fit");
            (spliced.remaining_bytes(), spliced.count())
        });
    });
}

criterion_group!(benches, splice_call);
criterion_main!(benches);
