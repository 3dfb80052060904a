//! Tools over REST: what is counted, what bounds it, and what becomes of a call whose caller goes away.

use std::time::{Duration, Instant};

use crate::support::{
    Client, Gate, Gateway, Peer, Request, Response, Setup, Step, answer, chunk, events, modern_call, result,
    within,
};
use metamcp_store::store::{Grants, Rate, Role, UsageCounts};
use serde_json::{Value, json};

const TOOLS: &str = "/api/v1/mcp/servers/a/tools";

const STOPS: &str = "the gateway stops; the call may have run";

const PROGRESS: &str =
    r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progress":1,"progressToken":1}}"#;

/// A call of the tool `echo` of the server `a`.
fn execute(accept: &str) -> Request {
    let request = Request::new("POST", &format!("{TOOLS}/echo/execute"));
    request.with("Content-Type", "application/json").with("Accept", accept).body(r#"{"a":1}"#)
}

fn refused() -> Step {
    let error = r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"bad a"}}"#;
    Step::Send(answer("200 OK", error))
}

/// Says something on the way, and goes on when the gate is open.
fn in_two_steps(gate: &Gate) -> Vec<Step> {
    let event = |data: &str| Step::Send(chunk(&format!("data: {data}\n\n")));
    let progress = event(PROGRESS);
    vec![
        Step::Send(events()),
        progress,
        Step::Wait(gate.clone()),
        event(&result("1", "done")),
        Step::Send(chunk("")),
    ]
}

/// The counts of `echo`, over all hours: the test may run over the end of one.
fn counts(gateway: &Gateway) -> UsageCounts {
    let rows = gateway.usage().into_iter().filter(|row| row.key.server == "a" && row.key.tool == "echo");
    rows.fold(UsageCounts::default(), |sum, row| UsageCounts {
        calls: sum.calls + row.counts.calls,
        errors: sum.errors + row.counts.errors,
        bytes_in: sum.bytes_in + row.counts.bytes_in,
        bytes_out: sum.bytes_out + row.counts.bytes_out,
        milliseconds: 0,
    })
}

#[test]
fn a_call_is_counted_to_the_byte() {
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    let mut expected = UsageCounts::default();
    let mut check = |script: Option<Vec<Step>>, accept: &str, status: u16, failed: bool| {
        peer.push(script);
        let request = execute(accept);
        let answered = Client::once(gateway.address, &request);
        assert_eq!(answered.status, status, "{}", answered.text());
        expected.calls += 1;
        expected.errors += u64::from(failed);
        expected.bytes_in += request.body.len() as u64;
        // What went wrong on the way to an answer is told by the gateway, and was not used.
        expected.bytes_out += if failed { 0 } else { answered.body.len() as u64 };
    };
    let open = Gate::default();
    open.open();
    for accept in ["application/json", "text/event-stream"] {
        check(None, accept, 200, false);
        check(Some(in_two_steps(&open)), accept, 200, false);
        // Answered with an error, as over MCP, is answered.
        check(Some(vec![refused()]), accept, 422, false);
        check(Some(vec![Step::Close]), accept, 502, true);
    }
    // Whoever is refused has called nothing.
    let absent = Request::new("POST", &format!("{TOOLS}/absent/execute"));
    let absent = absent.with("Content-Type", "application/json").body("{}");
    assert_eq!(Client::once(gateway.address, &absent).status, 404);
    assert_eq!(counts(&gateway.restart()), expected);
}

#[test]
fn one_rate_holds_for_rest_and_for_mcp() {
    let peer = Peer::script([]);
    let gateway = Setup::new().server("a", peer.address).keys().start();
    let slow = Grants { rate: Some(Rate { per_second: 1, burst: 5 }), ..Grants::everything() };
    let list = || Request::new("GET", TOOLS);
    let mcp = || modern_call("/servers/a/mcp", "echo", "{}");
    for last in [list(), execute("application/json"), execute("text/event-stream"), mcp()] {
        let key = gateway.keys().grant("slow", slow.clone()).1;
        let ask = |request: Request| -> Response {
            Client::once(gateway.address, &request.with("Authorization", format!("Bearer {key}")))
        };
        let statuses = [list(), execute("*/*"), mcp(), list(), mcp()].map(|request| ask(request).status);
        assert_eq!(statuses, [200; 5]);
        // A token comes back every second; on a machine that slept that long there may be a few.
        let refused = (0..10).map(|_| ask(last.clone())).find(|answered| answered.status != 200).unwrap();
        assert_eq!((refused.status, refused.header("retry-after")), (429, Some("1")), "{}", refused.text());
    }
}

#[test]
fn one_call_at_a_time_is_one_over_rest_too() {
    let peer = Peer::script([]);
    let gateway = Setup::new().server("a", peer.address).keys().start();
    let narrow = Grants { concurrency: Some(1), ..Grants::everything() };
    let key = gateway.keys().grant("narrow", narrow).1;
    let with_key = |request: Request| request.with("Authorization", format!("Bearer {key}"));
    let ask = |request: Request| Client::once(gateway.address, &with_key(request)).status;
    let mcp = || modern_call("/servers/a/mcp", "echo", "{}");
    for accept in ["application/json", "text/event-stream"] {
        let gate = Gate::default();
        let before = peer.calls().len();
        peer.push([in_two_steps(&gate)]);
        let mut busy = Client::connect(gateway.address);
        busy.send(&with_key(execute(accept)).bytes());
        peer.wait_calls(before + 1);
        let found = [Request::new("GET", TOOLS), execute(accept), mcp()].map(ask);
        assert_eq!(found, [429; 3], "{accept}");
        gate.open();
        assert_eq!(busy.response().status, 200);
        assert_eq!(ask(mcp()), 200);
    }
}

#[test]
fn what_is_said_on_the_way_is_passed_as_it_comes() {
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    let gate = Gate::default();
    peer.push([in_two_steps(&gate)]);
    let mut client = Client::connect(gateway.address);
    client.send(&execute("text/event-stream").bytes());
    assert_eq!(client.head().header("content-type"), Some("text/event-stream"));
    // The server has not answered yet.
    let said: Value = serde_json::from_str(PROGRESS).unwrap();
    assert_eq!(client.raw_event().unwrap(), format!("event: notification\ndata: {said}\n\n"));
    gate.open();
    let last = client.raw_event().unwrap();
    assert!(last.starts_with("event: result\ndata: ") && last.contains("done"), "{last}");
    assert_eq!(client.raw_event(), None);

    // What goes wrong then is the last event.
    let broken = vec![Step::Send(events()), Step::Send(chunk(&format!("data: {PROGRESS}\n\n"))), Step::Close];
    peer.push([broken]);
    let answered = Client::once(gateway.address, &execute("text/event-stream"));
    assert_eq!((answered.status, answered.whole), (200, true));
    let last = answered.events().pop().unwrap();
    assert_eq!((&last["status"], answered.text().contains("event: error")), (&json!(502), true), "{last}");
}

/// A caller that does not read makes the server wait: nothing is gathered.
#[test]
fn a_caller_that_does_not_read_makes_the_server_wait() {
    const TIMES: usize = 4096;
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    let text = "x".repeat(16 << 10);
    let said = format!(
        r#"data: {{"jsonrpc":"2.0","method":"notifications/message","params":{{"level":"info","data":"{text}"}}}}{}"#,
        "\n\n"
    );
    peer.push([vec![Step::Send(events()), Step::Flood(chunk(&said), TIMES)]]);
    let mut client = Client::connect(gateway.address);
    client.send(&execute("text/event-stream").bytes());
    peer.wait_calls(1);
    peer.wait_quiet();
    // What the kernel holds for four sockets, and a few events.
    assert!(peer.sent() < TIMES * said.len() / 2, "{} bytes were taken", peer.sent());
    assert!(gateway.resident_bytes() < 128 << 20);
    drop(client);
    peer.wait_closed(peer.calls()[0].connection);
}

#[test]
fn a_caller_that_goes_away_takes_the_call_with_it() {
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    let silent = vec![Step::Hold];
    let begun = vec![Step::Send(events()), Step::Send(chunk(&format!("data: {PROGRESS}\n\n"))), Step::Hold];
    for accept in ["application/json", "text/event-stream"] {
        for script in [&silent, &begun] {
            let before = peer.calls().len();
            peer.push([script.clone()]);
            let mut client = Client::connect(gateway.address);
            client.send(&execute(accept).bytes());
            peer.wait_calls(before + 1);
            drop(client);
            peer.wait_closed(peer.calls()[before].connection);
        }
    }
}

/// The sessions that were opened and not ended; the catalog has one.
fn left_open(peer: &Peer) -> usize {
    let ended = peer.all().iter().filter(|seen| seen.head.starts_with("DELETE ")).count();
    peer.count("initialize") - ended
}

#[test]
fn no_session_of_an_old_server_is_left_behind() {
    let peer = Peer::script([]);
    let gateway = Setup::new().server_with("a", peer.address, "era = \"legacy\"").start();
    assert_eq!(Client::once(gateway.address, &execute("*/*")).status, 200);
    assert_eq!(left_open(&peer), 1);

    // In the middle of the call: the server is told of it, and only then that the session is over.
    peer.push([vec![Step::Hold]]);
    let mut client = Client::connect(gateway.address);
    client.send(&execute("text/event-stream").bytes());
    peer.wait_until("the call", |peer| peer.count("tools/call") == 2);
    drop(client);
    peer.wait_until("the session to be ended", |peer| left_open(peer) == 1);
    let seen = peer.all();
    let cancelled = seen.iter().position(|seen| seen.is("notifications/cancelled")).unwrap();
    let params: Value = serde_json::from_str(&seen[cancelled].text()).unwrap();
    assert_eq!(params["params"]["requestId"], 1);
    let session = |at: usize| seen[at].header("mcp-session-id").unwrap();
    assert_eq!(session(cancelled), session(seen.len() - 1));

    // While the session is opened.
    let (gate, before) = (Gate::default(), peer.count("initialize"));
    peer.open_behind(&gate);
    let mut client = Client::connect(gateway.address);
    client.send(&execute("application/json").bytes());
    peer.wait_until("the session to be asked for", |peer| peer.count("initialize") > before);
    drop(client);
    peer.wait_quiet();
    gate.open();
    peer.wait_until("the session to be ended", |peer| left_open(peer) == 1);
    assert_eq!(peer.count("tools/call"), 2);
}

/// Nobody has more of a body read than is needed to refuse it, and the bound that was met is named.
#[test]
fn a_body_is_read_when_it_is_known_who_sends_it() {
    let peer = Peer::script([]);
    let gateway = Setup::new().server("a", peer.address).keys().start();
    let key = gateway.keys().create("key").1;
    let unknown = gateway.keys();
    let (gone, other) = unknown.create("gone");
    unknown.revoke(&gone);
    // Only the head is sent: whoever waits for the body waits for ever.
    let head = |bytes: usize| {
        let request = Request::new("POST", &format!("{TOOLS}/echo/execute"));
        request.with("Content-Type", "application/json").with("Content-Length", bytes.to_string())
    };
    let check = |request: Request, status: u16, text: &str| {
        let answered = Client::once(gateway.address, &request);
        assert_eq!(answered.status, status, "{}", answered.text());
        assert_eq!(answered.header("content-type"), Some("application/problem+json"));
        assert!(answered.json()["detail"].as_str().unwrap().contains(text), "{}", answered.text());
    };
    check(head(1000), 401, "Authorization");
    // Not in the keyring: it is looked for first.
    check(head(1000).with("Authorization", format!("Bearer {other}")), 401, "not valid");
    let bounds = [("/api/v1/auth/token", 4096), (&*format!("{TOOLS}/echo/execute"), 4 << 20)];
    for (path, bytes_max) in bounds {
        let request = head(bytes_max + 1).path(path).with("Authorization", format!("Bearer {key}"));
        check(request, 413, &bytes_max.to_string());
    }
    assert_eq!(peer.calls().len(), 0);
}

#[test]
fn a_browser_is_told_which_methods_a_path_takes() {
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    let check = |path: &str, expected: &str| {
        let request = Request::new("OPTIONS", path)
            .with("Origin", "http://localhost:3000")
            .with("Access-Control-Request-Method", "PUT")
            .with("Access-Control-Request-Headers", "content-type");
        let answered = Client::once(gateway.address, &request);
        assert_eq!(
            (answered.status, answered.header("access-control-allow-methods")),
            (204, Some(expected)),
            "{path}"
        );
    };
    check("/mcp", "POST, GET, DELETE");
    check("/servers/a/mcp", "POST, GET, DELETE");
    check("/api/v1/mcp/servers", "GET, HEAD, POST");
    check("/api/v1/mcp/servers/a", "GET, HEAD, PUT, PATCH, DELETE");
    check("/api/v1/mcp/endpoints/a", "GET, HEAD, PUT, PATCH, DELETE");
    check("/api/v1/mcp/servers/a/tools/b/execute", "POST");
    check("/nowhere", "POST, GET, DELETE");
}

/// A page of another origin sees only the fields that it may: those of a changed object and of a retry are among them.
#[test]
fn a_browser_may_read_what_a_change_needs() {
    let gateway = Gateway::open(&[]);
    let request = Request::new("GET", "/health").with("Origin", "http://localhost:3000");
    let answered = Client::once(gateway.address, &request);
    let exposed = answered.header("access-control-expose-headers").unwrap_or_default();
    let names: Vec<_> = exposed.split(", ").collect();
    for name in ["mcp-session-id", "mcp-protocol-version", "x-request-id", "etag", "retry-after"] {
        assert!(names.contains(&name), "{name}: {exposed}");
    }
}

/// Of two members of one name readers take either: neither is taken.
#[test]
fn a_member_that_is_there_twice_is_named() {
    let peer = Peer::script([]);
    let gateway = Setup::new().server("a", peer.address).keys().start();
    let admin = gateway.keys().grant("admin", Grants { role: Role::Admin, ..Grants::everything() }).1;
    let ask = |method: &str, path: &str, body: &str| {
        let request = Request::new(method, path).with("Content-Type", "application/json").body(body);
        Client::once(gateway.address, &request.with("Authorization", format!("Bearer {admin}")))
    };
    let check = |method: &str, path: &str, body: &str, pointer: &str| {
        let answered = ask(method, path, body);
        assert_eq!(answered.status, 400, "{method} {path} {body}: {}", answered.text());
        assert_eq!(answered.header("content-type"), Some("application/problem+json"));
        assert_eq!(answered.json()["errors"][0]["pointer"], pointer, "{method} {path} {body}");
    };
    let server = r#"{"name":"b","kind":"http","url":"http://127.0.0.1:9/","url":"http://127.0.0.1:8/"}"#;
    check("POST", "/api/v1/mcp/servers", server, "/url");
    check("PUT", "/api/v1/mcp/servers/b", server, "/url");
    check("PATCH", "/api/v1/mcp/servers/b", r#"{"headers":{"a/b":"1","a/b":"2"}}"#, "/headers/a~1b");
    check("POST", "/api/v1/mcp/endpoints", r#"{"name":"e","name":"f"}"#, "/name");
    check("POST", "/api/v1/auth/token", r#"{"api_key":"x","api_key":"y"}"#, "/api_key");
    check("POST", &format!("{TOOLS}/echo/execute"), r#"{"a":[{"b":1,"b":2}]}"#, "/a/0/b");
    let file = r#"{"mcpServers":{"b":{"url":"http://a/"},"b":{"url":"http://b/"},"c":{"url":"http://c/","url":"d"},"d e":{"url":"http://d/"},"d-e":{"url":"http://e/"}}}"#;
    let imported = ask("POST", "/api/v1/import", file).json();
    let items = imported["items"].as_array().unwrap();
    let outcomes: Vec<_> =
        items.iter().map(|item| (&item["outcome"], &item["errors"][0]["pointer"])).collect();
    let expected = [
        ("create", None),
        ("fail", Some("/mcpServers/b")),
        ("fail", Some("/mcpServers/c/url")),
        ("create", None),
        ("fail", Some("/mcpServers/d-e")),
    ];
    let expected = expected.map(|(outcome, pointer)| (json!(outcome), json!(pointer)));
    assert_eq!(outcomes, expected.iter().map(|(outcome, pointer)| (outcome, pointer)).collect::<Vec<_>>());
    assert!(peer.calls().is_empty());
}

/// Not all JSON survives being parsed and written again: escaped surrogates without a partner, and numbers of any size.
#[test]
fn arguments_and_results_are_passed_as_they_are_written() {
    const ODD: &str =
        r#"{"text":"\ud800 \u0061","n":1e400,"long":123456789012345678901234567890.10,"z":-0.0}"#;
    let peer = Peer::script([]);
    let tool =
        format!(r#"{{"name":"echo","description":"\ud800","inputSchema":{{"type":"object","x":{ODD}}}}}"#);
    let list = format!(r#"{{"tools":[{tool}],"resultType":"complete","ttlMs":1,"cacheScope":"public"}}"#);
    peer.list_tools(&format!(r#"{{"jsonrpc":"2.0","id":1,"result":{list}}}"#));
    let gateway = Gateway::open(&[("a", peer.address)]);
    let listed = Client::once(gateway.address, &Request::new("GET", TOOLS));
    assert!(listed.text().contains(&tool), "{}", listed.text());
    let spaced = format!(" {}\n", ODD.replace(',', " ,\r\n\t"));
    for arguments in [ODD, &spaced] {
        for accept in ["application/json", "text/event-stream"] {
            let said = format!(r#"{{"content":[],"structuredContent":{ODD},"resultType":"complete"}}"#);
            let message = format!(r#"{{"jsonrpc":"2.0","id":1,"result":{said}}}"#);
            peer.push([vec![Step::Send(answer("200 OK", &message))]]);
            let response = Client::once(gateway.address, &execute(accept).body(arguments));
            let expected = match accept {
                "application/json" => said,
                _ => format!("event: result\ndata: {said}\n\n"),
            };
            assert_eq!((response.status, response.text()), (200, expected), "{arguments:?} {accept}");
            let sent = peer.calls().last().unwrap().text();
            assert!(sent.contains(&format!(r#""arguments":{}}}"#, arguments.trim())), "{sent}");
        }
    }
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(200), "]".repeat(200));
    let names = [
        r#"{"a":1,"a":2,"n":1e400}"#,
        r#"{"a":1,"\u0061":"\ud800"}"#,
        r#"{"x":[{"a":{},"a":"\ud800"}]}"#,
        r#"{"\ud800":1}"#,
        r#"{"a":1,"a":2,"\ud800":3}"#,
    ];
    for bad in names.into_iter().chain([
        r#"{"a":1}}"#,
        r#"{"a":1},"b":{}"#,
        r#"{"a":"\ud800","a":}"#,
        "{\"a\":\"\n\"}",
        &deep,
    ]) {
        let response = Client::once(gateway.address, &execute("application/json").body(bad));
        assert_eq!(response.status, 400, "{bad}: {}", response.text());
    }
    let text = Client::once(gateway.address, &execute("application/json").body(r#""\ud800""#));
    assert_eq!(text.status, 422, "{}", text.text());
    assert_eq!(peer.calls().len(), 4);
}

/// A server asks its client during a call, and its stream breaks: the call goes on, as it would over MCP.
#[test]
fn a_call_over_rest_answers_its_server_and_is_resumed() {
    let peer = Peer::script([]);
    peer.push([vec![
        Step::Send(events()),
        Step::Send(chunk("id: 7\ndata: {\"jsonrpc\":\"2.0\",\"id\":\"p\",\"method\":\"ping\"}\n\n")),
        Step::Send(chunk("data: {\"jsonrpc\":\"2.0\",\"id\":\"r\",\"method\":\"roots/list\"}\n\n")),
        Step::Send(chunk(&format!("data: {}\n\n", result("2", "foreign")))),
        Step::Close,
    ]]);
    peer.push_resumptions([vec![
        Step::Send(events()),
        Step::Send(chunk(&format!("data: {}\n\n", result("1", "done")))),
        Step::Send(chunk("")),
    ]]);
    let gateway = Setup::new().server_with("a", peer.address, "era = \"legacy\"").start();
    let response = Client::once(gateway.address, &execute("application/json"));
    assert_eq!((response.status, response.json()["content"][0]["text"].as_str()), (200, Some("done")));
    let answers: Vec<Value> =
        peer.all().iter().filter_map(|seen| serde_json::from_str(&seen.text()).ok()).collect();
    let answered = |id: &str| answers.iter().find(|message| message["id"] == id).cloned().unwrap_or_default();
    assert!(answered("p")["result"].is_object(), "{answers:?}");
    assert_eq!(answered("r")["error"]["code"], -32601, "{answers:?}");
    assert_eq!(peer.count("tools/call"), 1);
}

/// A server that does not take the refusals of its requests can answer the call nevertheless.
#[test]
fn refusals_do_not_hold_up_a_call_over_rest() {
    let peer = Peer::script([]);
    let ask = |number: usize| {
        Step::Send(chunk(&format!(
            "data: {{\"jsonrpc\":\"2.0\",\"id\":{number},\"method\":\"roots/list\"}}\n\n"
        )))
    };
    let done = [Step::Send(chunk(&format!("data: {}\n\n", result("1", "done")))), Step::Send(chunk(""))];
    let call = std::iter::once(Step::Send(events())).chain((0..5).map(ask)).chain(done).collect();
    let gate = Gate::default();
    let refusal = || vec![Step::Wait(gate.clone()), Step::Send(answer("202 Accepted", ""))];
    peer.push(std::iter::once(call).chain((0..5).map(|_| refusal())));
    let gateway = Setup::new().server_with("a", peer.address, "era = \"legacy\"").start();
    let began = Instant::now();
    let response = Client::once(gateway.address, &execute("application/json"));
    assert_eq!((response.status, response.json()["content"][0]["text"].as_str()), (200, Some("done")));
    assert!(began.elapsed() < within(Duration::from_secs(5)), "{:?}", began.elapsed());
    // They are sent all the same.
    peer.wait_calls(6);
    gate.open();
}

/// What a list hides is not to be had another way.
#[test]
fn a_tool_that_an_endpoint_hides_is_not_there_over_rest() {
    let (a, b) = (Peer::script([]), Peer::script([]));
    let only = r#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete","tools":[{"name":"echo","inputSchema":{"type":"object"}}]}}"#;
    b.list_tools(only);
    let bare = "[endpoints.bare]\nservers = [\"a\", \"b\"]\nprefix = \"never\"\n";
    let gateway = Setup::new().server("a", a.address).server("b", b.address).with(bare).keys().start();
    let check = |endpoints: &[&str], expected: [u16; 2], listed: &[&str]| {
        let endpoints = endpoints.iter().map(ToString::to_string).collect();
        let grants = Grants { endpoints: Some(endpoints), ..Grants::everything() };
        let key = gateway.keys().grant("key", grants).1;
        let ask = |request: Request| {
            Client::once(gateway.address, &request.with("Authorization", format!("Bearer {key}")))
        };
        let found =
            ["echo", "other"].map(|tool| ask(execute("*/*").path(&format!("{TOOLS}/{tool}/execute"))).status);
        assert_eq!(found, expected);
        let items = ask(Request::new("GET", TOOLS)).json()["items"].as_array().unwrap().clone();
        let names: Vec<&str> = items.iter().map(|tool| tool["name"].as_str().unwrap()).collect();
        assert_eq!(names, listed);
    };
    check(&["bare"], [404, 200], &["other"]);
    check(&["bare", "servers/a"], [200, 200], &["echo", "other"]);
    check(&["default"], [200, 200], &["echo", "other"]);
}

/// A key that is shown an endpoint alone is told what that says of a tool, over REST too.
#[test]
fn a_tool_is_told_as_the_keys_endpoints_tell_it() {
    let peer = Peer::script([]);
    peer.list_tools(
        r#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete","tools":[{"name":"echo","description":"own","annotations":{"title":"own"},"inputSchema":{"type":"object"}}]}}"#,
    );
    let told = "[endpoints.told]\nservers = [\"a\"]\n[endpoints.told.tools.a.overrides.echo]\nname = \"say\"\n\
                description = \"told\"\nannotations = { title = \"told\" }\n";
    let gateway = Setup::new().server("a", peer.address).with(told).keys().start();
    let check = |grants: Grants, expected: &str| {
        let key = gateway.keys().grant("key", grants).1;
        let request = Request::new("GET", TOOLS).with("Authorization", format!("Bearer {key}"));
        let answered = Client::once(gateway.address, &request).json();
        let items = answered["items"].as_array().unwrap();
        assert_eq!(items.len(), 1, "{answered}");
        // Under the name that it is called by here.
        let tool = json!({"name": "echo", "description": expected, "annotations": {"title": expected}, "inputSchema": {"type": "object"}});
        assert_eq!(items[0], tool);
    };
    let only = |names: &[&str]| {
        let names = names.iter().map(ToString::to_string).collect();
        Grants { endpoints: Some(names), ..Grants::everything() }
    };
    check(only(&["told"]), "told");
    check(only(&["told", "default"]), "own");
    check(only(&["told", "servers/a"]), "own");
    check(only(&["default"]), "own");
    check(Grants { tools: Some(vec!["say".to_owned()]), ..Grants::everything() }, "told");
    check(Grants { role: Role::Admin, ..Grants::everything() }, "own");
}

/// What a call says on the way is not for a key that is good for nothing any more.
#[test]
fn a_call_that_is_heard_ends_with_its_key() {
    let peer = Peer::script([]);
    let gateway = Setup::new().server("a", peer.address).keys().start();
    let (id, revoked) = gateway.keys().create("revoked");
    let (_, expires) = gateway.keys().lend("guest", Duration::from_secs(5));
    let progress = chunk(&format!("data: {PROGRESS}\n\n"));
    let silent = vec![Step::Send(events()), Step::Send(progress.clone()), Step::Hold];
    let endless = vec![Step::Send(events()), Step::Flood(progress, usize::MAX)];
    let calls = [(&revoked, &silent), (&revoked, &endless), (&expires, &silent), (&expires, &endless)];
    let clients = calls.map(|(key, script)| {
        let before = peer.calls().len();
        peer.push([script.clone()]);
        let mut client = Client::connect(gateway.address);
        client.send(&execute("text/event-stream").with("Authorization", format!("Bearer {key}")).bytes());
        assert_eq!(client.head().status, 200);
        (client, peer.calls()[before].connection)
    });
    gateway.keys().revoke(&id);
    for (mut client, connection) in clients {
        let last = std::iter::from_fn(|| client.event()).last().unwrap();
        assert_eq!((&last["status"], &last["title"]), (&json!(401), &json!("Unauthorized")), "{last}");
        peer.wait_closed(connection);
    }
}

#[test]
fn a_server_that_hangs_delays_nobody_elses_tools() {
    let (peer, hanging) = (Peer::script([]), Peer::hanging());
    let deadline = "[catalog]\nlist_deadline = \"60s\"\n";
    let setup = Setup::new().server("a", peer.address).server("slow", hanging.address).with(deadline);
    let gateway = setup.keys().start();
    let grants = Grants { endpoints: Some(vec!["default".to_owned()]), ..Grants::everything() };
    let key = gateway.keys().grant("key", grants).1;
    for request in [Request::new("GET", TOOLS), execute("*/*")] {
        // The client gives up long before the deadline.
        let answered = Client::once(gateway.address, &request.with("Authorization", format!("Bearer {key}")));
        assert_eq!(answered.status, 200, "{}", answered.text());
    }
}

/// Whoever waits is told, and nothing fails over it.
#[test]
fn the_end_of_the_gateway_ends_what_is_under_way() {
    let peer = Peer::script([]);
    let setup = Setup::new().server_with("a", peer.address, "era = \"legacy\"");
    let mut gateway = setup.with("[server]\ndrain_deadline = \"0s\"\n").start();
    assert_eq!(Client::once(gateway.address, &execute("*/*")).status, 200);
    let gate = Gate::default();
    peer.push([vec![Step::Hold], in_two_steps(&gate)]);
    let mut clients = ["application/json", "text/event-stream"].map(|accept| {
        let before = peer.calls().len();
        let mut client = Client::connect(gateway.address);
        client.send(&execute(accept).bytes());
        peer.wait_calls(before + 1);
        client
    });
    assert_eq!(clients[1].head().status, 200);
    gateway.terminate();
    let [whole, events] = &mut clients;
    let answered = whole.response();
    assert_eq!((answered.status, answered.json()["detail"].as_str()), (503, Some(STOPS)));
    let _progress = events.event();
    assert_eq!(events.event().map(|problem| problem["detail"].clone()), Some(json!(STOPS)));
    assert_eq!(events.event(), None);
    assert!(gateway.ended().success());
    assert!(!gateway.log().contains("panicked"), "{}", gateway.log());
}
