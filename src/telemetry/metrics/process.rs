//! What the kernel says of this process, under the names that Prometheus has for it.

use std::fs;

use super::text::{Family, Row, Unit, Value};

/// Clock ticks a second, as the kernel tells times to programs: on every architecture that is built for.
const TICKS_A_SECOND: f64 = 100.0;

/// Processor time, memory, descriptors, threads; where there is no `/proc`, nothing. Reads files: not for a worker.
pub fn process() -> Vec<Family> {
    let read = |name| fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
    let (stat, status, limits) = (read("stat"), read("status"), read("limits"));
    let descriptors = fs::read_dir("/proc/self/fd").map(Iterator::count).ok();
    let one = |value: Option<Value>| value.into_iter().map(|value| Row::new([], value)).collect();
    let level = |count: Option<u64>| one(count.and_then(|count| i64::try_from(count).ok()).map(Value::Level));
    let bytes = |field| level(number(&status, field).map(|kib| kib << 10));
    vec![
        Family::counter(
            "process_cpu",
            "Processor time, in user and system mode",
            Unit::Seconds,
            one(cpu_seconds(&stat).map(Value::Number)),
        ),
        Family::gauge("process_resident_memory", "Resident memory", bytes("VmRSS:")).in_unit(Unit::Bytes),
        Family::gauge("process_virtual_memory", "Virtual memory", bytes("VmSize:")).in_unit(Unit::Bytes),
        Family::gauge("process_threads", "Threads", level(number(&status, "Threads:"))),
        // Less the one by which they are counted.
        Family::gauge(
            "process_open_fds",
            "Open file descriptors",
            level(descriptors.map(|count| count.saturating_sub(1) as u64)),
        ),
        Family::gauge(
            "process_max_fds",
            "File descriptors there may be",
            level(number(&limits, "Max open files")),
        ),
    ]
}

/// The name of the program may hold blanks and parentheses; what follows does not (proc(5)).
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u32>().ok();
    Some((f64::from(ticks()?) + f64::from(ticks()?)) / TICKS_A_SECOND)
}

/// The number behind a name at the beginning of a line.
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
