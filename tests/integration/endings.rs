//! What a credential has open ends with it, and gives back what it held: the calls in flight at the server, and the
//! connections to it. Over HTTP/1.1 and HTTP/2, also for a client that takes nothing of its responses.

use std::net::SocketAddr;
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use jsonwebtoken::{Algorithm, EncodingKey, crypto::sign};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::support::{
    Client, Form, Gateway, HyperClient, PATIENCE, Peer, Request, Setup, Step, Transport, call, chunk,
    convert, events, initialize, legacy, legacy_call, modern, modern_call, notification, until_within,
    with_certificate, within,
};
use metamcp_store::auth::generate_jwt_key;
use metamcp_store::store::{Audit, Grants, Role};

pub const SINGLE: &str = "/servers/a/mcp";
pub const AGGREGATED: &str = "/mcp";

const EVENT: &str = "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{\"level\":\"info\",\"data\":1}}\n\n";

/// The start of a message that does not say yet what it answers.
const BEGUN: &str = r#"{"jsonrpc":"2.0","#;

/// How a credential comes to its end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum End {
    KeyRevoked,
    KeyDeleted,
    SigningKeyDeleted,
    TokenExpired,
}

/// Long enough to open everything, and counted from now.
const TOKEN_LIFE: Duration = Duration::from_secs(4);

/// What `docs/SECURITY.md` allows between the clocks of replicas.
const LEEWAY_S: u64 = 30;

/// SQLite is polled once a second for changes of other processes; the rest is what a busy machine takes.
pub const ENDED_MAX: Duration = Duration::from_secs(2);

/// A gateway with a server, and a credential of each kind.
pub struct House {
    pub gateway: Gateway,
    pub peer: Peer,
    pub client: HyperClient,
    key_id: String,
    key: String,
    /// The key of an administrator, who may read metrics.
    pub admin: String,
}

impl House {
    fn new(transport: Transport, lines: &str) -> Self {
        let peer = Peer::script([]);
        let setup = Setup::new().server_with("a", peer.address, "in_flight_max = 512").with(lines);
        Self::of(transport, setup, peer)
    }

    /// A gateway with these settings, in front of a server that may be scripted.
    pub fn of(transport: Transport, setup: Setup, peer: Peer) -> Self {
        let mut setup = setup.keys();
        let mut certificate = None;
        if transport.is_tls() {
            let (with_tls, made) = with_certificate(setup);
            (setup, certificate) = (with_tls, Some(made));
        }
        let gateway = setup.start();
        let admin = gateway.keys().grant("admin", Grants { role: Role::Admin, ..Grants::everything() }).1;
        let (key_id, key) = gateway.keys().create("one");
        let client = HyperClient::new(transport, gateway.address, certificate);
        let house = Self { gateway, peer, client, key_id, key, admin };
        until_within("the keys are let in", PATIENCE, || {
            [&house.key, &house.admin].iter().all(|key| {
                let request = with_credential(modern(AGGREGATED, "tools/list", ""), key);
                house.client.once(&request).0 == 200
            })
        });
        house
    }

    /// A token, made longer or shorter than it would be.
    fn token(&self, left: Option<Duration>) -> String {
        let body = json!({"api_key": self.key}).to_string();
        let asked = Request::new("POST", "/api/v1/auth/token").with("Content-Type", "application/json");
        let answer: Value = serde_json::from_str(&self.client.once(&asked.body(body)).1).unwrap();
        let token = answer["access_token"].as_str().unwrap().to_owned();
        let Some(left) = left else { return token };
        let (header, rest) = token.split_once('.').unwrap();
        let payload = rest.split('.').next().unwrap();
        let mut claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        claims["exp"] = ((now + left).as_secs() - LEEWAY_S).into();
        let message = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
        let secret = EncodingKey::from_secret(&self.gateway.keys().jwt_secret());
        format!("{message}.{}", sign(message.as_bytes(), &secret, Algorithm::HS256).unwrap())
    }

    pub fn credential(&self, end: End) -> String {
        match end {
            End::KeyRevoked | End::KeyDeleted => self.key.clone(),
            End::SigningKeyDeleted => self.token(None),
            End::TokenExpired => self.token(Some(TOKEN_LIFE)),
        }
    }

    /// Ends the credential, and gives how long it may take until all is given back.
    pub fn end(&self, end: End, credential: &str) -> Duration {
        match end {
            End::KeyRevoked => self.gateway.keys().revoke(&self.key_id),
            End::KeyDeleted => self.gateway.keys().run(async |store| {
                store.delete_key(&self.key_id, Audit::by("test")).await.unwrap();
            }),
            End::SigningKeyDeleted => {
                let header = URL_SAFE_NO_PAD.decode(credential.split('.').next().unwrap()).unwrap();
                let header: Value = serde_json::from_slice(&header).unwrap();
                self.gateway.keys().run(async |store| {
                    store.insert_jwt_key(generate_jwt_key(), Audit::by("test")).await.unwrap();
                    store.promote_jwt_key(Audit::by("test")).await.unwrap();
                    store.delete_jwt_key(header["kid"].as_str().unwrap(), Audit::by("test")).await.unwrap();
                });
            }
            End::TokenExpired => return within(ENDED_MAX + TOKEN_LIFE),
        }
        within(ENDED_MAX)
    }

    pub fn metric(&self, name: &str) -> u64 {
        let (status, text) = self.client.once(&with_credential(Request::new("GET", "/metrics"), &self.admin));
        assert_eq!(status, 200, "{text}");
        let lines = text.lines().filter(|line| line.starts_with(name));
        lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
    }

    pub fn in_flight(&self) -> u64 {
        self.metric("metamcp_server_in_flight{")
    }
}

/// A server that says something, and then nothing more.
fn long() -> Vec<Step> {
    vec![Step::Send(events()), Step::Send(chunk(EVENT)), Step::Hold]
}

/// A server that begins a body, longer than what is read before any of it is passed on, and then sends nothing more.
fn begun() -> Vec<Step> {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n";
    vec![Step::Send(format!("{head}{BEGUN}").into_bytes()), Step::Hold]
}

pub fn with_credential(request: Request, credential: &str) -> Request {
    request.with("Authorization", format!("Bearer {credential}"))
}

/// Opens a session over the client's transport.
pub fn open_session(house: &House, path: &str, credential: &str) -> String {
    let opened = house.client.open(&with_credential(initialize(path), credential), false);
    let (status, session) = opened.head();
    let session = session.expect("a session id");
    assert_eq!(status, 200);
    let noted = with_credential(notification(path, &session, "notifications/initialized", ""), credential);
    assert_eq!(house.client.once(&noted).0, 202);
    session
}

/// What the server does with a request that is open when its credential ends.
#[derive(Clone, Copy, PartialEq)]
enum Served {
    /// The gateway serves it alone.
    Nothing,
    /// The server began an event stream.
    Stream,
    /// The server began a JSON body of known length.
    Body,
    /// The server has not answered.
    Silence,
}

/// One request of each kind that stays open: its name, the request, and whether its own body stays open.
fn open_requests(house: &House, credential: &str) -> Vec<(&'static str, Request, Served, bool)> {
    use Served::{Body, Nothing, Silence, Stream};
    let (together, alone) =
        (open_session(house, AGGREGATED, credential), open_session(house, SINGLE, credential));
    let item = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a__echo"}}"#;
    let execute = Request::new("POST", "/api/v1/mcp/servers/a/tools/echo/execute");
    let execute = execute.with("Content-Type", "application/json").body("{}");
    let get = Request::new("GET", AGGREGATED).with("Accept", "text/event-stream");
    let framed = Request::new("POST", "/api/v1/mcp/stream").with("Content-Type", Form::Lines.media_type());
    let framed = framed.body(format!("{}\n", call("1", "tools/call", r#""name":"a__echo","#)));
    let listen = modern(AGGREGATED, "subscriptions/listen", r#""notifications":{"toolsListChanged":true},"#);
    let task = legacy(SINGLE, &alone, "3", "tasks/result", r#""taskId":"t""#);
    vec![
        ("event stream of a session", get.with("Mcp-Session-Id", together.clone()), Nothing, false),
        ("subscription", listen, Nothing, false),
        ("call", modern_call(SINGLE, "echo", "{}"), Silence, false),
        ("body", modern_call(SINGLE, "echo", "{}"), Body, false),
        ("body, aggregated", modern_call(AGGREGATED, "a__echo", "{}"), Body, false),
        ("body of a session", legacy_call(SINGLE, &alone, "4", "echo", "{}"), Body, false),
        ("call, aggregated", legacy_call(AGGREGATED, &together, "1", "a__echo", "{}"), Silence, false),
        ("stream", modern_call(SINGLE, "echo", "{}"), Stream, false),
        ("stream, aggregated", modern_call(AGGREGATED, "a__echo", "{}"), Stream, false),
        ("stream of a session", legacy_call(AGGREGATED, &together, "2", "a__echo", "{}"), Stream, false),
        ("result of a task", task, Silence, false),
        ("batch", Request::post(AGGREGATED, format!("[{item},{item}]")), Stream, false),
        ("REST", execute.clone().with("Accept", "application/json"), Silence, false),
        ("REST stream", execute.with("Accept", "text/event-stream"), Stream, false),
        ("framed stream", framed, Stream, true),
    ]
}

#[track_caller]
fn check(end: End, transport: Transport) {
    check_with(end, transport, "");
}

/// With these further settings of the server.
#[track_caller]
fn check_with(end: End, transport: Transport, settings: &str) {
    let house = House::new(transport, &format!("[server]\nkeep_alive = \"1s\"\n{settings}"));
    let credential = house.credential(end);
    let mut opened = Vec::new();
    for (what, request, served, stays_open) in open_requests(&house, &credential) {
        let count = house.peer.calls().len() + usize::from(served != Served::Nothing);
        house.peer.push(match served {
            Served::Nothing => None,
            Served::Stream => Some(long()),
            Served::Body => Some(begun()),
            Served::Silence => Some(vec![Step::Hold]),
        });
        let response = house.client.open(&with_credential(request, &credential), stays_open);
        if served != Served::Silence {
            assert_eq!(response.status(), 200, "{what}");
        }
        house.peer.wait_calls(count);
        opened.push((what, response));
    }
    let calls = house.peer.calls();
    assert_eq!(house.in_flight(), calls.len() as u64, "{end:?} {transport:?}");
    let left = house.end(end, &credential);
    let what = format!("{end:?} {transport:?}");
    until_within(&format!("{what}: calls in flight"), left, || house.in_flight() == 0);
    until_within(&format!("{what}: open streams"), left, || house.metric("metamcp_streams{") == 0);
    for (what, response) in opened {
        let ended = response.end();
        assert!(!ended.contains("\"result\""), "{what} {transport:?}: {ended}");
        if what.starts_with("body") {
            assert_eq!(ended, BEGUN, "{what} {transport:?}");
        }
        if what == "framed stream" {
            let last: Value = serde_json::from_str(ended.lines().last().unwrap()).unwrap();
            assert!(last["error"].is_object(), "{transport:?}: {last}");
        }
    }
    for call in calls {
        house.peer.wait_closed(call.connection);
    }
}

#[test]
fn what_a_revoked_key_has_open_ends() {
    check(End::KeyRevoked, Transport::Http1);
}

#[test]
fn what_a_deleted_key_has_open_ends() {
    check(End::KeyDeleted, Transport::Http1);
}

#[test]
fn what_a_revoked_key_has_open_without_the_fast_lane_ends() {
    check_with(End::KeyRevoked, Transport::Http1, "fast_lane = false");
}

#[test]
fn what_a_revoked_key_has_open_over_tls_ends() {
    check(End::KeyRevoked, Transport::Http1Tls);
}

#[test]
fn what_a_revoked_key_has_open_over_http2_ends() {
    check(End::KeyRevoked, Transport::Http2);
}

#[test]
fn what_a_revoked_key_has_open_over_http2_and_tls_ends() {
    check(End::KeyRevoked, Transport::Http2Tls);
}

#[test]
fn what_a_token_has_open_ends_with_its_signing_key() {
    check(End::SigningKeyDeleted, Transport::Http1);
}

#[test]
fn what_a_token_has_open_over_http2_and_tls_ends_with_its_signing_key() {
    check(End::SigningKeyDeleted, Transport::Http2Tls);
}

#[test]
fn what_a_token_has_open_ends_with_it() {
    check(End::TokenExpired, Transport::Http1);
}

#[test]
fn what_a_token_has_open_over_http2_and_tls_ends_with_it() {
    check(End::TokenExpired, Transport::Http2Tls);
}

/// Opens so many calls on one connection of HTTP/2, whose client gives them no window, and waits until each stream is reset,
/// and then until the connection ends. Says when either is so.
async fn stall(address: SocketAddr, count: usize, credential: &str, opened: Sender<()>, reset: Sender<()>) {
    let tcp = TcpStream::connect(address).await.unwrap();
    let mut builder = http2::Builder::new(TokioExecutor::new());
    let (mut sender, connection) =
        builder.initial_stream_window_size(0).handshake(TokioIo::new(tcp)).await.unwrap();
    let connection = tokio::spawn(connection);
    let asked = (0..count).map(|_| {
        let request = with_credential(modern_call(SINGLE, "echo", "{}"), credential);
        let body = Full::new(Bytes::from(request.body.clone()));
        sender.send_request(convert(&request, "http://localhost", body))
    });
    let mut bodies = Vec::new();
    for response in asked.collect::<Vec<_>>() {
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200);
        bodies.push(response.into_body());
    }
    opened.send(()).unwrap();
    for mut body in bodies {
        let frame = body.frame().await.expect("a stream that is reset does not end in good order");
        let error = frame.expect_err("no byte fits the window");
        assert!(format!("{error:?}").contains("CANCEL"), "{error:?}");
    }
    reset.send(()).unwrap();
    drop(connection.await);
}

/// Opens as many streams as a connection may have, ends them somehow, and waits until their places are given back.
#[track_caller]
fn check_stalled(lines: &str, end: impl FnOnce(&House), left: Duration) {
    const STREAMS: usize = 256;
    let house = House::new(Transport::Http1, lines);
    house.peer.push(vec![long(); STREAMS]);
    let (opened, is_open) = mpsc::channel();
    let (reset, is_reset) = mpsc::channel();
    let (closed, is_closed) = mpsc::channel();
    let (address, key) = (house.gateway.address, house.key.clone());
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(stall(address, STREAMS, &key, opened, reset));
        closed.send(()).unwrap();
    });
    is_open.recv_timeout(PATIENCE).expect("all are answered");
    house.peer.wait_calls(STREAMS);
    assert_eq!(house.in_flight(), STREAMS as u64);
    end(&house);
    until_within("places of the server", within(left), || house.in_flight() == 0);
    is_reset.recv_timeout(within(Duration::from_secs(1))).expect("each stream is reset then");
    house.peer.wait_closed(house.peer.calls()[0].connection);
    is_closed.recv_timeout(PATIENCE).expect("the connection of a client that takes nothing ends");
}

#[test]
fn a_client_that_gives_no_window_loses_its_places() {
    check_stalled("[server]\nidle_timeout = \"2s\"", |_| (), Duration::from_secs(5));
}

#[test]
fn a_revoked_key_gives_back_places_whose_client_gives_no_window() {
    let lines = "[server]\nidle_timeout = \"6s\"";
    check_stalled(lines, |house| house.gateway.keys().revoke(&house.key_id), ENDED_MAX);
}

/// A server that floods, and a client of HTTP/1.1 that reads nothing: its key is revoked when no more can be sent.
#[track_caller]
fn check_unread(call: impl Fn(&House) -> Request, fast_lane: bool, begin: &[u8], flood: Vec<u8>) {
    let lines = format!("[server]\nidle_timeout = \"1m\"\nfast_lane = {fast_lane}");
    let house = House::new(Transport::Http1, &lines);
    let call = with_credential(call(&house), &house.key);
    house.peer.push([vec![Step::Send(begin.to_vec()), Step::Flood(flood, usize::MAX)]]);
    let mut client = Client::connect(house.gateway.address);
    client.send(&call.bytes());
    let mut before = 0;
    until_within("nothing more can be sent", PATIENCE, || {
        let sent = house.peer.sent();
        std::mem::replace(&mut before, sent) == sent && sent > 1 << 20
    });
    assert_eq!(house.in_flight(), 1);
    house.gateway.keys().revoke(&house.key_id);
    until_within("the place of the server", within(ENDED_MAX), || house.in_flight() == 0);
    house.peer.wait_closed(house.peer.calls()[0].connection);
}

#[test]
fn a_revoked_key_gives_back_the_place_of_a_client_that_does_not_read() {
    let body = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{BEGUN}\"result\":\"",
        1_u64 << 40
    );
    let modern = |_: &House| modern_call(SINGLE, "echo", "{}");
    // Its stream can be resumed.
    let legacy = |house: &House| {
        let session = open_session(house, SINGLE, &house.key);
        legacy_call(SINGLE, &session, "1", "echo", "{}")
    };
    for fast_lane in [true, false] {
        check_unread(modern, fast_lane, &events(), chunk(&EVENT.repeat(100)));
        check_unread(modern, fast_lane, body.as_bytes(), vec![b'x'; 16 << 10]);
    }
    check_unread(legacy, true, &events(), chunk(&EVENT.repeat(100)));
}
