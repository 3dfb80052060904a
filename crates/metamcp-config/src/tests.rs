use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use clap::Parser;
use proptest::prelude::*;

use super::*;
use crate::sections::AuthMode;
use crate::sections::HttpConfig;
use crate::sections::{CertificateField, ClientAction};
use crate::sections::{EndpointMembers, NamePrefix};
use crate::server::settings::{DEFAULTS, SETTINGS, SettingValues};
use crate::server::{EraChoice, ServerAddress};
use crate::server::{ProcessSettings, Program, Sharing};
use metamcp_core::base::{KeyId, units};

impl Env for BTreeMap<String, String> {
    fn var(&self, name: &str) -> Option<OsString> {
        self.get(name).map(OsString::from)
    }
}

/// An environment with only these variables.
pub(super) fn env(variables: &[(&str, &str)]) -> BTreeMap<String, String> {
    variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// A directory with these files, removed when dropped.
struct Dir(PathBuf);

impl Dir {
    fn with(files: &[(&str, &[u8])]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let unique =
            format!("metamcp-config-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(unique);
        for (name, content) in files {
            let path = dir.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Resolves a command line, variables and files of the current directory. The data directory is `data` in it.
fn run(line: &str, variables: &[(&str, &str)], files: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    let files: Vec<_> = files.iter().map(|(name, text)| (*name, text.as_bytes())).collect();
    let dir = Dir::with(&files);
    let mut variables = env(variables);
    variables.entry("METAMCP_DATA_DIR".into()).or_insert("data".into());
    let cli = Cli::try_parse_from(std::iter::once("metamcp").chain(line.split_whitespace())).unwrap();
    load(&cli, &variables, &dir.0)
}

fn toml(text: &str) -> Result<Config, ConfigErrors> {
    run("", &[], &[("metamcp.toml", text)])
}

/// Checks that each expected text is in a mistake of its own, and that there are no others.
#[track_caller]
fn check_mistakes(found: Result<Config, ConfigErrors>, expected: &[&str]) {
    let found: Vec<_> = found.unwrap_err().iter().map(ToString::to_string).collect();
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for expected in expected {
        assert!(found.iter().any(|text| text.contains(expected)), "{expected:?} is not in {found:#?}");
    }
}

#[test]
fn what_stored_programs_may_be() {
    let admin = |text: &str| run("", &[], &[("metamcp.toml", &format!("[admin]\n{text}"))]);
    let config = admin(
        "stdio_commands = ['/a', ['/b', '-y', 'x']]\nstdio_env = ['TOKEN', 'ACME_*']\nstdio_dirs = ['/srv']",
    )
    .unwrap();
    let allowed = &config.serving_policy.allowed;
    assert_eq!((allowed.commands[0].path.as_str(), &allowed.commands[0].args), ("/a", &vec![]));
    assert_eq!((allowed.commands[1].path.as_str(), allowed.commands[1].args.len()), ("/b", 2));
    assert!(allowed.check_variable("ACME_KEY").is_ok() && allowed.check_dir("/srv").is_ok());
    let told = Summary(&config).to_string();
    for said in ["may run    /a, /b ...", "may set    TOKEN, ACME_*", "may run in /srv"] {
        assert!(told.contains(said), "{told}");
    }
    let check = |text: &str, expected: &[&str]| check_mistakes(admin(text), expected);
    check(
        "stdio_commands = ['a', [], ['b', 'c'], '/a', ['/a']]",
        &["command -v npx", "command -v npx", "command -v npx", "is there twice"],
    );
    check("stdio_commands = '/a'", &["write a list"]);
    check("stdio_commands = [1, ['/a', 1]]", &["is a whole number", "is a whole number"]);
    check("stdio_env = ['*', 'a b', 'T', 'T']", &["nor a prefix", "nor a prefix", "is there twice"]);
    check("stdio_env = ['LD_PRELOAD', 'PYTHON*']", &["decides what a program loads"; 2]);
    check("stdio_dirs = ['srv']", &["is not the absolute path of a directory"]);
}

#[test]
fn nothing_written_is_a_configuration() {
    let config = run("", &[], &[]).unwrap();
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:12009");
    assert_eq!(config.auth_mode, AuthMode::Keys);
    assert!(config.servers.is_empty() && config.notices.is_empty() && config.sources.is_empty());
    assert!(config.endpoints.is_empty() && Summary(&config).to_string().contains("/mcp (prefix always)"));
    assert!(config.data_dir.is_absolute() && config.data_dir.ends_with("data"));
    assert_eq!(config.auth_timing.token_lifetime, Duration::from_mins(15));
}

/// The summary goes to a terminal and a log: a command must not control one or write lines of the other.
#[test]
fn a_summary_has_no_control_characters() {
    let mcp_json = r#"{"mcpServers": {"a": {"command": "x\u001b[31m\nserver     b"}}}"#;
    let config = run("", &[], &[("mcp.json", mcp_json)]).unwrap();
    let told = Summary(&config).to_string();
    assert!(told.chars().all(|c| c == '\n' || !c.is_control()), "{told:?}");
    assert!(told.contains(r"stdio:x\u{1b}[31m\nserver     b (era auto)"), "{told}");
}

#[test]
fn precedence() {
    let toml = ("metamcp.toml", "server.host = '127.0.0.4'\nserver.port = 4\nlog.filter = 'error'");
    let dotenv = (".env", "SERVER_HOST=127.0.0.3\nSERVER_PORT=3\nRUST_LOG=debug");
    let process: &[_] = &[("SERVER_HOST", "127.0.0.2"), ("SERVER_PORT", "2"), ("RUST_LOG", "warn")];
    let empty: &[_] = &[("SERVER_HOST", ""), ("SERVER_PORT", ""), ("RUST_LOG", "")];
    let check = |line: &str, variables: &[_], files: &[_], listen: &str, filter: &str| {
        let config = run(line, variables, files).unwrap();
        assert_eq!(config.server.listen.to_string(), listen);
        assert_eq!(config.log.filter, filter);
    };
    check("--host 127.0.0.1 --port 1", process, &[dotenv, toml], "127.0.0.1:1", "warn");
    check("--port 1", process, &[dotenv, toml], "127.0.0.2:1", "warn");
    check("", process, &[dotenv, toml], "127.0.0.2:2", "warn");
    check("", &[], &[dotenv, toml], "127.0.0.3:3", "debug");
    check("", &[], &[toml], "127.0.0.4:4", "error");
    check("", &[], &[], "127.0.0.1:12009", "info");
    check("", empty, &[toml], "127.0.0.4:4", "error");
}

#[test]
fn flags_win_over_the_file() {
    let text = "server.workers = 3\nlog.format = 'text'\nauth.mode = 'keys'";
    let config = run("--workers 5 --log-format json --no-auth", &[], &[("metamcp.toml", text)]).unwrap();
    assert_eq!(
        (config.server.workers, config.log.format, config.auth_mode),
        (5, LogFormat::Json, AuthMode::Open)
    );
    let config = toml(text).unwrap();
    assert_eq!(
        (config.server.workers, config.log.format, config.auth_mode),
        (3, LogFormat::Text, AuthMode::Keys)
    );
}

#[test]
fn looks_for_files() {
    let check = |line: &str, files: &[(&str, &str)], port: u16, servers: &[&str]| {
        let config = run(line, &[], files).unwrap();
        assert_eq!(config.server.listen.port(), port, "{line}");
        assert_eq!(config.servers.iter().map(|server| server.name.as_str()).collect::<Vec<_>>(), servers);
    };
    let here =
        [("metamcp.toml", "server.port = 1"), ("mcp.json", r#"{"mcpServers":{"a":{"url":"http://a"}}}"#)];
    let data = [
        ("data/metamcp.toml", "server.port = 2"),
        ("data/mcp.json", "\u{feff}{\"mcpServers\":{\"b\":{\"url\":\"http://b\"}}}"),
    ];
    check("", &here, 1, &["a"]);
    check("", &data, 2, &["b"]);
    check("", &[here[0], here[1], data[0], data[1]], 1, &["a"]);
    check(
        "--config data/metamcp.toml --mcp-json data/mcp.json",
        &[here[0], here[1], data[0], data[1]],
        2,
        &["b"],
    );
    check_mistakes(run("--config x --mcp-json y", &[], &[]), &["--config: ", "--mcp-json: "]);
    check_mistakes(run("--config data", &[], &data), &["cannot be read"]);
    check_mistakes(run("", &[], &[("mcp.json", &" ".repeat((1 << 20) + 1))]), &["longer than 1 MiB"]);
}

#[test]
fn finds_the_data_directory() {
    let check = |flag: Option<&str>, variables: &[(&str, &str)], expected: &str| {
        let base = load_base(flag.map(Path::new), &env(variables), Path::new("/cwd")).unwrap();
        assert_eq!(base.data_dir.as_deref(), Some(Path::new(expected)));
    };
    let all = [("METAMCP_DATA_DIR", "m"), ("XDG_DATA_HOME", "/xdg"), ("HOME", "/me")];
    check(Some("f"), &all, "/cwd/f");
    check(Some("/f"), &all, "/f");
    check(None, &all, "/cwd/m");
    check(None, &all[1..], "/xdg/metamcp");
    check(None, &[("XDG_DATA_HOME", "relative"), ("HOME", "/me")], "/me/.local/share/metamcp");
    check(None, &all[2..], "/me/.local/share/metamcp");
    assert_eq!(load_base(None, &env(&[]), Path::new("/cwd")).unwrap().data_dir, None);
    let nowhere = load(&Cli::default(), &env(&[]), Path::new("/cwd"));
    check_mistakes(nowhere, &["nothing says where data is kept"]);
}

#[test]
fn base_does_not_mind_a_broken_file() {
    let dir =
        Dir::with(&[("metamcp.toml", b"]["), (".env", b"ENCRYPTION_KEY=1:abc\nDATABASE_URL=postgres://a")]);
    let base = load_base(Some(Path::new("d")), &env(&[]), &dir.0).unwrap();
    assert_eq!(base.encryption_key.unwrap().as_str(), "1:abc");
    assert_eq!(
        base.database.unwrap().to_string(),
        format!("a ({}: DATABASE_URL)", dir.0.join(".env").display())
    );
}

#[test]
fn eight_mistakes_are_eight() {
    let text = "\
[server]
prot = 1
port = 70000
header_timeout = 5
origins = ['example.com']

[auth]
mode = 'nobody'

[servers.a]
url = 'http://user:hunter2@a/'
bearer = '${MISSING}'

[endpoints.e]
servers = ['b']
";
    check_mistakes(
        toml(text),
        &[
            "metamcp.toml:2: server.prot: is unknown; did you mean \"port\"?",
            "metamcp.toml:3: server.port: is not a port",
            "metamcp.toml:4: server.header_timeout: write a number with a unit",
            "metamcp.toml:5: server.origins: is not an origin",
            "metamcp.toml:8: auth.mode: write \"keys\" or \"none\"",
            "metamcp.toml:11: servers.a.url: contains a user name or password",
            "metamcp.toml:12: servers.a.bearer: the variable MISSING is not set",
            "metamcp.toml:15: endpoints.e.servers: names a server that is not there",
        ],
    );
    assert!(!toml(text).unwrap_err().to_string().contains("hunter2"));
}

#[test]
fn mistakes_of_all_sources_are_told_together() {
    let found = run(
        "--workers 0 --no-auth --host 0.0.0.0",
        &[
            ("SERVER_PORT", "x"),
            ("JWT_SECRET", "short"),
            ("DATABASE_URL", "mysql://u:hunter2@h"),
            ("RUST_LOG", "a=b=c"),
        ],
        &[("metamcp.toml", "a = \nb = ["), ("mcp.json", "{"), (".env", "A=1\nJWT_SECRET=hunter2 hunter2\n")],
    );
    assert!(!found.as_ref().unwrap_err().to_string().contains("hunter2"));
    check_mistakes(
        found,
        &[
            ".env:2: is not NAME=value",
            "metamcp.toml:1: is not TOML",
            "metamcp.toml:2: is not TOML",
            "mcp.json:1: is not JSON at column 1: EOF while parsing an object",
            "--workers: is out of range",
            "--no-auth: asks nobody for a key, but 0.0.0.0",
            "SERVER_PORT: is not a port",
            "JWT_SECRET: is shorter than 32 bytes",
            "DATABASE_URL: is not postgres://",
            "RUST_LOG: is not a log filter",
        ],
    );
}

/// The file may be another program's.
#[test]
fn a_dotenv_file_sets_variables_of_metamcp_and_those_that_are_referred_to() {
    let dotenv = (".env", "PATH=/theirs\nHOME=/theirs\nnot a line\nTOKEN=t\nB B=1");
    let toml = ("metamcp.toml", "[servers.a]\ncommand = '/bin/sh'\nargs = ['${TOKEN}']");
    let config = run("", &[("PATH", "/bin")], &[dotenv, toml]).unwrap();
    let crate::server::ServerAddress::Stdio(program) = &config.servers[0].address else {
        panic!("a program")
    };
    assert_eq!(
        (&program.args[..], &program.env[..]),
        (&["t".to_owned()][..], &[("PATH".into(), "/bin".into())][..])
    );
    let notices: Vec<_> = config.notices.iter().map(ToString::to_string).collect();
    assert_eq!(notices.len(), 2, "{notices:?}");
    assert!(
        notices.iter().zip([3, 5]).all(|(notice, line)| {
            notice.contains(&format!(".env:{line}: is not NAME=value, and is skipped"))
        }),
        "{notices:?}"
    );
    for own in ["SERVER_PORT=1 2", "export  METAMCP_DATA_DIR=a b", "OTEL_SERVICE_NAME='"] {
        check_mistakes(run("", &[], &[(".env", own)]), &[".env:1: is not NAME=value; quote"]);
    }
}

#[test]
fn no_auth_needs_loopback() {
    for host in ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"] {
        assert_eq!(
            run(&format!("--no-auth --host {host}"), &[], &[]).unwrap().auth_mode,
            AuthMode::Open,
            "{host}"
        );
    }
    for host in ["0.0.0.0", "::", "192.168.1.1"] {
        assert!(run(&format!("--no-auth --host {host}"), &[], &[]).is_err(), "{host}");
        assert!(toml(&format!("auth.mode = 'none'\nserver.host = '{host}'")).is_err(), "{host}");
    }
}

#[test]
fn single_mistakes() {
    let check = |text: &str, expected: &str| check_mistakes(toml(text), &[expected]);
    check("server = 1", "server: is a whole number; write a table: [server]");
    check("server.workers = 0", "out of range; write 1 to 1024");
    check("server.workers = '4'", "is a text; write a whole number");
    check("server.body_bytes_max = '4MB'", "write bytes as a number");
    check("server.body_bytes_max = -1", "out of range; write 1KiB to 1GiB");
    check("server.idle_timeout = '0s'", "out of range; write 100ms to 1d");
    check("server.hosts = ['https://a']", "is not a host name");
    check("server.hosts = ['a', 'A']", "is there twice");
    check("server.hosts = 'a'", "is a text; write a list");
    check("server.origins = ['*']", "is not an origin");
    check("server.origins = ['https://a/b']", "is not an origin");
    check("server.tls = {}", "server.tls: has no cert");
    check(
        "server.tls = { cert = 'no.pem', key = 'metamcp.toml' }",
        "metamcp.toml:1: server.tls.cert: cannot be read",
    );
    // Every path of a file that is there.
    let tls = |more: &str| format!("[server.tls]\ncert = 'metamcp.toml'\nkey = 'metamcp.toml'\n{more}");
    let clients = |rule: &str| tls(&format!("client_ca = 'metamcp.toml'\n[[server.tls.clients]]\n{rule}"));
    check(&tls("client_ca = 'no.pem'"), "metamcp.toml:4: server.tls.client_ca: cannot be read");
    check(&tls("client_crl = 'metamcp.toml'"), "server.tls.client_crl: has no effect without client_ca");
    check(&tls("client_auth = 'optional'"), "server.tls.client_auth: has no effect without client_ca");
    check(&tls("clients = []"), "server.tls.clients: has no effect without client_ca");
    check(&tls("client_ca = 'metamcp.toml'\nclient_auth = 'no'"), "write \"required\" or \"optional\"");
    check(&tls("client_ca = 'metamcp.toml'\nclients = 1"), "write tables: [[server.tls.clients]]");
    check(&tls("client_ca = 'metamcp.toml'\nclients = [1]"), "write a table: [[server.tls.clients]]");
    check(&clients("deny = true"), "names no part of a certificate, or several");
    check(&clients("dns = 'a'\nuri = 'b'\ndeny = true"), "names no part of a certificate, or several");
    check(&clients("dns = 'a'"), "metamcp.toml:5: server.tls.clients: says nothing, or two things");
    check(&clients("dns = 'a'\nkey = 'AAAAAAAAAAAA'\ndeny = true"), "says nothing, or two things");
    check(&clients("dns = 'a'\nkey = 'mcp_x'"), "server.tls.clients.key: is not the id of an API key");
    check(&clients("dns = 'a b'\ndeny = true"), "server.tls.clients.dns: is not a pattern");
    check(
        &clients("subject = 'a'\ndns = 'a'\ndeny = true"),
        "known here: common_name, deny, dns, email, key, uri",
    );
    check("session.lifetime = '1m'\nsession.idle_timeout = '2m'", "is longer than session.lifetime");
    check("session.resume_stream_bytes_max = '128MiB'", "is more than session.resume_bytes_max");
    check("session.resume_bytes_max = '1KiB'", "out of range; write 1MiB to 64GiB");
    check("session.resume = 'no'", "write true or false");
    check("nonsense = 1", "is unknown; known here: admin, auth, backend");
    check("backend.url = 'http://a'", "backend.url: is unknown");
    check("log.filter = 'a=b=c'", "is not a log filter");
    check("servers.a = 'http://a'", "servers.a: is a text; write a table");
    check("servers.a.era = 'modern'", "servers.a.url: is missing");
    check("[servers.a__b]\nurl = 'http://a'", "double underscore");
    check(
        "[servers.a]\nurl = 'http://a'\nheaders = { Host = 'b' }",
        "headers.Host: is a header of the connection",
    );
    check("[servers.a]\nurl = 'http://a'\nheaders = { X = 'b', x = 'c' }", "is there twice");
    check("[servers.a]\nurl = 'http://a'\nbearer = 'Bearer x'", "write it alone");
    check(
        "[servers.a]\nurl = 'http://a'\nbearer = 'x'\nheaders = { authorization = 'y' }",
        "beside an Authorization",
    );
    check("[servers.a]\nurl = 'http://a'\nera = 'new'", "write \"auto\", \"modern\" or \"legacy\"");
    check("[servers.a]\nurl = 'http://a'\n[endpoints.e]\nservers = ['a', 'a']", "a is there twice");
    check("endpoints.'a b'.prefix = 'never'", "is not a endpoint name");
    check("endpoints.a.prefix = 'sometimes'", "write \"always\" or \"never\"");
    check("endpoints.a.servers = 'b'", "write a list of texts");
}

#[test]
fn reads_servers() {
    let text = "\
[backend]
connect_timeout = '7s'
in_flight_max = 3

[servers.zeta]
url = 'https://z.example/mcp'
bearer = '${TOKEN}'
headers = { X-B = '2', X-A = '1', Accept = 'text/html' }
era = 'legacy'
in_flight_max = 4

[servers.alpha]
url = 'unix:/run/a.sock:/mcp'

[servers.off]
url = 'http://a'
disabled = true
";
    let config = run("", &[("TOKEN", "secret-token")], &[("metamcp.toml", text)]).unwrap();
    let [zeta, alpha] = config.servers.as_slice() else { panic!("{config:?}") };
    assert_eq!((zeta.name.as_str(), alpha.name.as_str()), ("zeta", "alpha"));
    assert_eq!(
        (zeta.settings.era, zeta.settings.in_flight_max, zeta.settings.connect_timeout),
        (EraChoice::Legacy, 4, Duration::from_secs(7))
    );
    assert_eq!(
        (alpha.settings.era, alpha.settings.in_flight_max, alpha.settings.connect_timeout),
        (EraChoice::Auto, 3, Duration::from_secs(7))
    );
    assert_eq!(alpha.address, ServerAddress::Unix { socket: "/run/a.sock".into(), path: "/mcp".into() });
    let headers: Vec<_> =
        zeta.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    assert_eq!(headers, [("x-b", "2"), ("x-a", "1"), ("authorization", "Bearer secret-token")]);
    assert!(zeta.headers.iter().all(|(_, value)| value.is_sensitive()));
    assert_eq!(config.notices.len(), 2, "{:?}", config.notices);
    assert!(!format!("{config:?}{:?}", config.servers).contains("secret-token"));
}

#[test]
fn as_many_connections_are_kept_as_calls_may_be_under_way() {
    let check = |upstream: &str, server: &str, expected: usize, hints: usize| {
        let text = format!("[backend]\n{upstream}\n[servers.a]\nurl = 'http://a'\n{server}");
        let config = toml(&text).unwrap();
        assert_eq!(config.servers[0].settings.idle_connections_max, expected, "{text}");
        let hint = "under load those beyond are closed and opened anew";
        let found = config.notices.iter().filter(|notice| notice.to_string().contains(hint)).count();
        assert_eq!(found, hints, "{text}: {:?}", config.notices);
    };
    check("", "", 256, 0);
    check("", "in_flight_max = 1000", 1000, 0);
    check("", "in_flight_max = 1000000", 65_536, 0);
    check("in_flight_max = 7", "", 7, 0);
    check("in_flight_max = 7", "in_flight_max = 9", 9, 0);
    check("idle_connections_max = 500", "in_flight_max = 400", 500, 0);
    check("idle_connections_max = 16", "", 16, 1);
    check("idle_connections_max = 16", "in_flight_max = 8", 16, 1);
    check("", "idle_connections_max = 16", 16, 1);
}

#[test]
fn reads_endpoints() {
    let text = "\
[servers.a]
url = 'http://a'
[servers.b]
url = 'http://b'
[servers.off]
url = 'http://c'
disabled = true
[endpoints.second]
servers = ['b', 'off', 'a']
prefix = 'never'
[endpoints.first]
";
    let check = |text: &str, expected: &[(&str, &[&str], NamePrefix)]| {
        let config = toml(text).unwrap();
        let every = || config.servers.iter().map(|server| server.name.to_string()).collect::<Vec<_>>();
        let names = |servers: &EndpointMembers| match servers {
            EndpointMembers::All => every(),
            EndpointMembers::Listed(members) => {
                members.iter().map(|member| member.server.to_string()).collect()
            }
        };
        let found: Vec<_> =
            config.endpoints.iter().map(|e| (e.name.as_str(), names(&e.servers), e.prefix)).collect();
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert_eq!(
                (found.0, found.1.as_slice(), found.2),
                (expected.0, names_of(expected.1).as_slice(), expected.2)
            );
        }
    };
    check(text, &[("second", &["b", "a"], NamePrefix::Never), ("first", &["a", "b"], NamePrefix::Always)]);
    check(
        "[servers.a]\nurl='http://a'\n[endpoints.default]\nprefix='never'",
        &[("default", &["a"], NamePrefix::Never)],
    );
    check(
        "[servers.a]\nurl='http://a'\n[endpoints.default]\nservers=[]",
        &[("default", &[], NamePrefix::Always)],
    );
}

fn names_of(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

#[test]
fn reads_what_endpoints_show() {
    let base = "[servers.a]\nurl = 'http://a'\n[servers.off]\nurl = 'http://b'\ndisabled = true\n\
                [endpoints.e]\nservers = ['a', 'off']\n";
    let with = |more: &str| toml(&format!("{base}{more}"));
    // The names under which three tools are shown, without the prefix of their server.
    let check = |more: &str, expected: [Option<&str>; 3]| {
        let config = with(more).unwrap();
        let view = match &config.endpoints[0].servers {
            EndpointMembers::Listed(members) => members[0].tool_view.as_deref(),
            EndpointMembers::All => None,
        };
        let name = |tool| match view {
            Some(view) if !view.is_shown(tool) => None,
            Some(view) => view.override_of(tool).and_then(|change| change.name.as_deref()).or(Some(tool)),
            None => Some(tool),
        };
        assert_eq!(["ls", "cp", "rm"].map(name), expected, "{more}");
    };
    check("", [Some("ls"), Some("cp"), Some("rm")]);
    check("tools.a.allow = ['?s']", [Some("ls"), None, None]);
    check("tools.a.deny = ['rm*']", [Some("ls"), Some("cp"), None]);
    check("tools.a.overrides.ls.name = 'list'", [Some("list"), Some("cp"), Some("rm")]);
    check("tools.off.allow = ['x']", [Some("ls"), Some("cp"), Some("rm")]);
    let hints = "tools.a.overrides.ls.annotations = { title = 'L', readOnlyHint = true }";
    let config = with(&format!("{hints}\ntools.a.overrides.ls.title = 'T'")).unwrap();
    let EndpointMembers::Listed(members) = &config.endpoints[0].servers else { panic!("they were named") };
    let instead = members[0].tool_view.as_ref().and_then(|tool_view| tool_view.override_of("ls")).unwrap();
    let annotations = serde_json::json!({"title": "L", "readOnlyHint": true});
    assert_eq!((instead.title.as_deref(), &instead.annotations), (Some("T"), &Some(annotations)));
    check_mistakes(
        with(
            "tools.b.allow = ['x']\ntools.a = { allow = ['a b'], deni = ['x'], overrides = { ls = \
             { name = 'a b', titel = 'x', annotations = { readonly = true, title = 1 } } } }",
        ),
        &[
            "endpoints.e.tools.b: is no server of this endpoint",
            "endpoints.e.tools.a.allow: \"a b\" is not a pattern",
            "endpoints.e.tools.a.deni: is unknown",
            "endpoints.e.tools.a.overrides.ls.name: is not a tool name",
            "endpoints.e.tools.a.overrides.ls.titel: is unknown",
            "annotations.readonly: is unknown",
            "annotations.title: is a whole number",
        ],
    );
    check_mistakes(
        toml("[servers.a]\nurl = 'http://a'\n[endpoints.e]\ntools.a.allow = ['x']"),
        &["endpoints.e.tools.a: is for one server, but the endpoint names none; name its servers"],
    );
}

#[test]
fn mcp_json_beside_toml() {
    let json = r#"{"mcpServers": {
        "my server": {"url": "http://m", "headers": {"X-Key": "${KEY:-k}", "Content-Type": "application/json"}},
        "old": {"type": "sse", "url": "http://o/sse?key=hunter2"},
        "off": {"url": "http://o", "disabled": true},
        "local": {"command": "npx", "args": ["${KEY:-k}", "b"], "env": {"A": "${NEVER_SET}"}}}}"#;
    check_mistakes(
        run("", &[], &[("mcp.json", json)]),
        &["mcpServers.local.env.A: the variable NEVER_SET is not set"],
    );
    let json = &json.replace("NEVER_SET", "NEVER_SET:-hunter2");
    let text =
        "[servers.a]\nurl = 'http://a'\n[endpoints.e]\nservers = ['my server', 'local', 'my-server-2']\n";
    check_mistakes(
        run("", &[], &[("metamcp.toml", text), ("mcp.json", json)]),
        &["names a server that is not there"],
    );
    let text = text.replace(", 'my-server-2'", "");
    let config = run("", &[], &[("metamcp.toml", &text), ("mcp.json", json)]).unwrap();
    assert_eq!(config.servers.len(), 4);
    assert_eq!(config.servers[1].name.as_str(), "my-server");
    assert!(config.servers[1].may_be_sse && !config.servers[2].may_be_sse);
    assert_eq!(config.servers[1].headers.len(), 1);
    let summary = Summary(&config).to_string();
    for part in [
        "listens on http://127.0.0.1:12009",
        "endpoint   /mcp (prefix always): a, my-server, old, local",
        "endpoint   /mcp/e (prefix always): my-server, local",
        "server     my-server: http://m/ (era auto, headers x-key)",
        "served as \"my-server\"",
        "server     old: sse:http://o/sse?... (era auto)",
        "mcpServers.off: skipped: it is disabled",
        "server     local: stdio:npx (era auto)",
        "Content-Type: left out",
    ] {
        assert!(summary.contains(part), "{part:?} is not in\n{summary}");
    }
    assert!(!summary.contains("hunter2"), "{summary}");
}

#[test]
fn transports() {
    let address = |lines: &str| {
        let server = toml(&format!("[servers.a]\nurl = 'http://a/sse'\n{lines}")).unwrap().servers.remove(0);
        (matches!(server.address, ServerAddress::Sse(_)), server.may_be_sse)
    };
    assert_eq!(address(""), (false, true));
    assert_eq!(address("transport = 'http'"), (false, false));
    assert_eq!(address("transport = 'sse'"), (true, false));
    check_mistakes(
        toml("[servers.a]\nurl = 'http://a'\ntransport = 'sse'\nera = 'modern'"),
        &["servers.a.era: is not available over sse"],
    );
    check_mistakes(
        toml("[servers.a]\nurl = 'unix:/run/a.sock:/sse'\ntransport = 'sse'"),
        &["servers.a.url: is not the address of an sse server"],
    );
    check_mistakes(toml("[servers.a]\nurl = 'http://a'\ntransport = 'ws'"), &["servers.a.transport"]);
    check_mistakes(toml("[servers.a]\ncommand = 'x'\ntransport = 'sse'"), &["is a program (command)"]);
}

#[test]
fn programs() {
    let program = |text: &str| match run("", &[("PATH", "/bin"), ("SECRET", "s")], &[("metamcp.toml", text)])
    {
        Ok(config) => match config.servers[0].address.clone() {
            crate::server::ServerAddress::Stdio(program) => *program,
            other => panic!("{other:?}"),
        },
        Err(mistakes) => panic!("{mistakes}"),
    };
    let plain = program("[servers.a]\ncommand = 'x'");
    assert_eq!((plain.command.as_str(), plain.settings.sharing, plain.cwd), ("x", Sharing::Auto, None));
    // From the gateway's environment, a program only gets variables without secrets.
    assert_eq!(plain.env, [("PATH".to_owned(), "/bin".to_owned())]);
    let full = program(
        "[servers.a]\ncommand='x'\nargs=['${SECRET}']\nenv={ A='${SECRET}', PATH='/own' }\nsharing='session'\n\
         uid=7\nlimits.cpu='2m'\nlimits.data='1GiB'\nconfine.read=['/usr']",
    );
    assert_eq!(full.args, ["s"]);
    let env: Vec<_> = full.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(env, ["PATH=/bin", "A=s", "PATH=/own"]);
    assert_eq!(
        (full.settings.sharing, full.settings.uid, full.settings.gid),
        (Sharing::Session, Some(7), None)
    );
    assert_eq!(
        (full.settings.limits.cpu_s, full.settings.limits.data_bytes, full.settings.limits.open_files),
        (Some(120), Some(1 << 30), None)
    );
    assert_eq!(full.settings.confinement.unwrap().read, [Path::new("/usr")]);
    let shared = program(
        "[backend]\nenv = { A = '${SECRET}', PATH = '/shared' }\n[servers.a]\ncommand='x'\nenv.A='own'",
    );
    let env: Vec<_> = shared.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(env, ["PATH=/bin", "A=s", "PATH=/shared", "A=own"]);
    let check =
        |text: &str, expected: &[&str]| check_mistakes(toml(&format!("[servers.a]\n{text}")), expected);
    check("command='x'\nurl='http://a'", &["is a program (command)"]);
    check("command='x'\nbearer='b'", &["is a program (command)"]);
    check("args=['x']", &["servers.a.command: is missing beside", "servers.a.url: is missing"]);
    check("command='x'\nargs=['(sealed)']\nenv={ A='(sealed)' }", &["write the value itself"; 2]);
    check("command=''", &["servers.a.command: names no program"]);
    check("command='x'\ncwd='no/such'", &["servers.a.cwd: is no directory"]);
    check("command='x'\nenv={ 'A=B'='c' }", &["is no variable"]);
    check("command='x'\nsharing='none'", &["servers.a.sharing: "]);
    check("command='x'\nuid=-1", &["servers.a.uid: is not the number"]);
    check("command='x'\nlimits.open_files=1", &["servers.a.limits.open_files: is out of range"]);
    check("command='x'\nlimits.files=1", &["servers.a.limits.files: is unknown"]);
    check("command='x'\nconfine.read=['usr']", &["is not an absolute path"]);
    check("command='x'\nprocesses_max=0", &["servers.a.processes_max: is out of range"]);
}

/// Checks the notices about a program that is accepted.
#[track_caller]
fn check_notices(json: &str, expected: &[&str]) {
    let json = format!(r#"{{"servers": {{"a": {{{json}}}}}}}"#);
    let config = run("", &[("PATH", "/bin:/usr/bin")], &[("mcp.json", &json)]).unwrap();
    let notices: Vec<String> = config.notices.iter().map(ToString::to_string).collect();
    assert_eq!(notices.len(), expected.len(), "{json}: {notices:?}");
    for (notice, expected) in notices.iter().zip(expected) {
        assert!(notice.contains(expected), "{json}: {notice}");
        assert!(!notice.contains("hunter2"), "{notice}");
    }
}

#[test]
fn says_what_would_not_run() {
    check_notices(r#""command": "sh""#, &[]);
    check_notices(r#""command": "/bin/sh""#, &[]);
    check_notices(r#""command": "no-such-program""#, &["servers.a.command: is in no directory of the PATH"]);
    check_notices(r#""command": "/bin""#, &["is a directory"]);
    check_notices(r#""command": "/etc/passwd""#, &["may not be executed"]);
    check_notices(r#""command": "/no/such""#, &["is not there"]);
    check_notices(r#""command": "~/bin/x""#, &["write ${HOME}"]);
    check_notices(
        r#""command": "npx -y foo --key=hunter2""#,
        &[r#"write its name alone, "npx", and each word"#],
    );
    check_notices(r#""command": "sh", "timeout": 60"#, &["servers.a.timeout: is a setting of the client"]);
    check_notices(r#""command": "sh", "autoApprove": []"#, &["write which tools an endpoint shows"]);
    check_notices(
        r#""command": "sh", "arg": ["x"]"#,
        &["servers.a.arg: is unknown, and has no effect; did you mean \"args\"?"],
    );
    check_notices(
        r#""command": "sh", "colour": "red""#,
        &["servers.a.colour: is unknown, and has no effect"],
    );
    check_notices(r#""command": "sh", "args": ["-p", 8080]"#, &["servers.a.args: is taken as a string"]);
    check_notices(r#""command": "sh", "env": {"PORT": 8080}"#, &["servers.a.env.PORT: is taken as a string"]);
    let config = toml("[servers.a]\ncommand='/bin/sh'\nconfine.read=['/no/such']").unwrap();
    assert!(config.notices[0].to_string().contains("servers.a.confine.read: is not there"));
}

#[test]
fn a_file_of_an_editor_is_read_as_the_editor_does() {
    let json = r#"{
        "inputs": [{"id": "token", "type": "promptString"}],
        "servers": {
            "here": {"command": "${workspaceFolder}/bin/x", "args": ["${userHome}"], "envFile": "${workspaceFolder}/own.env",
                     "env": {"B": "of env"}},
            "asks": {"url": "http://a", "headers": {"Authorization": "Bearer ${input:token}"}},
            "open": {"command": "sh", "args": ["${file}"]}
        }}"#;
    let own_env =
        b"A=of-file\nB=of-file\nno line\nSAME=$HOME/${HOME}\nJWT_SECRET=theirs\nENCRYPTION_KEY=ours\n";
    let files: [(&str, &[u8]); 2] = [(".vscode/mcp.json", json.as_bytes()), ("own.env", own_env)];
    let dir = Dir::with(&files);
    let line = ["metamcp", "--mcp-json", ".vscode/mcp.json"];
    let variables = env(&[("METAMCP_DATA_DIR", "data"), ("HOME", "/me"), ("ENCRYPTION_KEY", "ours")]);
    let config = load(&Cli::try_parse_from(line).unwrap(), &variables, &dir.0).unwrap();
    let crate::server::ServerAddress::Stdio(program) = &config.servers[0].address else {
        panic!("a program")
    };
    assert_eq!(Path::new(&program.command), dir.0.join("bin/x"));
    assert_eq!(program.args, ["/me"]);
    let variables: Vec<_> = program.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let of_file = ["A=of-file", "B=of-file", "SAME=$HOME/${HOME}", "JWT_SECRET=theirs"];
    assert_eq!(variables, [&["HOME=/me"], &of_file[..], &["B=of env"]].concat());
    // What only an editor can fill in is no reason not to serve the others.
    assert_eq!(config.servers.len(), 1);
    let notices: Vec<_> = config.notices.iter().map(ToString::to_string).collect();
    for expected in [
        "servers.asks: skipped: it has ${input:token}, which an editor fills in",
        "servers.open: skipped: it has ${file}",
        "servers.here.envFile: has a line that is not NAME=value (3)",
        "servers.here.envFile: sets the ENCRYPTION_KEY of this gateway, which is not passed on",
    ] {
        assert!(notices.iter().any(|notice| notice.contains(expected)), "{expected} is not in {notices:#?}");
    }
}

/// The variables of a file obey the rules of those in `env`.
#[test]
fn variables_of_a_file_are_validated() {
    let json = r#"{"mcpServers": {"a": {"command": "sh", "envFile": "${workspaceFolder}/a.env"}}}"#;
    let check = |text: &str, expected: &[&str]| {
        check_mistakes(run("", &[], &[("mcp.json", json), ("a.env", text)]), expected);
    };
    check("A=x\0y", &["mcpServers.a.envFile: is no variable"]);
    check("A=(sealed)", &["mcpServers.a.envFile: stands for what is not shown"]);
    let many: Vec<_> = (0..300).map(|number| format!("A{number}=1")).collect();
    check(&many.join("\n"), &["mcpServers.a.envFile: has more than 256 variables"]);
}

#[test]
fn names_of_others_are_made_printable() {
    let json = "{\"mcpServers\": {\"\\u001b[31m\": {\"command\": \"x\"}}}";
    let found = run("", &[], &[("metamcp.toml", "endpoints.e.servers = ['zzzzzzzz']"), ("mcp.json", json)]);
    assert!(!found.as_ref().unwrap_err().to_string().contains('\u{1b}'));
    check_mistakes(found, &["known here: \\u{1b}[31m"]);
}

#[test]
fn one_name_twice_is_a_mistake() {
    let check = |toml: &str, json: &str| {
        let found = run("", &[], &[("metamcp.toml", toml), ("mcp.json", json)]);
        check_mistakes(found, &["there are two servers"]);
    };
    check("[servers.a]\nurl='http://a'", r#"{"mcpServers": {"a": {"url": "http://b"}}}"#);
    check("", r#"{"mcpServers": {"a": {"url": "http://a"}, "a": {"url": "http://b"}}}"#);
    check("", r#"{"mcpServers": {"a b": {"url": "http://a"}, "a-b": {"url": "http://b"}}}"#);
}

/// The documentation's code block in the given language.
fn documented(language: &str) -> &'static str {
    let (_, rest) =
        include_str!("../../../docs/CONFIGURATION.md").split_once(&format!("```{language}\n")).unwrap();
    rest.split_once("```").unwrap().0
}

#[test]
fn the_documentation_is_true() {
    let written = run("", &[], &[("metamcp.toml", documented("toml"))]).unwrap();
    let plain = run("", &[], &[]).unwrap();
    // Values that depend on the machine or have no default are examples; all others are the default.
    let (server, none) = (&written.server, Vec::<String>::new());
    let same =
        HttpConfig { workers: plain.server.workers, origins: none.clone(), hosts: none, ..server.clone() };
    assert_eq!(same, plain.server);
    assert_eq!(
        AuthTiming { hash_permits: plain.auth_timing.hash_permits, ..written.auth_timing },
        plain.auth_timing
    );
    assert_eq!(written.catalog, plain.catalog);
    assert_eq!(written.session, plain.session);
    assert_eq!(written.limits, plain.limits);
    assert_eq!(written.retention, plain.retention);
    assert_eq!(written.log, plain.log);
    assert_eq!((written.metrics_access, plain.traces), (plain.metrics_access, None));
    let bare = toml("[telemetry.traces]\nendpoint = 'http://127.0.0.1:4318'").unwrap();
    assert_eq!(written.traces, bare.traces);
    assert!(bare.traces.is_some());
    assert_eq!(written.records, plain.records);
    assert_eq!(written.webhooks.len(), 1);
    let bare = toml("[servers.files]\nurl = 'unix:/run/files.sock:/mcp'").unwrap();
    assert_eq!(written.servers[1], bare.servers[0]);
    assert_eq!(
        run("", &[("GITHUB_TOKEN", "x")], &[("mcp.json", documented("json"))]).unwrap().servers.len(),
        3
    );
    let bare = toml("[servers.notes]\ncommand = 'npx'").unwrap();
    let (ServerAddress::Stdio(written), ServerAddress::Stdio(bare)) =
        (&written.servers[3].address, &bare.servers[0].address)
    else {
        panic!("programs");
    };
    // The kind, the place and the limits are examples.
    let (args, env, cwd) = (written.args.clone(), written.env.clone(), written.cwd.clone());
    let settings = ProcessSettings { limits: written.settings.limits.clone(), ..bare.settings.clone() };
    let same = Program { command: bare.command.clone(), args, env, cwd, settings };
    assert_eq!(**written, same);
}

/// `[backend]` has exactly the settings of the table, each with its default and at the start of its comment its range.
#[test]
fn every_server_setting_is_documented() {
    let (_, backend) = documented("toml").split_once("[backend]\n").unwrap();
    let lines = backend.split("\n\n").next().unwrap().lines();
    // `env` is no setting of a server.
    let lines = lines.filter(|line| !line.starts_with(' ') && !line.starts_with("env = "));
    let documented: Vec<(&str, &str)> = lines.map(|line| line.split_once('#').unwrap()).collect();
    assert_eq!(documented.len(), SETTINGS.len());
    for (setting, (line, comment)) in SETTINGS.iter().zip(documented) {
        let range = match &setting.values {
            SettingValues::Duration(range, _) => {
                let [min, max] = [range.start(), range.end()].map(|limit| units::format_duration(*limit));
                format!("{min} to {max}")
            }
            SettingValues::Count(range, _) => format!("{} to {}", range.start(), range.end()),
            SettingValues::Era(..) | SettingValues::ChangedTools(..) | SettingValues::Flag(..) => {
                String::new()
            }
        };
        assert_eq!(line.trim_end(), format!("{} = {}", setting.key, setting.to_json(DEFAULTS)));
        assert!(comment.trim_start().starts_with(&range), "{}: {range}", setting.key);
    }
}

#[test]
fn every_key_is_documented() {
    // The error for an unknown key lists all known ones.
    for section in [
        "",
        "server.",
        "server.tls.",
        "auth.",
        "limits.",
        "catalog.",
        "session.",
        "admin.",
        "retention.",
        "log.",
        "telemetry.",
        "telemetry.traces.",
        "records.",
        "servers.a.",
        "servers.a.limits.",
        "servers.a.confine.",
        "endpoints.a.",
        "endpoints.a.tools.a.",
        "endpoints.a.tools.a.overrides.x.",
        "endpoints.a.tools.a.overrides.x.annotations.",
    ] {
        let found = toml(&format!("{section}completely_unknown_key = 1")).unwrap_err().to_string();
        let (_, known) = found.lines().find_map(|line| line.split_once("known here: ")).unwrap();
        for key in known.split(", ") {
            let documented = documented("toml");
            // The key as a value, as a table, and as a table of tables.
            let forms = [
                format!("{key} = "),
                format!("[{section}{key}"),
                format!(".{key}."),
                format!("[servers.notes.{key}]"),
            ];
            assert!(forms.iter().any(|form| documented.contains(form)), "{section}{key}");
        }
    }
}

#[test]
fn tls_towards_servers_is_read() {
    let make = |name: &str| {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    };
    let ((one, one_key), (_, other_key)) = (make("a"), make("b"));
    let load = |text: &str| {
        let files = [
            ("a.pem", &*one),
            ("a.key", &one_key),
            ("b.key", &other_key),
            ("bad.pem", "-----BEGIN"),
            ("metamcp.toml", text),
        ];
        run("", &[], &files)
    };
    let at = |url: &str, lines: &str| load(&format!("[servers.a]\nurl = '{url}'\n{lines}"));
    let check = |lines: &str, expected: &str| check_mistakes(at("https://a", lines), &[expected]);
    check("ca = 'no.pem'", "metamcp.toml:3: servers.a.ca: ");
    check("ca = 'a.key'", "servers.a.ca: has no certificate in PEM");
    check("ca = 'bad.pem'", "servers.a.ca: ");
    check("client_cert = 'a.pem'", "servers.a.client_cert: has no client_key");
    check("client_key = 'a.key'", "servers.a.client_key: has no client_cert");
    check("client_cert = 'a.pem'\nclient_key = 'a.pem'", "servers.a.client_key: has no private key in PEM");
    check(
        "client_cert = 'a.pem'\nclient_key = 'b.key'",
        "servers.a.client_key: does not belong to the certificate",
    );
    check("server_name = 'a b'", "servers.a.server_name: is neither a host name nor an IP address");
    for url in ["http://a", "unix:/a:/mcp"] {
        check_mistakes(at(url, "ca = 'a.pem'"), &["servers.a.ca: is for a server with an https URL"]);
    }
    let program = load("[servers.a]\ncommand = 'a'\nserver_name = 'a'");
    check_mistakes(program, &["servers.a.server_name: is for a server with an https URL"]);
    check_mistakes(load("[backend]\nca = 'a.key'"), &["backend.ca: has no certificate in PEM"]);
    // What a server does not say is taken from [backend], if it uses TLS.
    let text = "[backend]\nca = 'a.pem'\nserver_name = 'shared'\n[servers.a]\nurl = 'https://a'\nserver_name = 'own'\n\
                client_cert = 'a.pem'\nclient_key = 'a.key'\n[servers.b]\nurl = 'https://b'\n[servers.c]\nurl = 'http://c'";
    let servers = load(text).unwrap().servers;
    let name = |name: &str| rustls_pki_types::ServerName::try_from(name.to_owned()).unwrap();
    let [a, b, c] = &servers[..] else { panic!("three servers") };
    let (a, b) = (a.tls.as_deref().unwrap(), b.tls.as_deref().unwrap());
    assert!(a.authorities.is_some() && a.client.is_some() && a.server_name == Some(name("own")));
    assert!(b.authorities == a.authorities && b.client.is_none() && b.server_name == Some(name("shared")));
    assert!(c.tls.is_none());
    assert!(!format!("{a:?}").contains("BEGIN"));
}

#[test]
fn client_certificates_are_read() {
    let text = "[server.tls]\ncert = 'metamcp.toml'\nkey = 'metamcp.toml'\nclient_ca = 'metamcp.toml'\n";
    let rules = "[[server.tls.clients]]\ncommon_name = 'Jane Doe'\nkey = 'AAAAAAAAAAAA'\n\
                 [[server.tls.clients]]\ndns = 'A.example'\ndeny = true";
    let clients = |text: &str| toml(text).unwrap().server.tls.unwrap().clients.unwrap();
    let found = clients(&format!("{text}{rules}"));
    assert!(found.is_required && found.crl.is_none());
    let rules: Vec<_> =
        found.rules.iter().map(|rule| (rule.field, rule.pattern.as_str(), rule.action)).collect();
    let jane = KeyId::parse("AAAAAAAAAAAA").unwrap();
    let expected = [
        (CertificateField::CommonName, "Jane Doe", ClientAction::UseKey(jane)),
        (CertificateField::Dns, "a.example", ClientAction::Deny),
    ];
    assert_eq!(rules, expected);
    assert!(!clients(&format!("{text}client_auth = 'optional'")).is_required);
}

#[test]
fn tls_needs_both() {
    let files = [("c.pem", ""), ("sub/metamcp.toml", "[server.tls]\ncert = '../c.pem'\nkey = '../c.pem'")];
    let config = run("--config sub/metamcp.toml", &[], &files).unwrap();
    assert!(config.server.tls.unwrap().cert.ends_with("sub/../c.pem"));
    check_mistakes(
        run("", &[], &[("c.pem", ""), ("metamcp.toml", "server.tls.cert = 'c.pem'")]),
        &["server.tls: has no key"],
    );
}

/// Any file contents give a configuration or mistakes, never a panic.
fn survive(toml: &[u8], json: &[u8], dotenv: &[u8]) {
    let dir = Dir::with(&[("metamcp.toml", toml), ("mcp.json", json), (".env", dotenv)]);
    if let Err(mistakes) = load(&Cli::default(), &env(&[("HOME", "/home")]), &dir.0) {
        assert!(mistakes.len() > 0 && !mistakes.to_string().contains('\u{1b}'));
    }
}

fn mutate(text: &str, edits: &[(usize, u8, bool)]) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    for (at, byte, insert) in edits {
        let at = at % bytes.len();
        if *insert { bytes.insert(at, *byte) } else { bytes[at] = *byte }
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated_files_never_panic(edits in prop::collection::vec((any::<usize>(), any::<u8>(), any::<bool>()), 1..6)) {
        survive(
            &mutate(documented("toml"), &edits),
            &mutate(documented("json"), &edits),
            &mutate("# c\nA=1\nB=\"x y\" # z\nexport C='${A}'\n", &edits),
        );
    }

    #[test]
    fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), text in ".{0,100}") {
        survive(&bytes, &bytes, &bytes);
        survive(text.as_bytes(), text.as_bytes(), text.as_bytes());
        let _ = crate::server::address::parse(&text);
        let _ = crate::server::address::parse(&format!("unix:/{text}"));
        let _ = crate::server::address::parse(&format!("http://{text}"));
        let _ = expand::expand(&text, &raw::Variables::process(&env(&[])), None);
        prop_assert!(metamcp_core::base::ServerName::new(&crate::mcp_json::derive_server_name(&text)).is_ok());
    }
}

#[test]
fn the_gateway_is_not_its_own_server() {
    let check = |line: &str, toml: &str, mcp_json: &str, expected: &[&str], served: &[&str]| {
        let files = [("metamcp.toml", toml), ("mcp.json", mcp_json)];
        let config = run(line, &[], &files).unwrap();
        let notices: Vec<_> = config.notices.iter().map(ToString::to_string).collect();
        assert_eq!(notices.len(), expected.len(), "{notices:#?}");
        for (found, expected) in notices.iter().zip(expected) {
            assert!(found.contains(expected), "{expected:?} is not in {found:?}");
        }
        let names: Vec<_> = config.servers.iter().map(|server| server.name.as_str()).collect();
        assert_eq!(names, served);
    };
    // As docs/CLIENTS.md says for Cursor; the key is not in the gateway's environment.
    let cursor = r#"{"mcpServers": {
        "meta mcp": {"url": "http://127.0.0.1:12009/mcp", "headers": {"Authorization": "Bearer ${env:METAMCP_KEY}"}},
        "other": {"url": "http://127.0.0.1:9/mcp"}}}"#;
    let endpoint = "[endpoints.e]\nservers = [\"other\", \"meta mcp\"]\n";
    let renamed = "it is served as";
    let left_out = "skipped: it leads to this gateway itself";
    let unserved = "endpoints.e.servers: one of its servers was skipped";
    check("", "", cursor, &[renamed, left_out], &["other"]);
    check("", endpoint, cursor, &[renamed, left_out, unserved], &["other"]);
    let with_key = cursor.replace("${env:METAMCP_KEY}", "k");
    check("--port 12010", "", &with_key, &[renamed], &["meta-mcp", "other"]);
    check("stdio", "", &with_key, &[renamed], &["meta-mcp", "other"]);
    let toml = "[servers.a]\ncommand = \"metamcp\"\nargs = [\"connect\", \"http://localhost:12009/mcp\"]\n";
    check("", toml, r#"{"servers": {}}"#, &[left_out], &[]);
}

#[test]
fn a_mistake_says_what_may_be_written() {
    let check = |text: &str, expected: &str| check_mistakes(toml(text), &[expected]);
    check("limits.memory_max = 'lots'", "or \"auto\"");
    check("telemetry.traces.endpoint = 'localhost:4318'", "write \"http://host:4318\"");
    check("endpoints.e.tools.a.allow = ['x']", "name its servers: servers = [...]");
}

#[test]
fn an_invalid_name_hides_no_other_mistake() {
    let text = "[servers.'a b']\nurl = 'ftp://a'\n[servers.'c d']\nurl = 'http://c'\nbearer = 'x y'";
    check_mistakes(
        toml(text),
        &[":1: servers.a b: ", "servers.a b.url: ", ":3: servers.c d: ", "c d.bearer: "],
    );
}

#[test]
fn a_file_is_no_data_directory() {
    let files = [("file", "")];
    check_mistakes(run("--data-dir file", &[], &files), &["command line: --data-dir: "]);
    check_mistakes(run("", &[("METAMCP_DATA_DIR", "file")], &files), &["environment: METAMCP_DATA_DIR: "]);
}

#[test]
fn a_duplicate_is_one_mistake() {
    let table = "[servers.a]\nurl = 'http://a'\n[servers.a]\nurl = 'http://b'\n[server]\nport = 1\nport = 2";
    let expected = ["metamcp.toml:3: \"a\" is there twice", "metamcp.toml:7: \"port\" is there twice"];
    check_mistakes(toml(table), &expected);
}
