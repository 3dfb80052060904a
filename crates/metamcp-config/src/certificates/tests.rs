use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::{DatedContent, ValidityPeriod, authorities};

/// 2024-01-01.
const NOW_S: u64 = 1_704_067_200;

fn params(is_ca: IsCa) -> CertificateParams {
    let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    params.is_ca = is_ca;
    params
}

/// An authority, and a certificate that it has issued.
fn chain(authority: CertificateParams, leaf: IsCa) -> [CertificateDer<'static>; 2] {
    let mut authority = authority;
    authority.distinguished_name.push(rcgen::DnType::CommonName, "authority");
    let (key, own) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let root = authority.self_signed(&key).unwrap().der().clone();
    let issued = params(leaf).signed_by(&own, &Issuer::new(authority, key)).unwrap();
    [root, issued.der().clone()]
}

fn self_signed(is_ca: IsCa) -> CertificateDer<'static> {
    params(is_ca).self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
}

const CA: IsCa = IsCa::Ca(BasicConstraints::Unconstrained);

#[test]
fn certificates_that_verify_nobody_are_no_authorities() {
    let check = |list: &[&CertificateDer<'static>], expected: Result<&[&CertificateDer<'static>], &str>| {
        let found = authorities(list.iter().map(|one| (*one).clone()).collect());
        match (found, expected) {
            (Ok(found), Ok(expected)) => assert!(found.iter().eq(expected.iter().copied())),
            (Err(error), Err(expected)) => assert!(error.to_string().contains(expected), "{error}"),
            (found, expected) => panic!("{found:?} is not {expected:?}"),
        }
    };
    for leaf in [IsCa::NoCa, IsCa::ExplicitNoCa] {
        let [root, issued] = chain(params(CA), leaf);
        check(&[&issued], Err("each certificate in it was issued by another one"));
        check(&[&issued, &issued], Err("each certificate in it"));
        // The file may be the chain that a server sends.
        check(&[&issued, &root], Ok(&[&root]));
        let own = self_signed(leaf);
        check(&[&own], Ok(&[&own]));
    }
    let [root, intermediate] = chain(params(CA), CA);
    check(&[&root, &intermediate], Ok(&[&root, &intermediate]));
    check(&[&intermediate], Ok(&[&intermediate]));
    check(&[&CertificateDer::from(vec![0; 4])], Err("has a certificate that is no authority: "));
}

/// Whether a server and a client with this certificate are accepted if `root` is trusted.
fn is_accepted(certificate: &CertificateDer<'_>, root: &CertificateDer<'static>) -> bool {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    let roots = Arc::new(roots);
    let (name, now) =
        (ServerName::try_from("localhost").unwrap(), UnixTime::since_unix_epoch(Duration::from_secs(NOW_S)));
    let servers = WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
        .build()
        .unwrap();
    let clients = WebPkiClientVerifier::builder_with_provider(roots, provider).build().unwrap();
    let of_server = servers.verify_server_cert(certificate, &[], &name, &[], now).is_ok();
    let of_client = clients.verify_client_cert(certificate, &[], now).is_ok();
    assert_eq!(of_server, of_client);
    of_server
}

/// What `authorities` decides rests on this behavior of rustls.
#[test]
fn rustls_accepts_what_is_not_refused() {
    for leaf in [IsCa::NoCa, IsCa::ExplicitNoCa] {
        let [root, issued] = chain(params(CA), leaf);
        assert!(is_accepted(&issued, &root));
        assert!(!is_accepted(&issued, &issued), "it cannot even verify itself");
        let own = self_signed(leaf);
        assert!(is_accepted(&own, &own), "a self-signed certificate verifies itself");
    }
    let mut expired = params(CA);
    expired.not_after = date_time_ymd(2020, 1, 1);
    let [root, issued] = chain(expired, IsCa::NoCa);
    assert!(is_accepted(&issued, &root), "the dates of an authority do not count");
}

#[test]
fn dates_are_told_with_what_to_do() {
    let file = Path::new("c.pem");
    let made = |from, until| {
        let mut params = params(IsCa::NoCa);
        (params.not_before, params.not_after) = (from, until);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    };
    let (past, future) = (date_time_ymd(2020, 1, 1), date_time_ymd(2030, 1, 1));
    let good = made(past, future);
    let check = |content, list: &[&CertificateDer<'static>], expected: Option<(&str, &str)>| {
        let list: Vec<_> = list.iter().map(|one| (*one).clone()).collect();
        let period = ValidityPeriod::of_certificates(file, content, &list);
        let problem = period.and_then(|period| period.problem(NOW_S));
        match (problem, expected) {
            (None, None) => {}
            (Some(problem), Some((date, text))) => {
                assert_eq!(problem.date, date);
                assert!(problem.text.contains(text), "{}", problem.text);
                assert!(problem.describe(file).starts_with("c.pem: "));
            }
            (problem, expected) => panic!("{problem:?} is not {expected:?}"),
        }
    };
    let expired = made(past, date_time_ymd(2023, 6, 1));
    let begins = made(date_time_ymd(2024, 6, 1), future);
    let (soon, later) = (made(past, date_time_ymd(2024, 1, 14)), made(past, date_time_ymd(2024, 1, 16)));
    for (content, subject) in
        [(DatedContent::Certificate, "a certificate"), (DatedContent::Authority, "authority")]
    {
        check(content, &[], None);
        check(content, &[&good], None);
        check(content, &[&later], None);
        check(content, &[&expired], Some(("2023-06-01T00:00:00Z", "has expired")));
        check(content, &[&begins], Some(("2024-06-01T00:00:00Z", "is not valid yet")));
        check(content, &[&soon], Some(("2024-01-14T00:00:00Z", "expires soon")));
        // The worst of several is told.
        check(content, &[&good, &expired, &soon], Some(("2023-06-01T00:00:00Z", subject)));
    }
}
