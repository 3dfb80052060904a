//! The memory that this process may use: that of the machine, or the limit of its cgroup if that is less.

use std::path::{Path, PathBuf};

/// What is assumed where neither is known, as on other systems than Linux.
const FALLBACK_BYTES: usize = 2 << 30;

/// Returns the memory that this process may use, in bytes.
pub(super) fn available_bytes() -> usize {
    // Neither file is longer than a few KiB. They are read once, at start and at each reload.
    available_from(|path| std::fs::read_to_string(path).ok())
}

fn available_from(read: impl Fn(&Path) -> Option<String>) -> usize {
    let machine = read(Path::new("/proc/meminfo")).and_then(|text| machine_bytes(&text));
    let groups = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
    let limits = groups.lines().filter_map(limit_file).flat_map(|(root, group, file)| {
        // A limit of a parent applies too. In a container the group's own path may not be visible, but the root is.
        let files = Path::new(group).ancestors().map(|group| {
            let below = group.strip_prefix("/").unwrap_or(group);
            PathBuf::from(root).join(below).join(file)
        });
        files.filter_map(|path| parse_limit(&read(&path)?)).collect::<Vec<_>>()
    });
    limits.chain(machine).min().unwrap_or(FALLBACK_BYTES)
}

/// The root of the hierarchy, the group and the name of the file of its memory limit, from a line of
/// `/proc/self/cgroup` (cgroups(7)). `None` for hierarchies without one.
fn limit_file(line: &str) -> Option<(&'static str, &str, &'static str)> {
    let (_, rest) = line.split_once(':')?;
    let (controllers, group) = rest.split_once(':')?;
    if controllers.is_empty() {
        return Some(("/sys/fs/cgroup", group, "memory.max"));
    }
    let is_memory = controllers.split(',').any(|controller| controller == "memory");
    is_memory.then_some(("/sys/fs/cgroup/memory", group, "memory.limit_in_bytes"))
}

/// `max` (version 2) is no number. Without a limit, version 1 has a number larger than any memory.
fn parse_limit(text: &str) -> Option<usize> {
    text.trim().parse().ok()
}

/// `MemTotal` of `/proc/meminfo`, which is in KiB.
fn machine_bytes(meminfo: &str) -> Option<usize> {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: usize = total.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(files: &[(&str, &str)], expected: usize) {
        let read = |path: &Path| {
            let found = files.iter().find(|(name, _)| Path::new(name) == path);
            found.map(|(_, text)| (*text).to_owned())
        };
        assert_eq!(available_from(read), expected, "{files:?}");
    }

    const MACHINE: (&str, &str) = ("/proc/meminfo", "MemTotal:        4194304 kB\nMemFree:  1 kB\n");
    const GIB: usize = 1 << 30;

    #[test]
    fn the_least_limit_counts() {
        let v2 = ("/proc/self/cgroup", "0::/a/b\n");
        check(&[], FALLBACK_BYTES);
        check(&[MACHINE], 4 * GIB);
        check(&[MACHINE, v2], 4 * GIB);
        check(&[MACHINE, v2, ("/sys/fs/cgroup/a/b/memory.max", "max\n")], 4 * GIB);
        check(&[MACHINE, v2, ("/sys/fs/cgroup/a/b/memory.max", "1073741824\n")], GIB);
        check(&[MACHINE, v2, ("/sys/fs/cgroup/a/memory.max", "1073741824\n")], GIB);
        check(&[MACHINE, v2, ("/sys/fs/cgroup/memory.max", "8589934592\n")], 4 * GIB);
        check(&[v2, ("/sys/fs/cgroup/memory.max", "8589934592\n")], 8 * GIB);
        let v1 = ("/proc/self/cgroup", "3:cpu,cpuacct:/c\n2:rdma,memory:/docker/x\n1:name=systemd:/\n0::/\n");
        check(&[MACHINE, v1, ("/sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes", "1073741824\n")], GIB);
        check(&[MACHINE, v1, ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "1073741824\n")], GIB);
        check(
            &[MACHINE, v1, ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")],
            4 * GIB,
        );
        check(&[("/proc/meminfo", "MemTotal: x kB\n"), ("/proc/self/cgroup", "nonsense\n")], FALLBACK_BYTES);
    }
}
