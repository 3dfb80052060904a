//! Looking up the server of an advertised name.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use metamcp::route::{Destination, NameIndex, OriginalName};
use metamcp_config::sections::NAME_SEPARATOR;

/// Servers among which the tools are evenly divided.
const SERVERS: usize = 10;

/// The step from one looked-up name to the next: coprime to every number of tools here, so that all names occur, in an order
/// that defeats the caches.
const STRIDE: usize = 7919;

fn advertised(tool: usize) -> String {
    format!("server-{}{NAME_SEPARATOR}list_pull_request_reviews_{tool}", tool % SERVERS)
}

fn names(tools: usize) -> NameIndex {
    let mut names = NameIndex::with_capacity(tools);
    for tool in 0..tools {
        let name = format!("list_pull_request_reviews_{tool}");
        let (text, json) = (name.clone(), format!("\"{name}\"").into());
        let original_name = Some(Arc::new(OriginalName { text, json, header: name.into(), is_listed: true }));
        let place = u32::try_from(tool % SERVERS).expect("there are few servers");
        let earlier = names.insert(&advertised(tool), Destination { server_index: place, original_name });
        assert!(earlier.is_none(), "every name is unique");
    }
    names
}

fn lookup(criterion: &mut Criterion) {
    for tools in [10, 1000, 100_000] {
        let names = names(tools);
        let lookups: Vec<_> = (0..tools).map(|tool| advertised(tool * STRIDE % tools)).collect();
        assert!(lookups.iter().all(|name| names.find(name).is_some()), "every name is found");
        let mut next = lookups.iter().cycle();
        criterion.bench_function(&format!("route_lookup_{tools}_tools"), |bencher| {
            bencher.iter(|| names.find(black_box(next.next().map_or("", String::as_str))).is_some());
        });
    }
}

criterion_group!(benches, lookup);
criterion_main!(benches);
