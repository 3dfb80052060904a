//! What a credential has open ends with it, and gives back what it held: the calls in flight at the server, and the
//! connections to it. Over HTTP/1.1 and HTTP/2, also for a client that takes nothing of its responses.

use std::net::SocketAddr;
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use jsonwebtoken::{Algorithm, EncodingKey, crypto::sign};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::support::{
    Client, Form, Gateway, PATIENCE, Peer, Request, Setup, Step, Stream, call, chunk, events, legacy_call,
    modern, modern_call, open_session, until_within, within,
};
use metamcp_store::auth::generate_jwt_key;
use metamcp_store::store::{Audit, Grants, Role};

const SINGLE: &str = "/servers/a/mcp";
const AGGREGATED: &str = "/mcp";

const EVENT: &str = "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{\"level\":\"info\",\"data\":1}}\n\n";

/// How a credential comes to its end.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    KeyRevoked,
    SigningKeyDeleted,
    TokenExpired,
}

/// Long enough to open everything, and counted from now.
const TOKEN_LIFE: Duration = Duration::from_secs(4);

/// What `docs/SECURITY.md` allows between the clocks of replicas.
const LEEWAY_S: u64 = 30;

/// The look into the store, and what follows it.
const ENDED_MAX: Duration = Duration::from_secs(3);

/// A gateway with a server, and a credential of each kind.
struct House {
    gateway: Gateway,
    peer: Peer,
    key_id: String,
    key: String,
    /// The key of an administrator, who may read metrics.
    admin: String,
}

impl House {
    fn new(lines: &str) -> Self {
        let peer = Peer::script([]);
        let setup = Setup::new().server_with("a", peer.address, "in_flight_max = 512").keys();
        let gateway = setup.with(lines).start();
        let admin = gateway.keys().grant("admin", Grants { role: Role::Admin, ..Grants::everything() }).1;
        let (key_id, key) = gateway.keys().create("one");
        let house = Self { gateway, peer, key_id, key, admin };
        until_within("the keys are let in", PATIENCE, || {
            [&house.key, &house.admin].iter().all(|key| {
                let request = modern(AGGREGATED, "tools/list", "");
                let request = request.with("Authorization", format!("Bearer {key}"));
                Client::once(house.gateway.address, &request).status == 200
            })
        });
        house
    }

    /// A token, made longer or shorter than it would be.
    fn token(&self, left: Option<Duration>) -> String {
        let body = json!({"api_key": self.key}).to_string();
        let asked = Request::new("POST", "/api/v1/auth/token").with("Content-Type", "application/json");
        let answer = Client::once(self.gateway.address, &asked.body(body)).json();
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

    fn credential(&self, end: End) -> String {
        match end {
            End::KeyRevoked => self.key.clone(),
            End::SigningKeyDeleted => self.token(None),
            End::TokenExpired => self.token(Some(TOKEN_LIFE)),
        }
    }

    /// Ends the credential, and gives how long it may take until all is given back.
    fn end(&self, end: End, credential: &str) -> Duration {
        match end {
            End::KeyRevoked => self.gateway.keys().revoke(&self.key_id),
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

    fn metric(&self, name: &str) -> u64 {
        let request = Request::new("GET", "/metrics").with("Authorization", format!("Bearer {}", self.admin));
        let response = Client::once(self.gateway.address, &request);
        assert_eq!(response.status, 200, "{}", response.text());
        let text = response.text();
        let lines = text.lines().filter(|line| line.starts_with(name));
        lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
    }

    fn in_flight(&self) -> u64 {
        self.metric("metamcp_server_in_flight{")
    }
}

/// A server that says something, and then nothing more.
fn long() -> Vec<Step> {
    vec![Step::Send(events()), Step::Send(chunk(EVENT)), Step::Hold]
}

/// Reads until the end, whatever it is. Fails if it does not come.
fn read_to_end(client: &mut Client) {
    let until = std::time::Instant::now() + PATIENCE;
    while let Ok(Some(_)) = client.chunk() {}
    assert!(std::time::Instant::now() < until, "it does not end");
}

#[track_caller]
fn check_http1(end: End) {
    let house = House::new("[server]\nkeep_alive = \"1s\"");
    let credential = house.credential(end);
    let with_credential = |request: Request| request.with("Authorization", format!("Bearer {credential}"));
    let session = open_session(&house.gateway, AGGREGATED, Some(&credential));
    let batch =
        format!("[{0},{0}]", r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a__echo"}}"#);
    let execute = Request::new("POST", "/api/v1/mcp/servers/a/tools/echo/execute")
        .with("Content-Type", "application/json")
        .with("Accept", "text/event-stream")
        .body("{}");
    let listen = r#""notifications":{"toolsListChanged":true},"#;
    let get = Request::new("GET", AGGREGATED).with("Accept", "text/event-stream");
    let opened = [
        (get.with("Mcp-Session-Id", session.clone()), false),
        (modern(AGGREGATED, "subscriptions/listen", listen), false),
        (modern_call(SINGLE, "echo", "{}"), true),
        (modern_call(AGGREGATED, "a__echo", "{}"), true),
        (legacy_call(AGGREGATED, &session, "1", "a__echo", "{}"), true),
        (Request::post(AGGREGATED, batch), true),
        (execute, true),
    ];
    let mut clients = Vec::new();
    for (request, has_call) in opened {
        let count = house.peer.calls().len() + usize::from(has_call);
        house.peer.push(has_call.then(long));
        let mut client = Client::connect(house.gateway.address);
        assert!(client.send(&with_credential(request.clone()).bytes()));
        let head = client.head();
        assert_eq!(head.status, 200, "{request:?}");
        house.peer.wait_calls(count);
        clients.push(client);
    }
    house.peer.push([long()]);
    let mut stream =
        Stream::open_with(&house.gateway, &with_credential(Request::new("POST", Stream::PATH)), Form::Lines);
    stream.send(&[&call("1", "tools/call", "\"name\":\"a__echo\",")]);
    house.peer.wait_calls(6);
    let calls = house.peer.calls();
    let left = house.end(end, &credential);
    until_within(&format!("{end:?}: calls in flight"), left, || house.in_flight() == 0);
    clients.iter_mut().for_each(read_to_end);
    let last = std::iter::from_fn(|| stream.next()).last().expect("a last message");
    assert!(last["error"].is_object(), "{end:?}: {last}");
    for call in calls {
        house.peer.wait_closed(call.connection);
    }
}

#[test]
fn what_a_revoked_key_has_open_ends() {
    check_http1(End::KeyRevoked);
}

#[test]
fn what_a_token_has_open_ends_with_its_signing_key() {
    check_http1(End::SigningKeyDeleted);
}

#[test]
fn what_a_token_has_open_ends_with_it() {
    check_http1(End::TokenExpired);
}

/// Opens so many calls on one connection of HTTP/2, whose client gives them no window, says so, and waits until the
/// connection ends.
async fn stall(address: SocketAddr, count: usize, credential: &str, opened: Sender<()>) {
    let tcp = TcpStream::connect(address).await.unwrap();
    let mut builder = http2::Builder::new(TokioExecutor::new());
    let (mut sender, connection) =
        builder.initial_stream_window_size(0).handshake(TokioIo::new(tcp)).await.unwrap();
    let connection = tokio::spawn(connection);
    let asked = (0..count).map(|_| {
        let request = modern_call(SINGLE, "echo", "{}").with("Authorization", format!("Bearer {credential}"));
        let mut builder = http::Request::post(format!("http://localhost{}", request.path));
        for (name, value) in request.headers.iter().filter(|(name, _)| name != "Host") {
            builder = builder.header(name, value);
        }
        sender.send_request(builder.body(Full::new(Bytes::from(request.body))).unwrap())
    });
    let mut bodies = Vec::new();
    for response in asked.collect::<Vec<_>>() {
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200);
        bodies.push(response.into_body());
    }
    opened.send(()).unwrap();
    drop(connection.await);
}

/// Opens as many streams as a connection may have, ends them somehow, and waits until their places are given back.
#[track_caller]
fn check_stalled(lines: &str, end: impl FnOnce(&House), left: Duration) {
    const STREAMS: usize = 256;
    let house = House::new(lines);
    house.peer.push(vec![long(); STREAMS]);
    let (opened, is_open) = mpsc::channel();
    let (closed, is_closed) = mpsc::channel();
    let (address, key) = (house.gateway.address, house.key.clone());
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(stall(address, STREAMS, &key, opened));
        closed.send(()).unwrap();
    });
    is_open.recv_timeout(PATIENCE).expect("all are answered");
    house.peer.wait_calls(STREAMS);
    assert_eq!(house.in_flight(), STREAMS as u64);
    end(&house);
    until_within("places of the server", within(left), || house.in_flight() == 0);
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
