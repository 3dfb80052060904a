//! CPU time and memory of a process on this machine, read from `/proc`.

use std::fs;

/// `USER_HZ`, the unit of CPU times in `/proc` (`man 5 proc`, `man 2 times`).
const TICKS_PER_SECOND: f64 = 100.0;

/// The usage of a process at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ProcessUsage {
    pub memory_bytes: u64,
    /// CPU time since it started, user and system.
    pub cpu_seconds: f64,
}

/// Samples a process with all its threads. `None` if there is no such process, or no `/proc`.
pub fn sample_process(pid: u32) -> Option<ProcessUsage> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    parse_usage(&status, &stat)
}

fn parse_usage(status: &str, stat: &str) -> Option<ProcessUsage> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let memory_kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    // The name, in parentheses, may contain spaces and parentheses. User and system time are fields 12 and 13 behind it.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11);
    let user: f64 = times.next()?.parse().ok()?;
    let system: f64 = times.next()?.parse().ok()?;
    Some(ProcessUsage { memory_bytes: memory_kib << 10, cpu_seconds: (user + system) / TICKS_PER_SECOND })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(status: &str, stat: &str, expected: Option<(u64, f64)>) {
        let expected = expected.map(|(memory_bytes, cpu_seconds)| ProcessUsage { memory_bytes, cpu_seconds });
        assert_eq!(parse_usage(status, stat), expected, "{stat}");
    }

    #[test]
    fn memory_and_time() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 4 0 100 1 1";
        check("Name:\tx\nVmRSS:\t    12 kB\n", stat, Some((12 << 10, 2.0)));
        check("Name:\tx\n", stat, None);
        check("VmRSS:\t12 kB\n", "7 (a) S 1", None);
    }
}
