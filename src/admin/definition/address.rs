//! Where a server is, as people write it.

use std::path::PathBuf;

use http::uri::PathAndQuery;
use url::Url;

use crate::upstream::Address;

/// Reads where a server is: `http://host/path`, `https://host/path` or `unix:/path/to/socket:/mcp`. The error
/// says what to write instead and never quotes the text: addresses hold passwords and tokens.
pub(crate) fn parse(text: &str) -> Result<Address, &'static str> {
    let address = match text.strip_prefix("unix:") {
        Some(rest) => unix(rest)?,
        None => url(text)?,
    };
    let (path, query) = match &address {
        Address::Http(url) | Address::Sse(url) => (url.path(), url.query()),
        Address::Unix { path, .. } => {
            path.split_once('?').map_or((&**path, None), |(path, query)| (path, Some(query)))
        }
        Address::Stdio(_) => return Err(FORM),
    };
    if query.is_some_and(|query| query.contains(HIDDEN)) || path.split('/').any(|segment| segment == HIDDEN) {
        return Err("has `...` in it, which stands for what is not shown: write the whole address");
    }
    Ok(address)
}

fn url(text: &str) -> Result<Address, &'static str> {
    // The parser would take out the one, and turn the other into a slash, and say nothing.
    if text.contains(|c: char| c.is_control() || c.is_whitespace() || c == '\\') {
        return Err("has a space, a line break or a backslash in it; leave it out, or write %20 or %5C");
    }
    let url = Url::parse(text).map_err(|_| FORM)?;
    // So would it find a host in what is none.
    let host = text.split_once("://").map(|(_, rest)| rest);
    if host.is_none_or(|host| host.starts_with('/')) {
        return Err(FORM);
    }
    if !matches!(url.scheme(), "http" | "https") {
        return Err(FORM);
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(
            "has a user name or password in it; write it as a header: headers = { Authorization = \"...\" }",
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
    Ok(Address::Http(url))
}

/// The same, where it is one of a server of the transport of 2024-11-05.
pub(crate) fn over_sse(address: Address) -> Result<Address, &'static str> {
    match address {
        Address::Http(url) | Address::Sse(url) => Ok(Address::Sse(url)),
        Address::Unix { .. } | Address::Stdio(_) => {
            Err("is no address of an sse server; write http://host/sse or https://host/sse")
        }
    }
}

/// An address to be shown: without its query and without long path segments, since hosted servers put their
/// tokens into either.
pub(crate) fn shown(address: &Address) -> String {
    match address {
        Address::Http(url) => shown_url(url),
        Address::Sse(url) => format!("sse:{}", shown_url(url)),
        Address::Unix { socket, path } => {
            let (path, query) = match path.split_once('?') {
                Some((path, _)) => (path, format!("?{HIDDEN}")),
                None => (path.as_str(), String::new()),
            };
            format!("unix:{}:{}{query}", socket.display(), shown_path(path))
        }
        // Its arguments may be tokens.
        Address::Stdio(program) => format!("stdio:{}", program.command),
    }
}

/// An address as it is, to be read again by [`parse`]. It may hold tokens.
pub(crate) fn whole(address: &Address) -> String {
    match address {
        Address::Http(url) | Address::Sse(url) => url.as_str().to_owned(),
        Address::Unix { socket, path } => format!("unix:{}:{path}", socket.display()),
        // Defined by members of their own, never by an address.
        Address::Stdio(_) => shown(address),
    }
}

fn shown_url(url: &Url) -> String {
    let origin = url.origin().ascii_serialization();
    let query = url.query().map_or(String::new(), |_| format!("?{HIDDEN}"));
    format!("{origin}{}{query}", shown_path(url.path()))
}

fn shown_path(path: &str) -> String {
    let segment = |segment| if str::len(segment) > SHOWN_SEGMENT_BYTES_MAX { HIDDEN } else { segment };
    path.split('/').map(segment).collect::<Vec<_>>().join("/")
}

fn unix(rest: &str) -> Result<Address, &'static str> {
    let (socket, path) = match rest.split_once(":/") {
        Some((socket, path)) => (socket, format!("/{path}")),
        None => (rest, "/mcp".to_owned()),
    };
    if !socket.starts_with('/') || socket.ends_with('/') || socket.contains(char::is_control) {
        return Err("names no socket; write its absolute path: unix:/run/server.sock:/mcp");
    }
    if socket.len() > SOCKET_BYTES_MAX {
        return Err("has a socket path of more than 107 bytes, which no system takes; move the socket");
    }
    if path.len() > URL_BYTES_MAX || path.contains('#') || path.parse::<PathAndQuery>().is_err() {
        return Err("has no request path after the socket; write unix:/run/server.sock:/mcp");
    }
    Ok(Address::Unix { socket: PathBuf::from(socket), path })
}

const FORM: &str =
    "is not an address; write http://host/path, https://host/path or unix:/path/to/socket:/mcp";

/// Stands for what is not shown.
const HIDDEN: &str = "...";

/// `sockaddr_un` has 108 bytes, the last one zero.
const SOCKET_BYTES_MAX: usize = 107;

/// The request line must fit into what servers take for a head, usually 8 KiB.
const URL_BYTES_MAX: usize = 8 << 10;

/// Words are shorter, tokens are longer.
const SHOWN_SEGMENT_BYTES_MAX: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<&str, &str>) {
        match (parse(text).map(|address| shown(&address)), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{text}"),
            (Err(found), Err(expected)) => assert!(found.contains(expected), "{text}: {found}"),
            (found, _) => panic!("{text}: {found:?}"),
        }
    }

    #[test]
    fn takes() {
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
    fn of_sse_servers() {
        let sse = |text| over_sse(parse(text).expect("an address"));
        assert_eq!(
            sse("https://a.b/sse?key=hidden").map(|address| shown(&address)),
            Ok("sse:https://a.b/sse?...".into())
        );
        assert!(sse("unix:/run/x.sock:/sse").is_err());
    }

    #[test]
    fn refuses() {
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
        // What was shown is no address.
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
