//! The scenarios that are built into the program.

/// The name and the TOML text of each scenario.
pub const BUILTIN_SCENARIOS: [(&str, &str); 8] = [
    ("small", include_str!("../../scenarios/small.toml")),
    ("big", include_str!("../../scenarios/big.toml")),
    ("progress", include_str!("../../scenarios/progress.toml")),
    ("lists", include_str!("../../scenarios/lists.toml")),
    ("sessions", include_str!("../../scenarios/sessions.toml")),
    ("idle", include_str!("../../scenarios/idle.toml")),
    ("mixed", include_str!("../../scenarios/mixed.toml")),
    ("stub", include_str!("../../scenarios/stub.toml")),
];

/// Returns the TOML text of a built-in scenario.
pub fn builtin_scenario(name: &str) -> Option<&'static str> {
    BUILTIN_SCENARIOS.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}
