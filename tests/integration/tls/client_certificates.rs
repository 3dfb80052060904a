//! Certificates of clients: which are accepted, and what they stand for.

use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http_body_util::BodyExt as _;
use rcgen::{CertificateParams, DnType};

use super::authority::{Authority, Leaf, TlsClient, run, text};
use crate::support::{Gateway, PATIENCE, Peer, Request, Setup, modern, modern_call};
use metamcp_store::store::Grants;

const SINGLE: &str = "/servers/a/mcp";

const PROTOCOLS: [&str; 2] = ["http/1.1", "h2"];

/// The serial number of the certificate that the authority revoked.
const REVOKED: u64 = 42;

/// A gateway whose certificate has the same authority as those of its clients.
struct Fixture {
    authority: Authority,
    gateway: Gateway,
    _peer: Peer,
    /// The key that a certificate with the common name `Jane Doe` stands for.
    key_id: String,
    /// A key of somebody else.
    other: String,
}

impl Fixture {
    fn new(client_auth: &str) -> Self {
        let (authority, peer) = (Authority::new("clients"), Peer::script([]));
        let server = authority.server("localhost");
        let setup = Setup::new().keys().server("a", peer.address);
        let setup = setup
            .file("cert.pem", &server.certificate)
            .file("key.pem", &server.key)
            .file("ca.pem", &authority.pem)
            .file("crl.pem", &authority.revoke(REVOKED));
        let tls = format!(
            "[server.tls]\ncert = \"cert.pem\"\nkey = \"key.pem\"\nclient_ca = \"ca.pem\"\nclient_crl = \"crl.pem\"\n{client_auth}"
        );
        let gateway = setup.clone().with(&tls).start();
        let echo = Grants { tools: Some(vec!["echo".to_owned()]), ..Grants::everything() };
        let (key_id, _) = gateway.keys().grant("jane", echo);
        let (_, other) = gateway.keys().create("other");
        let rules = format!(
            "[[server.tls.clients]]\ncommon_name = \"Jane Doe\"\nkey = \"{key_id}\"\n\
             [[server.tls.clients]]\ndns = \"*.excluded.example\"\ndeny = true"
        );
        gateway.reload(&setup.with(&format!("{tls}\n{rules}")), "configuration reloaded");
        let fixture = Self { authority, gateway, _peer: peer, key_id, other };
        // The key was created a moment ago, which the gateway learns within a second.
        let jane = fixture.jane();
        let deadline = Instant::now() + PATIENCE;
        while fixture.ask(Some(&jane), "http/1.1", &echo_call()).map(|(status, _)| status) != Some(200) {
            assert!(Instant::now() < deadline, "the key is not let in");
        }
        fixture
    }

    fn client(&self, own: Option<&Leaf>) -> TlsClient {
        TlsClient::new(self.gateway.address, &self.authority, own)
    }

    fn ask(&self, own: Option<&Leaf>, protocol: &str, request: &Request) -> Option<(u16, String)> {
        run(self.client(own).ask(protocol, request))
    }

    fn jane(&self) -> Leaf {
        self.authority.issue(&jane())
    }

    /// Opens a subscription with this certificate, lets `end` happen, and returns how long the stream took to end after it.
    fn time_to_end(&self, own: &Leaf, protocol: &str, end: impl FnOnce() + Send) -> Duration {
        let listen = modern("/mcp", "subscriptions/listen", r#""notifications":{"toolsListChanged":true},"#);
        run(async {
            let (_sender, mut stream) = self.client(Some(own)).open(protocol, &listen).await.unwrap();
            assert_eq!(stream.status(), 200);
            assert!(stream.frame().await.unwrap().is_ok(), "a stream begins with something");
            // Not on this thread, which has a runtime.
            thread::scope(|scope| scope.spawn(end).join().unwrap());
            let ended = Instant::now();
            while let Some(Ok(_)) = stream.frame().await {}
            ended.elapsed()
        })
    }
}

fn echo_call() -> Request {
    modern_call(SINGLE, "echo", "{}")
}

fn jane() -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, "Jane Doe");
    params
}

fn unix_now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

/// A certificate of each kind, over both versions of HTTP, without a credential and with a key of somebody else. `None`
/// is a refused handshake.
#[track_caller]
fn check_table(client_auth: &str, missing: [Option<u16>; 2]) {
    let fixture = Fixture::new(client_auth);
    let authority = &fixture.authority;
    let mut expired = jane();
    expired.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let mut revoked = jane();
    revoked.serial_number = Some(REVOKED.into());
    let excluded = CertificateParams::new(["one.excluded.example".to_owned()]).unwrap();
    let unnamed = CertificateParams::new(["other.example".to_owned()]).unwrap();
    let rows = [
        ("good", Some(authority.issue(&jane())), [Some(200), Some(200)]),
        ("no rule", Some(authority.issue(&unnamed)), [Some(401), Some(200)]),
        ("excluded", Some(authority.issue(&excluded)), [Some(403), Some(403)]),
        ("expired", Some(authority.issue(&expired)), [None, None]),
        ("revoked", Some(authority.issue(&revoked)), [None, None]),
        ("foreign", Some(Authority::new("clients").issue(&jane())), [None, None]),
        ("missing", None, missing),
    ];
    for (name, own, expected) in &rows {
        for protocol in PROTOCOLS {
            let with_key = echo_call().with("Authorization", format!("Bearer {}", fixture.other));
            let asked = [echo_call(), with_key].map(|request| fixture.ask(own.as_ref(), protocol, &request));
            let statuses = asked.clone().map(|answer| answer.map(|(status, _)| status));
            assert_eq!(statuses, *expected, "{name} over {protocol}: {asked:?}");
        }
    }
}

#[test]
fn required_certificates() {
    check_table("", [None, None]);
}

#[test]
fn optional_certificates() {
    check_table("client_auth = \"optional\"", [Some(401), Some(200)]);
}

#[test]
fn a_certificate_has_what_its_key_has() {
    let fixture = Fixture::new("");
    let (jane, other_tool) = (fixture.jane(), modern_call(SINGLE, "other", "{}"));
    let excluded = CertificateParams::new(["one.excluded.example".to_owned()]).unwrap();
    let excluded = fixture.authority.issue(&excluded);
    for protocol in PROTOCOLS {
        let ask = |request: &Request| fixture.ask(Some(&jane), protocol, request).unwrap();
        // The grants of the key, and those of another one where that is presented.
        assert!(ask(&echo_call()).1.contains("\"result\""));
        assert!(ask(&other_tool).1.contains("\"error\""), "{:?}", ask(&other_tool));
        let as_other = other_tool.clone().with("Authorization", format!("Bearer {}", fixture.other));
        assert!(ask(&as_other).1.contains("\"result\""));
        let as_nobody = echo_call().with("Authorization", "Bearer nonsense");
        assert_eq!(ask(&as_nobody).0, 401, "its own credential counts");
        // On one connection, on which the credential of the last request is known.
        let empty = echo_call().with("Authorization", "");
        let both = echo_call().with("X-API-Key", fixture.other.clone());
        let requests = [echo_call(), empty, echo_call(), as_nobody, echo_call(), both, echo_call()];
        let statuses = run(async {
            let (mut sender, first) = fixture.client(Some(&jane)).open(protocol, &echo_call()).await.unwrap();
            let mut statuses = vec![text(first).await.0];
            for request in &requests {
                statuses.push(text(sender.ask_again(request).await.unwrap()).await.0);
            }
            statuses
        });
        assert_eq!(statuses, [200, 200, 401, 200, 401, 200, 200, 200]);
        // The control plane.
        let ready = Request::new("GET", "/ready");
        assert!(ask(&ready).1.contains("\"servers\""));
        assert_eq!(ask(&Request::new("GET", "/api/v1/mcp/servers/a/tools")).0, 200);
        assert_eq!(ask(&Request::new("GET", "/api/v1/mcp/servers")).0, 403, "it is no administrator's key");
        let (status, said) = fixture.ask(Some(&excluded), protocol, &Request::new("GET", "/health")).unwrap();
        assert!(status == 403 && said.contains("this client certificate is excluded"), "{status} {said}");
    }
    fixture.gateway.keys().revoke(&fixture.key_id);
    let deadline = Instant::now() + PATIENCE;
    let (status, text) = loop {
        let answer = fixture.ask(Some(&jane), "http/1.1", &echo_call()).unwrap();
        if answer.0 != 200 {
            break answer;
        }
        assert!(Instant::now() < deadline, "the key is still let in");
    };
    assert!(status == 401 && text.contains("the API key that it stands for"), "{status} {text}");
}

#[test]
fn a_stream_ends_with_the_key_of_its_certificate() {
    for protocol in PROTOCOLS {
        let fixture = Fixture::new("");
        let jane = fixture.jane();
        let revoke = || fixture.gateway.keys().revoke(&fixture.key_id);
        let taken = fixture.time_to_end(&jane, protocol, revoke);
        assert!(taken < Duration::from_secs(2), "{protocol}: {taken:?}");
    }
}

#[test]
fn a_stream_ends_with_its_certificate() {
    const LIFETIME: Duration = Duration::from_secs(3);
    let fixture = Fixture::new("");
    for protocol in PROTOCOLS {
        let mut params = jane();
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + (unix_now() + LIFETIME);
        let short = fixture.authority.issue(&params);
        let taken = fixture.time_to_end(&short, protocol, || {});
        // Its last second is valid, and ends are looked at to the second.
        assert!(taken < LIFETIME + Duration::from_secs(4), "{protocol}: {taken:?}");
        assert_eq!(fixture.ask(Some(&short), protocol, &echo_call()), None, "it has expired");
    }
}

/// A connection goes on when its certificate ends, and has no key then.
#[test]
fn an_open_connection_ends_with_its_certificate() {
    let fixture = Fixture::new("");
    let mut params = jane();
    params.not_after = rcgen::date_time_ymd(1970, 1, 1) + (unix_now() + Duration::from_secs(3));
    let short = fixture.authority.issue(&params);
    run(async {
        let (mut sender, mut response) =
            fixture.client(Some(&short)).open("http/1.1", &echo_call()).await.unwrap();
        let mut statuses = vec![response.status().as_u16()];
        while statuses.last() == Some(&200) {
            drop(response.collect().await.unwrap());
            tokio::time::sleep(Duration::from_millis(50)).await;
            response = sender.ask_again(&echo_call()).await.unwrap();
            statuses.push(response.status().as_u16());
        }
        assert!(statuses.len() > 2 && statuses.last() == Some(&401), "{statuses:?}");
    });
}
