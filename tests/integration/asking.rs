//! What servers ask of their clients during a call, through the gateway, in all pairs of eras and over all
//! transports: answered, refused, never answered, and with a restart in between. And that no server is told
//! that a client can do more than it said.

use crate::sse_server as sse;

use std::net::{Ipv4Addr, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{
    Client, Gateway, MODERN, PATIENCE, Request, Response, Setup, legacy_call, notification, until,
};
use metamcp_demo::{
    Call, HandlerResult, InputRequest, RpcError, ServerContent, ServerOptions, SupportedEras, structured,
    text,
};
use serde_json::{Value, json};

/// The two ways to a server: its path, and what stands before the names of its tools there.
const WAYS: [(&str, &str); 2] = [("/servers/a/mcp", ""), ("/mcp", "a__")];

/// What can be asked: a name for it, what the client has to declare, the method and the params.
fn questions() -> [(&'static str, Value, Value); 3] {
    let form = json!({"message": "Who?", "requestedSchema": {"type": "object", "properties": {"name": {"type": "string"}}}});
    let page =
        json!({"mode": "url", "message": "Please", "url": "https://example.com/x", "elicitationId": "e"});
    let prompt = json!({"role": "user", "content": {"type": "text", "text": "Who?"}});
    let sample = json!({"messages": [prompt], "maxTokens": 9});
    [
        (
            "form",
            json!({"elicitation": {"form": {}}}),
            json!({"method": "elicitation/create", "params": form}),
        ),
        ("url", json!({"elicitation": {"url": {}}}), json!({"method": "elicitation/create", "params": page})),
        ("sampling", json!({"sampling": {}}), json!({"method": "sampling/createMessage", "params": sample})),
    ]
}

/// The answer of a client that does what it is asked. Of a page nothing comes back but that it was opened.
fn given(kind: &str, word: &str) -> Value {
    match kind {
        "form" => json!({"action": "accept", "content": {"name": word}}),
        "url" => json!({"action": "accept"}),
        _ => json!({"role": "assistant", "model": word, "content": {"type": "text", "text": word}}),
    }
}

/// Which revisions are spoken.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Era {
    Legacy,
    Modern,
}

const ERAS: [Era; 2] = [Era::Legacy, Era::Modern];

/// How the server is reached.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Transport {
    Http,
    Stdio,
    Sse,
}

/// All servers there are. The transport of 2024-11-05 is of one era only.
const SERVERS: [(Transport, Era); 5] = [
    (Transport::Http, Era::Legacy),
    (Transport::Http, Era::Modern),
    (Transport::Stdio, Era::Legacy),
    (Transport::Stdio, Era::Modern),
    (Transport::Sse, Era::Legacy),
];

/// A server that asks what it is told to, one thing after the other, and says what it was answered.
struct Asker;

impl ServerContent for Asker {
    fn info(&self) -> Value {
        json!({"name": "asker", "version": "1"})
    }

    fn instructions(&self) -> Option<&str> {
        None
    }

    fn tools(&self, _era: metamcp_demo::Era) -> Vec<Value> {
        ["inquire", "whoami", "stats"]
            .map(|name| json!({"name": name, "inputSchema": {"type": "object"}}))
            .into()
    }

    fn resources(&self) -> Vec<Value> {
        Vec::new()
    }

    fn resource_templates(&self) -> Vec<Value> {
        Vec::new()
    }

    fn prompts(&self) -> Vec<Value> {
        Vec::new()
    }

    async fn call_tool(&self, name: &str, call: &Call) -> HandlerResult {
        match name {
            "inquire" => {}
            "whoami" => return Ok(structured(&call.client.capabilities)),
            "stats" => {
                let (begun, cancelled) = call.hub.calls();
                return Ok(structured(&json!({"begun": begun, "cancelled": cancelled})));
            }
            _ => return Err(RpcError::invalid_params("Unknown tool").into()),
        }
        let questions = call.argument("questions").as_array().cloned().unwrap_or_default();
        // What was answered in earlier rounds comes back with the state.
        let state = call.state()?.unwrap_or_else(|| "[]".to_owned());
        let mut answers: Vec<Value> = serde_json::from_str(&state).unwrap();
        while let Some(question) = questions.get(answers.len()) {
            let (key, state) = (answers.len().to_string(), Value::from(answers.clone()).to_string());
            let answer = call.ask_all(&[(&key, input(question))], Some(&state)).await?;
            answers.push(answer[&key].clone());
        }
        Ok(text(Value::from(answers).to_string()))
    }

    async fn get_prompt(&self, _name: &str, _call: &Call) -> HandlerResult {
        Err(RpcError::invalid_params("Unknown prompt").into())
    }

    async fn read_resource(&self, _uri: &str, _call: &Call) -> HandlerResult {
        Err(RpcError::invalid_params("Unknown resource").into())
    }

    fn complete(&self, _reference: &Value, _argument: &str, _prefix: &str) -> Vec<String> {
        Vec::new()
    }
}

fn input(question: &Value) -> InputRequest {
    let params = &question["params"];
    let message = params["message"].as_str().unwrap_or_default();
    match (question["method"].as_str(), params["url"].as_str()) {
        (Some("sampling/createMessage"), _) => InputRequest::sampling("Who?", 9),
        (_, Some(url)) => InputRequest::url(message, url),
        _ => InputRequest::form(message, &params["requestedSchema"]),
    }
}

/// A gateway in front of one such server. `lines` go into its table, `more` behind it. A client has `HOLD` to answer.
fn setup(server: (Transport, Era), lines: &str, more: &str) -> Setup {
    setup_with_hold(HOLD, server, lines, more)
}

fn setup_with_hold(hold: &str, server: (Transport, Era), lines: &str, more: &str) -> Setup {
    // Modern clients of Legacy servers are served by the bridge.
    Setup::new().with(&format!(
        "{}\n{more}\n[bridge]\ndiscover = true\nhold_timeout = \"{hold}\"\nholds_per_key_max = 3",
        table(server, lines)
    ))
}

/// One such server, and its table.
fn table((transport, era): (Transport, Era), lines: &str) -> String {
    let name = if era == Era::Modern { "modern" } else { "legacy" };
    let lines = format!("era = \"{name}\"\n{lines}");
    match transport {
        Transport::Http => {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let address = listener.local_addr().unwrap();
            let eras = if era == Era::Modern { SupportedEras::Modern } else { SupportedEras::Legacy };
            thread::spawn(move || {
                metamcp_demo::serve_content(
                    listener,
                    Asker,
                    ServerOptions { eras, ..ServerOptions::default() },
                )
            });
            format!("[servers.a]\nurl = \"http://{address}/mcp\"\n{lines}")
        }
        Transport::Stdio => {
            let program = env!("CARGO_BIN_EXE_metamcp-stdio-fixture");
            format!("[servers.a]\ncommand = {program:?}\nargs = [\"{name}\"]\nsharing = \"session\"\n{lines}")
        }
        Transport::Sse => {
            let server = sse::Server::start();
            format!("[servers.a]\nurl = \"http://{}/sse\"\ntransport = \"sse\"\n{lines}", server.address)
        }
    }
}

/// How long a client is waited for, where that is to be waited for.
const HOLD: &str = "1s";

/// A client of one era that declared something, and its call.
struct Dialogue {
    path: &'static str,
    declared: Value,
    arguments: Value,
    tool: String,
    /// Of a Legacy client.
    session: Option<String>,
    /// The stream of its call.
    stream: Option<Client>,
}

/// What comes of a call.
#[derive(Debug)]
enum Turn {
    /// The client is asked that: the method, the params, and what it is to be answered to.
    Asked(Value, Reply),
    /// The last message.
    Done(Value),
}

/// Where an answer goes.
#[derive(Debug)]
enum Reply {
    /// As a response under that id.
    Id(Value),
    /// By another try, with the answer under that key and the state.
    Retry(String, Value),
}

impl Dialogue {
    fn begin(gateway: &Gateway, era: Era, way: (&'static str, &str), declared: &Value, tool: &str) -> Self {
        let session = (era == Era::Legacy).then(|| open(gateway, way.0, declared));
        Self {
            path: way.0,
            declared: declared.clone(),
            arguments: json!({}),
            tool: format!("{}{tool}", way.1),
            session,
            stream: None,
        }
    }

    /// Calls the tool.
    #[track_caller]
    fn call(&mut self, gateway: &Gateway, arguments: &Value) -> Turn {
        self.arguments = arguments.clone();
        match &self.session {
            Some(session) => {
                let request = legacy_call(self.path, session, "7", &self.tool, &arguments.to_string());
                self.open_stream(gateway, &request)
            }
            None => self.try_it(gateway, json!({})),
        }
    }

    fn open_stream(&mut self, gateway: &Gateway, request: &Request) -> Turn {
        let mut client = Client::connect(gateway.address);
        client.send(&request.bytes());
        let head = client.head();
        if head.header("content-type") != Some("text/event-stream") {
            let mut body = Vec::new();
            while let Ok(Some(bytes)) = client.chunk() {
                body.extend(bytes);
            }
            return Turn::Done(serde_json::from_slice(&body).unwrap());
        }
        self.stream = Some(client);
        self.next()
    }

    /// What comes next on the stream of a Legacy client's call.
    #[track_caller]
    fn next(&mut self) -> Turn {
        loop {
            let event = self.stream.as_mut().unwrap().event().expect("the stream ended without an answer");
            match (event["method"].as_str(), event["id"].is_null()) {
                (None, _) => return Turn::Done(event),
                (Some(_), false) => {
                    let reply = Reply::Id(event["id"].clone());
                    return Turn::Asked(event, reply);
                }
                // That something was withdrawn, or that a page was opened.
                (Some(_), true) => {}
            }
        }
    }

    /// One try of a Modern client.
    #[track_caller]
    fn try_it(&self, gateway: &Gateway, mut params: Value) -> Turn {
        params["name"] = json!(self.tool);
        params["arguments"] = self.arguments.clone();
        let message = last(&Client::once(gateway.address, &modern(self.path, &self.declared, params)));
        let result = &message["result"];
        if result["resultType"] != "input_required" {
            return Turn::Done(message);
        }
        let asked = result["inputRequests"].as_object().unwrap();
        let (key, question) = asked.iter().next().unwrap();
        assert_eq!(asked.len(), 1, "{message}");
        Turn::Asked(question.clone(), Reply::Retry(key.clone(), result["requestState"].clone()))
    }

    /// Answers, and gives what comes of it. `outcome` is a result, or an error, which only a Legacy client
    /// has.
    #[track_caller]
    fn answer(&mut self, gateway: &Gateway, reply: &Reply, outcome: &Value) -> Turn {
        match reply {
            Reply::Id(_) => {
                let said = self.respond(gateway, reply, outcome);
                assert_eq!(said.status, 202, "{}", said.text());
                self.next()
            }
            Reply::Retry(key, state) => {
                self.try_it(gateway, json!({"inputResponses": {key: outcome}, "requestState": state}))
            }
        }
    }

    /// The response of a Legacy client.
    fn respond(&self, gateway: &Gateway, reply: &Reply, outcome: &Value) -> Response {
        let Reply::Id(id) = reply else { panic!("not asked by a request: {reply:?}") };
        let member = if outcome["code"].is_null() { "result" } else { "error" };
        let message = json!({"jsonrpc": "2.0", "id": id, member: outcome});
        let request = Request::post(self.path, message.to_string())
            .with("Mcp-Session-Id", self.session.as_deref().unwrap())
            .with("MCP-Protocol-Version", "2025-11-25");
        Client::once(gateway.address, &request)
    }
}

/// Opens a Legacy session, and gives its id.
#[track_caller]
fn open(gateway: &Gateway, path: &str, declared: &Value) -> String {
    let params = json!({"protocolVersion": "2025-11-25", "capabilities": declared, "clientInfo": {"name": "test", "version": "1"}});
    let message = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params});
    let opened = Client::once(gateway.address, &Request::post(path, message.to_string()));
    assert_eq!(opened.status, 200, "{}", opened.text());
    let session = opened.header("mcp-session-id").expect("a session id").to_owned();
    let told = notification(path, &session, "notifications/initialized", "");
    assert_eq!(Client::once(gateway.address, &told).status, 202);
    session
}

/// A call of a Modern client; `params` without `_meta`.
fn modern(path: &str, declared: &Value, mut params: Value) -> Request {
    params["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": declared,
    });
    let name = params["name"].as_str().unwrap().to_owned();
    let message = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params});
    Request::post(path, message.to_string())
        .with("MCP-Protocol-Version", MODERN)
        .with("Mcp-Method", "tools/call")
        .with("Mcp-Name", name)
}

/// The answer, in either form.
#[track_caller]
fn last(response: &Response) -> Value {
    if response.header("content-type") == Some("text/event-stream") {
        return response.events().pop().expect("an event");
    }
    response.json()
}

/// Runs a check for each pair of eras, over each transport, by both ways, of each kind of question.
fn each(servers: &[(Transport, Era)], more: &str, check: impl Fn(&Gateway, Row) + Sync) {
    thread::scope(|scope| {
        for &server in servers {
            let check = &check;
            scope.spawn(move || {
                let gateway = setup(server, "", more).start();
                for client in ERAS {
                    for way in WAYS {
                        for (kind, declared, question) in questions() {
                            check(&gateway, Row { server, client, way, kind, declared, question });
                        }
                    }
                }
            });
        }
    });
}

/// One of them.
#[derive(Debug)]
struct Row {
    server: (Transport, Era),
    client: Era,
    way: (&'static str, &'static str),
    kind: &'static str,
    declared: Value,
    question: Value,
}

impl Row {
    fn dialogue(&self, gateway: &Gateway) -> Dialogue {
        Dialogue::begin(gateway, self.client, self.way, &self.declared, "inquire")
    }

    fn arguments(&self, count: usize) -> Value {
        json!({"questions": vec![&self.question; count]})
    }

    /// Fails unless the client is asked this, as its era has it.
    #[track_caller]
    fn asked(&self, turn: Turn) -> Reply {
        let Turn::Asked(asked, reply) = turn else { panic!("not asked but {turn:?}: {self:?}") };
        assert_eq!(asked["method"], self.question["method"], "{self:?}");
        let (found, expected) = (&asked["params"], &self.question["params"]);
        for member in ["message", "requestedSchema", "mode", "url", "messages", "maxTokens"] {
            assert_eq!(found[member], expected[member], "{member} of {asked}: {self:?}");
        }
        let has_id = self.kind == "url" && self.client == Era::Legacy;
        assert_eq!(!found["elicitationId"].is_null(), has_id, "{asked}: {self:?}");
        reply
    }

    #[track_caller]
    fn done(&self, turn: Turn) -> Value {
        let Turn::Done(message) = turn else { panic!("not over but {turn:?}: {self:?}") };
        assert_eq!(message["id"], 7, "{message}: {self:?}");
        message
    }
}

#[test]
fn input_requests_are_answered_round_by_round() {
    each(&SERVERS, "", |gateway, row| {
        let mut dialogue = row.dialogue(gateway);
        let mut turn = dialogue.call(gateway, &row.arguments(2));
        for word in ["Ada", "red"] {
            let reply = row.asked(turn);
            turn = dialogue.answer(gateway, &reply, &given(row.kind, word));
        }
        let done = row.done(turn);
        let said = done["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{done}: {row:?}"));
        let expected: &[&str] = if row.kind == "url" { &["accept"] } else { &["Ada", "red"] };
        for word in expected {
            assert!(said.contains(word), "{said}: {row:?}");
        }
    });
}

/// A person who says no to a form or page says so in the answer. Only a Legacy client can refuse to sample; a
/// Modern one does not come back, or answers what is no answer, and is asked again.
#[test]
fn a_declined_request_reaches_the_server() {
    each(&SERVERS, "", |gateway, row| {
        let mut dialogue = row.dialogue(gateway);
        let reply = row.asked(dialogue.call(gateway, &row.arguments(1)));
        if row.kind != "sampling" {
            let done = row.done(dialogue.answer(gateway, &reply, &json!({"action": "decline"})));
            assert!(done["result"].to_string().contains("decline"), "{done}: {row:?}");
        } else if row.client == Era::Legacy {
            let refusal = json!({"code": -1, "message": "User rejected"});
            let done = row.done(dialogue.answer(gateway, &reply, &refusal));
            assert!(done.to_string().contains("User rejected"), "{done}: {row:?}");
        } else {
            let Reply::Retry(_, state) = reply else { panic!("{reply:?}") };
            let other = Reply::Retry("other".to_owned(), state);
            let reply = row.asked(dialogue.answer(gateway, &other, &json!({})));
            let done = row.done(dialogue.answer(gateway, &reply, &given(row.kind, "Ada")));
            assert!(done["result"].to_string().contains("Ada"), "{done}: {row:?}");
        }
    });
}

/// With room for two calls and no more, several that nobody answers leave room for the next.
#[test]
fn nothing_is_held_for_a_client_that_never_answers() {
    let lines = "in_flight_max = 2\nqueue_timeout = \"1s\"\nstream_idle_timeout = \"1s\"\nfirst_byte_timeout = \"1s\"";
    let more = "[limits]\nkey_in_flight_max = 3";
    thread::scope(|scope| {
        for server in SERVERS {
            scope.spawn(move || {
                let gateway = setup(server, lines, more).start();
                for client in ERAS {
                    never_answers(&gateway, server, client);
                }
            });
        }
    });
}

fn never_answers(gateway: &Gateway, server: (Transport, Era), client: Era) {
    let (kind, declared, question) = questions().into_iter().next().unwrap();
    let row = Row { server, client, way: WAYS[0], kind, declared, question };
    let mut replies = Vec::new();
    for _ in 0..3 {
        let mut dialogue = row.dialogue(gateway);
        let reply = row.asked(dialogue.call(gateway, &row.arguments(1)));
        if client == Era::Legacy {
            let over = row.done(dialogue.next());
            let text = over["error"]["message"].as_str().unwrap_or_else(|| panic!("{over}: {row:?}"));
            assert!(text.contains("did not answer") || text.contains("went silent"), "{text}: {row:?}");
        }
        replies.push((dialogue, reply));
    }
    let mut dialogue = row.dialogue(gateway);
    let (deadline, mut turn) = (Instant::now() + PATIENCE, dialogue.call(gateway, &row.arguments(1)));
    // As long as those are held there is no room for one more, and its server is told so.
    while matches!(turn, Turn::Done(_)) {
        assert!(Instant::now() < deadline, "they are held still: {turn:?} {row:?}");
        thread::park_timeout(Duration::from_millis(50));
        turn = dialogue.call(gateway, &row.arguments(1));
    }
    let reply = row.asked(turn);
    let done = row.done(dialogue.answer(gateway, &reply, &given(row.kind, "Ada")));
    assert!(done["result"].to_string().contains("Ada"), "{done}: {row:?}");
    if (row.server.1, client) == (Era::Legacy, Era::Modern) {
        // The oldest has made room; those after it may have some time left.
        for (mut dialogue, reply) in replies.into_iter().take(1) {
            let over = row.done(dialogue.answer(gateway, &reply, &given(row.kind, "Eve")));
            assert_eq!(over["error"]["code"], -32602, "{over}: {row:?}");
            assert!(over["error"]["message"].as_str().unwrap().contains("timed out"), "{over}: {row:?}");
        }
    }
    assert!(done["result"].to_string().contains("Ada"), "{done}: {row:?}");
}

/// Where all that a server says comes over one channel, and its clients are Modern: by way of that transport.
const ONE_CHANNEL: [Transport; 2] = [Transport::Stdio, Transport::Sse];

/// The text of an answer.
#[track_caller]
fn said(done: &Value) -> &str {
    done["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{done}"))
}

/// A call that asks for a form of its own.
fn ask_for(gateway: &Gateway, path: &'static str, word: &str) -> (Dialogue, Turn) {
    let declared = json!({"elicitation": {"form": {}}});
    let mut dialogue = Dialogue::begin(gateway, Era::Modern, (path, WAYS[0].1), &declared, "inquire");
    let params = json!({"message": word, "requestedSchema": {"type": "object", "properties": {}}});
    let question = json!({"method": "elicitation/create", "params": params});
    let turn = dialogue.call(gateway, &json!({"questions": [question, question]}));
    (dialogue, turn)
}

/// Whether it is asked that, and not what another call asks; answers it until it is done.
#[track_caller]
fn answer_for(gateway: &Gateway, (mut dialogue, mut turn): (Dialogue, Turn), word: &str) {
    for round in 1..=2 {
        let Turn::Asked(asked, reply) = turn else { panic!("{word}: {turn:?}") };
        assert_eq!(asked["params"]["message"], word, "{asked}");
        turn = dialogue.answer(gateway, &reply, &given("form", &format!("{word}-{round}")));
    }
    let Turn::Done(done) = turn else { panic!("{word}: {turn:?}") };
    for round in 1..=2 {
        assert!(said(&done).contains(&format!("{word}-{round}")), "{done}");
    }
}

#[test]
fn concurrent_calls_get_their_own_input_requests() {
    thread::scope(|scope| {
        for transport in ONE_CHANNEL {
            scope.spawn(move || {
                let gateway = Setup::new().with(&table((transport, Era::Legacy), "")).start();
                let (gateway, words) = (&gateway, ["one", "two", "three"]);
                let asked = thread::scope(|scope| {
                    let asking = words.map(|word| scope.spawn(move || ask_for(gateway, WAYS[0].0, word)));
                    asking.map(|asking| asking.join().unwrap())
                });
                for (asked, word) in asked.into_iter().zip(words).rev() {
                    answer_for(gateway, asked, word);
                }
            });
        }
    });
}

/// Neither a call that nobody comes back to, nor one whose client has gone, is in the way of the next.
#[test]
fn an_abandoned_call_does_not_affect_others() {
    thread::scope(|scope| {
        for transport in ONE_CHANNEL {
            scope.spawn(move || {
                let gateway = Setup::new().with(&table((transport, Era::Legacy), "")).start();
                let left = ask_for(&gateway, WAYS[0].0, "left");
                assert!(matches!(left.1, Turn::Asked(..)), "{:?}", left.1);
                answer_for(&gateway, ask_for(&gateway, WAYS[0].0, "next"), "next");
            });
        }
    });
    let server = sse::Server::start();
    let sse = format!("[servers.a]\nurl = \"http://{}/sse\"\ntransport = \"sse\"", server.address);
    let gateway = Setup::new().with(&sse).start();
    let declared = json!({"elicitation": {}});
    let mut client = Client::connect(gateway.address);
    client.send(&modern(WAYS[0].0, &declared, json!({"name": "hang", "arguments": {}})).bytes());
    server.wait("the call", |server| !server.seen("tools/call").is_empty());
    drop(client);
    server.wait("its end", |server| !server.seen("notifications/cancelled").is_empty());
    answer_for(&gateway, ask_for(&gateway, WAYS[0].0, "next"), "next");
}

/// Beyond the bound calls share a session: they are served, but not asked, and those before are.
#[test]
fn sessions_of_calls_that_ask_are_bounded() {
    let check = |transport, lines: &str, room: usize| {
        let gateway = Setup::new().with(&table((transport, Era::Legacy), lines)).start();
        let words: Vec<String> = (0..room).map(|number| format!("call-{number}")).collect();
        let mut asked: Vec<_> = words.iter().map(|word| (ask_for(&gateway, WAYS[0].0, word), word)).collect();
        for _ in 0..2 {
            let (_, turn) = ask_for(&gateway, WAYS[0].0, "one more");
            let Turn::Done(done) = turn else { panic!("{transport:?} has room for one more: {turn:?}") };
            assert!(said(&done).contains("not certain"), "{done}");
        }
        let (first, word) = asked.remove(0);
        answer_for(&gateway, first, word);
        answer_for(&gateway, ask_for(&gateway, WAYS[0].0, "again"), "again");
        for (asked, word) in asked {
            let Turn::Asked(question, _) = asked.1 else { panic!("{word}: {:?}", asked.1) };
            assert_eq!(question["params"]["message"], **word);
        }
    };
    check(Transport::Sse, "", 16);
    check(Transport::Stdio, "processes_max = 2", 1);
    check(Transport::Stdio, "processes_max = 5", 3);
}

/// A program that asked nothing is one process for all calls of a key, unless each session is to have its own;
/// from its first question on, calls that are under way together have one each, until it is of no use any more.
#[test]
fn processes_of_calls_that_ask_end() {
    let program = env!("CARGO_BIN_EXE_metamcp-stdio-fixture");
    let declared = json!({"elicitation": {"form": {}}});
    let pid = |gateway: &Gateway, declared: &Value| {
        let request = modern(WAYS[0].0, declared, json!({"name": "pid", "arguments": {}}));
        said(&last(&Client::once(gateway.address, &request))).to_owned()
    };
    let is_gone = |pid: &str| !std::path::Path::new(&format!("/proc/{pid}")).exists();
    let check = |sharing: &str, are_apart: bool| {
        let bounds = format!("[bridge]\nhold_timeout = \"{HOLD}\"\nsession_idle_timeout = \"{HOLD}\"");
        let table = format!(
            "[servers.a]\ncommand = {program:?}\nargs = [\"legacy\"]\nera = \"legacy\"\nsharing = \"{sharing}\""
        );
        let gateway = Setup::new().with(&table).with(&bounds).start();
        let first = pid(&gateway, &declared);
        assert_eq!(pid(&gateway, &declared), first, "one after the other, they have the same");
        let mut hanging = Client::connect(gateway.address);
        hanging.send(&modern(WAYS[0].0, &declared, json!({"name": "hang", "arguments": {}})).bytes());
        until("it hangs", || gateway.log().contains("hanging"));
        let other = pid(&gateway, &declared);
        assert_eq!(other != first, are_apart, "{sharing}");
        drop(hanging);
        let turn = ask_for(&gateway, WAYS[0].0, "left").1;
        assert!(matches!(turn, Turn::Asked(..)) || !are_apart, "{sharing}: {turn:?}");
        let further = pid(&gateway, &declared);
        assert_ne!(further, first, "{sharing}");
        until("the process of that call is gone", || is_gone(&further));
        if are_apart {
            until("so is that of the first session", || is_gone(&first));
        }
        // It is the key's own.
        assert!(are_apart || !is_gone(&first));
    };
    check("key", false);
    check("session", true);
}

/// Whose call waits in the gateway is told that it is over; a Modern server keeps nothing, so its Modern
/// client goes on.
#[test]
fn a_restart_between_rounds_is_an_error() {
    thread::scope(|scope| {
        for server in SERVERS {
            for client in ERAS {
                for way in WAYS {
                    scope.spawn(move || restarted(server, client, way));
                }
            }
        }
    });
}

fn restarted(server: (Transport, Era), client: Era, way: (&'static str, &'static str)) {
    let (kind, declared, question) = questions().into_iter().next().unwrap();
    let row = Row { server, client, way, kind, declared, question };
    // The restart ends the wait for an answer, not the timeout.
    let gateway = setup_with_hold("1m", server, "", "[server]\ndrain_deadline = \"0s\"").start();
    let mut dialogue = row.dialogue(&gateway);
    let reply = row.asked(dialogue.call(&gateway, &row.arguments(1)));
    let gateway = gateway.restart();
    match (client, row.server.1) {
        (Era::Legacy, _) => {
            let over = row.done(dialogue.next());
            assert!(
                over["error"]["message"].as_str().unwrap().contains("the gateway stops"),
                "{over}: {row:?}"
            );
            // It comes too late, and is nobody's; the session goes on.
            let late = dialogue.respond(&gateway, &reply, &given(kind, "Eve"));
            assert!(matches!(late.status, 202 | 400), "HTTP {}: {row:?}", late.status);
        }
        (Era::Modern, Era::Legacy) => {
            let over = row.done(dialogue.answer(&gateway, &reply, &given(kind, "Eve")));
            assert_eq!(over["error"]["code"], -32602, "{over}: {row:?}");
            assert!(over["error"]["message"].as_str().unwrap().contains("a restart"), "{over}: {row:?}");
        }
        (Era::Modern, Era::Modern) => {
            let done = row.done(dialogue.answer(&gateway, &reply, &given(kind, "Ada")));
            assert!(done["result"].to_string().contains("Ada"), "{done}: {row:?}");
        }
    }
    let reply = row.asked(dialogue.call(&gateway, &row.arguments(1)));
    let done = row.done(dialogue.answer(&gateway, &reply, &given(kind, "Bob")));
    assert!(done["result"].to_string().contains("Bob"), "{done}: {row:?}");
}

#[test]
fn a_server_is_told_of_no_more_than_the_client_declared() {
    let rows = [
        json!({}),
        json!({"roots": {}}),
        json!({"roots": {"listChanged": true}}),
        json!({"sampling": {}}),
        json!({"sampling": {"context": {}}}),
        json!({"sampling": {"tools": {}}}),
        json!({"elicitation": {}}),
        json!({"elicitation": {"form": {}}}),
        json!({"elicitation": {"url": {}}}),
        json!({"elicitation": {"form": {}, "url": {}}}),
        json!({"tasks": {"list": {}, "requests": {"sampling": {"createMessage": {}}}}}),
        json!({"experimental": {"x": {"y": 1}}}),
        json!({"extensions": {"io.modelcontextprotocol/ui": {}, "io.modelcontextprotocol/tasks": {}}}),
        json!({"roots": {}, "sampling": {}, "elicitation": {"url": {}}, "unheard-of": {}}),
    ];
    for server in [Era::Legacy, Era::Modern] {
        let gateway = setup((Transport::Http, server), "", "").start();
        for client in ERAS {
            for way in WAYS {
                for declared in &rows {
                    let mut dialogue = Dialogue::begin(&gateway, client, way, declared, "whoami");
                    let Turn::Done(message) = dialogue.call(&gateway, &json!({})) else {
                        panic!("{declared}")
                    };
                    let told = &message["result"]["structuredContent"];
                    let what = format!("{client:?} to {server:?} by {}: {declared} told as {told}", way.0);
                    assert!(told.is_object(), "{what}: {message}");
                    assert!(is_part_of(&plain(told), &plain(declared)), "{what}");
                    for member in ["roots", "sampling", "elicitation"] {
                        assert_eq!(
                            told[member].is_object(),
                            declared[member].is_object(),
                            "{member}: {what}"
                        );
                    }
                    // Between two of one era everything passes.
                    assert!(client != server || told == declared, "{what}");
                }
            }
        }
    }
}

/// Forms written out: without a mode they are meant (MCP 2025-11-25, elicitation).
fn plain(capabilities: &Value) -> Value {
    let mut plain = capabilities.clone();
    if plain["elicitation"] == json!({}) {
        plain["elicitation"] = json!({"form": {}});
    }
    plain
}

/// Whether all that the one says the other says too.
fn is_part_of(part: &Value, whole: &Value) -> bool {
    match (part, whole) {
        (Value::Object(part), Value::Object(whole)) => part
            .iter()
            .all(|(name, value)| whole.get(name).map_or(value.is_null(), |whole| is_part_of(value, whole))),
        _ => part == whole,
    }
}
