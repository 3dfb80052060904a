//! The log filter, and its check.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{LevelFilter, ParseError};

/// Libraries whose lines clients and servers cause, such as a warning for each client that asks for a renegotiation. They
/// say nothing that an operator could act on, and nothing bounds them.
const QUIET: &str = "rustls=error,tokio_postgres=error,h2=error,hyper=error";

/// The filter for the log. Some libraries log errors alone, unless the filter names them, or wants to debug all.
pub(super) fn parse(filter: &str) -> Result<EnvFilter, ParseError> {
    let debugs_all = filter
        .split(',')
        .filter_map(|word| word.parse::<LevelFilter>().ok())
        .any(|level| level > LevelFilter::INFO);
    if filter.trim().is_empty() || debugs_all {
        return EnvFilter::builder().parse(filter);
    }
    // What follows replaces what it repeats.
    EnvFilter::builder().parse(format!("{QUIET},{filter}"))
}

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
    word.parse::<LevelFilter>().is_ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn libraries_are_quiet_unless_they_are_named() {
        let check = |filter: &str, expected: &str| {
            let parsed = super::parse(filter).expect("a filter").to_string();
            let mut found: Vec<&str> = parsed.split(',').collect();
            found.sort_unstable();
            assert_eq!(found.join(","), expected, "{filter}");
        };
        check("info", "h2=error,hyper=error,info,rustls=error,tokio_postgres=error");
        check("info,rustls=debug", "h2=error,hyper=error,info,rustls=debug,tokio_postgres=error");
        check(
            "info,metamcp=trace",
            "h2=error,hyper=error,info,metamcp=trace,rustls=error,tokio_postgres=error",
        );
        check("trace", "trace");
        check("metamcp=info,DEBUG", "debug,metamcp=info");
        check("", "");
    }

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
