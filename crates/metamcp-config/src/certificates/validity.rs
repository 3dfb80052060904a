//! The dates of certificates and revocation lists.

use std::path::{Path, PathBuf};

use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::revocation_list::CertificateRevocationList;

use crate::rfc3339::format_time;

/// When the contents of one file are valid: all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidityPeriod {
    pub file: PathBuf,
    content: DatedContent,
    /// The latest begin of validity in the file, in Unix seconds.
    begin_s: u64,
    /// The earliest end, in Unix seconds.
    end_s: u64,
}

/// What has the dates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatedContent {
    /// A certificate to present, with its chain.
    Certificate,
    Authority,
    /// Valid until a newer one was announced for.
    RevocationList,
}

/// Why the dates of a file need attention. It is used all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidityProblem {
    /// The begin or the end of the validity, as in RFC 3339.
    pub date: String,
    /// What is wrong and what to do, without the date.
    pub text: &'static str,
}

impl ValidityPeriod {
    /// `None` without a certificate that can be read.
    pub fn of_certificates(
        file: &Path,
        content: DatedContent,
        certificates: &[CertificateDer<'_>],
    ) -> Option<Self> {
        let periods = certificates.iter().filter_map(|certificate| {
            let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
            let validity = parsed.validity();
            Some((seconds(validity.not_before.timestamp()), seconds(validity.not_after.timestamp())))
        });
        let (begin_s, end_s) = periods.reduce(|one, other| (one.0.max(other.0), one.1.min(other.1)))?;
        Some(Self { file: file.to_owned(), content, begin_s, end_s })
    }

    /// `None` if no list says when the next one comes.
    pub fn of_revocation_lists(file: &Path, lists: &[CertificateRevocationListDer<'_>]) -> Option<Self> {
        let next_updates = lists.iter().filter_map(|list| {
            let (_, parsed) = CertificateRevocationList::from_der(list).ok()?;
            Some(seconds(parsed.next_update()?.timestamp()))
        });
        let end_s = next_updates.min()?;
        Some(Self { file: file.to_owned(), content: DatedContent::RevocationList, begin_s: 0, end_s })
    }

    /// What to warn of at this time, in Unix seconds.
    pub fn problem(&self, now_s: u64) -> Option<ValidityProblem> {
        use DatedContent::{Authority, Certificate, RevocationList};
        let is_ended = self.end_s < now_s;
        let is_ending = self.end_s.saturating_sub(now_s) < SOON_S;
        let (at_s, text) = match self.content {
            Certificate if is_ended => (self.end_s, "a certificate has expired: peers refuse it; replace it"),
            Authority if is_ended => (
                self.end_s,
                "the certificate of an authority has expired: what it issued is still accepted; replace it by its successor",
            ),
            RevocationList if is_ended => (
                self.end_s,
                "a revocation list is past its next update: certificates revoked since are accepted; replace it by a newer one",
            ),
            // Lists are often valid for a day only, and are renewed shortly before their end.
            RevocationList => return None,
            Certificate if self.begin_s > now_s => (
                self.begin_s,
                "a certificate is not valid yet: peers refuse it until then; check the clock, or replace it",
            ),
            Authority if self.begin_s > now_s => (
                self.begin_s,
                "the certificate of an authority is not valid yet: what it issued is accepted; check the clock",
            ),
            Certificate if is_ending => (self.end_s, "a certificate expires soon; replace it before"),
            Authority if is_ending => (
                self.end_s,
                "the certificate of an authority expires soon; replace it by its successor before",
            ),
            Certificate | Authority => return None,
        };
        Some(ValidityProblem { date: format_time(at_s), text })
    }
}

impl ValidityProblem {
    /// One line for a person.
    pub fn describe(&self, file: &Path) -> String {
        format!("{}: {} ({})", file.display(), self.text, self.date)
    }
}

/// Before 1970 counts as 1970.
fn seconds(unix_s: i64) -> u64 {
    u64::try_from(unix_s).unwrap_or(0)
}

/// Two weeks: time to replace a certificate by hand, and shorter than the 30 days before which most tools renew one, so that
/// an installation that renews by itself is not warned.
const SOON_S: u64 = 14 * 86_400;
