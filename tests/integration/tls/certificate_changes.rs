//! The certificate of the gateway is replaced while it serves.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use http_body_util::BodyExt as _;

use super::authority::{Authority, Leaf, TlsClient, run, text};
use crate::support::{Gate, Gateway, Peer, Setup, Step, chunk, events, modern_call, result, until};

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

/// While a stream and a connection are open, `replace` brings a new certificate: new connections see it, and what is open
/// goes on.
fn check(replace: impl Fn(&Gateway, &Leaf)) {
    let authority = Authority::new("test");
    let [first, second] = [(); 2].map(|()| authority.server("localhost"));
    let (peer, gate) = (Peer::script([]), Gate::default());
    let gateway = start(&peer, &first);
    let client = TlsClient::new(gateway.address, &authority, None);
    peer.push([vec![
        Step::Send(events()),
        Step::Send(chunk(EVENT)),
        Step::Wait(gate.clone()),
        Step::Send(chunk(&format!("data: {}\n\n", result("1", "after")))),
        Step::Send(chunk("")),
    ]]);
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
        ("cert.pem", Some("garbage"), "it has no certificate in PEM"),
        ("cert.pem", Some(half), "cert.pem: "),
        ("cert.pem", Some(&second.certificate), "the key does not belong to the certificate"),
        ("key.pem", None, "cannot be read"),
    ];
    for (file, content, reason) in unusable {
        let gateway = start(&peer, &first);
        let client = TlsClient::new(gateway.address, &authority, None);
        let path = gateway.path().join("v1").join(file);
        match content {
            Some(content) => fs::write(&path, content).unwrap(),
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
    for _ in 0..2 {
        gateway.reload(&changed, "configuration not reloaded");
        assert_eq!((status(&long), status(&new_server)), (200, 404));
        assert_eq!(run(client.shown_certificate()), first.der());
    }
    assert!(!gateway.log().contains(RELOADED), "{}", gateway.log());
    // The files that are in use are still followed.
    let third = authority.server("localhost");
    write(&gateway.path().join("v1"), &third);
    until("the files in use are read again", || run(client.shown_certificate()) == third.der());
    write(&gateway.path().join("other"), &second);
    gateway.reload(&changed, RELOADED);
    until("all of it is taken over", || (status(&long), status(&new_server)) == (413, 200));
    assert_eq!(run(client.shown_certificate()), second.der());
}
