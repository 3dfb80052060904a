//! What a process on this machine takes, from `/proc`: nothing where there is none.

use std::fs;

/// Linux tells CPU time in these, whatever its own clock (`man 5 proc`, `man 2 times`: `USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// At one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Taken {
    /// Resident memory.
    pub memory_bytes: u64,
    /// CPU time since it started.
    pub cpu_seconds: f64,
}

/// Of a process and its threads; `None` when it is not there.
pub fn sample(pid: u32) -> Option<Taken> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    read(&status, &stat)
}

fn read(status: &str, stat: &str) -> Option<Taken> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let memory_kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    // The name, in brackets, may have spaces and brackets in it; user and system time are 12 and 13 behind it.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11);
    let user: f64 = times.next()?.parse().ok()?;
    let system: f64 = times.next()?.parse().ok()?;
    Some(Taken { memory_bytes: memory_kib << 10, cpu_seconds: (user + system) / TICKS_PER_SECOND })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(status: &str, stat: &str, expected: Option<(u64, f64)>) {
        let expected = expected.map(|(memory_bytes, cpu_seconds)| Taken { memory_bytes, cpu_seconds });
        assert_eq!(read(status, stat), expected, "{stat}");
    }

    #[test]
    fn memory_and_time() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 4 0 100 1 1";
        check("Name:\tx\nVmRSS:\t    12 kB\n", stat, Some((12 << 10, 2.0)));
        check("Name:\tx\n", stat, None);
        check("VmRSS:\t12 kB\n", "7 (a) S 1", None);
    }
}
