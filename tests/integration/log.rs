//! What clients and servers write into the log: no lines of their own.

use serde_json::Value;

use crate::support::{Client, Peer, Setup, call, legacy_call, modern, open_session};

/// The name of a tool that would be a line of its own, control a terminal, or reverse what follows; as JSON.
const NAME: &str = r"x\n2026-01-01T00:00:00Z  INFO forged\u001b[31m\u202e\u2028\r";

#[track_caller]
fn check(format: &str) {
    let peer = Peer::script([]);
    let setup = Setup::new().server_with("a", peer.address, "era = \"legacy\"");
    let gateway = setup.with(&format!("[log]\nformat = \"{format}\"\nfilter = \"debug\"")).start();
    let session = open_session(&gateway, "/mcp", None);
    let long = format!("{NAME}{}", "y".repeat(100 << 10));
    let mut sent = 0;
    for name in [NAME, &long] {
        let mut requests = vec![legacy_call("/mcp", &session, "1", name, "{}")];
        for method in ["tools/call", "prompts/get"] {
            let message = call("1", method, &format!(r#""name":"{name}","#));
            requests.push(modern("/mcp", method, "").with("Mcp-Name", "=?base64?eA==?=").body(message));
        }
        for request in requests {
            let response = Client::once(gateway.address, &request);
            assert!(response.json()["error"].is_object(), "{}", response.text());
            sent += 1;
        }
    }
    let log = gateway.log();
    assert!(log.contains("forged"), "{log}");
    assert!(log.matches("forged").count() <= sent);
    for line in log.lines() {
        let hostile = |c: char| matches!(c, '\u{1b}' | '\u{202e}' | '\u{2028}' | '\r');
        assert!(!line.contains(hostile) && line.len() < 4096, "{line:?}");
        let time = match format {
            "json" => {
                let line: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("{line:?}"));
                line["timestamp"].as_str().unwrap().to_owned()
            }
            _ => line.split(' ').next().unwrap().to_owned(),
        };
        assert!(time.len() > 25 && time.ends_with('Z'), "not a line of the gateway: {line:?}");
    }
}

#[test]
fn texts_of_others_forge_no_line() {
    check("text");
}

#[test]
fn texts_of_others_forge_no_line_of_json() {
    check("json");
}
