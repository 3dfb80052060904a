//! A client that checks a gateway: it exchanges a key for a token, then calls the gateway in both eras of the protocol and
//! checks each response.
//!
//!     cargo run --example test_client [URL] [KEY | --api-key KEY]
//!
//! URL is an endpoint; the default is `$METAMCP_URL`, or else `http://127.0.0.1:12009/mcp`. KEY is an API key; the default is
//! `$METAMCP_KEY`, or else requests carry no credential. Prints a line for each check and a count at the end; the exit code
//! is 0 if no check failed. Supports plain HTTP only, with one connection for each request: a client of 2026-07-28 cancels a
//! request by closing its connection.
//!
//! It calls a tool `echo` and a slow tool, `countdown` or `walk`, which the demonstration server and the example servers
//! have. Checks are skipped if the gateway does not list what they need.

#[path = "test_client/checks.rs"]
mod checks;
#[path = "test_client/client.rs"]
mod client;

use std::process::ExitCode;
use std::time::Duration;

use tokio::time::timeout;

use checks::Outcome;
use client::{Gateway, Session};

const DEFAULT_URL: &str = "http://127.0.0.1:12009/mcp";

/// The timeout of one check; the longest takes two seconds.
const CHECK_TIME: Duration = Duration::from_secs(20);

const LISTS: [(&str, &str, &str); 4] = [
    ("tools/list", "tools", "name"),
    ("prompts/list", "prompts", "name"),
    ("resources/list", "resources", "uri"),
    ("resources/templates/list", "resourceTemplates", "uriTemplate"),
];

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Some((url, key)) = parse_arguments(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(64);
    };
    #[expect(clippy::disallowed_methods, reason = "this client has no configuration besides the environment")]
    let variable = |name| std::env::var(name).ok();
    let url = url.or_else(|| variable("METAMCP_URL")).unwrap_or_else(|| DEFAULT_URL.into());
    let key = key.or_else(|| variable("METAMCP_KEY")).filter(|key| !key.is_empty());
    let mut gateway = match Gateway::new(&url) {
        Ok(gateway) => gateway,
        Err(error) => {
            eprintln!("test_client: {url}: {error}\n{USAGE}");
            return ExitCode::from(64);
        }
    };
    let mut report = Report::default();
    authenticate(&mut gateway, key, &mut report).await;
    modern(Session::modern(gateway.clone()), &mut report).await;
    legacy(gateway, &mut report).await;
    println!("{} passed, {} failed", report.passed, report.failed);
    if report.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

const USAGE: &str = "usage: test_client [URL] [KEY | --api-key KEY]";

/// Reads the URL and the key, each of which may be missing; `None` if the arguments are invalid.
fn parse_arguments(mut arguments: impl Iterator<Item = String>) -> Option<(Option<String>, Option<String>)> {
    let (mut positional, mut api_key) = (Vec::new(), None);
    while let Some(argument) = arguments.next() {
        if argument == "--api-key" {
            api_key = Some(arguments.next()?);
        } else if let Some(key) = argument.strip_prefix("--api-key=") {
            api_key = Some(key.to_owned());
        } else {
            positional.push(argument);
        }
    }
    let mut positional = positional.into_iter();
    Some((positional.next(), api_key.or_else(|| positional.next())))
}

/// Exchanges the key, if there is one, for a token that all later requests carry.
async fn authenticate(gateway: &mut Gateway, key: Option<String>, report: &mut Report) {
    report.check("health", gateway.health()).await;
    let Some(key) = key else { return };
    report.check("a wrong key is refused", gateway.wrong_key()).await;
    gateway.token = report.check("key for token", gateway.exchange(&key)).await.flatten();
}

/// Checks the Modern era (2026-07-28), with independent requests.
async fn modern(mut session: Session, report: &mut Report) {
    report.check("modern server/discover", session.discover()).await;
    calls("modern", &mut session, report).await;
    report.check("modern cancellation by closing", session.close_a_call()).await;
    report.check("modern subscriptions/listen", session.listen()).await;
}

/// Checks the Legacy era (2025-11-25), within a session.
async fn legacy(gateway: Gateway, report: &mut Report) {
    let Some(Some(mut session)) = report.check("legacy initialize", Session::initialize(gateway)).await
    else {
        return;
    };
    report.check("legacy initialized", session.initialized()).await;
    report.check("legacy ping", session.ping()).await;
    calls("legacy", &mut session, report).await;
    report.check("legacy cancellation", session.cancel_a_call()).await;
    report.check("legacy GET stream", session.get_stream()).await;
    report.check("legacy DELETE", session.delete()).await;
}

/// Checks what both eras have.
async fn calls(era: &str, session: &mut Session, report: &mut Report) {
    let mut lists = Vec::new();
    for (method, key, id) in LISTS {
        let items = report.check(&format!("{era} {method}"), session.list(method, key, id)).await;
        lists.push(items.flatten().unwrap_or_default());
    }
    let [tools, prompts, resources, _] = &lists[..] else { return };
    session.tools.clone_from(tools);
    report.check(&format!("{era} tools/call"), session.echo()).await;
    report.check(&format!("{era} tools/call, no such tool"), session.no_such_tool()).await;
    report.check(&format!("{era} progress"), session.progress()).await;
    report.check(&format!("{era} prompts/get"), session.get_prompt(prompts.first())).await;
    report.check(&format!("{era} resources/read"), session.read_resource(resources.first())).await;
}

/// Counts the checks, and prints a line for each.
#[derive(Default)]
struct Report {
    passed: usize,
    failed: usize,
}

impl Report {
    async fn check<T>(&mut self, name: &str, check: impl Future<Output = Outcome<T>>) -> Option<Option<T>> {
        let outcome = timeout(CHECK_TIME, check).await;
        match outcome.unwrap_or_else(|_| Err(format!("timed out after {CHECK_TIME:?}").into())) {
            Ok(Some((detail, value))) => {
                println!("pass  {name}: {detail}");
                self.passed += 1;
                Some(Some(value))
            }
            Ok(None) => {
                println!("skip  {name}: the servers do not offer what it needs");
                Some(None)
            }
            Err(error) => {
                println!("FAIL  {name}: {error}");
                self.failed += 1;
                None
            }
        }
    }
}
