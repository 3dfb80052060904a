//! Modern clients of servers that speak only the Legacy era: by name and together, over HTTP and stdio.

#![allow(clippy::needless_pass_by_value, reason = "a row reads better with its values written in it")]

use std::io::{BufRead, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{
    Client, Gate, Gateway, MODERN, PATIENCE, Peer, Request, Response, Setup, Step, answer, chunk, error,
    events, message,
};
use metamcp_demo::{
    Call, ContentChange, Era, HandlerError, HandlerResult, InputRequest, LogLevel, RpcError, ServerContent,
    ServerOptions, SupportedEras, structured, text, text_resource, user_prompt,
};
use serde_json::{Value, json};

/// The two ways to a server: its path, and what stands before the names of its tools there.
const WAYS: [(&str, &str); 2] = [("/servers/old/mcp", ""), ("/mcp", "old__")];

/// A server of sessions only.
struct Old;

impl ServerContent for Old {
    fn info(&self) -> Value {
        json!({"name": "old", "version": "1"})
    }

    fn instructions(&self) -> Option<&str> {
        Some("Be kind")
    }

    fn tools(&self, _era: Era) -> Vec<Value> {
        let tool = |name: &str| json!({"name": name, "inputSchema": {"type": "object"}});
        ["echo", "work", "ask", "rounds", "roots", "visit", "locked", "hang", "stats", "touch"]
            .map(tool)
            .into()
    }

    fn resources(&self) -> Vec<Value> {
        vec![json!({"uri": "old://a", "name": "a"})]
    }

    fn resource_templates(&self) -> Vec<Value> {
        Vec::new()
    }

    fn prompts(&self) -> Vec<Value> {
        vec![json!({"name": "greet", "arguments": [{"name": "who"}]})]
    }

    async fn call_tool(&self, name: &str, call: &Call) -> HandlerResult {
        match name {
            "echo" => Ok(text(call.text("text")?)),
            "work" => {
                call.log(LogLevel::Debug, &json!("too little")).await;
                call.log(LogLevel::Warning, &json!("enough")).await;
                call.progress(1, 2, "half").await;
                Ok(text("worked"))
            }
            "ask" => {
                call.progress(1, 2, "first").await;
                let name = ask(call, "Your name?").await?;
                call.progress(2, 2, "then").await;
                Ok(text(format!("Hello {name}")))
            }
            "rounds" => {
                let (one, two) = (ask(call, "One?").await?, ask(call, "Two?").await?);
                Ok(text(format!("{one} and {two}")))
            }
            "roots" => Ok(text(call.ask("roots", InputRequest::roots()).await?["roots"].to_string())),
            "visit" => {
                let visit = call.ask("visit", InputRequest::url("Please", "https://example.com/x")).await?;
                Ok(text(visit["action"].to_string()))
            }
            "locked" => {
                let visit = json!({"mode": "url", "elicitationId": "e", "url": "https://example.com/y", "message": "First"});
                let error = RpcError::new(-32042, "Visit a page first");
                Err(HandlerError::Error(error.with_data(json!({"elicitations": [visit]}))))
            }
            "hang" => {
                call.progress(0, 1, "begun").await;
                std::future::pending().await
            }
            "stats" => {
                let (begun, cancelled) = call.hub.calls();
                Ok(structured(&json!({"begun": begun, "cancelled": cancelled})))
            }
            "touch" => {
                // Its lists are as they were.
                call.hub.announce(&ContentChange::Tools);
                call.hub.announce(&ContentChange::Prompts);
                call.hub.announce(&ContentChange::Resources);
                call.hub.announce(&ContentChange::Resource("old://a".into()));
                call.hub.announce(&ContentChange::Resource("old://b".into()));
                Ok(text("touched"))
            }
            _ => Err(RpcError::invalid_params("Unknown tool").into()),
        }
    }

    async fn get_prompt(&self, _name: &str, call: &Call) -> HandlerResult {
        Ok(user_prompt(&format!("Greet {}", call.text("who")?)))
    }

    async fn read_resource(&self, uri: &str, _call: &Call) -> HandlerResult {
        match uri {
            "old://a" => Ok(text_resource(uri, "text/plain", "A")),
            _ => Err(HandlerError::Error(RpcError::new(-32002, "Resource not found"))),
        }
    }

    fn complete(&self, _reference: &Value, _argument: &str, prefix: &str) -> Vec<String> {
        vec![format!("{prefix}bc")]
    }
}

async fn ask(call: &Call, question: &str) -> Result<String, HandlerError> {
    let schema = json!({"type": "object", "properties": {"name": {"type": "string"}}});
    let answer = call.ask("name", InputRequest::form(question, &schema)).await?;
    Ok(answer["content"]["name"].as_str().unwrap_or("nobody").to_owned())
}

/// With clients told of the bridge, as one that falls back to nothing has to be.
fn announced() -> Setup {
    Setup::new().with("[bridge]\ndiscover = true")
}

fn old() -> SocketAddr {
    serve(SupportedEras::Legacy)
}

/// The same server, of those eras.
fn serve(eras: SupportedEras) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let options = ServerOptions { eras, page_size: None, resumable: false };
    thread::spawn(move || metamcp_demo::serve_content(listener, Old, options));
    address
}

const FORMS: &str = r#"{"elicitation":{"form":{}}}"#;

/// A request; `params` without `_meta`.
fn request(path: &str, capabilities: &str, method: &str, params: Value) -> Request {
    with_meta(path, capabilities, method, params, json!({}))
}

fn with_meta(path: &str, capabilities: &str, method: &str, mut params: Value, meta: Value) -> Request {
    let capabilities: Value = serde_json::from_str(capabilities).unwrap();
    let named = params.get("name").or(params.get("uri")).and_then(Value::as_str).map(str::to_owned);
    let mut all = json!({
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": capabilities,
    });
    all.as_object_mut().unwrap().extend(meta.as_object().unwrap().clone());
    params["_meta"] = all;
    let message = json!({"jsonrpc": "2.0", "id": "c1", "method": method, "params": params});
    let request = Request::post(path, message.to_string())
        .with("MCP-Protocol-Version", MODERN)
        .with("Mcp-Method", method);
    match named {
        Some(name) => request.with("Mcp-Name", name),
        None => request,
    }
}

fn tool(path: &str, capabilities: &str, name: &str, arguments: Value) -> Request {
    request(path, capabilities, "tools/call", json!({"name": name, "arguments": arguments}))
}

/// The same call again, with what was asked for.
fn retry(path: &str, name: &str, arguments: Value, asked: &Value, answers: Value) -> Request {
    let params = json!({
        "name": name,
        "arguments": arguments,
        "inputResponses": answers,
        "requestState": asked["result"]["requestState"],
    });
    request(path, FORMS, "tools/call", params)
}

/// Each request of `asked` answered with a name.
fn named(asked: &Value, name: &str) -> Value {
    let requests = asked["result"]["inputRequests"].as_object().unwrap_or_else(|| panic!("{asked}"));
    let answer = json!({"action": "accept", "content": {"name": name}});
    requests.keys().map(|key| (key.clone(), answer.clone())).collect::<serde_json::Map<_, _>>().into()
}

#[track_caller]
fn said(response: &Response) -> String {
    let message = message(response);
    let text = message["result"]["content"][0]["text"].as_str();
    assert_eq!(message["result"]["resultType"], "complete", "{message}");
    assert_eq!(message["id"], "c1", "{message}");
    text.unwrap_or_else(|| panic!("{message}")).to_owned()
}

#[track_caller]
fn input_required(response: &Response) -> Value {
    let message = message(response);
    assert_eq!(
        (response.status, &message["result"]["resultType"]),
        (200, &json!("input_required")),
        "{message}"
    );
    message
}

#[test]
fn lists_calls_and_reads() {
    let gateway = announced().server("old", old()).start();
    for (path, prefix) in WAYS {
        let mut client = Client::connect(gateway.address);
        let mut ask = |method: &str, params: Value| client.ask(&request(path, "{}", method, params));
        let discovered = ask("server/discover", json!({})).json();
        assert_eq!(discovered["result"]["supportedVersions"], json!([MODERN]), "{discovered}");
        assert!(discovered["result"]["capabilities"]["tools"].is_object(), "{discovered}");
        assert!(discovered["result"]["instructions"].as_str().unwrap().contains("Be kind"), "{discovered}");
        for (method, member) in [
            ("tools/list", "tools"),
            ("prompts/list", "prompts"),
            ("resources/list", "resources"),
            ("resources/templates/list", "resourceTemplates"),
        ] {
            let listed = ask(method, json!({})).json();
            let result = &listed["result"];
            assert!(result[member].is_array() && result["ttlMs"].is_u64(), "{listed}");
            assert!(result["cacheScope"].is_string(), "{listed}");
            assert_eq!((&listed["id"], &result["resultType"]), (&json!("c1"), &json!("complete")));
        }
        let echo = json!({"name": format!("{prefix}echo"), "arguments": {"text": "x"}});
        assert_eq!(said(&ask("tools/call", echo)), "x");
        let greet = json!({"name": format!("{prefix}greet"), "arguments": {"who": "Ann"}});
        let greeted = ask("prompts/get", greet).json();
        assert_eq!(greeted["result"]["messages"][0]["content"]["text"], "Greet Ann", "{greeted}");
        let read = ask("resources/read", json!({"uri": "old://a"})).json();
        assert_eq!(
            (&read["result"]["contents"][0]["text"], &read["result"]["ttlMs"]),
            (&json!("A"), &json!(0))
        );
        let reference = json!({"type": "ref/prompt", "name": format!("{prefix}greet")});
        let completing = json!({"ref": reference, "argument": {"name": "who", "value": "a"}});
        let completed = ask("completion/complete", completing).json();
        assert_eq!(completed["result"]["completion"]["values"], json!(["abc"]), "{completed}");
    }
}

#[test]
fn errors_are_those_of_the_era() {
    let gateway = announced().server("old", old()).start();
    let check = |path: &str, method: &str, params: Value, status: u16, code: i64| {
        let response = Client::once(gateway.address, &request(path, "{}", method, params));
        assert_eq!((response.status, error(&response)), (status, code), "{method}: {}", response.text());
        assert_eq!(response.json()["id"], "c1");
    };
    for (path, prefix) in WAYS {
        check(path, "resources/read", json!({"uri": "old://none"}), 200, -32602);
        check(path, "tools/call", json!({"name": format!("{prefix}none")}), 200, -32602);
        for method in ["ping", "tasks/list", "logging/setLevel", "resources/subscribe"] {
            check(path, method, json!({"level": "info", "uri": "old://a"}), 404, -32601);
        }
    }
    check(WAYS[0].0, "x/unknown", json!({}), 404, -32601);
}

#[test]
fn progress_and_log_come_with_the_call() {
    let gateway = announced().server("old", old()).start();
    for (path, prefix) in WAYS {
        let check = |meta: Value, expected: &[&str]| {
            let params = json!({"name": format!("{prefix}work"), "arguments": {}});
            let response =
                Client::once(gateway.address, &with_meta(path, "{}", "tools/call", params, meta.clone()));
            assert_eq!(said(&response), "worked");
            let events = if expected.is_empty() { Vec::new() } else { response.events() };
            let found: Vec<_> = events.iter().filter_map(|event| event["method"].as_str()).collect();
            assert_eq!(found, expected, "{meta} {}", response.text());
            let token = events.iter().find(|event| event["method"] == "notifications/progress");
            assert!(token.is_none_or(|event| event["params"]["progressToken"] == "t"));
        };
        let level = |level: &str| json!({"io.modelcontextprotocol/logLevel": level});
        check(json!({}), &[]);
        check(json!({"progressToken": "t"}), &["notifications/progress"]);
        check(level("warning"), &["notifications/message"]);
        check(level("debug"), &["notifications/message", "notifications/message"]);
        // The session is told more by now; the call is not.
        check(level("error"), &[]);
        check(
            json!({"progressToken": "t", "io.modelcontextprotocol/logLevel": "info"}),
            &["notifications/message", "notifications/progress"],
        );
    }
}

#[test]
fn a_form_is_filled_in_by_a_retry() {
    let gateway = announced().server("old", old()).workers(4).start();
    for (path, prefix) in WAYS {
        let name = format!("{prefix}ask");
        // Each request on a connection of its own: they come to several workers.
        for who in ["Ann", "Bob", "Cyn", "Dan", "Eve", "Fay"] {
            let asked =
                input_required(&Client::once(gateway.address, &tool(path, FORMS, &name, json!({"n": who}))));
            let question = &asked["result"]["inputRequests"]["1"];
            assert_eq!(question["method"], "elicitation/create", "{asked}");
            assert_eq!(question["params"]["message"], "Your name?", "{asked}");
            let again = retry(path, &name, json!({"n": who}), &asked, named(&asked, who));
            assert_eq!(said(&Client::once(gateway.address, &again)), format!("Hello {who}"));
            // Once.
            let response = Client::once(gateway.address, &again);
            assert_eq!(error(&response), -32602);
            assert!(response.text().contains("answered already"), "{}", response.text());
        }
    }
}

/// What was said before the server asked comes on the stream of the first request, and the rest on that of
/// the retry.
#[test]
fn a_call_that_has_begun_to_answer_may_ask() {
    let gateway = announced().server("old", old()).start();
    for (path, prefix) in WAYS {
        let name = format!("{prefix}ask");
        let params = |more: Value| {
            let mut params = json!({"name": name, "arguments": {}});
            params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            params
        };
        let progress = |response: &Response, token: &str| {
            let events = response.events();
            assert_eq!(events.len(), 2, "{events:?}");
            assert_eq!(events[0]["params"]["progressToken"], token, "{events:?}");
            events[0]["params"]["message"].clone()
        };
        let meta = |token: &str| json!({"progressToken": token});
        let first = with_meta(path, FORMS, "tools/call", params(json!({})), meta("one"));
        let first = Client::once(gateway.address, &first);
        assert_eq!(progress(&first, "one"), "first");
        let asked = input_required(&first);
        let more =
            json!({"inputResponses": named(&asked, "Ann"), "requestState": asked["result"]["requestState"]});
        let second = with_meta(path, FORMS, "tools/call", params(more), meta("two"));
        let second = Client::once(gateway.address, &second);
        assert_eq!(progress(&second, "two"), "then");
        assert_eq!(said(&second), "Hello Ann");
    }
}

#[test]
fn a_visit_that_comes_first_is_asked_for() {
    let gateway = announced().server("old", old()).start();
    for (path, prefix) in WAYS {
        let name = format!("{prefix}locked");
        let urls = r#"{"elicitation":{"url":{}}}"#;
        let asked = input_required(&Client::once(gateway.address, &tool(path, urls, &name, json!({}))));
        let visit = json!({"mode": "url", "url": "https://example.com/y", "message": "First"});
        assert_eq!(
            asked["result"]["inputRequests"]["1"],
            json!({"method": "elicitation/create", "params": visit})
        );
        assert!(asked["result"]["requestState"].is_null(), "the call is made anew");
        // The server has not opened by then.
        let params = json!({"name": name, "arguments": {}, "inputResponses": {"1": {"action": "accept"}}});
        input_required(&Client::once(gateway.address, &request(path, urls, "tools/call", params)));
        let unable = Client::once(gateway.address, &tool(path, FORMS, &name, json!({})));
        assert_eq!((unable.status, error(&unable)), (400, -32021), "{}", unable.text());
    }
}

#[test]
fn several_rounds() {
    let gateway = announced().server("old", old()).start();
    for (path, prefix) in WAYS {
        let name = format!("{prefix}rounds");
        let ask = |request: &Request| Client::once(gateway.address, request);
        let first = input_required(&ask(&tool(path, FORMS, &name, json!({}))));
        // What is not answered is asked again.
        let again = input_required(&ask(&retry(path, &name, json!({}), &first, json!({"other": {}}))));
        assert_eq!(again["result"]["inputRequests"], first["result"]["inputRequests"]);
        assert_ne!(again["result"]["requestState"], first["result"]["requestState"]);
        let second = input_required(&ask(&retry(path, &name, json!({}), &again, named(&again, "1"))));
        assert_eq!(second["result"]["inputRequests"]["2"]["params"]["message"], "Two?", "{second}");
        let done = ask(&retry(path, &name, json!({}), &second, named(&second, "2")));
        assert_eq!(said(&done), "1 and 2");
    }
}

#[test]
fn only_the_same_key_and_call_come_back() {
    let gateway = announced().server("old", old()).keys().start();
    let (one, other) = (gateway.keys().create("one").1, gateway.keys().create("other").1);
    let (path, prefix) = WAYS[0];
    let name = format!("{prefix}ask");
    let ask = |key: &str, request: Request| {
        Client::once(gateway.address, &request.with("Authorization", format!("Bearer {key}")))
    };
    let asked = input_required(&ask(&one, tool(path, FORMS, &name, json!({"a": 1}))));
    let answers = named(&asked, "Ann");
    let mut altered = asked.clone();
    let state = asked["result"]["requestState"].as_str().unwrap();
    let other_letter = if state[20..].starts_with('A') { 'B' } else { 'A' };
    altered["result"]["requestState"] = format!("{}{other_letter}{}", &state[..20], &state[21..]).into();
    let mut none = asked.clone();
    none["result"]["requestState"] = "".into();
    let check = |key: &str, request: Request| {
        let response = ask(key, request);
        assert_eq!((response.status, error(&response)), (200, -32602), "{}", response.text());
        assert!(response.text().contains("does not belong to this call"), "{}", response.text());
        assert!(!response.text().contains("Ann") && !response.text().contains("name?"));
    };
    check(&other, retry(path, &name, json!({"a": 1}), &asked, answers.clone()));
    check(&one, retry(path, &name, json!({"a": 2}), &asked, answers.clone()));
    check(&one, retry(path, "rounds", json!({"a": 1}), &asked, answers.clone()));
    check(&one, retry(path, &name, json!({"a": 1}), &altered, answers.clone()));
    check(&one, retry(path, &name, json!({"a": 1}), &none, answers.clone()));
    // None of which took anything from the one who may.
    assert_eq!(said(&ask(&one, retry(path, &name, json!({"a": 1}), &asked, answers))), "Hello Ann");
}

/// What the server counts: calls begun, and calls cancelled.
fn stats(gateway: &Gateway) -> (u64, u64) {
    let response = Client::once(gateway.address, &tool(WAYS[0].0, "{}", "stats", json!({})));
    let counts = &response.json()["result"]["structuredContent"];
    (counts["begun"].as_u64().unwrap(), counts["cancelled"].as_u64().unwrap())
}

#[track_caller]
fn wait_cancelled(gateway: &Gateway, count: u64) {
    let deadline = Instant::now() + PATIENCE;
    while stats(gateway).1 < count {
        assert!(Instant::now() < deadline, "not cancelled: {:?}", stats(gateway));
    }
}

#[test]
fn a_call_that_waits_for_too_long_is_given_up() {
    let gateway = announced().server("old", old()).with("hold_timeout = \"1s\"").start();
    let (path, _) = WAYS[0];
    let asked = input_required(&Client::once(gateway.address, &tool(path, FORMS, "ask", json!({}))));
    wait_cancelled(&gateway, 1);
    let late = retry(path, "ask", json!({}), &asked, named(&asked, "Ann"));
    let response = Client::once(gateway.address, &late);
    assert_eq!(error(&response), -32602);
    assert!(response.text().contains("timed out"), "{}", response.text());
}

#[test]
fn calls_that_wait_are_bounded() {
    let gateway = announced().server("old", old()).with("holds_per_key_max = 2").start();
    let (path, _) = WAYS[0];
    let ask = || Client::once(gateway.address, &tool(path, FORMS, "ask", json!({})));
    let asked = [input_required(&ask()), input_required(&ask())];
    let refused = ask();
    assert!(said(&refused).contains("too many calls wait"), "the tool goes on: {}", refused.text());
    let again = retry(path, "ask", json!({}), &asked[0], named(&asked[0], "Ann"));
    assert_eq!(said(&Client::once(gateway.address, &again)), "Hello Ann");
    input_required(&ask());
}

#[test]
fn a_state_of_another_process_leads_nowhere() {
    let gateway = announced().server("old", old()).start();
    let (path, _) = WAYS[0];
    let asked = input_required(&Client::once(gateway.address, &tool(path, FORMS, "ask", json!({}))));
    let gateway = gateway.restart();
    let late = retry(path, "ask", json!({}), &asked, named(&asked, "Ann"));
    let response = Client::once(gateway.address, &late);
    assert_eq!(error(&response), -32602);
    assert!(response.text().contains("another replica"), "{}", response.text());
}

#[test]
fn a_client_is_asked_only_for_what_it_declared() {
    let gateway = announced().server("old", old()).start();
    for (path, prefix) in WAYS {
        let check = |name: &str, capabilities: &str, is_asked: bool| {
            let name = format!("{prefix}{name}");
            let response = Client::once(gateway.address, &tool(path, capabilities, &name, json!({})));
            let message = message(&response);
            let expected = if is_asked { "input_required" } else { "complete" };
            assert_eq!(message["result"]["resultType"], expected, "{name} {capabilities} {message}");
            assert_eq!(message["result"]["isError"] == true, !is_asked, "{message}");
        };
        check("ask", "{}", false);
        check("ask", r#"{"elicitation":{"url":{}}}"#, false);
        check("ask", r#"{"elicitation":{}}"#, true);
        check("roots", r#"{"elicitation":{}}"#, false);
        check("roots", r#"{"roots":{}}"#, true);
        check("visit", r#"{"elicitation":{"form":{}}}"#, false);
        check("visit", r#"{"elicitation":{"form":{},"url":{}}}"#, true);
    }
}

#[test]
fn a_client_that_goes_takes_its_call_with_it() {
    let gateway = announced().server("old", old()).start();
    let (path, _) = WAYS[0];
    let params = json!({"name": "hang", "arguments": {}});
    let mut client = Client::connect(gateway.address);
    client.send(&with_meta(path, "{}", "tools/call", params, json!({"progressToken": 1})).bytes());
    assert_eq!(client.head().status, 200);
    assert_eq!(client.event().unwrap()["params"]["progressToken"], 1);
    drop(client);
    wait_cancelled(&gateway, 1);
}

#[test]
fn changes_are_told_to_those_who_listen() {
    for eras in [SupportedEras::Legacy, SupportedEras::Modern] {
        changes_of(eras);
    }
}

fn changes_of(eras: SupportedEras) {
    let gateway = announced().server("old", serve(eras)).start();
    for (path, prefix) in WAYS {
        let wish = json!({"toolsListChanged": true, "promptsListChanged": true, "resourcesListChanged": true,
            "resourceSubscriptions": ["old://a"]});
        let mut client = Client::connect(gateway.address);
        client.send(&request(path, "{}", "subscriptions/listen", json!({"notifications": wish})).bytes());
        assert_eq!(client.head().status, 200);
        let acknowledged = client.event().unwrap();
        assert_eq!(acknowledged["method"], "notifications/subscriptions/acknowledged", "{acknowledged}");
        assert_eq!(acknowledged["params"]["notifications"]["resourceSubscriptions"], json!(["old://a"]));
        let touch = tool(path, "{}", &format!("{prefix}touch"), json!({}));
        let deadline = Instant::now() + PATIENCE;
        // A subscription on an aggregate is on its way to the server when it is acknowledged.
        let mut told = std::collections::BTreeSet::new();
        let expected = 4;
        client.stream().set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        while told.len() < expected {
            assert!(Instant::now() < deadline, "told only {told:?}");
            assert_eq!(said(&Client::once(gateway.address, &touch)), "touched");
            while let Ok(Some(bytes)) = client.chunk() {
                let text = String::from_utf8(bytes).unwrap();
                for data in text.lines().filter_map(|line| line.strip_prefix("data: ")) {
                    let event: Value = serde_json::from_str(data).unwrap();
                    let id = &event["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"];
                    assert_eq!(id, "c1", "{event}");
                    assert_ne!(event["params"]["uri"], "old://b");
                    told.insert(event["method"].as_str().unwrap().to_owned());
                }
                if told.len() >= expected {
                    break;
                }
            }
        }
        assert!(told.contains("notifications/resources/updated"), "{path} {eras:?}: {told:?}");
    }
}

#[test]
fn a_server_is_told_what_the_client_declared_and_when_it_is_over() {
    let peer = Peer::script([]);
    let setup = announced().server_with("old", peer.address, "era = \"legacy\"");
    let gateway = setup.with("session_idle_timeout = \"1s\"").start();
    let all = r#"{"roots":{"listChanged":true},"sampling":{},"elicitation":{"form":{},"url":{}}}"#;
    for capabilities in ["{}", FORMS, "{}", all, FORMS] {
        assert_eq!(
            said(&Client::once(gateway.address, &tool(WAYS[0].0, capabilities, "echo", json!({})))),
            "{}"
        );
    }
    let told = |capabilities: &str| {
        let capabilities: Value = serde_json::from_str(capabilities).unwrap();
        let opened = peer.all().into_iter().filter(|seen| seen.is("initialize"));
        let opened = opened.map(|seen| serde_json::from_slice::<Value>(&seen.body).unwrap());
        opened.filter(|message| message["params"]["capabilities"] == capabilities).count()
    };
    // What the client cannot do in its era is not told: to say that its roots changed.
    let all = all.replace(r#""listChanged":true"#, "");
    assert_eq!([told("{}"), told(FORMS), told(&all)], [1, 1, 1]);
    peer.wait_until("the sessions to be ended", |peer| {
        peer.all().iter().filter(|seen| seen.head.starts_with("DELETE ")).count() == 3
    });
}

#[test]
fn servers_of_both_eras_are_one() {
    let modern = Peer::script([]);
    let gateway =
        announced().server("old", old()).server_with("new", modern.address, "era = \"modern\"").start();
    let mut client = Client::connect(gateway.address);
    let discovered = client.ask(&request("/mcp", "{}", "server/discover", json!({})));
    assert_eq!(
        (discovered.status, discovered.json()["error"].is_null()),
        (200, true),
        "{}",
        discovered.text()
    );
    let listed = crate::support::listed(&client.ask(&request("/mcp", "{}", "tools/list", json!({}))).json());
    for name in ["old__echo", "new__echo"] {
        assert!(listed.iter().any(|listed| listed == name), "{listed:?}");
        let called = client.ask(&tool("/mcp", "{}", name, json!({"text": "x"})));
        assert!(said(&called).contains('x'), "{}", called.text());
    }
}

#[test]
fn a_lost_session_is_opened_again_once() {
    for status in ["404 Not Found", "400 Bad Request"] {
        let peer = Peer::script([]);
        let gateway = announced().server_with("old", peer.address, "era = \"legacy\"").start();
        for (path, prefix) in WAYS {
            let echo = tool(path, "{}", &format!("{prefix}echo"), json!({"text": 1}));
            assert_eq!(said(&Client::once(gateway.address, &echo)), r#"{"text":1}"#);
            peer.lose_sessions(status);
            assert_eq!(said(&Client::once(gateway.address, &echo)), r#"{"text":1}"#);
        }
        assert!(peer.calls().iter().all(|call| call.header("mcp-method").is_none()), "asked in its own era");
        let carries = |call: &crate::support::Seen| call.text().contains("io.modelcontextprotocol/");
        assert!(!peer.calls().iter().any(carries), "nothing of the other era is told");
    }
}

/// A server that answers under the call's id has read the call, which is not repeated though the session is lost.
#[test]
fn a_call_that_was_read_is_not_repeated_in_another_session() {
    let peer = Peer::script([]);
    let gateway = announced().server_with("old", peer.address, "era = \"legacy\"").start();
    let echo = tool(WAYS[0].0, "{}", "echo", json!({"text": 1}));
    for status in ["404 Not Found", "400 Bad Request"] {
        assert_eq!(said(&Client::once(gateway.address, &echo)), r#"{"text":1}"#);
        let last: Value = serde_json::from_slice(&peer.calls().last().unwrap().body).unwrap();
        let id = last["id"].as_u64().unwrap() + 1;
        let (called, gate) = (peer.calls().len(), Gate::default());
        let error = format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":-32001,"message":"absent"}}}}"#);
        peer.push([vec![Step::Wait(gate.clone()), Step::Send(answer(status, &error))]]);
        let mut client = Client::connect(gateway.address);
        client.send(&echo.bytes());
        peer.wait_calls(called + 1);
        peer.lose_sessions(status);
        gate.open();
        let response = client.response();
        assert!(response.text().contains("absent"), "{}", response.text());
        assert_eq!(peer.calls().len(), called + 1, "{status}");
    }
}

#[test]
fn a_broken_call_is_told_and_not_repeated() {
    let half = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    let peer = Peer::script([vec![Step::Send(half.to_vec()), Step::Close]]);
    let gateway = announced().server_with("old", peer.address, "era = \"legacy\"").start();
    let echo = tool(WAYS[0].0, "{}", "echo", json!({}));
    let response = Client::once(gateway.address, &echo);
    assert!(response.text().contains("may have run"), "{}", response.text());
    assert_eq!(peer.calls().len(), 1);
}

#[test]
fn ids_of_one_key_do_not_meet() {
    let gateway = announced().server("old", old()).start();
    let address = gateway.address;
    let clients: Vec<_> = (0..8)
        .map(|client| {
            thread::spawn(move || {
                let mut connection = Client::connect(address);
                for round in 0..25 {
                    let canary = format!("{client}/{round}");
                    let echo = tool(WAYS[0].0, "{}", "echo", json!({"text": canary}));
                    assert_eq!(said(&connection.ask(&echo)), canary);
                }
            })
        })
        .collect();
    for client in clients {
        client.join().unwrap();
    }
}

#[test]
fn a_program_of_sessions_only() {
    let fixture = env!("CARGO_BIN_EXE_metamcp-stdio-fixture");
    let server = format!("[servers.old]\ncommand = {fixture:?}\nargs = [\"legacy\"]");
    let gateway = announced().with(&server).start();
    for (path, prefix) in WAYS {
        let echo = tool(path, "{}", &format!("{prefix}echo"), json!({"text": "x"}));
        assert_eq!(said(&Client::once(gateway.address, &echo)), "x");
        let name = format!("{prefix}ask");
        let roots = r#"{"roots":{}}"#;
        let asked = input_required(&Client::once(gateway.address, &tool(path, roots, &name, json!({}))));
        assert_eq!(asked["result"]["inputRequests"]["1"]["method"], "roots/list", "{asked}");
        let params = json!({
            "name": name,
            "arguments": {},
            "inputResponses": {"1": {"roots": [{"uri": "file:///a"}]}},
            "requestState": asked["result"]["requestState"],
        });
        let done = Client::once(gateway.address, &request(path, roots, "tools/call", params));
        assert!(said(&done).contains("file:///a"), "{}", done.text());
        let stranger = Client::once(gateway.address, &tool(path, "{}", &name, json!({})));
        assert!(said(&stranger).contains("error"), "{}", stranger.text());
    }
}

/// A server that answers by JSON alone, and asks on the event stream of its session.
fn asks_aside() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let (answer, answered) = mpsc::channel::<Value>();
    // Each session has an event stream of its own.
    let sessions = ["able", "unable"].map(|session| {
        let (ask, asked) = mpsc::channel::<String>();
        (session, ask, Arc::new(Mutex::new(asked)))
    });
    let answered = Arc::new(Mutex::new(answered));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, sessions, answer) = (stream.unwrap(), sessions.clone(), answer.clone());
            let answered = Arc::clone(&answered);
            thread::spawn(move || {
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                while let Some((head, message)) = read_request(&mut reader) {
                    let is_of = |name| head.contains(&format!("mcp-session-id: {name}\r\n"));
                    let of = sessions.iter().find(|(name, ..)| is_of(name));
                    if head.starts_with("GET ") && head.contains("mcp-session-id: catalog\r\n") {
                        stream
                            .write_all(b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n")
                            .unwrap();
                        continue;
                    }
                    if head.starts_with("GET ") {
                        stream
                            .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
                            .unwrap();
                        let (_, _, asked) = of.unwrap();
                        while let Ok(event) = asked.lock().unwrap().recv() {
                            stream.write_all(format!("data: {event}\n\n").as_bytes()).unwrap();
                        }
                        return;
                    }
                    let result = match message["method"].as_str() {
                        Some("initialize") => json!({
                            "protocolVersion": "2025-11-25",
                            "capabilities": {"tools": {}},
                            "serverInfo": {"name": "aside", "version": "1"},
                        }),
                        Some("tools/call") => {
                            let question = json!({"jsonrpc": "2.0", "id": "s", "method": "roots/list"});
                            of.unwrap().1.send(question.to_string()).unwrap();
                            let said = answered.lock().unwrap().recv().unwrap();
                            json!({"content": [{"type": "text", "text": said.to_string()}]})
                        }
                        Some(_) => json!({}),
                        None => {
                            answer.send(message.clone()).unwrap();
                            json!({})
                        }
                    };
                    let body = json!({"jsonrpc": "2.0", "id": message["id"], "result": result}).to_string();
                    let is_told = message["id"].is_null() || message["method"].is_null();
                    let (status, body) =
                        if is_told { ("202 Accepted", String::new()) } else { ("200 OK", body) };
                    let session = session_of(&message["params"]["capabilities"]);
                    let head = format!("Content-Type: application/json\r\nMcp-Session-Id: {session}");
                    let length = body.len();
                    let said =
                        format!("HTTP/1.1 {status}\r\n{head}\r\nContent-Length: {length}\r\n\r\n{body}");
                    stream.write_all(said.as_bytes()).unwrap();
                }
            });
        }
    });
    address
}

/// What it calls the session of a client that declares that. The gateway's own, for lists, can do everything.
fn session_of(declared: &Value) -> &'static str {
    match (declared["sampling"].is_object(), declared["roots"].is_object()) {
        (true, _) => "catalog",
        (false, true) => "able",
        (false, false) => "unable",
    }
}

/// The head of a request, and its message.
fn read_request(reader: &mut impl BufRead) -> Option<(String, Value)> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        reader.read_line(&mut head).ok().filter(|count| *count > 0)?;
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    reader.read_exact(&mut body).ok()?;
    Some((head, serde_json::from_slice(&body).unwrap_or_default()))
}

#[test]
fn a_question_beside_a_call_is_of_the_only_call() {
    let gateway = announced().server_with("old", asks_aside(), "era = \"legacy\"").start();
    let (path, roots) = (WAYS[0].0, r#"{"roots":{}}"#);
    let asked = input_required(&Client::once(gateway.address, &tool(path, roots, "t", json!({}))));
    let params = json!({
        "name": "t",
        "arguments": {},
        "inputResponses": {"1": {"roots": [{"uri": "file:///a"}]}},
        "requestState": asked["result"]["requestState"],
    });
    let done = Client::once(gateway.address, &request(path, roots, "tools/call", params));
    assert!(said(&done).contains("file:///a"), "{}", done.text());
    let unable = Client::once(gateway.address, &tool(path, "{}", "t", json!({})));
    assert!(said(&unable).contains("-32601"), "{}", unable.text());
}

/// A server that asks for roots outside of any call, in the first session there is: that of a client which has listed the
/// tools, and cannot be asked by that. The ping tells when the gateway has read the question.
fn asked_outside(setup: Setup) -> (Peer, Gateway) {
    let peer = Peer::script([]);
    let said = "data: {\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"roots/list\"}\n\n\
                data: {\"jsonrpc\":\"2.0\",\"id\":8,\"method\":\"ping\"}\n\n";
    peer.push_streams([vec![Step::Send(events()), Step::Send(chunk(said)), Step::Hold]]);
    let gateway = setup.server_with("old", peer.address, "era = \"legacy\"").start();
    let listed = Client::once(gateway.address, &request(WAYS[0].0, ROOTS, "tools/list", json!({})));
    assert_eq!(message(&listed)["result"]["tools"][0]["name"], "echo", "{}", listed.text());
    peer.wait_until("the question to be read", |peer| answers(peer, 8, "result") == 1);
    (peer, gateway)
}

const ROOTS: &str = r#"{"roots":{}}"#;

/// How many answers of that kind the server got to a request of its own.
fn answers(peer: &Peer, id: u64, kind: &str) -> usize {
    let is_it = |message: &Value| message["id"] == id && message[kind].is_object();
    peer.all().iter().filter_map(|seen| serde_json::from_slice(&seen.body).ok()).filter(is_it).count()
}

#[test]
fn a_question_outside_of_any_call_comes_with_the_next_that_can_be_asked() {
    let (peer, gateway) = asked_outside(announced());
    let path = WAYS[0].0;
    let unable = Client::once(gateway.address, &tool(path, "{}", "echo", json!({"n": 1})));
    assert_eq!(said(&unable), r#"{"n":1}"#, "one that declared nothing is not asked");
    let echo = tool(path, ROOTS, "echo", json!({"n": 2}));
    let asked = input_required(&Client::once(gateway.address, &echo));
    assert_eq!(asked["result"]["inputRequests"], json!({"1": {"method": "roots/list"}}));
    assert_eq!(
        (peer.count("tools/call"), answers(&peer, 7, "result")),
        (1, 0),
        "the call waits for the answer"
    );
    let params = json!({
        "name": "echo",
        "arguments": {"n": 2},
        "inputResponses": {"1": {"roots": [{"uri": "file:///a"}]}},
        "requestState": asked["result"]["requestState"],
    });
    let done = Client::once(gateway.address, &request(path, ROOTS, "tools/call", params));
    assert_eq!(said(&done), r#"{"n":2}"#);
    assert_eq!((peer.count("tools/call"), answers(&peer, 7, "result")), (2, 1), "both have come, once");
    assert_eq!(said(&Client::once(gateway.address, &echo)), r#"{"n":2}"#, "it was asked once");
}

#[test]
fn a_question_that_no_call_comes_for_is_refused() {
    let bounds = "hold_timeout = \"1s\"\nsession_idle_timeout = \"20s\"";
    let (peer, _gateway) = asked_outside(announced().with(bounds));
    peer.wait_until("the refusal", |peer| answers(peer, 7, "error") == 1);
}

#[test]
fn a_server_of_both_eras_is_asked_as_it_is() {
    let peer = Peer::script([vec![Step::Send(answer(
        "200 OK",
        r#"{"jsonrpc":"2.0","id":"c1","result":{"content":[{"type":"text","text":"x"}],"resultType":"complete"}}"#,
    ))]]);
    let gateway = announced().server("old", peer.address).start();
    let echo = tool(WAYS[0].0, "{}", "echo", json!({}));
    assert_eq!(said(&Client::once(gateway.address, &echo)), "x");
    assert_eq!(said(&Client::once(gateway.address, &echo)), "{}");
    // Once for the call, and once for the lists, which are looked at anyway.
    assert!((1..=2).contains(&peer.count("server/discover")));
    assert_eq!(peer.count("initialize"), 0);
    assert!(peer.calls().iter().all(|call| call.body == echo.body));
}
