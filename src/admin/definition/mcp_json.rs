//! `mcp.json`: the de-facto file of MCP clients, taken as it is. Claude Desktop, Claude Code and Cursor write
//! `mcpServers`, VS Code `servers` (in `settings.json` below `mcp`), Windsurf `serverUrl`. Keys that are not
//! known are of no concern: every client has some of its own.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::json::{self, Refused};
use crate::base::ServerName;

/// What a file says.
#[derive(Debug, Default)]
pub struct McpJson {
    /// What is wrong with the file as a whole.
    pub mistakes: Vec<Mistake>,
    /// Every server of it, in the order written.
    pub entries: Vec<Entry>,
}

/// One server as the file has it.
#[derive(Debug)]
pub struct Entry {
    /// As written.
    pub name: String,
    /// Where it stands: the keys that lead to it, its own the last one.
    pub path: Vec<String>,
    /// What it is, or everything that is wrong with it.
    pub kind: Result<Kind, Vec<Mistake>>,
    /// What of it is taken otherwise than written, or not at all.
    pub notices: Vec<Mistake>,
}

/// Something that cannot be taken; says what to write instead, and never quotes a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Where, when it is known by line only.
    pub line: Option<usize>,
    /// Where: the keys that lead to it.
    pub path: Vec<String>,
    /// What is wrong.
    pub text: String,
}

/// What can be done with an entry.
#[derive(Debug, PartialEq, Eq)]
pub enum Kind {
    /// A server to be reached over HTTP.
    Http {
        /// As written, variables not yet put in.
        url: String,
        /// Names and values as written.
        headers: Vec<(String, String)>,
        /// Which of the two transports of HTTP.
        transport: Transport,
    },
    /// A program.
    Stdio {
        /// As written, as all of it.
        command: String,
        /// Its arguments.
        args: Vec<String>,
        /// Names and values of variables.
        env: Vec<(String, String)>,
        /// Its working directory.
        cwd: Option<String>,
    },
    /// Left out, and why.
    Skip(&'static str),
}

/// How a server at a URL is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Nobody said. Streamable HTTP, and the other where it does not know that.
    Unsaid,
    /// Streamable HTTP.
    Streamable,
    /// That of 2024-11-05.
    Sse,
}

/// The members of an object in the order written, duplicates included: a map would keep the last of two
/// servers of one name, silently.
struct Members(Vec<(String, Box<RawValue>)>);

/// Every server of the file. Mistakes in one do not hide the others.
pub fn parse(text: &str) -> McpJson {
    let mut file = McpJson::default();
    let text = strip(text);
    let members = match serde_json::from_str::<Members>(&text) {
        Ok(Members(members)) => members,
        Err(error) => {
            let line = Some(error.line()).filter(|line| *line > 0);
            // Without the error's own text, which quotes what it found.
            let text = "is not a JSON object: {\"mcpServers\": {...}}".into();
            file.mistakes.push(Mistake { line, path: Vec::new(), text });
            return file;
        }
    };
    let mut found = false;
    for (key, value) in &members {
        match key.as_str() {
            "mcpServers" | "servers" => {
                found = true;
                file.read_servers(value, &[key]);
            }
            "mcp" => {
                let inner = serde_json::from_str(value.get()).unwrap_or(Members(Vec::new()));
                for (_, value) in inner.0.iter().filter(|(key, _)| key == "servers") {
                    found = true;
                    file.read_servers(value, &["mcp", "servers"]);
                }
            }
            _ => {}
        }
    }
    if !found {
        let text =
            "has neither mcpServers nor servers; write {\"mcpServers\": {\"name\": {\"url\": \"...\"}}}";
        file.mistakes.push(mistake(&[], text));
    }
    file
}

impl McpJson {
    fn read_servers(&mut self, value: &RawValue, path: &[&str]) {
        let Ok(Members(members)) = serde_json::from_str(value.get()) else {
            let text = "is not an object; write {\"name\": {\"url\": \"...\"}}";
            return self.mistakes.push(mistake(path, text));
        };
        for (name, value) in members {
            let path = [path, &[&name]].concat();
            let mut notices = Vec::new();
            let kind = match json::read(value.get().as_bytes()) {
                Ok(Value::Object(fields)) => {
                    notices = noticed(&fields, &path);
                    kind(&fields, &path)
                }
                Ok(_) => wrong(&path, "is not an object; write {\"url\": \"...\"}"),
                Err(Refused::Twice(below)) => {
                    let below = below.iter().map(String::as_str);
                    wrong(&path.iter().copied().chain(below).collect::<Vec<_>>(), "is there twice")
                }
                Err(Refused::Malformed { .. }) => {
                    wrong(&path, "cannot be read: nested too deep, or a number too large")
                }
            };
            let path = path.into_iter().map(str::to_owned).collect();
            self.entries.push(Entry { name: name.clone(), path, kind, notices });
        }
    }
}

type Fields = serde_json::Map<String, Value>;

fn kind(fields: &Fields, path: &[&str]) -> Result<Kind, Vec<Mistake>> {
    if fields.get("disabled") == Some(&Value::Bool(true))
        || fields.get("enabled") == Some(&Value::Bool(false))
    {
        return Ok(Kind::Skip("it is disabled"));
    }
    let below = |key| [path, &[key]].concat();
    let url =
        ["url", "serverUrl", "httpUrl"].into_iter().find_map(|key| fields.get(key).map(|url| (key, url)));
    let command = fields.contains_key("command");
    let means = match ["type", "transport"].into_iter().find_map(|key| fields.get(key).map(|v| (key, v))) {
        Some((key, value)) => match means_of(value) {
            Some(means) => means,
            None => return wrong(&below(key), TRANSPORT_FORM),
        },
        None if url.is_some() && command => {
            return wrong(path, "has both command and url; say which with type: \"http\" or \"stdio\"");
        }
        None if command => Means::Stdio,
        None => Means::Http(Transport::Unsaid),
    };
    match (means, url) {
        (Means::Stdio, _) => program(fields, path),
        (Means::Http(transport), Some((_, Value::String(url)))) => {
            Ok(Kind::Http { url: url.clone(), headers: texts(fields, "headers", path)?, transport })
        }
        (Means::Http(_), Some((key, _))) => wrong(&below(key), "is not a text"),
        (Means::Http(_), None) => wrong(path, "says nothing of where it is; write \"url\": \"http://...\""),
    }
}

/// What clients do with it and is not done here, or what they make of what is no text.
fn noticed(fields: &Fields, path: &[&str]) -> Vec<Mistake> {
    let mut notices = Vec::new();
    if fields.get("envFile").is_some_and(|file| !file.is_null()) {
        notices.push(mistake(&[path, &["envFile"]].concat(), ENV_FILE));
    }
    let is_plain = |value: &Value| value.is_number() || value.is_boolean();
    if fields.get("args").and_then(Value::as_array).is_some_and(|args| args.iter().any(is_plain)) {
        notices.push(mistake(&[path, &["args"]].concat(), NO_TEXT));
    }
    for (name, value) in fields.get("env").and_then(Value::as_object).into_iter().flatten() {
        if is_plain(value) {
            notices.push(mistake(&[path, &["env", name]].concat(), NO_TEXT));
        }
    }
    notices
}

/// A word of a command line, also where it is written as a number: clients pass it on as text.
fn word(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        _ => None,
    }
}

/// What every client means by these four.
fn program(fields: &Fields, path: &[&str]) -> Result<Kind, Vec<Mistake>> {
    let mut mistakes = Vec::new();
    let mut text = |key: &str| match fields.get(key) {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text.clone()),
        Some(_) => {
            mistakes.push(mistake(&[path, &[key]].concat(), "is not a text"));
            None
        }
    };
    let (command, cwd) = (text("command"), text("cwd"));
    let args = match fields.get("args") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(items)) if items.iter().all(|item| word(item).is_some()) => {
            items.iter().filter_map(word).collect()
        }
        Some(_) => {
            mistakes.push(mistake(&[path, &["args"]].concat(), "is not a list of texts; write [\"...\"]"));
            Vec::new()
        }
    };
    let env = texts(fields, "env", path).unwrap_or_else(|found| {
        mistakes.extend(found);
        Vec::new()
    });
    if !mistakes.is_empty() {
        return Err(mistakes);
    }
    match command {
        Some(command) => Ok(Kind::Stdio { command, args, env, cwd }),
        None => wrong(path, "says nothing of what to run; write \"command\": \"npx\""),
    }
}

#[derive(Clone, Copy)]
enum Means {
    Http(Transport),
    Stdio,
}

/// The names that clients have for the transports, in any case, with or without separators.
fn means_of(value: &Value) -> Option<Means> {
    let plain = |c: &char| !matches!(c, '-' | '_' | ' ');
    let word: String =
        value.as_str()?.chars().filter(plain).take(32).collect::<String>().to_ascii_lowercase();
    match word.as_str() {
        "http" | "https" | "streamablehttp" | "streaminghttp" | "remote" => {
            Some(Means::Http(Transport::Streamable))
        }
        "sse" | "httpsse" => Some(Means::Http(Transport::Sse)),
        "stdio" | "std" | "local" | "command" => Some(Means::Stdio),
        _ => None,
    }
}

/// An object of texts. Clients take numbers and flags for variables, and write them as texts.
fn texts(fields: &Fields, key: &str, path: &[&str]) -> Result<Vec<(String, String)>, Vec<Mistake>> {
    let path = [path, &[key]].concat();
    match fields.get(key) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Object(members)) => {
            let (mut read, mut mistakes) = (Vec::new(), Vec::new());
            for (name, value) in members {
                let is_same = |other: &(String, String)| other.0.eq_ignore_ascii_case(name);
                match value {
                    Value::String(_) if key == "headers" && read.iter().any(is_same) => {
                        let text =
                            "is there twice: header names do not differ by case; leave one of them out";
                        mistakes.push(mistake(&[&path[..], &[name]].concat(), text));
                    }
                    Value::String(value) => read.push((name.clone(), value.clone())),
                    Value::Number(_) | Value::Bool(_) if key == "env" => {
                        read.push((name.clone(), value.to_string()));
                    }
                    _ => mistakes.push(mistake(&[&path[..], &[name]].concat(), "is not a text")),
                }
            }
            if mistakes.is_empty() { Ok(read) } else { Err(mistakes) }
        }
        Some(_) => wrong(&path, "is not an object of texts; write {\"Name\": \"value\"}"),
    }
}

fn mistake(path: &[&str], text: &str) -> Mistake {
    Mistake { line: None, path: path.iter().map(|&key| key.to_owned()).collect(), text: text.to_owned() }
}

fn wrong<T>(path: &[&str], text: &str) -> Result<T, Vec<Mistake>> {
    Err(vec![mistake(path, text)])
}

/// JSON without the comments and trailing commas that editors allow. What is taken out becomes spaces, so
/// that lines stay where they were; strings are left alone.
fn strip(text: &str) -> String {
    let mut bytes = text.as_bytes().to_vec();
    let mut at = 0;
    let mut comma = None;
    while at < bytes.len() {
        match (bytes[at], bytes.get(at + 1)) {
            (b'"', _) => {
                comma = None;
                at = string_end(&bytes, at);
                continue;
            }
            (b'/', Some(b'/')) => {
                let end = memchr::memchr(b'\n', &bytes[at..]).map_or(bytes.len(), |n| at + n);
                bytes[at..end].fill(b' ');
                at = end;
                continue;
            }
            (b'/', Some(b'*')) => {
                let end = memchr::memmem::find(&bytes[at + 2..], b"*/").map_or(bytes.len(), |n| at + n + 4);
                bytes[at..end].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
                at = end;
                continue;
            }
            (b',', _) => comma = Some(at),
            (b'}' | b']', _) => {
                if let Some(comma) = comma.take() {
                    bytes[comma] = b' ';
                }
            }
            (byte, _) if !byte.is_ascii_whitespace() => comma = None,
            _ => {}
        }
        at += 1;
    }
    // Only whole comments and commas were replaced, so nothing is lost here.
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Behind the closing quote of the string that begins at `start`.
fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;

        impl<'de> Visitor<'de> for InOrder {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(InOrder)
    }
}

/// As long as a server name may be (`base::ServerName`, which a test holds it to).
const NAME_BYTES_MAX: usize = 64;

const ENV_FILE: &str = "is not read; write its variables into env, or set them where metamcp is started";

const NO_TEXT: &str = "is taken as text; write it in quotes";

const TRANSPORT_FORM: &str = "is not a transport; write \"http\", \"sse\" or \"stdio\"";

/// The name under which an entry is served: its own where that is a server name; else the nearest text that
/// is one, a pure function of the name.
pub fn nearest_name(written: &str) -> String {
    let mut name = String::with_capacity(written.len().min(64));
    for c in written.chars() {
        let c = if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' };
        // One separator is as good as several, and two underscores part server from tool.
        if !(matches!(c, '-' | '_') && name.ends_with(['-', '_'])) {
            name.push(c);
        }
        if name.len() > NAME_BYTES_MAX + 1 {
            break;
        }
    }
    let name = name.trim_matches(['-', '_']);
    let name = name.get(..NAME_BYTES_MAX).unwrap_or(name).trim_end_matches(['-', '_']);
    if name.is_empty() {
        format!("server-{:08x}", crc32fast::hash(written.as_bytes()))
    } else {
        name.to_owned()
    }
}

/// The name that an entry has in the store: its own where that is a server name, else the nearest one.
pub fn stored_name(written: &str) -> String {
    if ServerName::new(written).is_ok() { written.to_owned() } else { nearest_name(written) }
}

/// An entry as a definition, to be read by [`super::Server::read`]: under its own name where that is a server name, else
/// under the nearest one.
pub fn definition(written: &str, url: &str, headers: Vec<(String, String)>, transport: Transport) -> Value {
    let name = stored_name(written);
    let headers: Fields =
        headers.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value.into())).collect();
    let kind = if transport == Transport::Sse { "sse" } else { "http" };
    json!({"name": name, "kind": kind, "url": url, "headers": headers})
}

/// The same of a program.
pub fn program_definition(
    written: &str,
    command: &str,
    args: &[String],
    env: &[(String, String)],
    cwd: Option<&str>,
) -> Value {
    let env: Fields = env.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
    json!({
        "name": stored_name(written), "kind": "stdio", "command": command, "args": args, "env": env, "cwd": cwd,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strips_comments_and_trailing_commas() {
        let check = |text: &str, expected: &str| {
            let stripped = strip(text);
            assert_eq!(stripped.len(), text.len());
            assert_eq!(stripped.split_whitespace().collect::<String>(), expected, "{text}");
        };
        check(r#"{"a": 1}"#, r#"{"a":1}"#);
        check("{\"a\": 1, // one, }\n}", r#"{"a":1}"#);
        check("{/* , */\"a\": [1, 2, /* 3 */ ], }", r#"{"a":[1,2]}"#);
        check(r#"{"a": "//no /*comment*/ ,}"}"#, r#"{"a":"//no/*comment*/,}"}"#);
        check(r#"{"a": "\"//",}"#, r#"{"a":"\"//"}"#);
        check("// ä\n{}", "{}");
        check("{} /* open", "{}");
        check("/*/", "");
        check("\"\\", "\"\\");
    }

    #[track_caller]
    fn check(text: &str, expected: &[&str]) {
        let file = parse(text);
        let ready = file.entries.iter().filter_map(|entry| match entry.kind.as_ref().ok()? {
            Kind::Http { url, headers, transport } => {
                let said = if *transport == Transport::Sse { " sse" } else { "" };
                Some(format!("{} {url} {}{said}", entry.name, headers.len()))
            }
            Kind::Stdio { command, args, env, cwd } => {
                Some(format!("{} {command} {} {} {}", entry.name, args.join(","), env.len(), cwd.is_some()))
            }
            Kind::Skip(why) => Some(format!("{} skip: {why}", entry.name)),
        });
        let mut found: Vec<String> = ready.collect();
        let of_entries = file.entries.iter().filter_map(|entry| entry.kind.as_ref().err()).flatten();
        found.extend(file.mistakes.iter().chain(of_entries).map(|mistake| {
            let line = mistake.line.map_or(String::new(), |line| format!(":{line}"));
            format!("{}{line}: {}", mistake.path.join("."), mistake.text)
        }));
        assert_eq!(found.len(), expected.len(), "{text}: {found:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.contains(expected), "{text}: {found}");
        }
    }

    #[test]
    fn no_header_is_dropped_for_another() {
        let entry = |headers: &str| {
            format!(r#"{{"mcpServers": {{"a": {{"url": "http://a", "headers": {headers}}}}}}}"#)
        };
        check(&entry(r#"{"X-A": "1", "X-B": "2"}"#), &["a http://a 2"]);
        check(&entry(r#"{"X-A": "1", "x-a": "2"}"#), &["mcpServers.a.headers.x-a: is there twice"]);
        check(&entry(r#"{"x-a": "1", "X-A": "1"}"#), &["is there twice: header names do not differ by case"]);
    }

    #[test]
    fn reads_what_clients_write() {
        // Claude Desktop, Claude Code
        check(
            r#"{"mcpServers": {"fs": {"command": "npx", "args": ["x"], "env": {"A": "b"}},
                "gh": {"type": "http", "url": "https://a/mcp", "headers": {"Authorization": "Bearer ${T}"}}}}"#,
            &["fs npx x 1 false", "gh https://a/mcp 1"],
        );
        // VS Code: comments, trailing commas, inputs
        check(
            "{\"inputs\": [{\"id\": \"k\"}], \"servers\": {\n// mine\n\"a\": {\"type\": \"http\", \"url\": \"http://a\",},},}",
            &["a http://a 0"],
        );
        check(r#"{"mcp": {"servers": {"a": {"url": "http://a"}}}}"#, &["a http://a 0"]);
        // Windsurf, Gemini
        check(r#"{"mcpServers": {"a": {"serverUrl": "http://a", "disabled": false}}}"#, &["a http://a 0"]);
        check(r#"{"mcpServers": {"a": {"httpUrl": "http://a", "timeout": 5}}}"#, &["a http://a 0"]);
        check(r#"{"mcpServers": {"a": {"url": "http://a", "disabled": true}}}"#, &["a skip: it is disabled"]);
        check(r#"{"mcpServers": {}}"#, &[]);
    }

    #[test]
    fn knows_every_name_of_a_transport() {
        for word in
            ["http", "HTTP", "streamable-http", "streamableHttp", "streamable_http", "STREAMABLE_HTTP"]
        {
            let text = format!(r#"{{"mcpServers": {{"a": {{"type": "{word}", "url": "http://a"}}}}}}"#);
            check(&text, &["a http://a 0"]);
        }
        for (word, expected) in [
            ("sse", "a http://a 0 sse"),
            ("SSE", "a http://a 0 sse"),
            ("http+sse", "transport: is not a transport"),
            ("http-sse", "a http://a 0 sse"),
            ("STDIO", "a x  0"),
            ("std", "a x  0"),
        ] {
            let text = format!(
                r#"{{"mcpServers": {{"a": {{"transport": "{word}", "url": "http://a", "command": "x"}}}}}}"#
            );
            check(&text, &[expected]);
        }
        check(r#"{"mcpServers": {"a": {"type": "stdio"}}}"#, &["a: says nothing of what to run"]);
    }

    #[test]
    fn tells_every_mistake() {
        check("", &[":1: is not a JSON object"]);
        check("{\n\n\"a\": }", &[":3: is not"]);
        check("[]", &["is not a JSON object"]);
        check("{}", &["neither mcpServers nor servers"]);
        check(r#"{"mcpServers": "hunter2"}"#, &["mcpServers: is not an object"]);
        check(
            r#"{"mcpServers": {"a": 1, "b": {}, "c": {"url": 1}, "d": {"type": "ws", "url": "http://a"},
                "e": {"url": "http://a", "command": "x"}, "i": {"headers": {"A": "1", "A": "2"}, "url": "http://a"}, "f": {"url": "http://a", "headers": {"A": 1, "B": 2}},
                "g": {"url": "http://a", "headers": []}, "ok": {"url": "http://a"},
                "h": {"command": 1, "args": ["a", []], "env": {"A": [], "B": 3, "C": true}, "cwd": {}},
                "j": {"command": "x", "args": "y", "env": []}}}"#,
            &[
                "ok http://a 0",
                "mcpServers.a: is not an object",
                "mcpServers.b: says nothing of where",
                "mcpServers.c.url: is not a text",
                "mcpServers.d.type: is not a transport",
                "mcpServers.e: has both command and url",
                "mcpServers.i.headers.A: is there twice",
                "mcpServers.f.headers.A: is not a text",
                "mcpServers.f.headers.B: is not a text",
                "mcpServers.g.headers: is not an object",
                "mcpServers.h.command: is not a text",
                "mcpServers.h.cwd: is not a text",
                "mcpServers.h.args: is not a list of texts",
                "mcpServers.h.env.A: is not a text",
                "mcpServers.j.args: is not a list of texts",
                "mcpServers.j.env: is not an object",
            ],
        );
        let deep = format!(r#"{{"mcpServers": {{"a": {}{}}}}}"#, "[".repeat(10_000), "]".repeat(10_000));
        check(&deep, &["mcpServers.a: cannot be read"]);
    }

    #[test]
    fn names() {
        let check = |written: &str, expected: &str| {
            assert_eq!(nearest_name(written), expected, "{written:?}");
            assert!(crate::base::ServerName::new(&nearest_name(written)).is_ok(), "{written:?}");
        };
        check("my server", "my-server");
        check("a__b", "a_b");
        check("_a_", "a");
        check("@scope/pkg.name", "scope-pkg-name");
        check("a _ b", "a-b");
        check("日本", "server-c7b7cdcc");
        check("", "server-00000000");
        check(&"x".repeat(100), &"x".repeat(64));
        check(&format!("{}_y", "x".repeat(63)), &"x".repeat(63));
    }
}
