//! The built binary, driven in a place of its own.

#![allow(dead_code, reason = "each file of tests takes what it needs")]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use futures_util::FutureExt;
use metamcp_config::sections::AuthMode;
use metamcp_store::auth::{self, Authenticator, Credential, InstallationSecrets, Sealer};
use metamcp_store::store::Store;
use serde_json::Value;

/// A data directory that does not exist yet, in a folder of its own.
pub struct Place {
    path: PathBuf,
    /// Else it is embedded.
    database_url: Option<String>,
}

impl Place {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("keyadm-test-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self { path, database_url: None }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn data_dir(&self) -> PathBuf {
        self.path.join("data")
    }

    /// With nothing of the environment but what is named, and what `tools/coverage` needs.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keyadm"));
        command.env_clear().envs(std::env::vars_os().filter(|(name, _)| name == "LLVM_PROFILE_FILE"));
        command.env("METAMCP_DATA_DIR", self.data_dir()).current_dir(&self.path).args(arguments);
        command.envs(self.database_url.iter().map(|url| ("DATABASE_URL", url)));
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Run {
        Run::of(self.command(arguments))
    }

    /// As on a machine where no gateway was started, with a database elsewhere.
    pub fn away(url: &str) -> Self {
        let mut place = Self::new();
        place.database_url = Some(url.to_owned());
        place
    }

    pub fn database_url(&self) -> Option<&str> {
        self.database_url.as_deref()
    }

    /// What the program opens, for what only the gateway does.
    pub async fn store(&self) -> Store {
        let store = match &self.database_url {
            Some(url) => Store::open(url).await.unwrap(),
            None => Store::open_sqlite(&self.data_dir().join("metamcp.sqlite")).await.unwrap(),
        };
        let Some(secrets) = InstallationSecrets::load_existing(&self.data_dir()).unwrap() else {
            return store;
        };
        let keys = auth::parse_encryption_key(&secrets.encryption_key).unwrap();
        store.bound_by(Sealer::new(&keys).unwrap())
    }

    /// A new key: its id, and itself.
    pub fn key(&self, name: &str) -> (String, String) {
        let made = self.run(&["keys", "create", "--name", name, "--json"]).json();
        let text = |field: &str| made[field].as_str().unwrap().to_owned();
        (text("id"), text("key"))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.path));
    }
}

pub struct Run {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Run {
    pub fn of(mut command: Command) -> Self {
        let Output { status, stdout, stderr } = command.stdin(Stdio::null()).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: status.code().unwrap(), out: text(stdout), err: text(stderr) }
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{}", self.err);
        // Whoever writes is told where, and a script is told nothing else.
        let mut said = self.err.lines().filter(|line| !line.starts_with("keyadm: using the database "));
        assert_eq!(said.next(), None);
        serde_json::from_str(&self.out).unwrap()
    }

    /// Failed with this code, said this, and gave nothing to a script that does not look at codes.
    #[track_caller]
    pub fn check(&self, code: i32, said: &str) {
        assert_eq!((self.code, self.out.as_str()), (code, ""), "{}", self.err);
        assert!(self.err.contains(said), "{said:?} is not in {:?}", self.err);
    }
}

/// Runs a test on an embedded database, and on one of a server's when there is a server for tests.
pub async fn on_each(test: impl AsyncFn(&Place)) {
    test(&Place::new()).await;
    with_database(async |url| {
        let mut place = Place::new();
        place.database_url = Some(url.to_owned());
        // For a database server only a gateway's are good, of which this is the data directory.
        InstallationSecrets::load_or_create(&place.data_dir()).unwrap();
        test(&place).await;
    })
    .await;
}

/// Runs a test with the address of a database of its own, which is dropped behind it.
pub async fn with_database(test: impl AsyncFnOnce(&str)) {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    #[allow(clippy::disallowed_methods, reason = "a test has no other place to be told of a server")]
    let server = std::env::var(SERVER).ok().filter(|url| !url.is_empty());
    let Some(server) = server else {
        println!("{SERVER} is not set: NOT tested with PostgreSQL (tools/check sets it)");
        return;
    };
    let name = format!("keyadm_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    sql(&server, &format!("CREATE DATABASE {name}")).await;
    let (base, query) = server.split_once('?').unwrap_or((&server, ""));
    let (host, _) = base.rsplit_once('/').unwrap();
    let url = format!("{host}/{name}?{query}");
    let outcome = std::panic::AssertUnwindSafe(test(&url)).catch_unwind().await;
    sql(&server, &format!("DROP DATABASE {name} WITH (FORCE)")).await;
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

/// As a person with psql would.
pub async fn sql(url: &str, statement: &str) {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
    let driver = tokio::spawn(connection);
    client.batch_execute(statement).await.unwrap();
    drop(client);
    driver.await.unwrap().unwrap();
}

/// Names a PostgreSQL server on which databases may be created.
const SERVER: &str = "METAMCP_TEST_DATABASE_URL";

/// A way to a database on which the answer to a `COMMIT` is lost: what was to be kept is, and nobody is told.
pub struct LossyWay {
    /// The database by that way.
    pub url: String,
}

impl LossyWay {
    /// `ends`: nobody is let through any more afterwards.
    pub fn to(url: &str, ends: bool) -> Self {
        let (start, rest) = url.rsplit_once('@').unwrap();
        let (server, path) = rest.split_once('/').unwrap();
        let (listener, server) = (TcpListener::bind("127.0.0.1:0").unwrap(), server.to_owned());
        let here = listener.local_addr().unwrap();
        thread::spawn(move || {
            let is_lost = Arc::new(AtomicBool::new(false));
            for client in listener.incoming() {
                if is_lost.load(Ordering::SeqCst) && ends {
                    return;
                }
                let (client, is_lost) = (client.unwrap(), Arc::clone(&is_lost));
                let server = TcpStream::connect(&server).unwrap();
                thread::spawn(move || pass(&client, &server, &is_lost, ends));
            }
        });
        // In the clear, so that what passes can be read.
        let database = path.split('?').next().unwrap();
        Self { url: format!("{start}@{here}/{database}?sslmode=disable") }
    }
}

/// Both ways. Of the first transaction that makes a key the answer to its `COMMIT` is read, and kept back.
fn pass(client: &TcpStream, server: &TcpStream, is_lost: &AtomicBool, ends: bool) {
    let has = |bytes: &[u8], text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    let is_silent = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut bytes = [0; 8192];
            while let Ok(count @ 1..) = (&mut &*server).read(&mut bytes) {
                if is_silent.load(Ordering::SeqCst) || (&mut &*client).write_all(&bytes[..count]).is_err() {
                    break;
                }
            }
            drop((client.shutdown(Shutdown::Both), server.shutdown(Shutdown::Both)));
        });
        let (mut bytes, mut makes) = ([0; 8192], false);
        while let Ok(count @ 1..) = (&mut &*client).read(&mut bytes) {
            // Nor on a connection that was there before.
            if ends && is_lost.load(Ordering::SeqCst) {
                break;
            }
            makes |= has(&bytes[..count], "INSERT INTO api_keys");
            if makes && has(&bytes[..count], "COMMIT") && !is_lost.swap(true, Ordering::SeqCst) {
                is_silent.store(true, Ordering::SeqCst);
            }
            if (&mut &*server).write_all(&bytes[..count]).is_err() {
                break;
            }
        }
        drop(server.shutdown(Shutdown::Both));
    });
}

/// What the gateway would be given.
pub async fn gateway(place: &Place) -> Authenticator {
    let (secrets, origin) = InstallationSecrets::load_or_create(&place.data_dir()).unwrap();
    assert_eq!(origin, auth::SecretsOrigin::Load);
    let config = auth::Config {
        mode: AuthMode::Keys,
        encryption_keys: auth::parse_encryption_key(&secrets.encryption_key).unwrap(),
        jwt_secret: Some(auth::parse_jwt_secret(&secrets.jwt_secret).unwrap()),
        token_lifetime: std::time::Duration::from_mins(15),
        hash_permits: 1,
        hash_thread: || {},
        hash_queue_max: 8,
        verified_for: std::time::Duration::from_mins(15),
    };
    Authenticator::new(config, place.store().await).await.unwrap()
}

pub fn credential(key: &str) -> Credential<'_> {
    Credential::from_headers(None, Some(key.as_bytes())).unwrap().unwrap()
}
