//! Resource usage of this process, read from `/proc`, under the metric names that Prometheus clients use.

use std::fs;

use super::exposition::{MetricFamily, MetricSample, MetricUnit, SampleValue};

/// `USER_HZ`, the unit of CPU times in `/proc`: 100 on every architecture that the program is built for.
const TICKS_PER_SECOND: f64 = 100.0;

/// What this process uses. Each is `None` where `/proc` does not tell.
#[derive(Debug, Clone, Default)]
pub struct ProcessUsage {
    /// CPU time, user and system.
    pub cpu_seconds: Option<f64>,
    pub resident_bytes: Option<u64>,
    pub virtual_bytes: Option<u64>,
    pub threads: Option<u64>,
    pub open_files: Option<u64>,
    pub open_files_max: Option<u64>,
}

impl ProcessUsage {
    /// Blocks on file reads, so a worker must not call it.
    pub fn read() -> Self {
        let read = |name| fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
        let (stat, status, limits) = (read("stat"), read("status"), read("limits"));
        let descriptors = fs::read_dir("/proc/self/fd").map(Iterator::count).ok();
        let bytes = |field| number(&status, field).map(|kib| kib << 10);
        Self {
            cpu_seconds: cpu_seconds(&stat),
            resident_bytes: bytes("VmRSS:"),
            virtual_bytes: bytes("VmSize:"),
            threads: number(&status, "Threads:"),
            // Without the descriptor of the directory that is being read.
            open_files: descriptors.map(|count| count.saturating_sub(1) as u64),
            open_files_max: number(&limits, "Max open files"),
        }
    }
}

/// Collects CPU time, memory, file descriptors and threads. Empty where there is no `/proc`. Blocks on file reads, so a
/// worker must not call it.
pub fn collect_process_metrics() -> Vec<MetricFamily> {
    let usage = ProcessUsage::read();
    let single =
        |value: Option<SampleValue>| value.into_iter().map(|value| MetricSample::new([], value)).collect();
    let level = |count: Option<u64>| {
        single(count.and_then(|count| i64::try_from(count).ok()).map(SampleValue::Level))
    };
    vec![
        MetricFamily::counter(
            "process_cpu",
            "CPU time, user and system",
            MetricUnit::Seconds,
            single(usage.cpu_seconds.map(SampleValue::Number)),
        ),
        MetricFamily::gauge("process_resident_memory", "Resident memory", level(usage.resident_bytes))
            .in_unit(MetricUnit::Bytes),
        MetricFamily::gauge("process_virtual_memory", "Virtual memory", level(usage.virtual_bytes))
            .in_unit(MetricUnit::Bytes),
        MetricFamily::gauge("process_threads", "Threads", level(usage.threads)),
        MetricFamily::gauge("process_open_fds", "Open file descriptors", level(usage.open_files)),
        MetricFamily::gauge("process_max_fds", "Limit of open file descriptors", level(usage.open_files_max)),
    ]
}

/// Parses `/proc/self/stat`. The program's name may contain spaces and parentheses; the fields behind it do not (proc(5)).
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u32>().ok();
    Some((f64::from(ticks()?) + f64::from(ticks()?)) / TICKS_PER_SECOND)
}

/// Returns the number that follows `name` at the start of a line.
fn number(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_writes() {
        let stat = "12 (a) b (c)) S 1 12 12 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 1 0 5 6 7";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(cpu_seconds(""), None);
        assert_eq!(cpu_seconds("12 (a) S 1"), None);
        let status = "Name:\tx\nVmRSS:\t  1234 kB\nThreads:\t7\n";
        assert_eq!((number(status, "VmRSS:"), number(status, "Threads:")), (Some(1234), Some(7)));
        assert_eq!(number("Max open files            unlimited    1 files", "Max open files"), None);
        assert_eq!(number("Max open files            1024         1 files", "Max open files"), Some(1024));
    }
}
