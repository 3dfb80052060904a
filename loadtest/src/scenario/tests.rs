use super::*;

const RIGHT: &str = r#"
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

/// `RIGHT` with one text put for another, and each line of the mistakes.
#[track_caller]
fn check(from: &str, to: &str, expected: &[&str]) {
    assert!(RIGHT.contains(from), "{from} is not there");
    let found = match Scenario::parse("s.toml", &RIGHT.replacen(from, to, 1)) {
        Ok(_) => String::new(),
        Err(mistakes) => mistakes.to_string(),
    };
    let found: Vec<_> = found.lines().collect();
    assert_eq!(found, expected);
}

#[test]
fn mistakes_of_the_load_name_file_key_and_what_to_write() {
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
fn mistakes_of_calls_name_file_key_and_what_to_write() {
    check(
        "tool = \"echo\"",
        "tool = 7",
        &[
            "s.toml: calls[0].tool: is 7; write a text in quotes",
            "s.toml: calls[0].tool: write exactly one of tool, prompt, resource and method, as in tool = \"echo\"",
            "s.toml: calls[0].arguments: goes with a tool or a prompt; write it in params",
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
        &["s.toml: calls[1].echoes: needs something to come back; write {canary} into one of the arguments"],
    );
    check(
        "items_min = 1",
        "name = \"echo\"",
        &["s.toml: calls[1].name: \"echo\" is there twice; write a name of its own"],
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
    // All at once.
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
fn no_calls_is_a_mistake() {
    let mistakes = Scenario::parse("s.toml", "name = \"x\"").unwrap_err().to_string();
    assert_eq!(mistakes, "s.toml: calls: is missing; write at least one [[calls]] with a tool or a method");
    let mistakes = Scenario::parse("s.toml", "name = ").unwrap_err().to_string();
    assert!(mistakes.starts_with("s.toml: ") && mistakes.contains("line 1"), "{mistakes}");
}

#[test]
fn values_are_those_that_were_written() {
    let scenario = Scenario::parse("s.toml", RIGHT).unwrap();
    assert_eq!(scenario.load.rate, Some(100.0));
    assert_eq!(scenario.load.measure, Duration::from_millis(1500));
    let [call, list] = &scenario.operations[..] else { panic!("two calls") };
    assert_eq!(call.params["arguments"]["text"], "{canary} xxx");
    assert_eq!(call.params["arguments"]["deep"][0]["more"], "xx");
    assert!(call.checks.echoes && !list.checks.echoes);
    assert_eq!((list.weight, list.checks.items_min), (3, 1));
}

/// The scenarios that come with the program.
#[test]
fn shipped_scenarios_have_no_mistakes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let scenario = Scenario::read(&path).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        assert_eq!(Some(scenario.name.as_str()), path.file_stem().and_then(|stem| stem.to_str()));
        assert!(!scenario.about.is_empty(), "{}", path.display());
        assert!(shipped(&scenario.name).is_some(), "{} is not in the program", path.display());
        seen += 1;
    }
    assert_eq!(seen, SHIPPED.len());
}
