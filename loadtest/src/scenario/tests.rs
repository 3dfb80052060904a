use super::*;

const VALID: &str = r#"
name = "small"
about = "One small call after the other"
era = "both"

[load]
connections = 4
rate = 100
seconds = 1.5
timeout_s = 3

[idle]
connections = 10

[[calls]]
tool = "echo"
arguments = { text = "{canary} {fill:3}", deep = [{ more = "{fill:2}" }] }

[[calls]]
method = "tools/list"
items_min = 1
weight = 3
"#;

/// Replaces one text in `VALID`, and compares each line of the errors.
#[track_caller]
fn check(from: &str, to: &str, expected: &[&str]) {
    assert!(VALID.contains(from), "{from} is not there");
    let found = match Scenario::parse("s.toml", &VALID.replacen(from, to, 1)) {
        Ok(_) => String::new(),
        Err(errors) => errors.to_string(),
    };
    let found: Vec<_> = found.lines().collect();
    assert_eq!(found, expected);
}

#[test]
fn errors_of_the_load_name_file_key_and_remedy() {
    check("", "", &[]);
    check("name = \"small\"", "", &["s.toml: name: is missing; write one word, as in name = \"small\""]);
    check(
        "= \"both\"",
        "= \"old\"",
        &["s.toml: era: is \"old\"; write one of \"modern\", \"legacy\", \"both\""],
    );
    check(
        "connections = 4",
        "connections = 0",
        &["s.toml: load.connections: is 0; write a whole number from 1 to 60000"],
    );
    check("rate = 100", "rate = -1", &["s.toml: load.rate: is -1; write a number from 0.01 to 1000000"]);
    check(
        "seconds = 1.5",
        "seconds = nan",
        &["s.toml: load.seconds: is nan; write a number from 0.1 to 2678400"],
    );
    check(
        "timeout_s = 3",
        "timeout = 3",
        &[
            "s.toml: load.timeout: is not known; write one of connections, rate, warm_up_s, seconds, timeout_s, \
           requests, calls_per_session, ids",
        ],
    );
    check(
        "[idle]",
        "[idel]",
        &["s.toml: idel: is not known; write one of name, about, era, load, idle, calls"],
    );
}

#[test]
fn errors_of_calls_name_file_key_and_remedy() {
    check(
        "tool = \"echo\"",
        "tool = 7",
        &[
            "s.toml: calls[0].tool: is 7; write a text in quotes",
            "s.toml: calls[0].tool: write exactly one of tool, prompt, resource and method, as in tool = \"echo\"",
            "s.toml: calls[0].arguments: belongs to a tool or a prompt; write it in params",
        ],
    );
    check(
        "tool = \"echo\"",
        "tool = \"echo\"\nprompt = \"greet\"",
        &[
            "s.toml: calls[0].tool: write exactly one of tool, prompt, resource and method, as in tool = \"echo\"",
        ],
    );
    check(
        "{fill:3}",
        "{fill:x}",
        &["s.toml: calls[0].arguments: {fill:N} takes a whole number up to 16777216, once in a text"],
    );
    check(
        "items_min = 1",
        "echoes = true",
        &[
            "s.toml: calls[1].echoes: needs a text that the server returns; write {canary} into one of the arguments",
        ],
    );
    check(
        "items_min = 1",
        "name = \"echo\"",
        &["s.toml: calls[1].name: \"echo\" is used twice; write a unique name"],
    );
    check(
        "items_min = 1",
        "params = { _meta = 1 }",
        &["s.toml: calls[1].params: _meta is written by mcpload; take it out"],
    );
    check(
        "rate = 100",
        "ids = \"fixed\"",
        &["s.toml: calls[0].echoes: cannot hold with load.ids = \"fixed\"; write echoes = false"],
    );
    // All errors are reported at once.
    check(
        "era = \"both\"\n\n[load]",
        "era = 1\nload = 2\n[other]",
        &[
            "s.toml: era: is 1; write one of \"modern\", \"legacy\", \"both\"",
            "s.toml: load: is 2; write a table, as in [load]",
            "s.toml: other: is not known; write one of name, about, era, load, idle, calls",
        ],
    );
}

#[test]
fn a_scenario_needs_calls() {
    let errors = Scenario::parse("s.toml", "name = \"x\"").unwrap_err().to_string();
    assert_eq!(errors, "s.toml: calls: is missing; write at least one [[calls]] with a tool or a method");
    let errors = Scenario::parse("s.toml", "name = ").unwrap_err().to_string();
    assert!(errors.starts_with("s.toml: ") && errors.contains("line 1"), "{errors}");
}

#[test]
fn values_are_read() {
    let scenario = Scenario::parse("s.toml", VALID).unwrap();
    assert_eq!(scenario.load.rate, Some(100.0));
    assert_eq!(scenario.load.measure, Duration::from_millis(1500));
    let [call, list] = &scenario.operations[..] else { panic!("two calls") };
    assert_eq!(call.params["arguments"]["text"], "{canary} xxx");
    assert_eq!(call.params["arguments"]["deep"][0]["more"], "xx");
    assert!(call.checks.echoes && !list.checks.echoes);
    assert_eq!((list.weight, list.checks.items_min), (3, 1));
}

#[test]
fn builtin_scenarios_are_valid() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let scenario = Scenario::read(&path).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(Some(scenario.name.as_str()), path.file_stem().and_then(|stem| stem.to_str()));
        assert!(!scenario.about.is_empty(), "{}", path.display());
        assert!(builtin_scenario(&scenario.name).is_some(), "{} is not built in", path.display());
        seen += 1;
    }
    assert_eq!(seen, BUILTIN_SCENARIOS.len());
}
