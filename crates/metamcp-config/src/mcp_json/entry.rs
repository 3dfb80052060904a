//! The contents of an `mcp.json` file.

#[derive(Debug, Default)]
pub struct McpJsonFile {
    /// Errors that concern the file as a whole.
    pub errors: Vec<Diagnostic>,
    /// Parts of the file that have no effect.
    pub notices: Vec<Diagnostic>,
    /// The servers, in the order of the file.
    pub entries: Vec<McpJsonEntry>,
}

/// One server of the file.
#[derive(Debug)]
pub struct McpJsonEntry {
    /// The name as written, which need not be a valid server name.
    pub name: String,
    /// The keys that lead to the entry, ending with its own.
    pub path: Vec<String>,
    /// The server, or everything that is wrong with the entry.
    pub kind: Result<EntryKind, Vec<Diagnostic>>,
    /// Parts of the entry that are ignored, or interpreted differently from how they are written.
    pub notices: Vec<Diagnostic>,
}

/// An error or a notice about a part of the file. Says what to write instead, and never quotes a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// The line, for syntax errors.
    pub line: Option<usize>,
    /// The keys that lead to the part.
    pub path: Vec<String>,
    pub text: String,
}

impl Diagnostic {
    pub(super) fn new(path: &[&str], text: &str) -> Self {
        let path = path.iter().map(|&key| key.to_owned()).collect();
        Self { line: None, path, text: text.to_owned() }
    }
}

/// What an entry defines.
#[derive(Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A server reached over HTTP. Variable references are not expanded yet.
    Http { url: String, headers: Vec<(String, String)>, transport: HttpTransport },
    /// A program. `command` is the program alone, without arguments.
    Stdio {
        command: String,
        args: Vec<String>,
        env: Vec<(String, String)>,
        /// A file with further variables, `NAME=value` in each line. Those of `env` take precedence.
        env_file: Option<String>,
        cwd: Option<String>,
    },
    /// Nothing, for this reason.
    Skip(&'static str),
}

impl EntryKind {
    /// All values in which variables may be referred to.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        let (one, list, map) = match self {
            Self::Http { url, headers, .. } => ([Some(url), None, None], &[][..], &headers[..]),
            Self::Stdio { command, args, env, env_file, cwd } => {
                ([Some(command), env_file.as_ref(), cwd.as_ref()], &args[..], &env[..])
            }
            Self::Skip(_) => ([None; 3], &[][..], &[][..]),
        };
        let one = one.into_iter().flatten().chain(list);
        one.chain(map.iter().map(|(_, value)| value)).map(String::as_str)
    }
}

/// The transport of a server reached over HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpTransport {
    /// Streamable HTTP, with a fallback to HTTP+SSE if the server does not support it.
    Unspecified,
    Streamable,
    /// The HTTP+SSE transport of MCP 2024-11-05.
    Sse,
}
