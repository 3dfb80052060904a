//! Whose child a process is.

use std::fs;

use rustix::process::{Pid, getpid};

use super::pid;

/// The direct children of this process, as the kernel lists them. Those that were not waited for are among them, so none of
/// the numbers is anybody else's until they are.
pub fn children() -> Vec<Pid> {
    let own = getpid().as_raw_nonzero().get();
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_child = |number: &u32| {
        let stat = fs::read_to_string(format!("/proc/{number}/stat")).unwrap_or_default();
        parent_of(&stat) == Some(own)
    };
    numbers.filter(is_child).filter_map(pid).collect()
}

/// The fourth field of `/proc/PID/stat` (`proc_pid_stat(5)`). The second, the name, is anything between brackets.
fn parent_of(stat: &str) -> Option<i32> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_who_a_parent_is() {
        let check = |stat: &str, expected| assert_eq!(parent_of(stat), expected, "{stat}");
        check("12 (node) S 7 12 12 0 -1", Some(7));
        check("12 (a) b (c) S 7 12", Some(7));
        check("12 () S 1) R 9 12", Some(9));
        check("", None);
        check("12 (node)", None);
    }
}
