//! Server addresses in text form: parsing, and formatting for display.

use std::path::PathBuf;

use http::uri::PathAndQuery;
use url::Url;

use super::config::ServerAddress;

/// Parses `http://host/path`, `https://host/path` or `unix:/path/to/socket:/mcp`. The error says what to
/// write instead and never quotes the text, because addresses may contain passwords and tokens.
pub fn parse(text: &str) -> Result<ServerAddress, &'static str> {
    let address = match text.strip_prefix("unix:") {
        Some(rest) => parse_unix(rest)?,
        None => parse_url(text)?,
    };
    let (path, query) = match &address {
        ServerAddress::Http(url) | ServerAddress::Sse(url) => (url.path(), url.query()),
        ServerAddress::Unix { path, .. } => {
            path.split_once('?').map_or((&**path, None), |(path, query)| (path, Some(query)))
        }
        ServerAddress::Stdio(_) => return Err(EXPECTED_FORM),
    };
    if query.is_some_and(|query| query.contains(REDACTED))
        || path.split('/').any(|segment| segment == REDACTED)
    {
        return Err("contains `...`, which stands for redacted text: write the whole address");
    }
    Ok(address)
}

fn parse_url(text: &str) -> Result<ServerAddress, &'static str> {
    // `Url::parse` would silently remove control characters and turn a backslash into a slash.
    if text.contains(|c: char| c.is_control() || c.is_whitespace() || c == '\\') {
        return Err("contains a space, a line break or a backslash; remove it, or write %20 or %5C");
    }
    let url = Url::parse(text).map_err(|_| EXPECTED_FORM)?;
    // `Url::parse` would take the first path segment of `http:///x` as the host.
    let host = text.split_once("://").map(|(_, rest)| rest);
    if host.is_none_or(|host| host.starts_with('/')) {
        return Err(EXPECTED_FORM);
    }
    if !matches!(url.scheme(), "http" | "https") {
        return Err(EXPECTED_FORM);
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(
            "contains a user name or password; write it as a header: headers = { Authorization = \"...\" }",
        );
    }
    if url.fragment().is_some() {
        return Err("has a fragment (#...), which is never sent; leave it out");
    }
    if url.port() == Some(0) {
        return Err("has port 0; write the port that the server listens on");
    }
    if text.len() > URL_BYTES_MAX {
        return Err("is longer than 8 KiB");
    }
    Ok(ServerAddress::Http(url))
}

/// Turns an HTTP address into that of a server with the HTTP+SSE transport of 2024-11-05.
pub fn into_sse(address: ServerAddress) -> Result<ServerAddress, &'static str> {
    match address {
        ServerAddress::Http(url) | ServerAddress::Sse(url) => Ok(ServerAddress::Sse(url)),
        ServerAddress::Unix { .. } | ServerAddress::Stdio(_) => {
            Err("is not the address of an sse server; write http://host/sse or https://host/sse")
        }
    }
}

/// Formats an address for display, without its query and long path segments: hosted servers put tokens into
/// either.
pub fn format_redacted(address: &ServerAddress) -> String {
    match address {
        ServerAddress::Http(url) => redact_url(url),
        ServerAddress::Sse(url) => format!("sse:{}", redact_url(url)),
        ServerAddress::Unix { socket, path } => {
            let (path, query) = match path.split_once('?') {
                Some((path, _)) => (path, format!("?{REDACTED}")),
                None => (path.as_str(), String::new()),
            };
            format!("unix:{}:{}{query}", socket.display(), redact_path(path))
        }
        // The arguments are left out, as they may be tokens.
        ServerAddress::Stdio(program) => format!("stdio:{}", program.command),
    }
}

/// Formats an address so that [`parse`] can read it again. It may contain tokens.
pub fn format_full(address: &ServerAddress) -> String {
    match address {
        ServerAddress::Http(url) | ServerAddress::Sse(url) => url.as_str().to_owned(),
        ServerAddress::Unix { socket, path } => format!("unix:{}:{path}", socket.display()),
        // A `stdio` server is defined by members of its own, never by an address.
        ServerAddress::Stdio(_) => format_redacted(address),
    }
}

fn redact_url(url: &Url) -> String {
    let origin = url.origin().ascii_serialization();
    let query = url.query().map_or(String::new(), |_| format!("?{REDACTED}"));
    format!("{origin}{}{query}", redact_path(url.path()))
}

fn redact_path(path: &str) -> String {
    let segment = |segment| if str::len(segment) > PLAIN_SEGMENT_BYTES_MAX { REDACTED } else { segment };
    path.split('/').map(segment).collect::<Vec<_>>().join("/")
}

fn parse_unix(rest: &str) -> Result<ServerAddress, &'static str> {
    let (socket, path) = match rest.split_once(":/") {
        Some((socket, path)) => (socket, format!("/{path}")),
        None => (rest, "/mcp".to_owned()),
    };
    if !socket.starts_with('/') || socket.ends_with('/') || socket.contains(char::is_control) {
        return Err("names no socket; write its absolute path: unix:/run/server.sock:/mcp");
    }
    if socket.len() > SOCKET_BYTES_MAX {
        return Err("has a socket path of more than 107 bytes, the limit of the system; move the socket");
    }
    if path.len() > URL_BYTES_MAX || path.contains('#') || path.parse::<PathAndQuery>().is_err() {
        return Err("has no request path after the socket; write unix:/run/server.sock:/mcp");
    }
    Ok(ServerAddress::Unix { socket: PathBuf::from(socket), path })
}

pub const EXPECTED_FORM: &str =
    "is not an address; write http://host/path, https://host/path or unix:/path/to/socket:/mcp";

/// Stands in for a redacted part of an address.
const REDACTED: &str = "...";

/// `sockaddr_un` has 108 bytes, including the terminating zero.
const SOCKET_BYTES_MAX: usize = 107;

/// The request line must fit into what servers accept as a head, usually 8 KiB.
const URL_BYTES_MAX: usize = 8 << 10;

/// Path segments that are words are shorter; tokens are longer.
const PLAIN_SEGMENT_BYTES_MAX: usize = 20;

/// An SSE server uses the HTTP+SSE transport of 2024-11-05, which predates the Modern era.
pub const MODERN_OVER_SSE: &str = "is not available over sse; leave it out";

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<&str, &str>) {
        match (parse(text).map(|address| format_redacted(&address)), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{text}"),
            (Err(found), Err(expected)) => assert!(found.contains(expected), "{text}: {found}"),
            (found, _) => panic!("{text}: {found:?}"),
        }
    }

    #[test]
    fn accepts() {
        check("http://localhost:3000/mcp", Ok("http://localhost:3000/mcp"));
        check("https://example.com", Ok("https://example.com/"));
        check("HTTPS://EXAMPLE.com:443/a", Ok("https://example.com/a"));
        check("http://[::1]:8080/", Ok("http://[::1]:8080/"));
        check("https://a.b/s/0123456789abcdef01234567/mcp", Ok("https://a.b/s/.../mcp"));
        check("https://a.b/v1...2/mcp?a=..", Ok("https://a.b/v1...2/mcp?..."));
        check("https://a.b/mcp?key=hidden", Ok("https://a.b/mcp?..."));
        check("unix:/run/x.sock:/mcp", Ok("unix:/run/x.sock:/mcp"));
        check("unix:/run/x.sock", Ok("unix:/run/x.sock:/mcp"));
        check("unix:/run/x.sock:/a/b?c=hidden", Ok("unix:/run/x.sock:/a/b?..."));
    }

    #[test]
    fn addresses_of_sse_servers() {
        let sse = |text| into_sse(parse(text).expect("an address"));
        assert_eq!(
            sse("https://a.b/sse?key=hidden").map(|address| format_redacted(&address)),
            Ok("sse:https://a.b/sse?...".into())
        );
        assert!(sse("unix:/run/x.sock:/sse").is_err());
    }

    #[test]
    fn rejects() {
        check("", Err("is not an address"));
        check("localhost:3000", Err("is not an address"));
        check("ftp://a/", Err("is not an address"));
        check("http://", Err("is not an address"));
        check("http://user:secret@a/", Err("as a header"));
        check("http://user@a/", Err("as a header"));
        check("http://a/#b", Err("fragment"));
        check("http://a:0/", Err("port 0"));
        check("http://a:70000/", Err("is not an address"));
        for text in ["http:///x", "https:////x", "http:a", "http:/a/b", "http:"] {
            check(text, Err("is not an address"));
        }
        for text in [
            "http://a/\r\nb",
            "http://a/\tb",
            " http://a/",
            "http://a/\n",
            "http://a/b c",
            "http://a\\b",
            "http:\\\\a",
        ] {
            check(text, Err("write %20 or %5C"));
        }
        // A redacted address is not an address.
        for text in [
            "https://a.b/mcp?...",
            "https://a.b/mcp?...&x=1",
            "https://a.b/mcp?x=1&k=...",
            "https://a.b/s/.../mcp",
            "unix:/run/x.sock:/a/b?...",
            "unix:/x:/.../y",
        ] {
            check(text, Err("write the whole address"));
        }
        check("unix:", Err("names no socket"));
        check("unix:run/x.sock:/mcp", Err("names no socket"));
        check("unix:/run/:/mcp", Err("names no socket"));
        check("unix:/run/\u{1b}[2J:/mcp", Err("names no socket"));
        check("unix:/run/x.sock:/a b", Err("no request path"));
        check(&format!("unix:/{}:/mcp", "x".repeat(107)), Err("107 bytes"));
        check(&format!("http://a/{}", "x".repeat(8 << 10)), Err("8 KiB"));
    }

    #[test]
    fn never_quotes_the_text() {
        for text in
            ["http://u:hunter2@a/", "hunter2", "unix:hunter2", "http://a:0/hunter2", "http://a/#hunter2"]
        {
            assert!(!parse(text).unwrap_err().contains("hunter2"));
        }
    }
}
