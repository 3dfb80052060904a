use std::fs;

use rustix::process::{Pid, getpid};

use super::exec::to_pid;

/// Lists the direct children of this process. Children that have ended and were not waited for are included,
/// so none of the process ids can belong to another process until they are.
pub fn children() -> Vec<Pid> {
    let parent = getpid().as_raw_nonzero().get();
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_child = |number: &u32| {
        let stat = fs::read_to_string(format!("/proc/{number}/stat")).unwrap_or_default();
        parse_parent(&stat) == Some(parent)
    };
    numbers.filter(is_child).filter_map(to_pid).collect()
}

/// Parses the fourth field of `/proc/PID/stat` (`proc_pid_stat(5)`). The second, the name, is any text in
/// parentheses.
fn parse_parent(stat: &str) -> Option<i32> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_the_parent() {
        let check = |stat: &str, expected| assert_eq!(parse_parent(stat), expected, "{stat}");
        check("12 (node) S 7 12 12 0 -1", Some(7));
        check("12 (a) b (c) S 7 12", Some(7));
        check("12 () S 1) R 9 12", Some(9));
        check("", None);
        check("12 (node)", None);
    }
}
