//! What a gateway holds: memory, descriptors, threads, processes, places.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;

use crate::admin::Admin;
use crate::support::{Gateway, Request};

/// What is counted at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Residue {
    pub memory_bytes: usize,
    /// What each descriptor is, with how many there are of it.
    pub descriptors: Names,
    pub threads: Names,
    pub children: Names,
    /// Gauges of `/metrics` that are not zero, of those that are zero at rest.
    pub gauges: BTreeMap<String, String>,
}

/// Names, with how many there are of each.
pub type Names = BTreeMap<String, usize>;

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
    pub fn measure(gateway: &Gateway, admin: &Admin) -> Self {
        let process = format!("/proc/{}", gateway.pid());
        let entries =
            |folder: &str| fs::read_dir(format!("{process}/{folder}")).into_iter().flatten().flatten();
        let read = |path: std::path::PathBuf| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let sockets = tcp_sockets(&read(format!("{process}/net/tcp").into()));
        let descriptors = entries("fd").filter_map(|entry| {
            let target = fs::read_link(entry.path()).ok()?;
            let target = target.to_string_lossy();
            let inode = target.strip_prefix("socket:[").map(|rest| rest.trim_end_matches(']'));
            if let Some(socket) = inode.and_then(|inode| sockets.get(inode)) {
                return Some(socket.clone());
            }
            // Without the number of a socket or pipe.
            Some(target.split('[').next().unwrap_or_default().to_owned())
        });
        let threads = entries("task").map(|task| read(task.path().join("comm")));
        let children = entries("task").flat_map(|task| {
            let list = read(task.path().join("children"));
            list.split_whitespace().map(|pid| read(format!("/proc/{pid}/comm").into())).collect::<Vec<_>>()
        });
        // Before the request for the metrics, which has a descriptor itself.
        let (descriptors, threads, children) = (count(descriptors), count(threads), count(children));
        let metrics = admin.administer(gateway, &Request::new("GET", "/metrics")).text;
        let gauges = metrics.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let is_at_rest = ZERO_AT_REST.iter().any(|name| series.starts_with(name));
            (is_at_rest && value != "0").then(|| (series.to_owned(), value.to_owned()))
        });
        Self {
            memory_bytes: gateway.resident_bytes(),
            descriptors,
            threads,
            children,
            gauges: gauges.collect(),
        }
    }

    /// Whether no program runs, and no place is taken.
    pub fn is_at_rest(&self) -> bool {
        self.children.is_empty() && self.gauges.is_empty()
    }

    /// What is left over, compared with what was there before the first call. So many more descriptors are allowed.
    pub fn excess(&self, baseline: &Self, lingering: usize) -> Vec<String> {
        let mut excess = Vec::new();
        let memory_max = baseline.memory_bytes + MEMORY_BYTES_MAX;
        if self.memory_bytes > memory_max {
            excess.push(format!("{} bytes of memory, at most {memory_max} expected", self.memory_bytes));
        }
        let mut check = |what: &str, found: &Names, before: &Names, more: usize| {
            if found.values().sum::<usize>() > before.values().sum::<usize>() + more {
                excess.push(format!("{what}: {found:?}, and before {before:?}"));
            }
        };
        check("descriptors", &self.descriptors, &baseline.descriptors, lingering);
        check("threads", &without_pool(&self.threads), &without_pool(&baseline.threads), 0);
        check("children", &self.children, &baseline.children, 0);
        excess.extend(self.gauges.iter().map(|(series, value)| format!("{series} is {value}, not 0")));
        excess
    }
}

impl fmt::Display for Residue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { memory_bytes, descriptors, threads, children, gauges } = self;
        let memory = memory_bytes >> 10;
        let [descriptors, threads, children] =
            [descriptors, threads, children].map(|names| names.values().sum::<usize>());
        write!(
            f,
            "{memory} KiB, {descriptors} descriptors, {threads} threads, {children} children, {gauges:?}"
        )
    }
}

/// Without the threads for blocking work, which tokio starts when they are needed and ends when they were idle for a
/// while. They are bounded by its pool.
fn without_pool(threads: &Names) -> Names {
    threads
        .iter()
        .filter(|(name, _)| !name.starts_with("tokio-rt-worker"))
        .map(|(name, count)| (name.clone(), *count))
        .collect()
}

fn count(names: impl Iterator<Item = String>) -> Names {
    let mut counts = Names::new();
    names.for_each(|name| *counts.entry(name).or_default() += 1);
    counts
}

/// TCP sockets by inode: the state (1: established, 8: waits to be closed, A: listens) and the ports of both ends.
fn tcp_sockets(table: &str) -> BTreeMap<String, String> {
    let port = |address: &str| {
        let digits = address.split_once(':').map_or("", |(_, port)| port);
        u16::from_str_radix(digits, 16).unwrap_or_default()
    };
    let rows = table.lines().skip(1).filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, local, remote, state, _, _, _, _, _, inode, ..] = words[..] else { return None };
        let text = format!("tcp {state} {} to {}", port(local), port(remote));
        Some((inode.to_owned(), text))
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn residue() -> Residue {
        let names = |name: &str| Names::from([(name.to_owned(), 3)]);
        Residue {
            memory_bytes: 50 << 20,
            descriptors: names("socket:"),
            threads: names("worker-0"),
            children: Names::new(),
            gauges: BTreeMap::new(),
        }
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut Residue), expected: &[&str]) {
        let mut after = residue();
        change(&mut after);
        let found = after.excess(&residue(), 1);
        assert_eq!(found.len(), expected.len(), "{found:?}");
        assert!(found.iter().zip(expected).all(|(text, part)| text.contains(part)), "{found:?}");
    }

    #[test]
    fn each_excess_is_found() {
        check(|_| (), &[]);
        check(|after| after.memory_bytes += MEMORY_BYTES_MAX, &[]);
        check(|after| after.memory_bytes += MEMORY_BYTES_MAX + 1, &["memory"]);
        check(|after| *after.descriptors.entry("tcp 01 1 to 2".into()).or_default() += 1, &[]);
        check(|after| *after.descriptors.entry("tcp 01 1 to 2".into()).or_default() += 2, &["descriptors"]);
        check(|after| *after.threads.entry("worker-1".into()).or_default() += 1, &["threads"]);
        check(|after| *after.threads.entry("tokio-rt-worker".into()).or_default() += 1, &[]);
        check(|after| *after.children.entry("metamcp".into()).or_default() += 1, &["children"]);
        check(
            |after| drop(after.gauges.insert("metamcp_streams{}".into(), "1".into())),
            &["metamcp_streams"],
        );
    }
}
