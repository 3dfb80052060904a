//! The certificate of the gateway is replaced while it serves.

use std::convert::Infallible;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::CertificateParams;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::authority::{Authority, Leaf, TlsClient, run, text};
use crate::support::{
    Gate, Gateway, Peer, Request, Setup, Step, answer, call, chunk, convert, events, modern_call, result,
    until,
};

const SINGLE: &str = "/servers/a/mcp";

const FILES: &str = "[server.tls]\ncert = \"tls/cert.pem\"\nkey = \"tls/key.pem\"";

const REFUSED: &str = "TLS files not reloaded";

const RELOADED: &str = "configuration reloaded";

fn start(peer: &Peer, leaf: &Leaf) -> Gateway {
    let setup = Setup::new().server("a", peer.address).with(FILES);
    setup.file("v1/cert.pem", &leaf.certificate).file("v1/key.pem", &leaf.key).link("tls", "v1").start()
}

/// Writes a certificate and its key into a folder.
fn write(folder: &Path, leaf: &Leaf) {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("cert.pem"), &leaf.certificate).unwrap();
    fs::write(folder.join("key.pem"), &leaf.key).unwrap();
}

/// The next answer of the server is a stream, which sends an event and ends when `gate` opens.
fn push_stream(peer: &Peer, gate: &Gate) {
    peer.push([vec![
        Step::Send(events()),
        Step::Send(chunk(EVENT)),
        Step::Wait(gate.clone()),
        Step::Send(chunk(&format!("data: {}\n\n", result("1", "after")))),
        Step::Send(chunk("")),
    ]]);
}

/// While a stream and a connection are open, `replace` brings a new certificate: new connections see it, and what is open
/// goes on.
fn check(replace: impl Fn(&Gateway, &Leaf)) {
    let authority = Authority::new("test");
    let [first, second] = [(); 2].map(|()| authority.server("localhost"));
    let (peer, gate) = (Peer::script([]), Gate::default());
    let gateway = start(&peer, &first);
    let client = TlsClient::new(gateway.address, &authority, None);
    push_stream(&peer, &gate);
    run(async {
        let call = modern_call(SINGLE, "echo", "{}");
        let (_streaming, mut stream) = client.open("http/1.1", &call).await.unwrap();
        assert!(stream.frame().await.unwrap().is_ok(), "the event before");
        let (mut sender, response) = client.open("http/1.1", &call).await.unwrap();
        assert_eq!(text(response).await.0, 200);
        assert_eq!(client.shown_certificate().await, first.der());
        replace(&gateway, &second);
        while client.shown_certificate().await != second.der() {
            tokio::time::sleep(POLL).await;
        }
        let response = sender.ask_again(&call).await.expect("the open connection goes on");
        assert_eq!(text(response).await.0, 200);
        gate.open();
        let (status, rest) = text(stream).await;
        assert!(status == 200 && rest.contains("after"), "{rest}");
    });
    assert!(!gateway.log().contains(REFUSED), "{}", gateway.log());
    assert_eq!(gateway.log().matches("TLS files reloaded").count(), 1);
}

const EVENT: &str = "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{\"level\":\"info\",\"data\":1}}\n\n";

/// Between two connections that look which certificate there is.
const POLL: Duration = Duration::from_millis(50);

#[test]
fn a_certificate_that_is_overwritten_is_served() {
    check(|gateway, leaf| write(&gateway.path().join("v1"), leaf));
}

#[test]
fn a_certificate_that_is_renamed_over_is_served() {
    check(|gateway, leaf| {
        write(&gateway.path().join("next"), leaf);
        for name in ["cert.pem", "key.pem"] {
            fs::rename(gateway.path().join("next").join(name), gateway.path().join("v1").join(name)).unwrap();
        }
    });
}

/// As Kubernetes replaces a secret: by a symbolic link to another folder.
#[test]
fn a_folder_of_certificates_that_is_swapped_is_served() {
    check(|gateway, leaf| {
        write(&gateway.path().join("v2"), leaf);
        symlink("v2", gateway.path().join("next")).unwrap();
        fs::rename(gateway.path().join("next"), gateway.path().join("tls")).unwrap();
    });
}

#[test]
fn a_certificate_in_other_files_is_served_after_sighup() {
    check(|gateway, leaf| {
        write(&gateway.path().join("other"), leaf);
        let toml = fs::read_to_string(gateway.path().join("metamcp.toml")).unwrap();
        fs::write(gateway.path().join("metamcp.toml"), toml.replace("tls/", "other/")).unwrap();
        gateway.signal("-HUP");
    });
}

/// What cannot be used is said once, and the last certificate stays until the files are right.
#[test]
fn unusable_files_keep_the_last_certificate() {
    let authority = Authority::new("test");
    let [first, second] = [(); 2].map(|()| authority.server("localhost"));
    let peer = Peer::script([]);
    let half = &second.certificate[..second.certificate.len() / 2];
    let unusable: [(&str, Option<&str>, &str); 4] = [
        ("cert.pem", Some("garbage"), "has no certificate in PEM"),
        ("cert.pem", Some(half), "cert.pem: "),
        ("cert.pem", Some(&second.certificate), "the key does not belong to the certificate"),
        ("key.pem", None, "cannot be read"),
    ];
    for (file, content, reason) in unusable {
        let gateway = start(&peer, &first);
        let client = TlsClient::new(gateway.address, &authority, None);
        let path = gateway.path().join("v1").join(file);
        match content {
            // At once: right after the start, the gateway looks without waiting for a writer to finish.
            Some(content) => {
                fs::write(path.with_extension("draft"), content).unwrap();
                fs::rename(path.with_extension("draft"), &path).unwrap();
            }
            None => fs::remove_file(&path).unwrap(),
        }
        until("the file is refused", || gateway.log().contains(REFUSED));
        let log = gateway.log();
        assert!(log.contains(reason), "{reason}: {log}");
        assert_eq!(run(client.shown_certificate()), first.der());
        write(&gateway.path().join("v1"), &second);
        until("the next one is served", || run(client.shown_certificate()) == second.der());
        assert_eq!(gateway.log().matches(REFUSED).count(), 1, "{}", gateway.log());
    }
}

/// A reload with files that cannot be used changes nothing else either, at any time until they can be.
#[test]
fn a_reload_with_unusable_files_changes_nothing() {
    let authority = Authority::new("test");
    let [first, second] = [(); 2].map(|()| authority.server("localhost"));
    let peer = Peer::script([]);
    let gateway = start(&peer, &first);
    let client = TlsClient::new(gateway.address, &authority, None);
    let changed = Setup::new()
        .server("a", peer.address)
        .server("b", peer.address)
        .with(&format!("{}\n[server]\nbody_bytes_max = \"1KiB\"", FILES.replace("tls/", "other/")));
    let long = modern_call(SINGLE, "echo", &format!(r#"{{"text":"{}"}}"#, "x".repeat(3000)));
    let status = |request| run(client.ask("http/1.1", request)).unwrap().0;
    let new_server = modern_call("/servers/b/mcp", "echo", "{}");
    // Readable, so that only TLS finds out.
    write(&gateway.path().join("other"), &Leaf { certificate: "garbage".into(), ..second.clone() });
    for _ in 0..2 {
        gateway.reload(&changed, "configuration not reloaded");
        assert_eq!((status(&long), status(&new_server)), (200, 404));
        assert_eq!(run(client.shown_certificate()), first.der());
    }
    let log = gateway.log();
    assert!(!log.contains(RELOADED) && log.contains("has no certificate in PEM"), "{log}");
    // The files that are in use are still followed.
    let third = authority.server("localhost");
    write(&gateway.path().join("v1"), &third);
    until("the files in use are read again", || run(client.shown_certificate()) == third.der());
    write(&gateway.path().join("other"), &second);
    gateway.reload(&changed, RELOADED);
    until("all of it is taken over", || (status(&long), status(&new_server)) == (413, 200));
    assert_eq!(run(client.shown_certificate()), second.der());
}

/// Settings that ask clients for a certificate, and go on without one.
const CLIENTS: &str = "\nclient_ca = \"ca.pem\"\nclient_crl = \"crl.pem\"\nclient_auth = \"optional\"";

/// The serial number of the client's certificate.
const SERIAL: u64 = 7;

struct Clients {
    authority: Authority,
    gateway: Gateway,
    peer: Peer,
    setup: Setup,
    own: Leaf,
}

impl Clients {
    fn new() -> Self {
        let (authority, peer) = (Authority::new("clients"), Peer::script([]));
        let server = authority.server("localhost");
        // One worker, which learns of a change for all connections at once.
        let setup = Setup::new()
            .workers(1)
            .server("a", peer.address)
            .file("v1/cert.pem", &server.certificate)
            .file("v1/key.pem", &server.key)
            .link("tls", "v1")
            .file("ca.pem", &authority.pem)
            .file("crl.pem", &authority.revoke(SERIAL + 1))
            .with(&format!("{FILES}{CLIENTS}"));
        let mut params = CertificateParams::new(["one.example".to_owned()]).unwrap();
        params.serial_number = Some(SERIAL.into());
        let (gateway, own) = (setup.start(), authority.issue(&params));
        Self { authority, gateway, peer, setup, own }
    }

    fn client(&self, own: Option<&Leaf>) -> TlsClient {
        TlsClient::new(self.gateway.address, &self.authority, own)
    }

    /// A connection with the certificate ends after `change`: its next response says so over HTTP/1.1, and a response in
    /// flight completes. One without a certificate goes on. The next handshake gets this status, or is refused.
    fn check(&self, protocol: &str, change: impl FnOnce() + Send, next: Option<u16>) {
        let (call, gate) = (modern_call(SINGLE, "echo", "{}"), Gate::default());
        let with_own = self.client(Some(&self.own));
        push_stream(&self.peer, &gate);
        run(async {
            let (_streaming, mut stream) = with_own.open(protocol, &call).await.unwrap();
            assert!(stream.frame().await.unwrap().is_ok(), "the event before");
            let (mut certified, first) = with_own.open(protocol, &call).await.unwrap();
            let (mut plain, other) = self.client(None).open(protocol, &call).await.unwrap();
            assert_eq!((text(first).await.0, text(other).await.0), (200, 200));
            thread::scope(|scope| scope.spawn(change).join().unwrap());
            let mut is_last = false;
            while let Some(response) = certified.ask_again(&call).await {
                assert!(!is_last, "a response after the last one");
                is_last = response.headers().contains_key("connection");
                assert_eq!(text(response).await.0, 200);
                tokio::time::sleep(POLL).await;
            }
            assert_eq!(is_last, protocol == "http/1.1", "{protocol}");
            let answer = plain.ask_again(&call).await.expect("the connection without a certificate goes on");
            assert_eq!(text(answer).await.0, 200);
            gate.open();
            let (status, rest) = text(stream).await;
            assert!(status == 200 && rest.contains("after"), "{rest}");
            assert_eq!(with_own.ask(protocol, &call).await.map(|(status, _)| status), next);
        });
    }
}

const PROTOCOLS: [&str; 2] = ["http/1.1", "h2"];

/// What decides about certificates of clients applies to open connections too.
#[test]
fn a_certificate_that_is_revoked_ends_its_connections() {
    for protocol in PROTOCOLS {
        let clients = Clients::new();
        let list = clients.authority.revoke(SERIAL);
        let file = clients.gateway.path().join("crl.pem");
        clients.check(protocol, || fs::write(file, list).unwrap(), None);
    }
}

#[test]
fn another_authority_ends_connections() {
    for protocol in PROTOCOLS {
        let clients = Clients::new();
        let file = clients.gateway.path().join("ca.pem");
        clients.check(protocol, || fs::write(file, &Authority::new("other").pem).unwrap(), None);
    }
}

#[test]
fn a_rule_ends_connections() {
    for protocol in PROTOCOLS {
        let clients = Clients::new();
        let rule = "[[server.tls.clients]]\ndns = \"*.example\"\ndeny = true";
        let changed = clients.setup.clone().with(rule);
        clients.check(protocol, || clients.gateway.reload(&changed, RELOADED), Some(403));
    }
}

/// The request of a framed stream, whose messages a test sends one by one.
struct Messages(mpsc::Receiver<Bytes>);

impl Body for Messages {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|next| next.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// A framed stream with a message in each line.
struct Framed {
    sender: mpsc::Sender<Bytes>,
    body: Incoming,
    received: String,
}

impl Framed {
    async fn open(client: &TlsClient, protocol: &str) -> Self {
        let (sender, receiver) = mpsc::channel(1);
        let (stream, body) = (client.connect(protocol).await.unwrap(), Messages(receiver));
        let head = Request::new("POST", "/api/v1/mcp/stream/servers/a")
            .set("Content-Type", "application/x-ndjson")
            .set("Accept", "*/*");
        let response = if protocol == "h2" {
            let (mut sender, connection) =
                http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(convert(&head, "https://localhost", body)).await.unwrap()
        } else {
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(convert(&head, "", body)).await.unwrap()
        };
        assert_eq!(response.status(), 200);
        Self { sender, body: response.into_body(), received: String::new() }
    }

    async fn send(&self, id: &str) {
        let message = call(id, "tools/call", r#""name":"echo","arguments":{},"#);
        self.sender.send(format!("{message}\n").into()).await.unwrap();
    }

    /// The next message; `None` at the regular end.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.received.find('\n') {
                let line: String = self.received.drain(..=end).collect();
                let message = (line != "\n").then(|| serde_json::from_str(&line).unwrap());
                if message.is_some() {
                    return message;
                }
                continue;
            }
            let frame = self.body.frame().await?.expect("the stream ends in good order");
            self.received.push_str(std::str::from_utf8(&frame.into_data().unwrap()).unwrap());
        }
    }
}

/// The text of the error under each id.
fn errors(text: &str) -> Vec<(u64, bool)> {
    let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
    let messages = data.filter_map(|data| serde_json::from_str::<Value>(data).ok());
    messages.filter_map(|message| Some((message["id"].as_u64()?, message["error"].is_object()))).collect()
}

/// What one request carries starts no more calls either: calls in flight complete, and then the response ends.
fn check_carried_calls(protocol: &str) {
    let clients = Clients::new();
    let gate = Gate::default();
    let late = |id: &str| vec![Step::Wait(gate.clone()), Step::Send(answer("200 OK", &result(id, "late")))];
    clients.peer.push([late("1"), late("1")]);
    let items = ["1", "2"].map(|id| {
        format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"echo","arguments":{{}}}}}}"#)
    });
    let batch = Request::post(SINGLE, format!("[{}]", items.join(",")));
    let client = clients.client(Some(&clients.own));
    run(async {
        let mut stream = Framed::open(&client, protocol).await;
        stream.send("1").await;
        let (_sender, batch) = client.open(protocol, &batch).await.unwrap();
        while clients.peer.calls().len() < 2 {
            tokio::time::sleep(POLL).await;
        }
        let rule = "[[server.tls.clients]]\ndns = \"*.example\"\ndeny = true";
        let changed = clients.setup.clone().with(rule);
        thread::scope(|scope| {
            scope.spawn(|| clients.gateway.reload(&changed, RELOADED)).join().unwrap();
        });
        let refused = loop {
            stream.send("2").await;
            let answer = stream.next().await.unwrap();
            assert_eq!(answer["id"], 2, "{answer}");
            if answer["error"].is_object() {
                break answer;
            }
            tokio::time::sleep(POLL).await;
        };
        assert!(refused.to_string().contains("this connection is ending"), "{refused}");
        let started = clients.peer.calls().len();
        stream.send("3").await;
        assert_eq!(stream.next().await.unwrap()["error"], refused["error"]);
        gate.open();
        let last = stream.next().await.unwrap();
        assert_eq!((&last["id"], last["result"].is_object()), (&json!(1), true), "{last}");
        let last = stream.next().await.unwrap();
        assert_eq!(last["error"]["data"], json!({"last": true, "kind": "stopping"}), "{last}");
        assert_eq!(stream.next().await, None);
        let (_, rest) = text(batch).await;
        assert_eq!(errors(&rest), [(1, false), (2, true)], "{rest}");
        assert_eq!(clients.peer.calls().len(), started, "a call was started");
    });
}

#[test]
fn a_rule_ends_what_one_request_carries_over_http1() {
    check_carried_calls("http/1.1");
}

#[test]
fn a_rule_ends_what_one_request_carries_over_http2() {
    check_carried_calls("h2");
}

/// Another certificate of the gateway says nothing about those of clients.
#[test]
fn a_new_certificate_keeps_connections_with_client_certificates() {
    let clients = Clients::new();
    let call = modern_call(SINGLE, "echo", "{}");
    run(async {
        let client = clients.client(Some(&clients.own));
        let (mut sender, first) = client.open("http/1.1", &call).await.unwrap();
        assert_eq!(text(first).await.0, 200);
        let next = clients.authority.server("localhost");
        write(&clients.gateway.path().join("v1"), &next);
        while client.shown_certificate().await != next.der() {
            tokio::time::sleep(POLL).await;
        }
        // Longer than the time between two looks at open connections.
        for _ in 0..40 {
            let response = sender.ask_again(&call).await.expect("the connection goes on");
            assert!(!response.headers().contains_key("connection"));
            assert_eq!(text(response).await.0, 200);
            tokio::time::sleep(POLL).await;
        }
    });
}

#[test]
fn an_overdue_revocation_list_is_said() {
    const OVERDUE: &str = "a revocation list is past its next update";
    let clients = Clients::new();
    let call = modern_call(SINGLE, "echo", "{}");
    let path = clients.gateway.path().join("crl.pem");
    assert!(!clients.gateway.log().contains(OVERDUE), "{}", clients.gateway.log());
    fs::write(&path, clients.authority.revoke_until(SERIAL + 1, 2025)).unwrap();
    clients.gateway.wait_log(OVERDUE, 0);
    let log = clients.gateway.log();
    let line = log.lines().find(|line| line.contains(OVERDUE)).unwrap();
    assert!(line.contains("crl.pem") && line.contains("2025-01-01T00:00:00Z"), "{line}");
    // It still applies.
    assert_eq!(run(clients.client(Some(&clients.own)).ask("h2", &call)).map(|(status, _)| status), Some(200));
    fs::write(&path, clients.authority.revoke_until(SERIAL, 2025)).unwrap();
    clients.gateway.wait_log(OVERDUE, 1);
    assert!(run(clients.client(Some(&clients.own)).ask("h2", &call)).is_none());
    // Also at the start.
    let again = clients.gateway.restart();
    again.wait_log(OVERDUE, 2);
}
