//! From an advertised name to the server that has it.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use metamcp::route::{Destination, NameIndex, OriginalName, SEPARATOR};

/// Servers that share the tools evenly.
const SERVERS: usize = 10;

/// The step from one name asked for to the next: coprime to every number of tools here, so that all come, in
/// an order that no cache foresees.
const STRIDE: usize = 7919;

fn advertised(tool: usize) -> String {
    format!("server-{}{SEPARATOR}list_pull_request_reviews_{tool}", tool % SERVERS)
}

fn names(tools: usize) -> NameIndex {
    let mut names = NameIndex::with_capacity(tools);
    for tool in 0..tools {
        let name = format!("list_pull_request_reviews_{tool}");
        let (text, json) = (name.clone(), format!("\"{name}\"").into());
        let original_name = Some(Arc::new(OriginalName { text, json, header: name.into(), is_listed: true }));
        let place = u32::try_from(tool % SERVERS).expect("there are few servers");
        let earlier = names.insert(&advertised(tool), Destination { server_index: place, original_name });
        assert!(earlier.is_none(), "every name is made once");
    }
    names
}

fn lookup(criterion: &mut Criterion) {
    for tools in [10, 1000, 100_000] {
        let names = names(tools);
        let asked: Vec<_> = (0..tools).map(|tool| advertised(tool * STRIDE % tools)).collect();
        assert!(asked.iter().all(|name| names.find(name).is_some()), "every name asked for is there");
        let mut next = asked.iter().cycle();
        criterion.bench_function(&format!("route_lookup_{tools}_tools"), |bencher| {
            bencher.iter(|| names.find(black_box(next.next().map_or("", String::as_str))).is_some());
        });
    }
}

criterion_group!(benches, lookup);
criterion_main!(benches);
