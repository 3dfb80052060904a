//! What the program prints to standard output once it serves: in full at the first start, and later in one line.

use std::borrow::Cow;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use super::first_key::FirstKey;
use super::startup_info::{StartupInfo, StartupKeys};

/// Servers named in one line. More are counted.
const NAMED_MAX: usize = 5;

/// Prints the greeting. Standard output may be closed, which is no reason to stop.
pub fn print_greeting(info: &StartupInfo) {
    let _ = write_greeting(&mut io::stdout().lock(), info);
}

/// How requests are authenticated in the examples.
#[derive(Clone, Copy)]
enum Credential<'a> {
    None,
    Key(&'a str),
    /// The variable `METAMCP_KEY` of the shell.
    Variable,
}

fn write_greeting(out: &mut impl Write, info: &StartupInfo) -> io::Result<()> {
    write_summary(out, info)?;
    match &info.keys {
        StartupKeys::NotRequired => {
            writeln!(out, "No key is required (--no-auth): anyone on this machine can call the servers.")?;
        }
        StartupKeys::NoneActive => {
            write!(out, "No API key is active, so every request is refused. Create one: ")?;
            write_create_command(out, info)?;
        }
        StartupKeys::NotCreated(key) => {
            write!(
                out,
                "No API key was created, because {} cannot be written ({}), so every request is refused. Start the gateway \
                 again when it can be written, or create a key: ",
                key.path.display(),
                key.source
            )?;
            write_create_command(out, info)?;
        }
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
    let credential = match &info.keys {
        StartupKeys::NotRequired => Credential::None,
        StartupKeys::Created(FirstKey::File(file)) => {
            write!(
                out,
                "\nYour first API key is in a file that only you can read. Delete it after reading it:\n\n  \
                 export METAMCP_KEY=\"$(cat "
            )?;
            out.write_all(&quote(file))?;
            writeln!(out, ")\"")?;
            Credential::Variable
        }
        StartupKeys::Created(FirstKey::Printed(key)) => {
            writeln!(out, "\nYour first API key, shown only now and stored nowhere:\n\n  {key}")?;
            Credential::Key(key)
        }
        StartupKeys::NotCreated(_) | StartupKeys::Active | StartupKeys::NoneActive => Credential::Variable,
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

/// The command that creates a key in this installation.
fn write_create_command(out: &mut impl Write, info: &StartupInfo) -> io::Result<()> {
    write!(out, "keyadm keys create --name NAME")?;
    // keyadm finds a database server as the gateway does, and the data directory only by its default.
    if info.is_embedded_database {
        write!(out, " --data-dir ")?;
        out.write_all(&quote(&info.data_dir))?;
    }
    writeln!(out)
}

/// The absolute form of a path, quoted for a shell: nothing in it is expanded, in whatever directory it is pasted.
fn quote(path: &Path) -> Vec<u8> {
    let path = std::path::absolute(path).map_or(Cow::Borrowed(path), Cow::Owned);
    let mut quoted = vec![b'\''];
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'\'' => quoted.extend_from_slice(br"'\''"),
            byte => quoted.push(*byte),
        }
    }
    quoted.push(b'\'');
    quoted
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

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::path::PathBuf;
    use std::process::Command;

    use super::super::first_key::UndeliverableKey;
    use super::*;

    const KEY: &str = "mcp_the_first_key";

    fn greeting(keys: StartupKeys, data_dir: &Path) -> Vec<u8> {
        let mut out = Vec::new();
        let info = StartupInfo {
            url: "http://127.0.0.1:12009".into(),
            keys,
            is_first_start: true,
            data_dir: data_dir.to_owned(),
            database: "SQLite".into(),
            is_embedded_database: true,
            servers: Vec::new(),
            endpoints: Vec::new(),
            is_demo: false,
        };
        write_greeting(&mut out, &info).unwrap();
        out
    }

    #[track_caller]
    fn check(keys: StartupKeys, expected: &[&str], unexpected: &[&str]) {
        let text = String::from_utf8(greeting(keys, Path::new("/data"))).unwrap();
        for expected in expected {
            assert!(text.contains(expected), "{expected:?} is not in {text}");
        }
        for unexpected in unexpected {
            assert!(!text.contains(unexpected), "{unexpected:?} is in {text}");
        }
    }

    #[test]
    fn the_greeting_says_where_the_key_is() {
        let printed = FirstKey::Printed(KEY.into());
        check(
            StartupKeys::Created(printed),
            &[KEY, "'Authorization: Bearer mcp_the_first_key'"],
            &["METAMCP_KEY"],
        );
        let file = FirstKey::File("/data/first-key".into());
        let variable = "\"Authorization: Bearer $METAMCP_KEY\"";
        check(
            StartupKeys::Created(file),
            &["export METAMCP_KEY=\"$(cat '/data/first-key')\"\n", variable],
            &[KEY],
        );
        let source = io::ErrorKind::StorageFull.into();
        let undeliverable = UndeliverableKey { path: "/data/first-key".into(), source };
        check(
            StartupKeys::NotCreated(undeliverable),
            &[
                "because /data/first-key cannot be written (no storage space)",
                "keyadm keys create --name NAME --data-dir '/data'\n",
            ],
            &["METAMCP_KEY=", KEY],
        );
        check(
            StartupKeys::NoneActive,
            &["keyadm keys create --name NAME --data-dir '/data'\n"],
            &["METAMCP_KEY="],
        );
        check(StartupKeys::Active, &[variable], &["METAMCP_KEY=", "keyadm"]);
        check(StartupKeys::NotRequired, &["No key is required"], &["METAMCP_KEY", "Authorization"]);
    }

    /// Whatever the name of the directory, a shell reads the file.
    #[test]
    fn the_command_can_be_pasted() {
        let parent = std::env::temp_dir().join(format!("metamcp-greeting-{}", std::process::id()));
        let names: [&[u8]; 6] =
            [b"plain", b"two words", b"it's $HOME `id` \"x\" !*", b"-n", b"a\\b\nc;d", b"\xff"];
        for name in names {
            let dir = parent.join(OsStr::from_bytes(name));
            std::fs::create_dir_all(&dir).unwrap();
            let file = dir.join("first-key");
            std::fs::write(&file, format!("{KEY}\n")).unwrap();
            let text = greeting(StartupKeys::Created(FirstKey::File(file)), &dir);
            let start = text.windows(7).position(|window| window == b"export ").unwrap();
            let end = text.windows(7).position(|window| window == b"\nTry it").unwrap();
            let script = [&text[start..end], b"printenv METAMCP_KEY"].concat();
            let output = Command::new("sh").arg("-c").arg(OsStr::from_bytes(&script)).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{KEY}\n"), "{dir:?}: {output:?}");
        }
        std::fs::remove_dir_all(parent).unwrap();
    }

    #[test]
    fn a_relative_directory_is_quoted_in_full() {
        let relative = PathBuf::from("data");
        let expected = format!("'{}'", std::env::current_dir().unwrap().join("data").display());
        assert_eq!(quote(&relative), expected.as_bytes());
    }
}
