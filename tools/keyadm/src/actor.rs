//! The operating system's user, as the actor in the audit log.

use std::os::unix::fs::MetadataExt;

use metamcp_store::store::Audit;

/// Returns an audit entry by this user, at the present time.
pub fn audit() -> Audit {
    Audit::by(actor())
}

/// Returns `keyadm:` and the user's name.
pub fn actor() -> String {
    format!("keyadm:{}", user())
}

/// Returns the name of the user. The environment is not consulted, since users can set it freely.
pub fn user() -> String {
    std::fs::metadata("/proc/self").map_or_else(|_| "unknown".into(), |process| user_name(process.uid()))
}

/// Returns the name of a user, or `uid-` and the number if it has none.
pub fn user_name(uid: u32) -> String {
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    find_user_name(uid, &users).map_or_else(|| format!("uid-{uid}"), str::to_owned)
}

/// Finds a user in the text of `/etc/passwd` (`name:password:uid:…`).
fn find_user_name(uid: u32, users: &str) -> Option<&str> {
    users.lines().find_map(|line| {
        let mut parts = line.split(':');
        let name = parts.next().filter(|name| !name.is_empty() && !name.contains(char::is_control))?;
        (parts.nth(1)?.parse() == Ok(uid)).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(uid: u32, expected: Option<&str>) {
        let users = "root:x:0:0:root:/root:/bin/sh\n\n::7:7::/:\nada:x:1000:100::/home/ada:\nbroken\n";
        assert_eq!(find_user_name(uid, users), expected);
    }

    #[test]
    fn users_are_found_by_their_number() {
        check(0, Some("root"));
        check(1000, Some("ada"));
        check(7, None);
        check(100, None);
        assert!(actor().starts_with("keyadm:") && actor().len() > "keyadm:".len());
    }
}
