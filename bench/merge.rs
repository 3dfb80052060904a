//! Merging the lists of an endpoint's servers.

use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use metamcp::catalog::{ListItem, ListKind, ServerLists, View, merge};
use metamcp::route::{Endpoint, RouteTable};
use metamcp::session::ServerFeatures;
use metamcp_config::sections::{EndpointConfig, EndpointMembers, NamePrefix};
use metamcp_core::base::{EndpointName, ServerName};

/// Items per page for clients: the default.
const PAGE_ITEMS: usize = 1000;

/// The mean size of a tool definition.
const TOOL_BYTES: usize = 1600;

fn endpoint(servers: usize) -> Arc<Endpoint> {
    let servers: Vec<_> = (0..servers)
        .map(|server| ServerName::new(&format!("server-{server}")).expect("it is a name"))
        .collect();
    let name = EndpointName::new(EndpointName::DEFAULT).expect("it is a name");
    let config = EndpointConfig { name, servers: EndpointMembers::All, prefix: NamePrefix::Always };
    let table = RouteTable::build(&servers, &[config]).expect("every server of the endpoint is there");
    Arc::clone(table.find_by_path("/mcp").expect("the endpoint is there"))
}

fn tool(number: usize) -> ListItem {
    let key = format!("list_pull_request_reviews_{number}");
    let front = r#"{"name":"#;
    let name = format!("\"{key}\"");
    let back = r#","inputSchema":{"type":"object"},"description":""#;
    let text = "x".repeat(TOOL_BYTES - front.len() - name.len() - back.len() - 2);
    let raw = Bytes::from([front, &name, back, &text, "\"}"].concat());
    ListItem { key, raw, key_start: front.len(), key_end: front.len() + name.len() }
}

fn lists(tools: usize) -> Arc<ServerLists> {
    let features = ServerFeatures { tools: true, ..ServerFeatures::default() };
    let mut lists = ServerLists { features, ..ServerLists::default() };
    lists.items[ListKind::Tools.index()] = (0..tools).map(tool).collect();
    Arc::new(lists)
}

fn merge_lists(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("merge");
    for (servers, tools) in [(1, 20), (10, 20), (100, 20), (10, 1000)] {
        let endpoint = endpoint(servers);
        let listed: Vec<_> = (0..servers).map(|_| Ok(lists(tools).into())).collect();
        let generations = vec![0; servers];
        let merged = merge(&endpoint, View::Modern, &listed, generations.clone(), PAGE_ITEMS);
        assert_eq!(merged.listing(ListKind::Tools).names.len(), servers * tools, "no tool is hidden");
        group.throughput(Throughput::Elements((servers * tools) as u64));
        group.bench_function(format!("merge_{servers}_servers_{tools}_tools"), |bencher| {
            bencher
                .iter(|| merge(&endpoint, View::Modern, black_box(&listed), generations.clone(), PAGE_ITEMS));
        });
    }
    group.finish();
}

criterion_group!(benches, merge_lists);
criterion_main!(benches);
