//! Webhooks: each event arrives once, in order and signed, also if the receiver fails for a while.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::support::{Client, PATIENCE, Peer, Setup, modern_call, until};
use metamcp_store::auth::hmac_sha256;
use metamcp_store::store::{Grants, Role};

const SECRET: &str = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz";

/// A receiver, which answers with these statuses first, and then with 204.
#[derive(Clone)]
struct Receiver(Arc<(Mutex<Received>, Condvar)>, SocketAddr);

#[derive(Default)]
struct Received {
    statuses: Vec<u16>,
    /// The header fields in lower case, and the body.
    posts: Vec<(HashMap<String, String>, String)>,
}

impl Receiver {
    fn start(statuses: &[u16]) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let received = Received { statuses: statuses.to_vec(), ..Received::default() };
        let receiver = Self(Arc::new((Mutex::new(received), Condvar::new())), listener.local_addr().unwrap());
        let serving = receiver.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let mut fields = HashMap::new();
                let mut line = String::new();
                while reader.read_line(&mut line).is_ok_and(|count| count > 2) {
                    if let Some((name, value)) = line.trim_end().split_once(": ") {
                        fields.insert(name.to_ascii_lowercase(), value.to_owned());
                    }
                    line.clear();
                }
                // An attempt that the shutdown interrupts breaks off, and is repeated.
                let length = fields.get("content-length").map_or(0, |length| length.parse().unwrap());
                let mut body = vec![0; length];
                if length == 0 || reader.read_exact(&mut body).is_err() {
                    continue;
                }
                let (state, arrived) = &*serving.0;
                let mut state = state.lock().unwrap();
                let status = if state.statuses.is_empty() { 204 } else { state.statuses.remove(0) };
                state.posts.push((fields, String::from_utf8(body).unwrap()));
                arrived.notify_all();
                drop(state);
                drop(write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"));
            }
        });
        receiver
    }

    fn table(&self, lines: &str) -> String {
        format!(
            "[[webhooks]]\nurl = \"http://{}/hook?t=canary\"\nsecret = \"whsec_{SECRET}\"\n{lines}\n",
            self.1
        )
    }

    /// The first posts, once there are so many: the ids and the events.
    #[track_caller]
    fn posts(&self, count: usize) -> Vec<(String, Value)> {
        let (state, arrived) = &*self.0;
        let waited =
            arrived.wait_timeout_while(state.lock().unwrap(), PATIENCE, |state| state.posts.len() < count);
        let state = waited.unwrap().0;
        assert!(state.posts.len() >= count, "{} of {count}", state.posts.len());
        state.posts.iter().map(verified).collect()
    }
}

/// The id and the event of a post whose signature is right.
#[track_caller]
fn verified((fields, body): &(HashMap<String, String>, String)) -> (String, Value) {
    let (id, timestamp) = (&fields["webhook-id"], &fields["webhook-timestamp"]);
    let signed = format!("{id}.{timestamp}.{body}");
    let tag = hmac_sha256(&STANDARD.decode(SECRET).unwrap(), signed.as_bytes());
    assert_eq!(fields["webhook-signature"], format!("v1,{}", STANDARD.encode(tag)));
    assert_eq!(fields["content-type"], "application/json");
    let event: Value = serde_json::from_str(body).unwrap();
    assert_eq!(event["id"], *id);
    (id.clone(), event)
}

fn bearer(key: &str) -> String {
    format!("Bearer {key}")
}

/// Of the test of the order.
const CALLS: usize = 50;

#[test]
fn events_are_posted_once_and_in_order() {
    let peer = Peer::script([]);
    let receiver = Receiver::start(&[]);
    let setup =
        Setup::new().server("a", peer.address).with(&receiver.table("types = [\"call.ended\", \"key.*\"]"));
    let gateway = setup.keys().start();
    let (id, key) = gateway.keys().create("one");
    let mut client = Client::connect(gateway.address);
    for number in 0..CALLS {
        let tool = if number % 2 == 0 { "a__echo" } else { "a__other" };
        assert_eq!(
            client.ask(&modern_call("/mcp", tool, "{}").with("Authorization", bearer(&key))).status,
            200
        );
    }
    let posts = receiver.posts(CALLS + 1);
    let calls: Vec<_> = posts.iter().filter(|(_, event)| event["type"] == "call.ended").collect();
    for (number, (_, event)) in calls.iter().enumerate() {
        let tool = if number % 2 == 0 { "echo" } else { "other" };
        assert_eq!(
            (&event["data"]["tool"], &event["key_id"]),
            (&tool.into(), &id.as_str().into()),
            "{number}"
        );
    }
    let keys: Vec<_> = posts.iter().filter(|(_, event)| event["type"] == "key.created").collect();
    assert!(
        keys.iter().any(|(_, event)| event["key_id"] == id.as_str())
            && calls.len() + keys.len() == posts.len()
    );
    let mut ids: Vec<_> = posts.iter().map(|(id, _)| id).collect();
    ids.dedup();
    assert_eq!(ids.len(), posts.len());
}

/// What was not accepted comes again, under the same id and before what happened later.
#[test]
fn a_receiver_that_fails_gets_the_event_again() {
    let receiver = Receiver::start(&[500, 503]);
    let gateway = Setup::new().with(&receiver.table("types = [\"key.created\"]")).keys().start();
    let grants = Grants { role: Role::Admin, ..Grants::everything() };
    let [(one, _), (two, _)] = ["one", "two"].map(|name| gateway.keys().grant(name, grants.clone()));
    let posts = receiver.posts(4);
    let first = &posts[0];
    assert!(posts[1] == *first && posts[2] == *first, "{posts:?}");
    let mut keys: Vec<_> =
        posts[2..].iter().map(|(_, event)| event["key_id"].as_str().unwrap().to_owned()).collect();
    keys.sort_unstable();
    let mut expected = [one, two];
    expected.sort_unstable();
    assert_eq!(keys, expected);
    until("it is logged once", || gateway.log().contains("webhook accepts events again"));
    assert_eq!(gateway.log().matches("webhook does not accept an event").count(), 1);
    assert!(!gateway.log().contains("canary") && !gateway.log().contains(SECRET), "{}", gateway.log());
}

/// Events of the shutdown itself included.
#[test]
fn what_is_left_is_posted_at_a_shutdown() {
    let program = env!("CARGO_BIN_EXE_metamcp-stdio-fixture");
    let receiver = Receiver::start(&[]);
    let server = format!(
        "[servers.p]\ncommand = {program:?}\nargs = [\"legacy\"]\nprewarm = false\nera = \"legacy\"\n"
    );
    let setup =
        Setup::new().with(&server).with(&receiver.table("types = [\"server.started\", \"server.stopped\"]"));
    let mut gateway = setup.start();
    receiver.posts(1);
    gateway.terminate();
    assert!(gateway.ended().success());
    let types: Vec<_> = receiver.posts(2).into_iter().map(|(_, event)| event["type"].clone()).collect();
    assert_eq!(types.last(), Some(&"server.stopped".into()), "{types:?}");
}

#[test]
fn a_receiver_that_is_gone_gets_no_more() {
    let receiver = Receiver::start(&[410]);
    let mut gateway = Setup::new().with(&receiver.table("types = [\"key.created\"]")).keys().start();
    gateway.keys().create("one");
    receiver.posts(1);
    until("it is logged", || gateway.log().contains("webhook says that it is gone"));
    let (_, key) = gateway.keys().create("two");
    // Once the key is accepted, its event is in the log.
    let ping = modern_call("/mcp", "none", "{}").with("Authorization", bearer(&key));
    until("the gateway knows the key", || Client::once(gateway.address, &ping).status != 401);
    gateway.terminate();
    assert!(gateway.ended().success());
    assert_eq!(receiver.posts(1).len(), 1);
}
