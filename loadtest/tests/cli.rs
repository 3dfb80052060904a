//! Tests of the program: over sockets, by exit status and output.

#![allow(clippy::unwrap_used, reason = "a test that fails by panicking is a test that fails")]

mod support;

use std::path::PathBuf;
use std::process::Command;

use support::{ServerBehavior, TestServer};

/// Serves until the process ends. Returns the URL of the endpoint.
fn serve(behavior: ServerBehavior) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("http://{}/mcp", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let server = TestServer::new(behavior);
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(std::sync::Arc::clone(&server).serve(stream));
            }
        });
    });
    url
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
}

/// Checks the exit status, and that the output contains some texts. Returns standard output and standard error.
#[track_caller]
fn check(arguments: &[&str], status: i32, contains: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mcpload"));
    let output = command.args(arguments).env_remove("METAMCP_KEY").current_dir(folder()).output().unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    assert_eq!(output.status.code(), Some(status), "{arguments:?}: {text}");
    for expected in contains {
        assert!(text.contains(expected), "{expected} is not in {text}");
    }
    text
}

#[test]
fn exit_status_reflects_the_result() {
    let correct = serve(ServerBehavior::Correct);
    let few = ["--warm-up", "0", "--requests", "40", "--connections", "4"];
    let run = |url: &str, more: &[&str], status, contains: &[&str]| {
        check(&[&["run", "small", url], &few[..], more].concat(), status, contains)
    };
    run(
        &correct,
        &["--json", "a.json", "--html", "a.html", "--quiet"],
        0,
        &["echo    40", "held    errors at most 0"],
    );
    run(&correct, &["--json", "b.json", "--rate", "200", "--era", "both"], 0, &["sent late by (p99)"]);
    run(&correct, &["--p99-max", "1us"], 1, &["BROKEN  p99 at most 1 µs"]);
    run(
        &serve(ServerBehavior::SlowOnce(1, std::time::Duration::from_secs(30))),
        &["--timeout", "1s"],
        1,
        &["timeout"],
    );
    run(&serve(ServerBehavior::ForeignId), &[], 69, &["echo (Modern): wrong id"]);
    run(&serve(ServerBehavior::Busy), &[], 69, &["status 503"]);
    let page = std::fs::read_to_string(folder().join("a.html")).unwrap();
    assert!(page.contains("</html>") && page.contains("every response was correct"));
    check(&["compare", "a.json", "b.json"], 0, &["ok /s", "b differs from the first in: era, rate"]);
    check(
        &[
            "sweep",
            "small",
            &correct,
            "--from",
            "40",
            "--to",
            "80",
            "--seconds",
            "0.2",
            "--warm-up",
            "0",
            "--p99-max",
            "10s",
            "--errors-max",
            "100%",
            "--html",
            "s.html",
        ],
        0,
        &["requests/s"],
    );
}

#[test]
fn usage_errors_exit_with_64_and_name_the_remedy() {
    let bad = folder().join("bad.toml");
    std::fs::write(&bad, "name = 1\n[load]\nrate = \"fast\"\n[[calls]]\ntool = \"a\"\nargs = 1\n").unwrap();
    check(
        &["run", "bad.toml", "http://127.0.0.1:1/mcp"],
        64,
        &[
            "bad.toml: name: is 1; write a text in quotes",
            "bad.toml: load.rate: is \"fast\"; write a number from",
            "bad.toml: calls[0].args: is not known; write one of",
        ],
    );
    check(&["run", "nosuch", "http://127.0.0.1:1/mcp"], 64, &["write a file, or one of small, big"]);
    check(&["run", "small", "http://127.0.0.1:1/mcp", "--p99-max", "5"], 64, &["as in 250us, 5ms or 1.5s"]);
    check(&["run", "small", "http://127.0.0.1:1/mcp", "--key-file", "none"], 64, &["none: cannot be read"]);
    let user = check(&["run", "small", "http://me:secret@127.0.0.1:1/mcp"], 64, &["has a user in it"]);
    assert!(!user.contains("secret"));
    check(&["run", "small", "/mcp"], 64, &["/mcp is not an http:// or https:// URL"]);
    check(&["run", "small", "ftp://127.0.0.1/mcp"], 69, &["does not begin with http:// or https://"]);
    check(&["run", "small", "http://127.0.0.1:1/mcp"], 69, &["Is it running, and is this its address?"]);
    check(&["compare", "bad.toml", "bad.toml"], 64, &["is not a report of mcpload run --json"]);
    check(&["scenarios", "none"], 64, &["use one of small, big"]);
    check(&["scenarios"], 0, &["small ", "mixed "]);
    let shown =
        check(&["run", "small", "http://127.0.0.1:1/mcp", "--header", "secret"], 64, &["--header number 1"]);
    assert!(!shown.contains("secret"));
    check(&["--help"], 0, &["Exit status: 0 good", "mcpload sweep small"]);
}
