//! The scenarios that come with the program, by name.

/// Name and text of each.
pub const SHIPPED: [(&str, &str); 8] = [
    ("small", include_str!("../../scenarios/small.toml")),
    ("big", include_str!("../../scenarios/big.toml")),
    ("progress", include_str!("../../scenarios/progress.toml")),
    ("lists", include_str!("../../scenarios/lists.toml")),
    ("sessions", include_str!("../../scenarios/sessions.toml")),
    ("idle", include_str!("../../scenarios/idle.toml")),
    ("mixed", include_str!("../../scenarios/mixed.toml")),
    ("stub", include_str!("../../scenarios/stub.toml")),
];

/// The text of one.
pub fn shipped(name: &str) -> Option<&'static str> {
    SHIPPED.iter().find(|(shipped, _)| *shipped == name).map(|(_, text)| *text)
}
