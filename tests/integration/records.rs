//! The record of calls: one for each call, however it ends, and none is lost without being counted.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{
    Client, Form, Gateway, PATIENCE, Peer, Request, Setup, Step, Stream, answer, call, legacy_call, modern,
    modern_call, notification, open_session,
};

pub const FILE: &str = "[records]\ntarget = \"file\"\nfile = \"calls.jsonl\"\n";

/// A call in time: a request never waits for a record.
const IN_TIME: Duration = Duration::from_secs(5);

/// All records of a gateway that has ended, in the order of its files.
pub fn records(gateway: &Gateway) -> Vec<Value> {
    let mut files: Vec<_> =
        fs::read_dir(gateway.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.file_name().unwrap().to_string_lossy().starts_with("calls"));
    let text: String = files.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line:?}"))).collect()
}

/// Stops the gateway, so that everything is written.
pub fn stop(gateway: &mut Gateway) {
    gateway.terminate();
    assert!(gateway.ended().success());
}

/// The value of a counter of the gateway.
pub fn counter(gateway: &Gateway, name: &str) -> u64 {
    let metrics = Client::once(gateway.address, &Request::new("GET", "/metrics")).text();
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name}")).parse().unwrap()
}

/// `method item outcome` of a record; the item is what `member` names.
fn summary(record: &Value) -> String {
    let item = ["tool", "prompt", "uri"].iter().find_map(|member| record[member].as_str());
    let (method, outcome) = (record["method"].as_str().unwrap(), record["outcome"].as_str().unwrap());
    let (server, error) = (record["server"].as_str().unwrap_or("-"), record["error"].as_str().unwrap_or("-"));
    format!("{server} {method} {} {outcome} {error}", item.unwrap_or("-"))
}

/// A call over REST.
fn execute(tool: &str) -> Request {
    let execute = Request::new("POST", &format!("/api/v1/mcp/servers/a/tools/{tool}/execute"));
    Request { body: b"{}".to_vec(), ..execute }.with("Content-Type", "application/json")
}

/// Names that no server has listed: over MCP the server is asked all the same, over REST none is.
#[test]
fn unlisted_names_are_recorded_as_they_are() {
    let peer = Peer::script([]);
    let gone = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let mut gateway = Setup::new().server("a", peer.address).server("gone", gone).with(FILE).start();
    let mut client = Client::connect(gateway.address);
    client.ask(&modern_call("/mcp", "gone__y", "{}"));
    assert_eq!(client.ask(&execute("unlisted")).status, 404);
    stop(&mut gateway);
    let mut found: Vec<String> = records(&gateway).iter().map(summary).collect();
    found.sort();
    assert_eq!(found, ["- tools/call unlisted refused -", "gone tools/call y error unreachable"]);
}

#[test]
fn every_call_has_one_record() {
    let peer = Peer::script([]);
    let gone = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let mut gateway = Setup::new().server("a", peer.address).server("gone", gone).with(FILE).start();
    let mut client = Client::connect(gateway.address);
    let mut ask = |request: &Request| client.ask(request);
    let secret = r#"{"password":"hunter2"}"#;
    let answered = ask(&modern_call("/servers/a/mcp", "echo", secret));
    assert_eq!(answered.status, 200);
    let failed = r#"{"jsonrpc":"2.0","id":1,"result":{"isError":true,"content":[]}}"#;
    peer.push([vec![Step::Send(answer("200 OK", failed))]]);
    ask(&modern_call("/servers/a/mcp", "broken", "{}"));
    peer.push([vec![Step::Close]]);
    ask(&modern_call("/servers/a/mcp", "closed", "{}"));
    let unreachable = ask(&modern_call("/servers/gone/mcp", "x", "{}"));
    ask(&modern("/servers/a/mcp", "prompts/get", r#""name":"greet","#).with("Mcp-Name", "greet"));
    ask(&modern("/servers/a/mcp", "resources/read", r#""uri":"x://y","#).with("Mcp-Name", "x://y"));
    let unknown = ask(&modern_call("/mcp", "nobody__x", "{}"));
    assert_eq!(ask(&execute("echo")).status, 200);

    let session = open_session(&gateway, "/servers/a/mcp", None);
    peer.push([vec![Step::Hold]]);
    let calls = peer.calls().len();
    let mut waiting = Client::connect(gateway.address);
    waiting.send(&legacy_call("/servers/a/mcp", &session, "\"c\"", "slow", "{}").bytes());
    peer.wait_calls(calls + 1);
    let told = notification("/servers/a/mcp", &session, "notifications/cancelled", r#""requestId":"c""#);
    assert_eq!(Client::once(gateway.address, &told).status, 202);
    drop(waiting);
    let one = |id: u32| {
        let params = r#"{"name":"batched","arguments":{}}"#;
        format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{params}}}"#)
    };
    let batch = Request::post("/servers/a/mcp", format!("[{},{}]", one(1), one(2)));
    assert_eq!(Client::once(gateway.address, &batch).status, 200);
    let mut stream = Stream::open(&gateway, "/api/v1/mcp/stream/servers/a", Form::Lines);
    stream.ask(&call("7", "tools/call", r#""name":"framed","arguments":{},"#));
    stream.end();
    assert_eq!(stream.next(), None);

    stop(&mut gateway);
    let records = records(&gateway);
    let found: Vec<String> = records.iter().map(summary).collect();
    for (expected, count) in [
        ("a tools/call echo answer -", 2),
        ("a tools/call broken answer -", 1),
        ("a tools/call closed error broken", 1),
        ("gone tools/call x error unreachable", 1),
        ("a prompts/get greet answer -", 1),
        ("a resources/read x://y answer -", 1),
        ("- tools/call nobody__x refused invalid_params", 1),
        ("a tools/call slow disconnect -", 1),
        ("a tools/call batched answer -", 2),
        ("a tools/call framed answer -", 1),
    ] {
        assert_eq!(found.iter().filter(|found| *found == expected).count(), count, "{expected}: {found:#?}");
    }
    let calls = found.iter().filter(|found| found.contains("tools/call")).count();
    assert_eq!(calls, 10, "{found:#?}");
    // Records of several workers are in no order.
    let is_first = |record: &&Value| record["tool"] == "echo" && record["endpoint"] == "servers/a";
    let first = records.iter().find(is_first).unwrap();
    assert_eq!((&first["key_id"], &first["endpoint"]), (&"anonymous---".into(), &"servers/a".into()));
    assert_eq!(first["bytes_out"], answered.body.len());
    // The client of an error can be asked for the id of its record.
    for (response, item) in [(unreachable, "x"), (unknown, "nobody__x")] {
        let record = records.iter().find(|record| record["tool"] == item).unwrap();
        assert_eq!(record["request_id"].as_str(), response.header("x-request-id"), "{item}");
    }
    let path = gateway.path().join("calls.jsonl");
    assert!(!fs::read_to_string(&path).unwrap().contains("hunter2"));
    assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_name_cannot_forge_a_record() {
    let peer = Peer::script([]);
    let mut gateway = Setup::new().server("a", peer.address).with(FILE).start();
    let name = r#"x\"}\n{\"key\":\"root\u0000"#;
    let body = call("1", "tools/call", &format!("\"name\":\"{name}\",\"arguments\":{{}},"));
    Client::once(gateway.address, &Request::post("/mcp", body));
    stop(&mut gateway);
    let records = records(&gateway);
    assert_eq!(records.len(), 1);
    assert_ne!(records[0]["key"], "root");
}

/// A target that takes nothing: calls are answered in time, and each record that is not written is counted.
#[track_caller]
fn check_drops(target: &str) {
    const CALLS: u64 = 300;
    let peer = Peer::script([]);
    let setup = Setup::new().server("a", peer.address);
    let gateway = setup.with(&format!("[records]\nqueue_max = 64\n{target}\n")).start();
    let mut client = Client::connect(gateway.address);
    for _ in 0..CALLS {
        let began = Instant::now();
        assert_eq!(client.ask(&modern_call("/servers/a/mcp", "echo", "{}")).status, 200);
        assert!(began.elapsed() < IN_TIME, "a call waited for its record");
    }
    let dropped = counter(&gateway, "metamcp_records_dropped_total");
    let written = counter(&gateway, "metamcp_records_written_total");
    // The rest is in the queue, and in the batch that is being written.
    assert!(dropped > 0 && written == 0 && dropped <= CALLS - 64, "{dropped} dropped, {written} written");
    let deadline = Instant::now() + PATIENCE;
    while gateway.log().matches("call records are dropped").count() == 0 {
        assert!(Instant::now() < deadline, "{}", gateway.log());
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

#[test]
fn a_full_disk_delays_no_call() {
    check_drops("target = \"file\"\nfile = \"/dev/full\"");
}

#[test]
fn a_syslog_socket_that_is_not_there_delays_no_call() {
    check_drops("target = \"syslog\"\nsocket = \"/nowhere/log\"");
}

#[test]
fn a_collector_that_hangs_delays_no_call() {
    let collector = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let endpoint = format!("http://{}", collector.local_addr().unwrap());
    let peer = Peer::script([]);
    let lines = format!("[records]\ntarget = \"otlp\"\nendpoint = \"{endpoint}\"\nqueue_max = 64\n");
    let mut gateway = Setup::new().server("a", peer.address).with(&lines).start();
    let mut client = Client::connect(gateway.address);
    let ask = |client: &mut Client| {
        let began = Instant::now();
        assert_eq!(client.ask(&modern_call("/servers/a/mcp", "echo", "{}")).status, 200);
        assert!(began.elapsed() < IN_TIME, "a call waited for its record");
    };
    let deadline = Instant::now() + PATIENCE;
    while counter(&gateway, "metamcp_records_dropped_total") == 0 {
        assert!(Instant::now() < deadline, "nothing is dropped");
        (0..100).for_each(|_| ask(&mut client));
    }
    stop(&mut gateway);
}

#[test]
fn a_file_that_cannot_be_opened_is_reported_at_start() {
    let dir = Setup::new().with("[records]\ntarget = \"file\"\nfile = \"/nowhere/calls\"\n").place();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_metamcp"));
    let output = crate::support::clear_environment(&mut command)
        .current_dir(dir.path())
        .args(["--port", "0", "--no-auth", "--data-dir", "data"])
        .output()
        .unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("records.file: cannot open /nowhere/calls"), "{text}");
}

#[test]
fn without_the_setting_nothing_is_recorded() {
    let peer = Peer::script([]);
    let mut gateway = Gateway::open(&[("a", peer.address)]);
    Client::once(gateway.address, &modern_call("/mcp", "a__echo", "{}"));
    let metrics = Client::once(gateway.address, &Request::new("GET", "/metrics")).text();
    assert!(!metrics.contains("metamcp_records"));
    stop(&mut gateway);
    assert!(!gateway.path().join("data/calls.jsonl").exists());
}
