//! HTTP/2 and TLS, spoken by a client that is not ours.

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use rustls_pki_types::CertificateDer;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::{
    Client, Gateway, PATIENCE, Peer, Request, Setup, Step, chunk, connect_tls, convert, events,
    http2_connection, legacy_call, modern_call, open_session, result, with_certificate,
};

const SINGLE: &str = "/servers/a/mcp";

/// Runs the test's client; what does not end has failed.
fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { timeout(PATIENCE, work).await.expect("the client waited in vain") })
}

fn to_hyper(request: &Request, authority: &str) -> http::Request<Full<Bytes>> {
    convert(request, authority, Full::new(Bytes::from(request.body.clone())))
}

async fn body(response: http::Response<Incoming>) -> (u16, String) {
    let status = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(bytes.to_vec()).unwrap())
}

/// Many calls at once on one connection, JSON and a stream, and a refusal.
async fn exercise(mut sender: http2::SendRequest<Full<Bytes>>, scheme: &str, peer: &Peer, session: &str) {
    let authority = format!("{scheme}://localhost");
    let calls = (0..32).map(|n| {
        let arguments = format!(r#"{{"n":"number-{n}-"}}"#);
        let request = if n % 2 == 0 {
            modern_call(SINGLE, "echo", &arguments)
        } else {
            legacy_call(SINGLE, session, &n.to_string(), "echo", &arguments)
        };
        (n, sender.send_request(to_hyper(&request, &authority)))
    });
    // All are sent before the first is awaited.
    for (n, call) in calls.collect::<Vec<_>>() {
        let (status, text) = body(call.await.unwrap()).await;
        assert_eq!(status, 200, "{text}");
        assert!(text.contains(&format!("number-{n}-")), "{n}: {text}");
    }
    let event = format!("data: {}\n\n", result("1", "streamed"));
    peer.push([vec![Step::Send(events()), Step::Send(chunk(&event)), Step::Send(chunk(""))]]);
    let call = to_hyper(&modern_call(SINGLE, "echo", "{}"), &authority);
    let response = sender.send_request(call).await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert_eq!(body(response).await, (200, event));

    let foreign = to_hyper(&modern_call(SINGLE, "echo", "{}"), &format!("{scheme}://evil.example"));
    assert_eq!(sender.send_request(foreign).await.unwrap().status(), 403);
    let lost = to_hyper(&modern_call("/mcp/nope", "echo", "{}"), &authority);
    assert_eq!(sender.send_request(lost).await.unwrap().status(), 404);
}

#[test]
fn http2_with_prior_knowledge() {
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    let session = open_session(&gateway, SINGLE, None);
    run(async {
        let tcp = TcpStream::connect(gateway.address).await.unwrap();
        exercise(http2_connection(tcp).await, "http", &peer, &session).await;
    });
}

#[test]
fn a_reset_stream_takes_its_call_with_it() {
    let peer = Peer::script([vec![Step::Hold]]);
    let gateway = Gateway::open(&[("a", peer.address)]);
    run(async {
        let tcp = TcpStream::connect(gateway.address).await.unwrap();
        let mut sender = http2_connection(tcp).await;
        let request = || to_hyper(&modern_call(SINGLE, "echo", "{}"), "http://localhost");
        let held = sender.send_request(request());
        let (peer, watched) = (peer.clone(), peer.clone());
        tokio::task::spawn_blocking(move || peer.wait_calls(1)).await.unwrap();
        drop(held);
        // Dropping it resets the stream; the connection goes on.
        tokio::task::spawn_blocking(move || watched.wait_closed(0)).await.unwrap();
        assert_eq!(sender.send_request(request()).await.unwrap().status(), 200);
    });
}

/// A gateway with a certificate made for it, and that certificate.
fn with_tls(peer: &Peer) -> (Gateway, CertificateDer<'static>) {
    let (setup, certificate) = with_certificate(Setup::new().server("a", peer.address));
    (setup.start(), certificate)
}

#[test]
fn tls_with_both_versions_of_http() {
    let peer = Peer::script([]);
    let (gateway, certificate) = with_tls(&peer);
    run(async {
        let stream = connect_tls(gateway.address, &certificate, &["http/1.1"]).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        for n in 0..3 {
            let request = modern_call(SINGLE, "echo", &format!(r#"{{"n":"number-{n}-"}}"#));
            sender.ready().await.unwrap();
            let (status, text) = body(sender.send_request(to_hyper(&request, "")).await.unwrap()).await;
            assert!(status == 200 && text.contains(&format!("number-{n}-")), "{text}");
        }
        let opened = sender.send_request(to_hyper(&crate::support::initialize(SINGLE), "")).await.unwrap();
        let session = opened.headers()["mcp-session-id"].to_str().unwrap().to_owned();

        let stream = connect_tls(gateway.address, &certificate, &["h2", "http/1.1"]).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        exercise(http2_connection(stream).await, "https", &peer, &session).await;
    });
}

#[test]
fn plain_bytes_on_a_tls_port_are_refused() {
    let peer = Peer::script([]);
    let (gateway, certificate) = with_tls(&peer);
    let mut client = Client::connect(gateway.address);
    client.send(&modern_call(SINGLE, "echo", "{}").bytes());
    while !client.is_closed() {
        // An alert in TLS may come before the end.
        client.take();
    }
    assert!(peer.calls().is_empty());
    run(async {
        let _good = connect_tls(gateway.address, &certificate, &["h2"]).await;
    });
}
