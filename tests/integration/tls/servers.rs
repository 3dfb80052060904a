//! TLS towards servers: their authorities, the client certificate of the gateway, and the name that is expected.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::{fs, thread};

use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::authority::{Authority, Leaf};
use crate::server_states::state;
use crate::sse_server;
use crate::support::{Client, Gateway, Peer, Setup, legacy_call, modern_call, open_session, until};

const SINGLE: &str = "/servers/a/mcp";

/// A TLS server in front of a plain one, that records the name each connection asks for.
struct TlsFront {
    address: SocketAddr,
    names: Arc<Mutex<Vec<Option<String>>>>,
}

impl TlsFront {
    /// `clients` issues the certificates that clients must have.
    fn start(behind: SocketAddr, own: &Leaf, clients: Option<&Authority>) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = clients.map_or_else(WebPkiClientVerifier::no_client_auth, |authority| {
            let mut roots = RootCertStore::empty();
            roots.add(authority.certificate.clone()).unwrap();
            WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider)).build().unwrap()
        });
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![own.der()], own.private_key())
            .unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let front = Self { address: listener.local_addr().unwrap(), names: Arc::default() };
        let (acceptor, names) = (TlsAcceptor::from(Arc::new(config)), Arc::clone(&front.names));
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                while let Ok((tcp, _)) = listener.accept().await {
                    let (acceptor, names) = (acceptor.clone(), Arc::clone(&names));
                    tokio::spawn(async move {
                        // A client that is refused is told so by the handshake.
                        let Ok(mut stream) = acceptor.accept(tcp).await else { return };
                        let name = stream.get_ref().1.server_name().map(str::to_owned);
                        names.lock().unwrap().push(name);
                        let mut plain = TcpStream::connect(behind).await.unwrap();
                        drop(copy_bidirectional(&mut stream, &mut plain).await);
                    });
                }
            });
        });
        front
    }

    fn last_name(&self) -> Option<String> {
        self.names.lock().unwrap().last().cloned().flatten()
    }
}

/// The files of a gateway: an authority, another one, and a certificate of each.
struct Files {
    authority: Authority,
    foreign: Authority,
    setup: Setup,
}

impl Files {
    fn new() -> Self {
        let (authority, foreign) = (Authority::new("servers"), Authority::new("others"));
        let (own, other) = (authority.server("gateway"), foreign.server("gateway"));
        let setup = Setup::new()
            .file("ca.pem", &authority.pem)
            .file("other-ca.pem", &foreign.pem)
            .file("own.pem", &own.certificate)
            .file("own.key", &own.key)
            .file("other.pem", &other.certificate)
            .file("other.key", &other.key);
        Self { authority, foreign, setup }
    }
}

fn table(front: &TlsFront, lines: &str) -> String {
    format!("[servers.a]\nurl = \"https://localhost:{}/mcp\"\n{lines}\n", front.address.port())
}

/// Whether a call reaches the server.
fn is_reached(gateway: &Gateway) -> bool {
    let response = Client::once(gateway.address, &modern_call(SINGLE, "echo", "{}"));
    response.status == 200 && response.text().contains("\"result\"")
}

const OWN: &str = "client_cert = \"own.pem\"\nclient_key = \"own.key\"";

#[test]
fn servers_are_verified_as_configured() {
    let (files, peer) = (Files::new(), Peer::script([]));
    let local = files.authority.server("localhost");
    let plain = TlsFront::start(peer.address, &local, None);
    let named = TlsFront::start(peer.address, &files.authority.server("inside.example"), None);
    let strict = TlsFront::start(peer.address, &local, Some(&files.authority));
    let ca = "ca = \"ca.pem\"";
    let other = "client_cert = \"other.pem\"\nclient_key = \"other.key\"";
    let rows = [
        (&plain, "", String::new(), None),
        (&plain, "", ca.to_owned(), Some("localhost")),
        (&plain, "", "ca = \"other-ca.pem\"".to_owned(), None),
        (&plain, ca, String::new(), Some("localhost")),
        (&plain, ca, "ca = \"other-ca.pem\"".to_owned(), None),
        // A certificate that the server does not ask for is not sent.
        (&plain, ca, OWN.to_owned(), Some("localhost")),
        (&named, "", ca.to_owned(), None),
        (&named, ca, "server_name = \"inside.example\"".to_owned(), Some("inside.example")),
        (&plain, ca, "server_name = \"inside.example\"".to_owned(), None),
        (&strict, "", ca.to_owned(), None),
        (&strict, "", format!("{ca}\n{OWN}"), Some("localhost")),
        (&strict, ca, OWN.to_owned(), Some("localhost")),
        (&strict, &format!("{ca}\n{OWN}"), String::new(), Some("localhost")),
        (&strict, "", format!("{ca}\n{other}"), None),
        (&strict, &format!("{ca}\n{OWN}"), other.to_owned(), None),
    ];
    for (front, shared, own, expected) in rows {
        let mut toml = table(front, &own);
        write!(toml, "[backend]\n{shared}").unwrap();
        front.names.lock().unwrap().clear();
        let gateway = files.setup.clone().with(&toml).start();
        assert_eq!(is_reached(&gateway), expected.is_some(), "[backend] {shared}; [servers.a] {own}");
        if let Some(name) = expected {
            assert_eq!(front.last_name().as_deref(), Some(name), "{shared}; {own}");
        }
    }
}

/// With TLS 1.3 the gateway has completed its part of the handshake, and sent its request, when the server refuses its
/// certificate. Such a server has not read the request.
#[test]
fn a_server_that_refuses_the_certificate_is_unreachable() {
    let (files, peer) = (Files::new(), Peer::script([]));
    let front = TlsFront::start(peer.address, &files.authority.server("localhost"), Some(&files.authority));
    let foreign = "client_cert = \"other.pem\"\nclient_key = \"other.key\"\n";
    for (own, fast_lane) in [("", true), ("", false), (foreign, true), (foreign, false)] {
        let toml = table(&front, &format!("ca = \"ca.pem\"\n{own}fast_lane = {fast_lane}"));
        let gateway = files.setup.clone().with(&toml).start();
        let response = Client::once(gateway.address, &modern_call(SINGLE, "echo", "{}")).text();
        assert!(
            response.contains("cannot be reached; the call did not run"),
            "{own} {fast_lane}: {response}"
        );
        until("it is failing", || state(&gateway, "a")["state"] == "failing");
        let alert = if own.is_empty() { "CertificateRequired" } else { "UnknownCA" };
        let alert = format!("received fatal alert: {alert}");
        let reason = state(&gateway, "a")["reason"].as_str().unwrap().to_owned();
        assert!(reason.starts_with("TLS handshake: ") && reason.ends_with(&alert), "{reason}");
        gateway.wait_log(&reason, 0);
    }
    assert_eq!(peer.all().len(), 0);
}

#[test]
fn event_streams_of_the_sse_transport_are_verified_too() {
    let (files, server) = (Files::new(), sse_server::Server::start());
    let certificate = files.authority.server("inside.example");
    let front = TlsFront::start(server.address, &certificate, Some(&files.authority));
    let lines = format!("transport = \"sse\"\nca = \"ca.pem\"\nserver_name = \"inside.example\"\n{OWN}");
    let toml = table(&front, &lines).replace("/mcp\"", "/sse\"");
    let gateway = files.setup.clone().with(&toml).start();
    let session = open_session(&gateway, SINGLE, None);
    let call = legacy_call(SINGLE, &session, "1", "echo", r#"{"text":"over-tls"}"#);
    let response = Client::once(gateway.address, &call);
    assert!(response.status == 200 && response.text().contains("over-tls"), "{}", response.text());
}

#[test]
fn files_of_a_server_are_read_again_at_sighup() {
    let (files, peer) = (Files::new(), Peer::script([]));
    let local = files.foreign.server("localhost");
    let front = TlsFront::start(peer.address, &local, Some(&files.authority));
    let setup = files.setup.clone().with(&table(&front, &format!("ca = \"ca.pem\"\n{OWN}")));
    let gateway = setup.start();
    assert!(!is_reached(&gateway), "the server has another authority");
    fs::write(gateway.path().join("ca.pem"), "garbage").unwrap();
    gateway.reload(&setup, "servers.a.ca: has no certificate in PEM");
    assert!(gateway.log().contains("configuration not reloaded"), "{}", gateway.log());
    fs::write(gateway.path().join("ca.pem"), &files.foreign.pem).unwrap();
    gateway.reload(&setup, "configuration reloaded");
    until("the server is reached", || is_reached(&gateway));
}
