//! Checks Host and Origin (MCP 2025-11-25, transports, security warning).
//!
//! A web page that resolves its own name to 127.0.0.1 reaches a local gateway with a foreign Host. A web page
//! that uses the address has a foreign Origin. Both are refused.

use http::HeaderValue;

use super::activity::ConnectionActivity;
use super::fields::{Field, Fields};
use metamcp_config::sections::HttpConfig;
use metamcp_core::base::{Fault, FaultKind};

/// The allowed hosts and origins.
#[derive(Clone)]
pub struct OriginGuard {
    /// Allowed besides loopback names. Lower case, without port.
    hosts: Vec<String>,
    /// Allowed besides loopback origins. Lower case, `scheme://host[:port]`.
    origins: Vec<String>,
    /// Whether the gateway listens on every address and no host is configured: the names it is reached by are
    /// then unknown.
    any_host: bool,
}

impl OriginGuard {
    pub fn new(config: &HttpConfig) -> Self {
        let mut hosts: Vec<_> = config.hosts.iter().map(|host| host.to_ascii_lowercase()).collect();
        let any_host = config.listen.ip().is_unspecified() && hosts.is_empty();
        if !config.listen.ip().is_unspecified() {
            hosts.push(config.listen.ip().to_string());
        }
        let origins = config.origins.iter().map(|origin| origin.to_ascii_lowercase()).collect();
        Self { hosts, origins, any_host }
    }

    /// Refuses a foreign Host or Origin. `authority`: the authority of the request target, if it has one.
    pub fn check(&self, fields: &Fields, authority: Option<&str>) -> Result<(), Fault> {
        if !self.host_allowed(fields, authority) {
            return Err(Fault::client(
                FaultKind::Forbidden,
                "this Host is not served here: add the name to `server.hosts`",
            ));
        }
        match single(fields, Field::Origin) {
            Ok(None) => Ok(()),
            Ok(Some(origin)) if self.origin_allowed(origin) => Ok(()),
            _ => Err(Fault::client(
                FaultKind::Forbidden,
                "this Origin may not call: add it to `server.origins`",
            )),
        }
    }

    /// As [`Self::check`], with the connection's last Host as a shortcut: a client sends the same one with
    /// every request.
    pub fn check_on(
        &self,
        activity: &ConnectionActivity,
        fields: &Fields,
        authority: Option<&str>,
    ) -> Result<(), Fault> {
        let host = fields.get(Field::Host).filter(|_| authority.is_none() && !fields.is_doubled(Field::Host));
        if !fields.has(Field::Origin) && host.is_some_and(|host| *activity.host.borrow() == host) {
            return Ok(());
        }
        self.check(fields, authority)?;
        if let Some(host) = host {
            host.clone_into(&mut activity.host.borrow_mut());
        }
        Ok(())
    }

    /// The Origin for a CORS response, if it is allowed.
    pub fn allowed_origin(&self, fields: &Fields) -> Option<HeaderValue> {
        let origin = fields.text(Field::Origin)?;
        self.origin_allowed(origin).then(|| fields.value(Field::Origin)).flatten()
    }

    fn host_allowed(&self, fields: &Fields, authority: Option<&str>) -> bool {
        let Ok(host) = single(fields, Field::Host) else { return false };
        // HTTP/2 has the authority in the URI. So has a request in absolute form, whose Host must then agree
        // (RFC 9112, section 3.2.2).
        let name = match (host, authority) {
            (Some(host), Some(authority)) if host.eq_ignore_ascii_case(authority) => host,
            (Some(host), None) => host,
            (None, Some(authority)) => authority,
            _ => return false,
        };
        let Some(name) = host_of(name) else { return false };
        self.any_host || is_loopback(name) || self.hosts.iter().any(|host| host.eq_ignore_ascii_case(name))
    }

    fn origin_allowed(&self, origin: &str) -> bool {
        if self.origins.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin)) {
            return true;
        }
        let rest = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        rest.and_then(host_of).is_some_and(is_loopback)
    }
}

/// The only value of a field. Fails if there are several, or if it is not ASCII.
fn single(fields: &Fields, field: Field) -> Result<Option<&str>, ()> {
    match (fields.text(field), fields.has(field)) {
        _ if fields.is_doubled(field) => Err(()),
        (None, true) => Err(()),
        (value, _) => Ok(value),
    }
}

/// The `host` of `host[:port]`, without the brackets of an IPv6 address. `None` if the text has another form.
fn host_of(authority: &str) -> Option<&str> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            (host, rest.strip_prefix(':').or(rest.is_empty().then_some("0")))
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, Some("0")),
        },
    };
    let port_is_number = !port?.is_empty() && port?.bytes().all(|byte| byte.is_ascii_digit());
    let host_is_plain = !host.is_empty()
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'_'));
    (port_is_number && host_is_plain).then_some(host)
}

fn is_loopback(name: &str) -> bool {
    name.eq_ignore_ascii_case("localhost") || matches!(name, "127.0.0.1" | "::1")
}

#[cfg(test)]
pub(in crate::server) mod tests {
    use std::time::Duration;

    use super::*;

    pub fn config(listen: &str) -> HttpConfig {
        HttpConfig {
            listen: listen.parse().expect("an address"),
            workers: 1,
            tls: None,
            header_timeout: Duration::ZERO,
            body_timeout: Duration::ZERO,
            idle_timeout: Duration::ZERO,
            body_bytes_max: 0,
            header_bytes_max: 0,
            header_count_max: 0,
            connections_max: 0,
            origins: vec!["https://app.example".into()],
            hosts: vec!["gateway.example".into()],
            drain_delay: Duration::ZERO,
            drain_deadline: Duration::ZERO,
            watch: false,
            handover_deadline: Duration::ZERO,
            keep_alive: Duration::ZERO,
            fast_lane: true,
        }
    }

    #[track_caller]
    fn check(uri: &str, headers: &[(&str, &str)], expected: bool) {
        let mut request = http::Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (head, ()) = request.body(()).expect("a request").into_parts();
        let authority = head.uri.authority().map(http::uri::Authority::as_str);
        let guard = OriginGuard::new(&config("127.0.0.1:12009"));
        assert_eq!(
            guard.check(&Fields::from_map(&head.headers), authority).is_ok(),
            expected,
            "{uri} {headers:?}"
        );
    }

    #[test]
    fn hosts() {
        for host in ["localhost", "localhost:12009", "127.0.0.1", "[::1]:1", "LOCALHOST", "gateway.example"] {
            check("/mcp", &[("host", host)], true);
        }
        for host in
            ["evil.example", "localhost.evil", "127.0.0.1:80@evil", "127.0.0.1.evil", "", "[::1", "a:b"]
        {
            check("/mcp", &[("host", host)], false);
        }
        check("/mcp", &[], false);
        check("/mcp", &[("host", "localhost"), ("host", "localhost")], false);
        check("http://localhost/mcp", &[], true);
        check("http://evil.example/mcp", &[("host", "localhost")], false);
    }

    #[test]
    fn origins() {
        let host = ("host", "localhost");
        for origin in ["http://localhost:6274", "https://127.0.0.1", "https://app.example", "http://[::1]:5"]
        {
            check("/mcp", &[host, ("origin", origin)], true);
        }
        for origin in [
            "null",
            "http://evil.example",
            "http://localhost.evil",
            "http://app.example",
            "file://",
            "localhost",
        ] {
            check("/mcp", &[host, ("origin", origin)], false);
        }
        check("/mcp", &[host, ("origin", "http://localhost"), ("origin", "http://localhost")], false);
    }
}
