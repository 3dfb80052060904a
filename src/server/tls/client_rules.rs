//! Finds what a client certificate stands for.

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use metamcp_config::sections::{CertificateField, ClientAction, ClientRule};
use metamcp_store::auth::ClientCertificate;

/// Names that are compared of one certificate. Usual ones have up to a hundred; one with more is refused.
const NAMES_MAX: usize = 1000;

/// Applies the first rule that matches a name of the certificate, which TLS has verified. `None` if no rule matches. A
/// certificate whose names cannot be read is refused, since a rule could exclude it.
pub fn apply_rules(rules: &[ClientRule], certificate: &[u8]) -> Option<ClientCertificate> {
    let Some((names, expires_at)) = read_names(certificate) else { return Some(ClientCertificate::Deny) };
    let matches = |rule: &&ClientRule| {
        names.iter().any(|(field, name)| *field == rule.field && rule.pattern.matches(name))
    };
    rules.iter().find(matches).map(|rule| match rule.action {
        ClientAction::UseKey(key_id) => ClientCertificate::Key { key_id, expires_at },
        ClientAction::Deny => ClientCertificate::Deny,
    })
}

type Names = Vec<(CertificateField, String)>;

/// The names of a certificate, and the first second in which it is not valid. `None` if they cannot be read.
fn read_names(certificate: &[u8]) -> Option<(Names, u64)> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let mut names = Names::new();
    for name in parsed.subject().iter_common_name() {
        names.push((CertificateField::CommonName, name.as_str().ok()?.to_owned()));
    }
    let alternatives = parsed.subject_alternative_name().ok()?;
    for name in alternatives.iter().flat_map(|alternatives| &alternatives.value.general_names) {
        match name {
            GeneralName::DNSName(name) => names.push((CertificateField::Dns, name.to_ascii_lowercase())),
            GeneralName::URI(name) => names.push((CertificateField::Uri, (*name).to_owned())),
            GeneralName::RFC822Name(name) => names.push((CertificateField::Email, (*name).to_owned())),
            GeneralName::Invalid(..) => return None,
            _ => {}
        }
    }
    // The certificate is still valid in its last second (RFC 5280, section 4.1.2.5).
    let last = u64::try_from(parsed.validity().not_after.timestamp()).ok()?;
    (names.len() <= NAMES_MAX).then_some((names, last + 1))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, DnValue, KeyPair, SanType};

    use super::*;
    use metamcp_core::base::{Glob, KeyId};

    fn rule(field: CertificateField, pattern: &str, action: ClientAction) -> ClientRule {
        ClientRule { field, pattern: Glob::with_spaces(pattern).unwrap(), action }
    }

    fn key(letter: &str) -> KeyId {
        KeyId::parse(&letter.repeat(12)).unwrap()
    }

    /// What the certificate stands for: the letter of a key id, `deny` or `none`.
    fn check(fill: impl Fn(&mut CertificateParams), expected: &str) {
        use CertificateField::{CommonName, Dns, Email, Uri};
        let rules = [
            rule(CommonName, "Bad *", ClientAction::Deny),
            rule(CommonName, "Jane Doe", ClientAction::UseKey(key("A"))),
            rule(Dns, "*.agents.example", ClientAction::UseKey(key("B"))),
            rule(Uri, "spiffe://example/ns/*", ClientAction::UseKey(key("C"))),
            rule(Email, "*@example.com", ClientAction::UseKey(key("D"))),
        ];
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        fill(&mut params);
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let found = match apply_rules(&rules, certificate.der()) {
            Some(ClientCertificate::Key { key_id, .. }) => key_id.as_str()[..1].to_owned(),
            Some(ClientCertificate::Deny) => "deny".to_owned(),
            None => "none".to_owned(),
        };
        assert_eq!(found, expected, "{:?} {:?}", params.distinguished_name, params.subject_alt_names);
    }

    fn common_name(name: &str) -> impl Fn(&mut CertificateParams) {
        move |params| params.distinguished_name.push(DnType::CommonName, name)
    }

    fn alternatives(names: &[SanType]) -> impl Fn(&mut CertificateParams) {
        move |params| params.subject_alt_names = names.to_vec()
    }

    #[test]
    fn the_first_rule_that_matches_applies() {
        let dns = |name: &str| SanType::DnsName(name.try_into().unwrap());
        let uri = |name: &str| SanType::URI(name.try_into().unwrap());
        let email = |name: &str| SanType::Rfc822Name(name.try_into().unwrap());
        check(|_| {}, "none");
        check(common_name("Jane Doe"), "A");
        check(common_name("jane doe"), "none");
        check(common_name("Bad Actor"), "deny");
        check(alternatives(&[dns("One.Agents.Example")]), "B");
        check(alternatives(&[dns("agents.example")]), "none");
        check(alternatives(&[uri("spiffe://example/ns/a")]), "C");
        check(alternatives(&[email("a@example.com")]), "D");
        // A name of one kind is no name of another.
        check(alternatives(&[dns("Jane.Doe"), uri("a@example.com")]), "none");
        // The order of the rules counts, not that of the names.
        check(alternatives(&[email("a@example.com"), dns("a.agents.example")]), "B");
        let both = |params: &mut CertificateParams| {
            common_name("Bad Actor")(params);
            alternatives(&[email("a@example.com")])(params);
        };
        check(both, "deny");
    }

    #[test]
    fn unreadable_names_are_refused() {
        let bmp = |params: &mut CertificateParams| {
            let name = rcgen::string::BmpString::try_from("Bad Actor").unwrap();
            params.distinguished_name.push(DnType::CommonName, DnValue::BmpString(name));
        };
        check(bmp, "deny");
        assert_eq!(apply_rules(&[], b"garbage"), Some(ClientCertificate::Deny));
    }

    #[test]
    fn the_end_of_the_certificate_is_read() {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "a");
        params.not_after = rcgen::date_time_ymd(2030, 1, 1);
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let rules = [rule(CertificateField::CommonName, "a", ClientAction::UseKey(key("A")))];
        let expected = ClientCertificate::Key { key_id: key("A"), expires_at: 1_893_456_001 };
        assert_eq!(apply_rules(&rules, certificate.der()), Some(expected));
    }
}
