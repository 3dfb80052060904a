//! What the program prints to standard output once it serves: in full at the first start, and later in one line.

use std::fs::{self, OpenOptions};
use std::io::{self, IsTerminal as _, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::startup_info::{StartupInfo, StartupKeys};

/// The file in the data directory that the first key is written to, where nobody reads standard output.
const KEY_FILE: &str = "first-key";

/// Servers named in one line. More are counted.
const NAMED_MAX: usize = 5;

/// Prints the greeting. Standard output may be closed, which is no reason to stop.
pub fn print_greeting(info: &StartupInfo) {
    let mut out = io::stdout().lock();
    let is_terminal = out.is_terminal();
    let _ = write_greeting(&mut out, info, is_terminal);
}

/// How requests are authenticated in the examples.
#[derive(Clone, Copy)]
enum Credential<'a> {
    None,
    Key(&'a str),
    /// The variable `METAMCP_KEY` of the shell.
    Variable,
}

fn write_greeting(out: &mut impl Write, info: &StartupInfo, is_terminal: bool) -> io::Result<()> {
    // What is not a terminal is often a log, which others may read. Written first: who waits for the first line finds it.
    let key_file = match &info.keys {
        StartupKeys::Created(key) if !is_terminal => write_key_file(&info.data_dir, key).ok(),
        _ => None,
    };
    write_summary(out, info)?;
    match &info.keys {
        StartupKeys::NotRequired => {
            writeln!(out, "No key is required (--no-auth): anyone on this machine can call the servers.")?;
        }
        StartupKeys::NoneActive => writeln!(
            out,
            "No API key is active, so every request is refused. Create one: keyadm keys create --name NAME"
        )?,
        StartupKeys::Created(_) | StartupKeys::Active => {}
    }
    if info.is_demo {
        writeln!(
            out,
            "No server is configured, so the gateway serves a demonstration server. To serve your own, write mcp.json or \
             metamcp.toml here: see docs/CONFIGURATION.md"
        )?;
    }
    if !info.is_first_start && !matches!(info.keys, StartupKeys::Created(_)) {
        return out.flush();
    }
    write_endpoints(out, info)?;
    let credential = match (&info.keys, &key_file) {
        (StartupKeys::NotRequired, _) => Credential::None,
        (StartupKeys::Created(_), Some(file)) => {
            let file = file.display();
            writeln!(
                out,
                "\nYour first API key is in a file that only you can read. Delete it after reading it:\n\n  \
                 METAMCP_KEY=$(cat {file})"
            )?;
            Credential::Variable
        }
        (StartupKeys::Created(key), None) => {
            writeln!(out, "\nYour first API key, shown only now and stored nowhere:\n\n  {key}")?;
            Credential::Key(key)
        }
        (StartupKeys::Active | StartupKeys::NoneActive, _) => Credential::Variable,
    };
    write_examples(out, info, credential)?;
    out.flush()
}

/// One line: the address, the servers, and where the data is.
fn write_summary(out: &mut impl Write, info: &StartupInfo) -> io::Result<()> {
    let names: Vec<_> = info.servers.iter().take(NAMED_MAX).map(ToString::to_string).collect();
    let servers = match (info.servers.len(), &names[..]) {
        (0, _) => "no servers".to_owned(),
        (1, [name]) => format!("server {name}"),
        (count, names) if count > names.len() => format!("{count} servers: {}, ...", names.join(", ")),
        (count, names) => format!("{count} servers: {}", names.join(", ")),
    };
    let StartupInfo { url, data_dir, database, .. } = info;
    writeln!(
        out,
        "metamcp {} listens on {url} ({servers}; data in {}; database: {database})",
        env!("CARGO_PKG_VERSION"),
        data_dir.display()
    )
}

fn write_endpoints(out: &mut impl Write, info: &StartupInfo) -> io::Result<()> {
    let url = &info.url;
    writeln!(out)?;
    for (name, servers) in &info.endpoints {
        let path = if name.as_str() == "default" { String::new() } else { format!("/{name}") };
        let servers: Vec<_> = servers.iter().map(ToString::to_string).collect();
        writeln!(out, "  {url}/mcp{path}  ->  {}", servers.join(", "))?;
    }
    for server in &info.servers {
        writeln!(out, "  {url}/servers/{server}/mcp")?;
    }
    Ok(())
}

/// Writes the key to a file that only its owner can read, and returns the file's path.
fn write_key_file(data_dir: &Path, key: &str) -> io::Result<PathBuf> {
    let path = data_dir.join(KEY_FILE);
    // Of an earlier installation in the same directory. It may have another mode.
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    writeln!(file, "{key}")?;
    file.sync_all()?;
    Ok(path)
}

/// Writes a request that every server answers, and how to add the gateway to clients.
fn write_examples(out: &mut impl Write, info: &StartupInfo, credential: Credential<'_>) -> io::Result<()> {
    let url = &info.url;
    // A shell expands a variable between double quotes only.
    let header = match credential {
        Credential::None => None,
        Credential::Key(key) => Some(format!("'Authorization: Bearer {key}'")),
        Credential::Variable => Some("\"Authorization: Bearer $METAMCP_KEY\"".to_owned()),
    };
    let curl_header = header.as_ref().map_or(String::new(), |header| format!("\n    -H {header} \\"));
    let meta = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#;
    writeln!(
        out,
        "\nTry it:\n\n  curl -sS {url}/mcp \\{curl_header}\n    -H 'Content-Type: application/json' \\\n    \
         -H 'Accept: application/json, text/event-stream' \\\n    -H 'MCP-Protocol-Version: 2026-07-28' \\\n    \
         -H 'Mcp-Method: tools/list' \\\n    \
         -d '{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/list\",\"params\":{{{meta}}}}}'"
    )?;
    let claude_header = header.map_or(String::new(), |header| format!(" --header {header}"));
    writeln!(
        out,
        "\nFor Claude Code:\n\n  claude mcp add --transport http metamcp {url}/mcp{claude_header}"
    )?;
    let headers = match credential {
        Credential::None => String::new(),
        Credential::Key(key) => format!(",\n        \"headers\": {{ \"Authorization\": \"Bearer {key}\" }}"),
        Credential::Variable => {
            ",\n        \"headers\": { \"Authorization\": \"Bearer ${METAMCP_KEY}\" }".to_owned()
        }
    };
    writeln!(
        out,
        "\nFor an MCP client:\n\n  {{\n    \"mcpServers\": {{\n      \"metamcp\": {{\n        \"type\": \"http\",\n        \
         \"url\": \"{url}/mcp\"{headers}\n      }}\n    }}\n  }}\n"
    )
}
