//! What a gateway holds: memory, descriptors, threads, processes, places.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;

use crate::support::{Client, Gateway, Request};

/// What is counted at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Residue {
    pub memory_bytes: usize,
    pub descriptors: usize,
    pub threads: usize,
    pub children: usize,
    /// Gauges of `/metrics` that are not zero, of those that are zero at rest.
    pub gauges: BTreeMap<String, String>,
}

/// What may remain in memory: pools of the allocator, lists, and counters of usage, which have fixed bounds.
const MEMORY_BYTES_MAX: usize = 64 << 20;

/// Gauges that are zero when no client is there.
const ZERO_AT_REST: [&str; 5] = [
    "metamcp_streams",
    "metamcp_sessions",
    "metamcp_server_in_flight{",
    "metamcp_server_queued",
    "metamcp_server_processes",
];

impl Residue {
    /// Reads `/proc` and `/metrics`.
    pub fn measure(gateway: &Gateway, admin: &str) -> Self {
        let pid = gateway.pid();
        let count = |folder: String| fs::read_dir(folder).map_or(0, Iterator::count);
        let children = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let children = children.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
        let request = Request::new("GET", "/metrics").with("Authorization", format!("Bearer {admin}"));
        let metrics = Client::once(gateway.address, &request).text();
        let gauges = metrics.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let is_at_rest = ZERO_AT_REST.iter().any(|name| series.starts_with(name));
            (is_at_rest && value != "0").then(|| (series.to_owned(), value.to_owned()))
        });
        Self {
            memory_bytes: gateway.resident_bytes(),
            descriptors: count(format!("/proc/{pid}/fd")),
            threads: count(format!("/proc/{pid}/task")),
            children: children.map(|list| list.split_whitespace().count()).sum(),
            gauges: gauges.collect(),
        }
    }

    /// What is left over, compared with what was there before the first call.
    pub fn excess(&self, baseline: &Self) -> Vec<String> {
        let mut excess = Vec::new();
        let mut check = |what: &str, is: usize, max: usize| {
            if is > max {
                excess.push(format!("{what}: {is}, at most {max} expected"));
            }
        };
        check("memory in bytes", self.memory_bytes, baseline.memory_bytes + MEMORY_BYTES_MAX);
        check("descriptors", self.descriptors, baseline.descriptors);
        check("threads", self.threads, baseline.threads);
        check("children", self.children, baseline.children);
        excess.extend(self.gauges.iter().map(|(series, value)| format!("{series} is {value}, not 0")));
        excess
    }
}

impl fmt::Display for Residue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { memory_bytes, descriptors, threads, children, gauges } = self;
        let memory = memory_bytes >> 10;
        write!(
            f,
            "{memory} KiB, {descriptors} descriptors, {threads} threads, {children} children, {gauges:?}"
        )
    }
}
