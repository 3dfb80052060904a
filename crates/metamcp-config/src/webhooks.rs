//! The `[[webhooks]]` tables.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use metamcp_core::base::{EventKind, Severity};
use url::Url;
use zeroize::Zeroizing;

use super::defaults as d;
use super::expand::Context;
use super::section::Section;
use crate::sections::{WebhookConfig, WebhookSecret};
use crate::server::{ServerAddress, address};

/// Each is a task with a position in the log of events. A receiver for more purposes distributes them itself.
const WEBHOOKS_MAX: usize = 16;

/// The lengths that Standard Webhooks allows for a secret.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// Reads all `[[webhooks]]`; one with a mistake is left out.
pub(super) fn read(root: &Section<'_>, context: Context<'_>) -> Vec<WebhookConfig> {
    let tables = root.tables("webhooks");
    if tables.len() > WEBHOOKS_MAX {
        let place = root.place().below("webhooks");
        context
            .report
            .mistake(&place, format!("are more than {WEBHOOKS_MAX}; let one receiver distribute events"));
    }
    tables.into_iter().filter_map(|table| read_one(table, context)).collect()
}

fn read_one(table: Section<'_>, context: Context<'_>) -> Option<WebhookConfig> {
    let url = url(&table, context);
    let secret = secret(&table, context);
    let kinds = kinds(&table, context);
    let words = Severity::ALL.map(|severity| (severity.as_str(), severity));
    let severity = table.word("severity", &words, Severity::Info);
    let timeout = table.duration("timeout", d::WEBHOOK_TIMEOUT);
    table.finish();
    Some(WebhookConfig { url: url?, secret: secret?, kinds, severity, timeout })
}

fn url(table: &Section<'_>, context: Context<'_>) -> Option<Url> {
    let Some(written) = table.text("url") else {
        context.report.mistake(&table.place().below("url"), "is missing; write \"https://host/path\"");
        return None;
    };
    match address::parse(&context.expand(&written)?) {
        Ok(ServerAddress::Http(url)) => Some(url),
        Ok(_) | Err(address::EXPECTED_FORM) => {
            context.report.mistake(&written.place, "is no address of a webhook; write \"https://host/path\"");
            None
        }
        Err(why) => {
            context.report.mistake(&written.place, why);
            None
        }
    }
}

fn secret(table: &Section<'_>, context: Context<'_>) -> Option<WebhookSecret> {
    const FORM: &str = "write \"whsec_\" and 24 to 64 bytes in base64, which `openssl rand -base64 32` makes";
    let Some(written) = table.text("secret") else {
        context.report.mistake(&table.place().below("secret"), format!("is missing; {FORM}"));
        return None;
    };
    let text = Zeroizing::new(context.expand(&written)?);
    let bytes = text.strip_prefix("whsec_").and_then(|encoded| STANDARD.decode(encoded).ok());
    let bytes = bytes.map(Zeroizing::new).filter(|bytes| SECRET_BYTES.contains(&bytes.len()));
    if bytes.is_none() {
        context.report.mistake(&written.place, format!("is no secret of a webhook; {FORM}"));
    }
    bytes.map(WebhookSecret)
}

fn kinds(table: &Section<'_>, context: Context<'_>) -> Vec<EventKind> {
    let mut kinds = Vec::new();
    for written in table.texts("types").unwrap_or_default() {
        if let Some(found) = EventKind::parse_list(written.value) {
            kinds.extend(found);
        } else {
            let known = EventKind::ALL.map(EventKind::as_str).join(", ");
            let text = format!("is no type of event; write a group such as \"server.*\", or one of {known}");
            context.report.mistake(&written.place, text);
        }
    }
    kinds
}

#[cfg(test)]
mod tests {
    use super::super::mistakes::Diagnostics;
    use super::super::raw::Variables;
    use super::super::section::TomlFile;
    use super::super::tests::env;
    use super::*;

    #[track_caller]
    fn check(toml: &str, expected: Result<&str, &str>) {
        let report = Diagnostics::default();
        let env = env(&[("S", "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz")]);
        let variables = Variables::process(&env);
        let context = Context { variables: &variables, report: &report, workspace: None };
        let file = TomlFile::parse("/etc/metamcp.toml".into(), toml, &report);
        let shown: Vec<String> = read(&Section::root(file.as_ref(), &report), context)
            .into_iter()
            .map(|WebhookConfig { url, secret, kinds, severity, timeout }| {
                let secret = String::from_utf8_lossy(&secret.0).into_owned();
                format!("{url} {secret} {} {} {timeout:?}", kinds.len(), severity.as_str())
            })
            .collect();
        match (report.finish().map(|_| shown.join(", ")), expected) {
            (Ok(shown), Ok(expected)) => assert_eq!(shown, expected, "{toml}"),
            (Err(mistakes), Err(expected)) => {
                assert!(mistakes.to_string().contains(expected), "{toml}: {mistakes}");
            }
            (shown, _) => panic!("{toml}: {shown:?}, not {expected:?}"),
        }
    }

    #[test]
    fn webhooks_are_read() {
        const SECRET: &str = "012345678901234567890123";
        check("", Ok(""));
        let bare = "[[webhooks]]\nurl = 'https://a/x?y=z'\nsecret = '${S}'\n";
        check(bare, Ok(&format!("https://a/x?y=z {SECRET} 0 info 10s")));
        let full = format!("{bare}types = ['key.*', 'server.failed']\nseverity = 'error'\ntimeout = '1s'");
        check(&full, Ok(&format!("https://a/x?y=z {SECRET} 4 error 1s")));
        check(
            &bare.repeat(2),
            Ok(&format!("https://a/x?y=z {SECRET} 0 info 10s, https://a/x?y=z {SECRET} 0 info 10s")),
        );
    }

    #[test]
    fn mistakes_are_reported() {
        let with = |line: &str| format!("[[webhooks]]\nurl = 'http://a'\nsecret = '${{S}}'\n{line}");
        check("[[webhooks]]", Err("webhooks.url: is missing"));
        check("[[webhooks]]\nurl = 'http://a'", Err("webhooks.secret: is missing"));
        for secret in ["whsec_", "whsec_MDEy", "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz", "whsec_%%%%"] {
            check(&format!("[[webhooks]]\nurl = 'http://a'\nsecret = '{secret}'"), Err("is no secret"));
        }
        for url in ["ftp://a", "unix:/a:/b", "a"] {
            check(&format!("[[webhooks]]\nurl = '{url}'\nsecret = '${{S}}'"), Err("webhooks.url"));
        }
        check(&with("types = ['server']"), Err("is no type of event"));
        check(&with("severity = 'loud'"), Err("write \"info\", \"warning\" or \"error\""));
        check(&with("timeout = '1h'"), Err("out of range"));
        check(&with("retries = 1"), Err("is unknown"));
        check(&with("").repeat(17), Err("are more than 16"));
    }
}
