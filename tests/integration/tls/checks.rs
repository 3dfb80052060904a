//! Which certificates and revocation lists are refused before a start, and which dates are warned of.

use std::fs;

use rcgen::{CertificateParams, date_time_ymd};

use super::authority::{Authority, Leaf, TlsClient, run};
use crate::startup::{Run, run as run_program};
use crate::support::{Gateway, Peer, Setup, modern_call};

const SERVER: &str = "[server.tls]\ncert = 'c.pem'\nkey = 'k.pem'\n";

const CLIENTS: &str = "client_ca = 'ca.pem'\nclient_crl = 'crl.pem'\n";

/// A certificate without names that is valid until then.
fn until_year(authority: &Authority, year: i32) -> Leaf {
    let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(year, 1, 1));
    authority.issue(&params)
}

/// A certificate that was issued by another one verifies nobody: as `client_ca` it would lock out every client.
#[test]
fn a_certificate_that_issues_none_is_no_authority() {
    let authority = Authority::new("authority");
    let leaf = authority.server("localhost");
    let server = |ca: &str| format!("[servers.a]\nurl = 'https://a/mcp'\nca = '{ca}'\n");
    let rows = [
        (format!("{SERVER}client_ca = 'c.pem'\n"), "metamcp: server.tls.client_ca: ", 64),
        (server("c.pem"), "metamcp.toml:3: servers.a.ca: ", 64),
        (format!("[backend]\nca = 'c.pem'\n{}", server("c.pem")), "metamcp.toml:2: backend.ca: ", 64),
        (format!("{SERVER}client_ca = 'both.pem'\n{}", server("both.pem")), "", 0),
    ];
    let both = format!("{}{}", leaf.certificate, authority.pem);
    for (toml, place, code) in rows {
        let pair = [("c.pem", leaf.certificate.as_str()), ("k.pem", leaf.key.as_str())];
        let files = [pair[0], pair[1], ("both.pem", both.as_str()), ("metamcp.toml", &toml)];
        let Run { code: ended, err, .. } = run_program(&files, &["check"], &[]);
        assert!(ended == Some(code) && err.contains(place), "{toml}: {err}");
        assert_eq!(err.contains("is no authority: each certificate"), code == 64, "{toml}: {err}");
        assert!(err.contains("is no authority") == err.contains("write the certificate"), "{err}");
    }
}

/// A reload refuses it too, and keeps what was in use.
#[test]
fn a_reload_refuses_a_certificate_that_issues_none() {
    let (peer, authority) = (Peer::script([]), Authority::new("authority"));
    let leaf = authority.server("localhost");
    let files = [("c.pem", &leaf.certificate), ("k.pem", &leaf.key), ("ca.pem", &authority.pem)];
    let mut setup = Setup::new().server("a", peer.address).with(&format!("{SERVER}client_ca = 'ca.pem'\n"));
    for (name, text) in files {
        setup = setup.file(name, text);
    }
    let gateway = setup.start();
    let is_accepted = |gateway: &Gateway| {
        let client = TlsClient::new(gateway.address, &authority, Some(&authority.server("client")));
        run(client.ask("http/1.1", &modern_call("/servers/a/mcp", "echo", "{}"))).is_some()
    };
    assert!(is_accepted(&gateway));
    fs::write(gateway.path().join("ca.pem"), &leaf.certificate).unwrap();
    gateway.wait_log("server.tls.client_ca: ", 0);
    assert!(gateway.log().contains("is no authority: each certificate"), "{}", gateway.log());
    assert!(is_accepted(&gateway), "the last authority stays in use");
}

/// They refuse nothing: the clock may be wrong, and a replacement may follow.
#[test]
fn expired_certificates_are_named_with_their_dates() {
    let (current, old) = (Authority::new("authority"), Authority::expired("old"));
    let [good, expired] = [2100, 2025].map(|year| until_year(&current, year));
    let revocations = [2100, 2025].map(|year| current.revoke_until(1, year));
    let server = "[servers.a]\nurl = 'https://127.0.0.1:1/mcp'\n";
    let own = "client_cert = 'c.pem'\nclient_key = 'k.pem'\n";
    let clients = format!("{SERVER}{CLIENTS}");
    let rows: [(&Leaf, &Authority, &str, &str, &[&str]); 6] = [
        (&good, &current, &revocations[0], &clients, &[]),
        (&good, &current, &revocations[0], &format!("{server}{own}ca = 'ca.pem'"), &[]),
        (&expired, &current, &revocations[0], &clients, &["c.pem: a certificate has expired"]),
        (
            &good,
            &old,
            &revocations[1],
            &clients,
            &["ca.pem: the certificate of an authority", "crl.pem: a revocation list"],
        ),
        (
            &expired,
            &current,
            "",
            &format!("{server}{own}"),
            &["servers.a.client_cert: ", "c.pem: a certificate has expired"],
        ),
        (
            &good,
            &old,
            "",
            &format!("{server}ca = 'ca.pem'"),
            &["servers.a.ca: ", "ca.pem: the certificate of an authority"],
        ),
    ];
    for (leaf, authority, revocations, toml, expected) in rows {
        let files = [
            ("c.pem", leaf.certificate.as_str()),
            ("k.pem", leaf.key.as_str()),
            ("ca.pem", authority.pem.as_str()),
            ("crl.pem", revocations),
            ("metamcp.toml", toml),
        ];
        let Run { code, out, err } = run_program(&files, &["check"], &[]);
        assert_eq!(code, Some(0), "{toml}: {err}");
        let notices: Vec<_> = out.lines().filter(|line| line.contains("2025-01-01T00:00:00Z")).collect();
        assert_eq!(notices.is_empty(), expected.is_empty(), "{toml}: {out}");
        for text in expected {
            assert!(
                notices.iter().any(|line| line.starts_with("notice ") && line.contains(text)),
                "{text}: {out}"
            );
        }
        if let [.., last] = expected {
            let setup = files.into_iter().fold(Setup::new(), |setup, (name, text)| setup.file(name, text));
            let text = last.split_once(": ").unwrap().1;
            let gateway = setup.with(toml).start();
            gateway.wait_log(text, 0);
            assert!(gateway.log().contains("2025-01-01T00:00:00Z"), "{}", gateway.log());
        }
    }
}

/// The files are read again while the gateway runs.
#[test]
fn an_expired_certificate_is_named_when_it_is_loaded() {
    let (peer, authority) = (Peer::script([]), Authority::new("authority"));
    let leaf = authority.server("localhost");
    let setup = Setup::new().server("a", peer.address).with(SERVER);
    let gateway = setup.file("c.pem", &leaf.certificate).file("k.pem", &leaf.key).start();
    assert!(!gateway.log().contains("has expired"), "{}", gateway.log());
    let expired = until_year(&authority, 2025);
    fs::write(gateway.path().join("k.pem"), &expired.key).unwrap();
    fs::write(gateway.path().join("c.pem"), &expired.certificate).unwrap();
    gateway.wait_log("a certificate has expired", 0);
    let log = gateway.log();
    let line = log.lines().find(|line| line.contains("a certificate has expired")).unwrap();
    assert!(line.contains("c.pem") && line.contains("2025-01-01T00:00:00Z"), "{line}");
}
