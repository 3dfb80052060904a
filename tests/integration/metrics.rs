//! What `/metrics` says after traffic that is known to the call, and that it is said in both forms by the letter.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use crate::support::{
    Client, Gateway, PATIENCE, Peer, Request, Response, Setup, Step, answer, chunk, error, events,
    initialize, legacy, legacy_call, modern, modern_call, notification, result,
};
use metamcp_store::store::{Grants, Role};

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PLAIN: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Samples by name and labels, read by the letter of the form (Prometheus exposition formats; `OpenMetrics` 1.0).
struct Samples(BTreeMap<String, f64>);

impl Samples {
    #[track_caller]
    fn read(text: &str, is_open: bool) -> Self {
        let mut samples = BTreeMap::new();
        let (mut family, mut kind) = (String::new(), String::new());
        let mut families = BTreeSet::new();
        let body = text.strip_suffix("# EOF\n");
        assert_eq!(body.is_some(), is_open, "only OpenMetrics has an end");
        let body = body.unwrap_or(text);
        assert!(body.ends_with('\n') && !body.contains("\n\n") && !body.contains('\r'));
        let mut helped = String::new();
        for line in body.lines() {
            let words: Vec<&str> = line.splitn(4, ' ').collect();
            match words[..] {
                ["#", "HELP", name, help] => {
                    assert!(!help.is_empty() && !help.contains('\\'), "{line}");
                    name.clone_into(&mut helped);
                }
                ["#", "TYPE", name, of] => {
                    assert_eq!(name, helped, "help comes first");
                    assert!(families.insert(name.to_owned()), "twice: {line}");
                    assert!(matches!(of, "counter" | "gauge" | "histogram"), "{line}");
                    assert_eq!(of == "counter" && !is_open, name.ends_with("_total"), "{line}");
                    (family, kind) = (name.to_owned(), of.to_owned());
                }
                ["#", "UNIT", name, unit] => {
                    assert!(is_open && name == family && name.ends_with(&format!("_{unit}")), "{line}");
                }
                ["#", ..] => panic!("{line}"),
                _ => {
                    let (series, value) = line.rsplit_once(' ').unwrap();
                    Self::check_series(series, &family, &kind, is_open);
                    let value: f64 = value.parse().unwrap();
                    assert!(value.is_finite() && value >= 0.0, "{line}");
                    assert!(samples.insert(series.to_owned(), value).is_none(), "twice: {line}");
                }
            }
        }
        let samples = Self(samples);
        samples.check_histograms(body);
        samples
    }

    #[track_caller]
    fn check_series(series: &str, family: &str, kind: &str, is_open: bool) {
        let (name, labels) = series.split_once('{').map_or((series, None), |(name, rest)| (name, Some(rest)));
        let suffix = name.strip_prefix(family).unwrap_or_else(|| panic!("{series} is none of {family}"));
        let expected: &[&str] = match (kind, is_open) {
            ("counter", true) => &["_total"],
            ("histogram", _) => &["_bucket", "_sum", "_count"],
            _ => &[""],
        };
        assert!(expected.contains(&suffix), "{series} of the {kind} {family}");
        let plain = |text: &str| {
            text.bytes().all(|byte| byte.is_ascii_lowercase() || matches!(byte, b'_' | b'0'..=b'9'))
        };
        assert!(plain(name), "{series}");
        let mut names = BTreeSet::new();
        for label in labels.iter().flat_map(|labels| labels.strip_suffix('}').unwrap().split(',')) {
            let (name, value) = label.split_once('=').unwrap();
            assert!(plain(name) && names.insert(name), "{series}");
            let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap();
            assert!(!value.contains(['"', '\\', '\n']), "{series}");
        }
    }

    /// Buckets rise with their bounds up to the count.
    #[track_caller]
    fn check_histograms(&self, body: &str) {
        let mut last = (String::new(), f64::NEG_INFINITY, 0.0);
        for line in body.lines().filter(|line| line.contains("_bucket{")) {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (name, rest) = series.split_once("_bucket{le=\"").unwrap();
            let (bound, labels) = rest.split_once("\",").unwrap();
            let (of, value) = (format!("{name}_count{{{labels}"), value.parse::<f64>().unwrap());
            let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().unwrap() };
            if last.0 == of {
                assert!(bound > last.1 && value >= last.2, "{line}");
            }
            if bound.is_infinite() {
                assert_eq!(self.0.get(&of), Some(&value), "{line}");
            }
            last = (of, bound, value);
        }
    }

    fn get(&self, series: &str) -> f64 {
        self.0.get(series).copied().unwrap_or_default()
    }

    /// Of a number that is whole and small: a double tells it exactly.
    fn is(&self, series: &str, expected: usize) -> bool {
        self.get(series).to_string() == expected.to_string()
    }

    /// Those of that name that are not zero, without the name.
    fn of(&self, name: &str) -> Vec<String> {
        let ours = self.0.iter().filter(|(_, value)| **value != 0.0);
        ours.filter_map(|(series, value)| Some(format!("{} {value}", series.strip_prefix(name)?))).collect()
    }
}

#[track_caller]
fn scrape(gateway: &Gateway) -> Samples {
    let found = Client::once(gateway.address, &Request::new("GET", "/metrics"));
    assert_eq!((found.status, found.header("content-type")), (200, Some(PLAIN)), "{}", found.text());
    Samples::read(&found.text(), false)
}

/// Looks until that holds.
#[track_caller]
fn wait(gateway: &Gateway, what: &str, holds: impl Fn(&Samples) -> bool) {
    let begun = Instant::now();
    while !holds(&scrape(gateway)) {
        assert!(begun.elapsed() < PATIENCE, "waited in vain for {what}");
    }
}

#[track_caller]
fn ok(response: &Response) -> usize {
    assert!(response.status == 200 && response.whole, "{} {}", response.status, response.text());
    response.body.len()
}

/// The kind of a fault that is a server's.
#[track_caller]
fn kind(response: &Response) -> String {
    response.json()["error"]["data"]["kind"].as_str().unwrap().to_owned()
}

/// Not the usual shape: hyper reads it.
fn unusual(request: Request) -> Request {
    request.with("Connection", "close")
}

#[test]
fn every_call_is_counted_once() {
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    let mut client = Client::connect(gateway.address);
    let (mut bytes_in, mut bytes_out) = (0, 0);
    let mut pass = |request: &Request, response: &Response| {
        bytes_in += request.body.len();
        bytes_out += ok(response);
    };
    let call = modern_call("/mcp", "a__echo", "{}");
    for _ in 0..5 {
        pass(&call, &client.ask(&call));
        let request = unusual(call.clone());
        pass(&request, &Client::once(gateway.address, &request));
    }
    peer.push([vec![
        Step::Send(events()),
        Step::Send(chunk(&format!("data: {}\n\n", result("1", "{}")))),
        Step::Send(chunk("")),
    ]]);
    pass(&call, &client.ask(&call));
    let list = modern("/mcp", "tools/list", "");
    pass(&list, &client.ask(&list));
    ok(&client.ask(&modern_call("/servers/a/mcp", "echo", "{}")));
    let samples = scrape(&gateway);
    assert_eq!(
        samples.of("mcp_server_operation_duration_seconds_count"),
        [
            r#"{metamcp_endpoint="default",mcp_method_name="tools/call",outcome="ok"} 11"#,
            r#"{metamcp_endpoint="default",mcp_method_name="tools/list",outcome="ok"} 1"#,
            r#"{metamcp_endpoint="servers/a",mcp_method_name="tools/call",outcome="ok"} 1"#,
        ]
    );
    assert_eq!(
        samples.of("mcp_client_operation_duration_seconds_count"),
        [r#"{metamcp_server="a",mcp_method_name="tools/call",outcome="ok"} 12"#]
    );
    assert_eq!(samples.of("metamcp_time_to_first_byte_seconds_count"), [r#"{metamcp_server="a"} 12"#]);
    for (way, bytes) in [("request", bytes_in), ("response", bytes_out)] {
        let series = format!(r#"metamcp_{way}_bytes_total{{metamcp_endpoint="default"}}"#);
        assert!(samples.is(&series, bytes), "{way}: {bytes}, but {}", samples.get(&series));
    }
    for nothing in ["metamcp_faults_total", "metamcp_server_faults_total", "metamcp_streams"] {
        assert_eq!(samples.of(nothing), [""; 0]);
    }
}

#[test]
fn faults_are_counted_by_kind() {
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    let address = gateway.address;
    let call = modern_call("/mcp", "a__echo", "{}");
    ok(&Client::once(address, &call));
    // Before there is a message.
    assert_eq!(Client::once(address, &Request::post("/mcp", "{")).status, 400);
    assert_eq!(Client::once(address, &unusual(Request::post("/mcp", "["))).status, 400);
    assert_eq!(Client::once(address, &call.clone().set("Host", "evil.example")).status, 403);
    assert_eq!(
        Client::once(address, &Request::new("GET", "/health").set("Host", "evil.example")).status,
        403
    );
    let stream = Request::new("GET", "/mcp").with("Accept", "text/event-stream");
    assert_eq!(Client::once(address, &stream).status, 400);
    assert_eq!(Client::once(address, &Request::new("GET", "/evil")).status, 404);
    // A message that leads nowhere.
    assert_eq!(error(&Client::once(address, &modern_call("/mcp", "evil", "{}"))), -32602);
    assert_eq!(error(&Client::once(address, &modern("/mcp", "evil/method", ""))), -32601);
    // A server that fails, and one that refuses.
    let refusal = r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32600,"message":"no"}}"#;
    let bad_status = vec![Step::Send(answer("500 Internal Server Error", "{}"))];
    peer.push([vec![Step::Close], bad_status, vec![Step::Send(answer("400 Bad Request", refusal))]]);
    let kinds = [kind(&Client::once(address, &call)), kind(&Client::once(address, &call))];
    assert_eq!(Client::once(address, &call).status, 400);
    // A client that leaves.
    peer.push([vec![Step::Hold]]);
    let mut leaving = Client::connect(address);
    assert!(leaving.send(&call.bytes()));
    peer.wait_calls(5);
    drop(leaving);
    wait(&gateway, "a call that nobody waits for", |samples| {
        samples.of("mcp_client_operation_duration_seconds_count").iter().any(|row| row.contains("gone"))
    });
    let samples = scrape(&gateway);
    let operations = |rest: &str| format!(r#"{{metamcp_endpoint="default",mcp_method_name={rest}"#);
    assert_eq!(
        samples.of("mcp_server_operation_duration_seconds_count"),
        [
            operations(r#""(other)",outcome="error"} 1"#),
            operations(r#""tools/call",outcome="error"} 4"#),
            operations(r#""tools/call",outcome="gone"} 1"#),
            operations(r#""tools/call",outcome="ok"} 1"#),
        ]
    );
    let mut expected: BTreeMap<&str, u64> = BTreeMap::new();
    for kind in kinds.iter().map(String::as_str) {
        *expected.entry(kind).or_default() += 1;
    }
    let rows = |of: &str, expected: &BTreeMap<&str, u64>| -> Vec<String> {
        expected.iter().map(|(kind, count)| format!(r#"{{{of},error_type="{kind}"}} {count}"#)).collect()
    };
    assert_eq!(samples.of("metamcp_server_faults_total"), rows(r#"metamcp_server="a""#, &expected));
    for kind in ["parse", "parse", "forbidden", "session_missing", "invalid_params", "unknown_method"] {
        *expected.entry(kind).or_default() += 1;
    }
    let mut faults = rows(r#"metamcp_endpoint="""#, &BTreeMap::from([("forbidden", 1)]));
    faults.extend(rows(r#"metamcp_endpoint="default""#, &expected));
    assert_eq!(samples.of("metamcp_faults_total"), faults);
    let nowhere =
        r#"metamcp_control_responses_total{http_request_method="(other)",http_route="(other)",status="4xx"}"#;
    assert!(samples.is(nowhere, 1));
    let text = Client::once(address, &Request::new("GET", "/metrics")).text();
    assert!(!text.contains("evil"), "what a client says is no label");
}

#[test]
fn sessions_streams_and_calls_over_rest() {
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    let mut client = Client::connect(gateway.address);
    let session = client.ask(&initialize("/mcp")).header("mcp-session-id").unwrap().to_owned();
    assert_eq!(client.ask(&notification("/mcp", &session, "notifications/initialized", "")).status, 202);
    ok(&client.ask(&legacy_call("/mcp", &session, "1", "a__echo", "{}")));
    ok(&client.ask(&legacy("/mcp", &session, "2", "ping", "")));
    let stream =
        Request::new("GET", "/mcp").with("Accept", "text/event-stream").with("Mcp-Session-Id", &*session);
    let mut listening = Client::connect(gateway.address);
    assert!(listening.send(&stream.bytes()));
    assert_eq!(listening.head().status, 200);
    let execute =
        Request::post("/api/v1/mcp/servers/a/tools/echo/execute", "{}").set("Accept", "application/json");
    ok(&client.ask(&execute));
    let samples = scrape(&gateway);
    let operations =
        |method: &str| format!(r#"{{metamcp_endpoint="default",mcp_method_name="{method}",outcome="ok"}} 1"#);
    assert_eq!(
        samples.of("mcp_server_operation_duration_seconds_count"),
        ["initialize", "notifications/initialized", "ping", "tools/call"].map(operations)
    );
    assert_eq!(
        samples.of("mcp_client_operation_duration_seconds_count"),
        [r#"{metamcp_server="a",mcp_method_name="tools/call",outcome="ok"} 2"#]
    );
    assert_eq!(samples.of("metamcp_streams"), [r#"{kind="session"} 1"#]);
    assert!(samples.is("metamcp_sessions", 1));
    for known in ["metamcp_store_up", "metamcp_servers", "process_open_fds", "process_resident_memory_bytes"]
    {
        assert!(samples.get(known) >= 1.0, "{known}");
    }
    wait(&gateway, "connections", |samples| samples.get(r#"metamcp_connections{state="open"}"#) >= 2.0);
    drop(listening);
    wait(&gateway, "a stream that is closed", |samples| samples.of("metamcp_streams").is_empty());
}

#[test]
fn metrics_are_served_in_the_requested_format() {
    let peer = Peer::script([]);
    let start = |word: &str| {
        let setup = Setup::new().server("a", peer.address).keys();
        setup.with(&format!("[telemetry]\nmetrics = \"{word}\"")).start()
    };
    let check = |gateway: &Gateway, key: Option<&str>, accept: Option<&str>, expected: (u16, &str)| {
        let mut request = Request::new("GET", "/metrics");
        for (name, value) in
            key.map(|key| ("X-API-Key", key)).into_iter().chain(accept.map(|accept| ("Accept", accept)))
        {
            request = request.with(name, value);
        }
        let found = Client::once(gateway.address, &request);
        assert_eq!(
            (found.status, found.header("content-type").unwrap_or_default()),
            expected,
            "{key:?} {accept:?}"
        );
        if found.status == 200 {
            let is_open = expected.1 == OPEN_METRICS;
            let samples = Samples::read(&found.text(), is_open);
            assert!(samples.is(r#"metamcp_server_left_alone{metamcp_server="a"}"#, 0));
        }
    };
    let admin = |gateway: &Gateway| {
        gateway.keys().grant("admin", Grants { role: Role::Admin, ..Grants::everything() }).1
    };
    let problem = "application/problem+json";
    let gateway = start("key");
    let (client, admin_key) = (gateway.key.clone().unwrap(), admin(&gateway));
    let call = modern_call("/mcp", "a__echo", "{}").with("X-API-Key", &*client);
    ok(&Client::once(gateway.address, &call));
    assert_eq!(Client::once(gateway.address, &call.without("X-API-Key")).status, 401);
    check(&gateway, None, None, (401, problem));
    check(&gateway, Some(&client), None, (403, problem));
    check(&gateway, Some(&admin_key), None, (200, PLAIN));
    check(&gateway, Some(&admin_key), Some("application/openmetrics-text"), (200, OPEN_METRICS));
    let found =
        Client::once(gateway.address, &Request::new("GET", "/metrics").with("X-API-Key", &*admin_key));
    let samples = Samples::read(&found.text(), false);
    let refused = r#"metamcp_faults_total{metamcp_endpoint="default",error_type="unauthenticated"}"#;
    assert!(samples.is(refused, 1));
    let gateway = start("open");
    check(&gateway, None, None, (200, PLAIN));
    check(&gateway, None, Some("text/plain;q=0.2, application/openmetrics-text;q=0.5"), (200, OPEN_METRICS));
    let gateway = start("off");
    let admin_key = admin(&gateway);
    check(&gateway, Some(&admin_key), None, (404, problem));
    let call = modern_call("/mcp", "a__echo", "{}").with("X-API-Key", gateway.key.clone().unwrap());
    ok(&Client::once(gateway.address, &call));
}
