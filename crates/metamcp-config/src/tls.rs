//! `[server.tls]`: the certificate of the gateway, and those of its clients.

use std::fs::File;
use std::path::{Path, PathBuf};

use metamcp_core::base::{Glob, KeyId};

use super::mistakes::{Diagnostics, WithLocation};
use super::section::Section;
use crate::sections::{CertificateField, ClientAction, ClientCertificates, ClientRule, TlsFiles};

/// Rules for certificates: each is tried at each handshake.
const RULES_MAX: usize = 1000;

/// The keys of a rule that name a part of a certificate.
const FIELDS: [(&str, CertificateField); 4] = [
    ("common_name", CertificateField::CommonName),
    ("dns", CertificateField::Dns),
    ("uri", CertificateField::Uri),
    ("email", CertificateField::Email),
];

/// Reads the table `tls` of `[server]`. `None` if there is none. The contents of the files are checked when they are loaded.
pub(super) fn read(server: &Section<'_>, report: &Diagnostics) -> Option<TlsFiles> {
    let tls = server.child("tls");
    let (cert, key) = (file(&tls, "cert", report), file(&tls, "key", report));
    let clients = clients(&tls, report);
    let (place, is_written) = (tls.place().clone(), tls.is_written());
    tls.finish();
    match (cert, key) {
        (Some(cert), Some(key)) => Some(TlsFiles { cert, key, clients }),
        (None, None) if !is_written => None,
        (cert, _) => {
            let one = if cert.is_some() { "has no key" } else { "has no cert" };
            report.mistake(&place, format!("{one}; write both, or leave out the table to speak plain HTTP"));
            None
        }
    }
}

fn clients(tls: &Section<'_>, report: &Diagnostics) -> Option<ClientCertificates> {
    let (ca, crl) = (file(tls, "client_ca", report), file(tls, "client_crl", report));
    let is_required = tls.word("client_auth", &[("required", true), ("optional", false)], true);
    let rules = rules(tls, report);
    if ca.is_none() {
        for key in ["client_auth", "client_crl", "clients"] {
            if tls.has(key) {
                let text = "has no effect without client_ca; write the file of the authority that issues the certificates";
                report.mistake(&tls.place().below(key), text);
            }
        }
    }
    Some(ClientCertificates { ca: ca?, crl, is_required, rules })
}

fn rules(tls: &Section<'_>, report: &Diagnostics) -> Vec<ClientRule> {
    let written = tls.tables("clients");
    if written.len() > RULES_MAX {
        report
            .mistake(&tls.place().below("clients"), format!("has more than {RULES_MAX} rules; use patterns"));
    }
    written.into_iter().filter_map(|rule| read_rule(rule, report)).collect()
}

fn read_rule(rule: Section<'_>, report: &Diagnostics) -> Option<ClientRule> {
    let place = rule.place().clone();
    let names: Vec<_> =
        FIELDS.into_iter().filter_map(|(key, field)| Some((field, rule.text(key)?))).collect();
    let (key, deny) = (rule.text("key"), rule.flag("deny"));
    rule.finish();
    let name = if let [(field, written)] = &names[..] {
        pattern(*field, written, report).map(|pattern| (*field, pattern))
    } else {
        report.mistake(
            &place,
            "names no part of a certificate, or several; write one of common_name, dns, uri, email",
        );
        None
    };
    let action = match (key, deny) {
        (Some(key), None) => {
            let id = KeyId::parse(key.value);
            if id.is_none() {
                report.mistake(&key.place, "is not the id of an API key; copy it from `keyadm keys list`");
            }
            id.map(ClientAction::UseKey)
        }
        (None, Some(true)) => Some(ClientAction::Deny),
        _ => {
            report.mistake(&place, "says nothing, or two things; write either key = \"ID\" or deny = true");
            None
        }
    };
    let ((field, pattern), action) = (name?, action?);
    Some(ClientRule { field, pattern, action })
}

fn pattern(field: CertificateField, written: &WithLocation<&str>, report: &Diagnostics) -> Option<Glob> {
    let pattern = match field {
        CertificateField::CommonName => Glob::with_spaces(written.value),
        // Host names do not differ by case (RFC 4343).
        CertificateField::Dns => Glob::new(&written.value.to_ascii_lowercase()),
        CertificateField::Uri | CertificateField::Email => Glob::new(written.value),
    };
    pattern.map_err(|invalid| report.mistake(&written.place, invalid.redacted())).ok()
}

/// Reads the path of a file, relative to the configuration file.
pub(super) fn file(section: &Section<'_>, key: &'static str, report: &Diagnostics) -> Option<PathBuf> {
    let written = section.text(key)?;
    let path = section.directory().unwrap_or(Path::new("")).join(written.value);
    if let Err(error) = File::open(&path) {
        report.mistake(&written.place, format!("cannot be read: {error}"));
    }
    Some(path)
}
