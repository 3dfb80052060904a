//! The check of a log filter.

use tracing_subscriber::EnvFilter;

/// Why a log filter cannot be what was meant. `None` if it can be.
pub(super) fn mistake(filter: &str) -> Option<&'static str> {
    if EnvFilter::try_new(filter).is_err() {
        return Some("is not a log filter; write \"info\", or \"info,metamcp=debug\"");
    }
    // A word that is no level is the name of a part of the program: with "warning", nothing at all would be logged.
    let mut words = filter.split(',').map(str::trim).filter(|word| !word.is_empty());
    let logs_nothing = words.clone().next().is_some()
        && words.all(|word| !word.contains(['=', '[']) && !is_level(word) && !word.starts_with("metamcp"));
    logs_nothing
        .then_some("has no level: write error, warn, info, debug, trace or off, as in \"info,metamcp=debug\"")
}

fn is_level(word: &str) -> bool {
    word.parse::<tracing_subscriber::filter::LevelFilter>().is_ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn filters_without_a_level_are_mistakes() {
        #[track_caller]
        fn check(filter: &str, expected: Option<&str>) {
            let found = super::mistake(filter);
            assert!(
                found.zip(expected).map_or(found == expected, |(found, said)| found.contains(said)),
                "{found:?}"
            );
        }
        for filter in [
            "",
            "info",
            "WARN",
            "off",
            "3",
            "info,hyper",
            "hyper=debug",
            "metamcp",
            "[span]=debug",
            "warn, a",
        ] {
            check(filter, None);
        }
        check("warning", Some("has no level"));
        check("hyper,tokio", Some("has no level"));
        check("a=b=c", Some("is not a log filter"));
    }
}
