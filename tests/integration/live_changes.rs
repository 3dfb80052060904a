//! Reloads, hand-overs and changes of the certificate while clients call over TLS and hold streams open: no request fails,
//! no stream is cut, and each call is counted once. The long form is a proof (`tools/proofs --release live_changes`).

use std::fs;
use std::time::Instant;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use crate::handover::{counted, demo, has_ended};
use crate::support::{Gateway, Load, LoadPlan, Setup, is_long, run, until};
use crate::tls::authority::TlsClient;

/// How much is done, at which load.
struct Extent {
    reloads: usize,
    hand_overs: usize,
    certificates: usize,
    kept: usize,
    fresh: usize,
    pace: (u32, u32),
    streams: usize,
}

const LONG: Extent = Extent {
    reloads: 1000,
    hand_overs: 50,
    certificates: 20,
    kept: 16,
    fresh: 8,
    pace: (120, 10),
    streams: 200,
};

const SHORT: Extent =
    Extent { reloads: 20, hand_overs: 3, certificates: 2, kept: 4, fresh: 2, pace: (30, 5), streams: 9 };

/// Of the long form, in which callers make up to 2,000 calls a second.
const RATE_MIN: u128 = 1800;

/// Predecessors that complete their calls at the same time. Each takes five seconds at least.
const PREDECESSORS_MAX: usize = 4;

struct Certificate {
    pem: String,
    key: String,
}

impl Certificate {
    fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        Self { pem: made.cert.pem(), key: made.signing_key.serialize_pem() }
    }

    fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()
    }
}

fn setup(server: std::net::SocketAddr, round: usize) -> Setup {
    let lines = format!(
        "[server]\nkeep_alive = \"{}s\"\nidle_timeout = \"{}s\"\nbody_bytes_max = \"{}KiB\"\n\
         [server.tls]\ncert = \"cert.pem\"\nkey = \"key.pem\"\n\
         [limits]\nkey_in_flight_max = {}\n[catalog]\nrefresh_after = \"{}s\"\n[session]\nidle_timeout = \"{}m\"\n\
         [bridge]\nholds_max = {}",
        1 + round % 2,
        60 + round % 5,
        64 + round % 7,
        500 + round % 3,
        30 + round % 9,
        30 + round % 10,
        1000 + round,
    );
    Setup::new().server("demo", server).with(&lines)
}

/// Replaces both files as a certificate client does: completely written, then renamed.
fn replace_certificate(gateway: &Gateway, certificate: &Certificate) {
    for (name, text) in [("cert.pem", &certificate.pem), ("key.pem", &certificate.key)] {
        let draft = gateway.path().join("draft");
        fs::write(&draft, text).unwrap();
        fs::rename(draft, gateway.path().join(name)).unwrap();
    }
}

#[test]
fn no_request_fails_and_no_stream_is_cut() {
    let extent = if is_long() { LONG } else { SHORT };
    let server = demo();
    let certificates: Vec<_> = (0..=extent.certificates).map(|_| Certificate::new()).collect();
    let first = &certificates[0];
    let gateway = setup(server, 0).file("cert.pem", &first.pem).file("key.pem", &first.key).start();
    let load = Load::start(LoadPlan {
        address: gateway.address,
        certificates: certificates.iter().map(Certificate::der).collect(),
        server: "demo".into(),
        kept: extent.kept,
        fresh: extent.fresh,
        streams: extent.streams,
        pace: extent.pace,
    });
    let streams = extent.streams as u64;
    until("all streams", || load.streams_open() >= streams * 9 / 10 || load.has_failed());
    let begun = Instant::now();
    let (mut handed_over, mut changed) = (0, 0);
    for round in 1..=extent.reloads {
        let is_due = |done: usize, total: usize| round * total / extent.reloads > done;
        if is_due(changed, extent.certificates) {
            changed += 1;
            replace_certificate(&gateway, &certificates[changed]);
        }
        gateway.reload(&setup(server, round), "configuration reloaded");
        if is_due(handed_over, extent.hand_overs) {
            handed_over += 1;
            let alive = || gateway.pids().into_iter().filter(|process| !has_ended(*process)).count();
            until("the end of predecessors", || alive() <= PREDECESSORS_MAX);
            gateway.hand_over();
        }
        load.wait_calls(1);
    }
    let took = begun.elapsed();
    // Only the last certificate is trusted: a handshake with another one fails.
    let client = TlsClient::trusting(gateway.address, certificates[changed].der(), None);
    until("the last certificate", || run(client.connect("http/1.1")).is_ok());
    let report = load.stop();
    gateway.terminate();
    for process in gateway.pids() {
        until("the end of all processes", || has_ended(process));
    }
    let usage = (counted(&gateway, "echo"), counted(&gateway, "countdown"));
    let rate = u128::from(report.calls) * 1000 / report.took.as_millis().max(1);
    println!(
        "{} reloads, {handed_over} hand-overs and {changed} changes of the certificate in {:.0} s; {} calls and {} streamed \
         calls over {} connections, {rate} calls a second, {} open streams, of which {} ended in good order; \
         {} failed requests and cut streams; counted in usage: {} and {} calls",
        extent.reloads,
        took.as_secs_f64(),
        report.calls,
        report.streamed_calls,
        report.connections,
        extent.streams,
        report.streams_ended,
        report.failure_count,
        usage.0,
        usage.1,
    );
    assert_eq!(report.failures, [""; 0]);
    assert_eq!(usage, (report.calls, report.streamed_calls));
    // The callers leave pauses, so a gateway that keeps up answers nearly all of the 2,000 calls a second.
    assert!(!is_long() || rate >= RATE_MIN, "{rate} calls a second are too few; run it with --release");
}
