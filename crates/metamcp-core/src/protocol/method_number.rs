//! Numbers for methods, for the headers of framed streams. A receiver can dispatch a message by its number before it parses
//! it.

/// In the order of their numbers, which start at 1. Numbers never change: append new names at the end.
const NAMES: [&str; 36] = [
    "initialize",
    "ping",
    "server/discover",
    "subscriptions/listen",
    "tools/list",
    "tools/call",
    "prompts/list",
    "prompts/get",
    "resources/list",
    "resources/templates/list",
    "resources/read",
    "resources/subscribe",
    "resources/unsubscribe",
    "completion/complete",
    "logging/setLevel",
    "tasks/list",
    "tasks/get",
    "tasks/result",
    "tasks/update",
    "tasks/cancel",
    "sampling/createMessage",
    "elicitation/create",
    "roots/list",
    "notifications/initialized",
    "notifications/cancelled",
    "notifications/progress",
    "notifications/message",
    "notifications/tools/list_changed",
    "notifications/prompts/list_changed",
    "notifications/resources/list_changed",
    "notifications/resources/updated",
    "notifications/roots/list_changed",
    "notifications/elicitation/complete",
    "notifications/tasks/status",
    "notifications/tasks",
    "notifications/subscriptions/acknowledged",
];

/// Stands for a method without a number, and for an unspecified method.
pub const UNNUMBERED: u32 = 0;

/// Returns the number of a method, or [`UNNUMBERED`].
pub fn method_number(method: &[u8]) -> u32 {
    let at = NAMES.iter().position(|name| name.as_bytes() == method);
    at.and_then(|at| u32::try_from(at + 1).ok()).unwrap_or(UNNUMBERED)
}

/// Returns the method with a number.
pub fn method_name(number: u32) -> Option<&'static str> {
    NAMES.get(usize::try_from(number).ok()?.checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers in `docs/FRAMES.md`.
    #[test]
    fn numbers_do_not_change() {
        let check = |number: u32, method: &str| {
            assert_eq!((method_name(number), method_number(method.as_bytes())), (Some(method), number));
        };
        check(1, "initialize");
        check(2, "ping");
        check(5, "tools/list");
        check(6, "tools/call");
        check(22, "elicitation/create");
        check(25, "notifications/cancelled");
        check(36, "notifications/subscriptions/acknowledged");
        assert_eq!(
            (method_name(0), method_name(u32::MAX), method_number(b"x"), method_number(b"")),
            (None, None, 0, 0)
        );
    }

    #[test]
    fn every_name_has_a_number() {
        for (at, name) in (1..).zip(NAMES) {
            assert_eq!((method_number(name.as_bytes()), method_name(at)), (at, Some(name)));
        }
    }
}
