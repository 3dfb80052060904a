//! What the program says when it starts, and what it refuses to start with.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{
    Client, Cluster, Database, ENCRYPTION_KEY, Keys, PATIENCE, Request, Setup, clear_environment, modern, sql,
};

/// How a run of the program ended. `code` is `None` if it served, and was killed.
pub struct Run {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

/// Runs the program in a directory with these files, to its end. It is killed if it serves instead.
pub fn run(files: Texts<'_>, arguments: &[&str], variables: Texts<'_>) -> Run {
    let mut setup = Setup::new();
    for (name, text) in files {
        setup = setup.file(name, text);
    }
    let place = setup.place();
    if files.iter().any(|(name, _)| *name == SECRETS) {
        fs::set_permissions(place.path().join(SECRETS), fs::Permissions::from_mode(0o600)).unwrap();
    }
    let mut command = start(place.path(), arguments, variables);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = Pid::from_child(&child);
    let (sender, ended) = mpsc::channel();
    thread::spawn(move || sender.send(child.wait_with_output().unwrap()));
    let ended = ended.recv_timeout(PATIENCE).unwrap_or_else(|_| {
        kill_process(pid, Signal::KILL).unwrap();
        ended.recv().unwrap()
    });
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Run { code: ended.status.code(), out: text(ended.stdout), err: text(ended.stderr) }
}

const SECRETS: &str = "data/secrets.toml";

/// Names and texts of files, or names and values of variables.
pub type Texts<'a> = &'a [(&'a str, &'a str)];

const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
const TLS: &str = "[server.tls]\ncert = 'c.pem'\nkey = 'k.pem'\n";

/// `metamcp check` refuses what a start refuses, in the same words.
#[test]
fn what_cannot_start_does_not_pass_the_check() {
    let key = "x".repeat(40);
    let secrets = |encryption_key: &str, jwt_secret: &str| {
        format!("encryption_key = \"{encryption_key}\"\njwt_secret = \"{jwt_secret}\"\n")
    };
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, private) = (made.cert.pem(), made.signing_key.serialize_pem());
    let with_clients = format!("{TLS}client_ca = 'ca.pem'\nclient_crl = 'crl.pem'\n");
    let clients = |ca, crl| {
        let pair = [("c.pem", &*certificate), ("k.pem", &*private)];
        [("metamcp.toml", &*with_clients), pair[0], pair[1], ("ca.pem", ca), ("crl.pem", crl)]
    };
    let rows: [(Texts<'_>, Texts<'_>, &str); 16] = [
        (&clients("garbage", "garbage"), &[], "ca.pem: has no certificate in PEM"),
        (&clients(CERTIFICATE, "garbage"), &[], "ca.pem: "),
        (&clients(&certificate, "garbage"), &[], "crl.pem: has no revocation list in PEM"),
        (&[("metamcp.toml", TLS), ("c.pem", "garbage"), ("k.pem", "garbage")], &[], "c.pem"),
        (&[("metamcp.toml", TLS), ("c.pem", CERTIFICATE), ("k.pem", "garbage")], &[], "k.pem"),
        (
            &[],
            &[("ENCRYPTION_KEY", "hunter2")],
            "metamcp: environment: ENCRYPTION_KEY: version 1 is not 32 bytes",
        ),
        (
            &[],
            &[("ENCRYPTION_KEY", "1:hunter2,1:hunter2"), ("JWT_SECRET", &key)],
            "metamcp: environment: ENCRYPTION_KEY: version 1",
        ),
        (&[("data/secrets.toml", "hunter2")], &[], "secrets.toml cannot be parsed at line 1"),
        (&[("data/secrets.toml", "")], &[], "secrets.toml cannot be parsed at line 1"),
        (
            &[("data/secrets.toml", &secrets("hunter2", &key))],
            &[],
            "data/secrets.toml: encryption_key: version 1",
        ),
        (
            &[("data/secrets.toml", &secrets(ENCRYPTION_KEY, "hunter2"))],
            &[],
            "data/secrets.toml: jwt_secret: has 7",
        ),
        (&[(".env", "ENCRYPTION_KEY=hunter2\n")], &[], ".env: ENCRYPTION_KEY: version 1"),
        (&[(".env", "JWT_SECRET=hunter2\n")], &[], ".env: JWT_SECRET: is shorter than"),
        (&[], &[("DATABASE_URL", "postgres://a@127.0.0.1/b?sslmod=x")], "DATABASE_URL"),
        (&[("metamcp.toml", "[records]\ntarget = 'file'\nfile = 'absent/calls'\n")], &[], "records.file: "),
        (&[("metamcp.toml", "[log]\nfilter = 'warning'\n")], &[], "has no level"),
    ];
    for (files, variables, expected) in rows {
        let (checked, started) = (run(files, &["check"], variables), run(files, &[], variables));
        for (what, ended) in [("check", &checked), ("start", &started)] {
            let Run { code, err, .. } = ended;
            assert_eq!(*code, Some(64), "{what} of {files:?}: {err}");
            assert!(err.contains(expected) && !err.contains("hunter2"), "{what} of {files:?}: {err}");
        }
        // Each run has a directory of its own.
        let last =
            |text: &str| text.lines().last().and_then(|line| line.rsplit('/').next()).map(str::to_owned);
        assert_eq!(last(&checked.err), last(&started.err), "{files:?}");
    }
}

/// What the check describes is what a start serves: the demonstration server, too.
#[test]
fn the_check_names_the_demonstration_server() {
    let checked = run(&[], &["check"], &[]);
    assert_eq!(checked.code, Some(0), "{}", checked.err);
    assert!(checked.out.contains("endpoint   /mcp (prefix always): demo\n"), "{}", checked.out);
    assert!(checked.out.contains("demonstration server"), "{}", checked.out);
    let server = ("mcp.json", r#"{"mcpServers": {"a": {"url": "http://127.0.0.1:1/mcp"}}}"#);
    let checked = run(&[server], &["check"], &[]);
    assert!(!checked.out.contains("demo"), "{}", checked.out);
}

/// Secrets are made at the first start only: beside keys that others have sealed, new ones would make every key look altered.
#[test]
fn no_secrets_are_made_beside_keys() {
    let mut gateway = Setup::new().keys().start();
    let (path, secrets) = (gateway.path().to_owned(), "data/secrets.toml");
    gateway.kill();
    fs::rename(path.join(secrets), path.join("away")).unwrap();
    for arguments in [&["check"][..], &[]] {
        let ended = start(&path, arguments, &[]).output().unwrap();
        let err = String::from_utf8(ended.stderr).unwrap();
        assert!(!ended.status.success() && err.contains("secrets.toml is missing"), "{arguments:?}: {err}");
        assert!(!path.join(secrets).exists(), "{arguments:?}");
    }
    fs::rename(path.join("away"), path.join(secrets)).unwrap();
    gateway.start_again();
}

/// A foreign secret is named with its origin: before it seals anything, and when it opens nothing.
#[test]
fn a_wrong_encryption_key_is_named_with_its_origin() {
    let mut gateway = Setup::new().keys().start();
    gateway.keys().create("laptop");
    let path = gateway.path().to_owned();
    let failed = |variables: Texts<'_>, expected: &[&str]| {
        let ended = start(&path, &["--log-format", "text"], variables).output().unwrap();
        let err = String::from_utf8(ended.stderr).unwrap();
        assert!(!ended.status.success(), "{err}");
        for text in expected {
            assert!(err.contains(text), "{text} is not in {err}");
        }
        assert!(!err.contains("altered") && !err.contains("delete"), "{err}");
    };
    gateway.kill();
    let foreign = [("ENCRYPTION_KEY", ENCRYPTION_KEY)];
    let other = "data/secrets.toml has another one: remove \"environment: ENCRYPTION_KEY\" to use that";
    failed(&foreign, &["metamcp: environment: ENCRYPTION_KEY: this encryption key opens nothing", other]);
    fs::write(path.join(".env"), format!("ENCRYPTION_KEY={ENCRYPTION_KEY}\n")).unwrap();
    failed(
        &[],
        &[".env: ENCRYPTION_KEY: this encryption key opens nothing", "place=", ".env: ENCRYPTION_KEY\n"],
    );
    let checked = start(&path, &["check"], &[]).output().unwrap();
    let out = String::from_utf8(checked.stdout).unwrap();
    assert!(
        out.lines().any(|line| line.starts_with("secret ") && line.ends_with(".env: ENCRYPTION_KEY")),
        "{out}"
    );
    fs::remove_file(path.join(".env")).unwrap();
    let secrets = fs::read_to_string(path.join("data/secrets.toml")).unwrap();
    let line = secrets.lines().find(|line| line.starts_with("encryption_key")).unwrap();
    let replaced = secrets.replace(line, &format!("encryption_key = \"{ENCRYPTION_KEY}\""));
    fs::write(path.join("data/secrets.toml"), replaced).unwrap();
    failed(&[], &["data/secrets.toml: encryption_key: this encryption key opens nothing", "from the backup"]);
    fs::write(path.join("data/secrets.toml"), secrets).unwrap();
    let gateway = gateway.start_again();
    assert!(!gateway.log().contains("not from the data directory"), "{}", gateway.log());
}

/// The database has the keys that sign tokens, sealed with `ENCRYPTION_KEY`: no other secret is missing.
#[test]
fn an_encryption_key_alone_opens_the_database() {
    let jwt_secret = "j".repeat(40);
    let (key, secret) = (("ENCRYPTION_KEY", ENCRYPTION_KEY), ("JWT_SECRET", jwt_secret.as_str()));
    // A secrets file that is not needed is not read.
    let rows: [(Texts<'_>, Texts<'_>); 3] =
        [(&[key], &[key]), (&[key, secret], &[key]), (&[key], &[key, secret])];
    for (first, later) in rows {
        let place = Setup::new().place();
        assert!(greeting(place.path(), &[], first).contains("data/first-key"));
        assert!(!place.path().join("data/secrets.toml").exists(), "{first:?}");
        if later.len() == 2 {
            fs::write(place.path().join("data/secrets.toml"), "not needed, and not read").unwrap();
        }
        let checked = start(place.path(), &["check"], later).output().unwrap();
        assert!(
            checked.status.success(),
            "{first:?} {later:?}: {}",
            String::from_utf8_lossy(&checked.stderr)
        );
        assert!(greeting(place.path(), &[], later).contains(" listens on "), "{first:?} {later:?}");
    }
}

/// A start without the database uses the keys of the last run if there is a secret to open them with, and says so at once if
/// there is none. Without these keys it waits, also for its secrets.
#[test]
fn a_start_without_the_database_needs_one_secret() {
    let away = [("DATABASE_URL", "postgres://user:secret@127.0.0.1:1/none")];
    let ended = run(&[("data/keyring.sealed", "sealed")], &[], &away);
    assert!(ended.code.is_some_and(|code| code != 0), "{:?} {}", ended.code, ended.err);
    assert!(ended.err.contains("secrets.toml is missing"), "{}", ended.err);

    let Some(mut cluster) = Cluster::start() else { return };
    let (database, file) = (cluster.url(), "data/secrets.toml");
    let place = Setup::new().place();
    let (path, url) = (place.path(), ("DATABASE_URL", database.as_str()));
    assert!(greeting(path, &[], &[url]).contains("data/first-key"));
    let secrets = fs::read_to_string(path.join(file)).unwrap();
    let line = secrets.lines().find_map(|line| line.strip_prefix("encryption_key = ")).unwrap();
    fs::rename(path.join(file), path.join("away")).unwrap();
    cluster.end();
    assert!(greeting(path, &[], &[url, ("ENCRYPTION_KEY", line.trim_matches('"'))]).contains(" listens on "));

    // The file is restored while the gateway waits.
    fs::remove_file(path.join("data/keyring.sealed")).unwrap();
    let mut child = start(path, &[], &[url]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let log = BufReader::new(child.stderr.take().unwrap());
    let mut log = log.lines().map_while(Result::ok);
    assert!(log.any(|line| line.contains("waiting for the database")));
    thread::spawn(move || log.for_each(drop));
    fs::rename(path.join("away"), path.join(file)).unwrap();
    cluster.begin();
    assert!(greeting_of(child).contains(" listens on "));
}

/// A `.env` of another program takes nothing from the gateway, and its database gets no tables.
#[test]
fn the_env_file_of_another_program_does_no_harm() {
    let others = (".env", "not a line\nHOME=/nonexistent\nPATH=/nonexistent\nNODE_ENV=production\n");
    let checked = run(&[others], &["check"], &[]);
    assert_eq!(checked.code, Some(0), "{}", checked.err);
    assert!(checked.out.contains(".env:1: is not NAME=value, and is skipped"), "{}", checked.out);
    let own = run(&[(".env", "SERVER_PORT=1 2\n")], &["check"], &[]);
    assert!(own.code == Some(64) && own.err.contains(".env:1: is not NAME=value; quote"), "{}", own.err);

    let Some(database) = Database::new() else { return };
    sql(database.url(), "CREATE TABLE users (id INT); CREATE TABLE posts (id INT)");
    let text = format!("DATABASE_URL={}\n", database.url());
    let ended = run(&[(".env", &text)], &[], &[]);
    assert!(ended.code.is_some_and(|code| code != 0), "{}", ended.err);
    assert!(ended.err.contains("another program (posts, users)"), "{}", ended.err);
    assert!(ended.err.contains(".env: DATABASE_URL"), "{}", ended.err);
    // None of the gateway's own was made.
    sql(database.url(), "CREATE TABLE api_keys (theirs INT); DROP TABLE api_keys");
    let gateway = database.gateway().variable("METAMCP_SHARED_DATABASE", "true").start();
    assert!(gateway.log().contains(".env: DATABASE_URL"), "{}", gateway.log());
}

/// Who starts a second gateway on a data directory learns which process has it.
#[test]
fn a_data_directory_in_use_names_its_process() {
    let gateway = Setup::new().start();
    let second = start(gateway.path(), &["--no-auth"], &[]).output().unwrap();
    let err = String::from_utf8(second.stderr).unwrap();
    assert!(!second.status.success(), "{err}");
    assert!(err.contains(&format!("is used by process {}", gateway.pid())), "{err}");
    assert!(err.contains("data directory"), "{err}");
}

/// A path that names nothing says so, and a slash at its end makes no difference.
#[test]
fn a_path_is_named_in_its_error() {
    let gateway = Setup::new().start();
    for (path, name) in
        [("/mcp/tema", "`tema`"), ("/servers/x/mcp", "`servers/x`"), ("/mcp/a%0ab", "`a%0ab`")]
    {
        let response = Client::once(gateway.address, &modern(path, "tools/list", ""));
        assert_eq!(response.status, 404, "{path}");
        assert!(response.text().contains(name), "{path}: {}", response.text());
        // Nobody is asked for a key.
        assert!(!response.text().contains("key"), "{path}: {}", response.text());
    }
    for path in ["/mcp", "/mcp/", "/mcp/default/", "/servers/demo/mcp/"] {
        let response = Client::once(gateway.address, &modern(path, "tools/list", ""));
        assert_eq!(response.status, 200, "{path}: {}", response.text());
    }
    for path in ["/api/v1/mcp/stream", "/api/v1/mcp/stream/"] {
        let response = Client::once(gateway.address, &Request::new("GET", path));
        assert_eq!(response.status, 405, "{path}: {}", response.text());
    }
}

/// The program in a directory.
fn start(place: &Path, arguments: &[&str], variables: Texts<'_>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_metamcp"));
    clear_environment(&mut command)
        .args(arguments)
        .args(["--port", "0", "--data-dir", "data"])
        .envs(variables.iter().copied())
        .current_dir(place)
        .stdin(Stdio::null());
    command
}

/// Runs a gateway in a directory until it has printed its greeting, and returns that.
fn greeting(place: &Path, arguments: &[&str], variables: Texts<'_>) -> String {
    let mut command = start(place, arguments, variables);
    greeting_of(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap())
}

/// Waits until a gateway has printed its greeting, ends it, and returns the greeting.
fn greeting_of(mut child: Child) -> String {
    let mut out = child.stdout.take().unwrap();
    let mut first = [0; 1];
    out.read_exact(&mut first).unwrap();
    // It ends in good order, after all that it has to say.
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert!(child.wait().unwrap().success());
    String::from_utf8_lossy(&first).into_owned() + &rest
}

/// In full at the first start, and in a line or two later.
#[test]
fn the_greeting_is_said_in_full_once() {
    let place = Setup::new().place();
    let first = greeting(place.path(), &[], &[]);
    let key_file = place.path().join("data/first-key");
    let key = fs::read_to_string(&key_file).unwrap();
    assert_eq!(fs::metadata(&key_file).unwrap().permissions().mode() & 0o777, 0o600);
    // Standard output is no terminal here, and may be a log.
    assert!(key.starts_with("mcp_") && !first.contains(key.trim()), "{first}");
    for expected in [
        " listens on http://127.0.0.1:",
        "server demo",
        "database: SQLite",
        "data/first-key",
        "'Mcp-Method: tools/list'",
        "claude mcp add --transport http metamcp http://",
        "\"Authorization: Bearer $METAMCP_KEY\"",
        "demonstration server",
    ] {
        assert!(first.contains(expected), "{expected:?} is not in {first}");
    }
    let later = greeting(place.path(), &[], &[]);
    assert_eq!(later.lines().count(), 2, "{later}");
    assert!(later.contains(" listens on ") && later.contains("demonstration server"), "{later}");

    switch_keys_off(place.path());
    let later = greeting(place.path(), &[], &[]);
    assert!(later.contains("No API key is active") && later.contains("keyadm keys create"), "{later}");
    let open = greeting(place.path(), &["--no-auth"], &[]);
    assert!(open.contains("No key is required") && !open.contains("No API key"), "{open}");
}

/// A first key that can be written nowhere is not created: it is neither lost nor in the log.
#[test]
fn a_first_key_that_cannot_be_written_is_not_created() {
    let place = Setup::new().place();
    let path = place.path().join("data/first-key");
    fs::create_dir_all(&path).unwrap();
    let first = greeting(place.path(), &[], &[]);
    assert!(first.contains("data/first-key cannot be written"), "{first}");
    assert!(
        first.contains("keyadm keys create --name NAME --data-dir '/") && !first.contains("mcp_"),
        "{first}"
    );
    let rows = Keys::at(place.path().join("data")).run(async |store| store.keys().await.unwrap().rows);
    assert!(rows.is_empty());
    fs::remove_dir(&path).unwrap();
    assert!(greeting(place.path(), &[], &[]).contains("export METAMCP_KEY="));
    assert!(fs::read_to_string(&path).unwrap().starts_with("mcp_"));
}

fn switch_keys_off(place: &Path) {
    let keys = Keys::at(place.join("data"));
    let rows = keys.run(async |store| store.keys().await.unwrap().rows);
    assert_eq!(rows.len(), 1);
    for row in rows {
        keys.revoke(&row.key_id);
    }
}
