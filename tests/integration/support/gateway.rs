//! The built program, on a free port, with a directory of its own.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, crypto::sign};
use metamcp_store::auth::{
    InstallationSecrets, KeyRequest, Sealer, create_key, parse_encryption_key, parse_jwt_secret,
};
use metamcp_store::store::{Audit, Grants, KeyStatus, Store, UsageFilter, UsageRow};
use serde_json::Value;

use super::client::{Client, Request};
use super::{PATIENCE, clear_environment};

/// A running gateway; killed when dropped.
pub struct Gateway {
    pub address: SocketAddr,
    /// The key that a first start prints.
    pub key: Option<String>,
    dir: Dir,
    launch: Launch,
    child: Child,
    /// The processes that it was handed over to, in this order.
    successors: Mutex<Vec<u32>>,
    /// Locked so that threads can share the gateway.
    output: Mutex<Receiver<String>>,
}

/// What is to be written into its configuration.
#[derive(Clone, Default)]
pub struct Setup {
    servers: String,
    more: String,
    files: Vec<(String, String)>,
    links: Vec<(String, String)>,
    launch: Launch,
}

/// How the program is started.
#[derive(Clone, Default)]
struct Launch {
    keys: bool,
    workers: Option<usize>,
    /// Environment variables: names and values.
    variables: Vec<(String, String)>,
    /// A program that runs it, with arguments; none if empty.
    wrapper: Vec<&'static str>,
}

/// A directory, gone when dropped.
pub struct Dir(Option<PathBuf>);

impl Dir {
    pub fn path(&self) -> &Path {
        self.0.as_ref().unwrap()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            drop(fs::remove_dir_all(path));
        }
    }
}

impl Setup {
    /// Nobody is asked for a key.
    pub fn new() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn server(self, name: &str, address: SocketAddr) -> Self {
        self.server_with(name, address, "")
    }

    /// With more lines in the server's table.
    #[must_use]
    pub fn server_with(mut self, name: &str, address: SocketAddr, lines: &str) -> Self {
        let table = format!("[servers.{name}]\nurl = \"http://{address}/mcp\"\n{lines}\n");
        self.servers += &table;
        self
    }

    /// Tables of their own.
    #[must_use]
    pub fn with(mut self, toml: &str) -> Self {
        self.more += toml;
        self.more += "\n";
        self
    }

    /// A file beside the configuration.
    #[must_use]
    pub fn file(mut self, name: &str, text: &str) -> Self {
        self.files.push((name.into(), text.into()));
        self
    }

    /// A symbolic link beside the configuration.
    #[must_use]
    pub fn link(mut self, name: &str, target: &str) -> Self {
        self.links.push((name.into(), target.into()));
        self
    }

    /// Started by this program, which gets the path of the gateway's program and its arguments.
    #[must_use]
    pub fn wrapped(mut self, wrapper: &[&'static str]) -> Self {
        self.launch.wrapper = wrapper.to_vec();
        self
    }

    /// Everybody is asked for a key.
    #[must_use]
    pub fn keys(mut self) -> Self {
        self.launch.keys = true;
        self
    }

    /// So many, not two.
    #[must_use]
    pub fn workers(mut self, count: usize) -> Self {
        self.launch.workers = Some(count);
        self
    }

    /// One more variable in the gateway's environment, also after a restart.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.launch.variables.push((name.into(), value.into()));
        self
    }

    /// Without the capabilities of root, which let a process read what its user may not; `None`, said aloud, where
    /// the test runs as root and no program gives them up.
    pub fn without_capabilities(mut self) -> Option<Self> {
        const SETPRIV: &str = "/usr/bin/setpriv";
        if rustix::process::geteuid().is_root() {
            if !Path::new(SETPRIV).exists() {
                println!("{SETPRIV} is not there, and this is root: NOT tested");
                return None;
            }
            self.launch.wrapper =
                vec![SETPRIV, "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all"];
        }
        Some(self)
    }

    pub fn toml(&self) -> String {
        format!("{}\n{}", self.servers, self.more)
    }

    pub fn start(&self) -> Gateway {
        Gateway::run(self.place(), self.launch.clone())
    }

    /// A new directory with all of it written there.
    pub fn place(&self) -> Dir {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("metamcp-test-{}-{number}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("metamcp.toml"), self.toml()).unwrap();
        for (name, text) in &self.files {
            let path = dir.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
        }
        for (name, target) in &self.links {
            symlink(target, dir.join(name)).unwrap();
        }
        Dir(Some(dir))
    }
}

impl Gateway {
    /// In front of these servers, with nobody asked for a key.
    pub fn open(servers: &[(&str, SocketAddr)]) -> Self {
        servers.iter().fold(Setup::new(), |setup, (name, address)| setup.server(name, *address)).start()
    }

    fn run(dir: Dir, launch: Launch) -> Self {
        let path = dir.path();
        let log = fs::File::options().create(true).append(true).open(path.join("log")).unwrap();
        let program = env!("CARGO_BIN_EXE_metamcp");
        let words = [&launch.wrapper[..], &[program]].concat();
        let mut command = Command::new(words[0]);
        clear_environment(&mut command)
            .args(&words[1..])
            .envs(launch.variables.iter().cloned())
            .current_dir(path)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log);
        let workers = launch.workers.unwrap_or(WORKERS).to_string();
        command.args(["--port", "0", "--workers", &workers, "--data-dir", "data"]);
        if !launch.keys {
            command.arg("--no-auth");
        }
        let mut child = command.spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (sender, output) = mpsc::channel();
        thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                // The test may have seen enough.
                drop(sender.send(line));
            }
        });
        let address = loop {
            let Ok(line) = output.recv_timeout(PATIENCE) else {
                panic!("the gateway did not start: {}", fs::read_to_string(path.join("log")).unwrap());
            };
            if let Some((_, rest)) = line.split_once(" listens on ") {
                let url = rest.split(' ').next().unwrap();
                // By now it serves, and a first key is written.
                break url.rsplit_once('/').unwrap().1.parse().unwrap();
            }
        };
        // Standard output is no terminal, so the first key is in a file.
        let key = fs::read_to_string(path.join("data/first-key")).ok().map(|text| text.trim().to_owned());
        let (successors, output) = (Mutex::default(), Mutex::new(output));
        Self { address, key, dir, launch, child, successors, output }
    }

    /// The process that accepts connections.
    pub fn pid(&self) -> u32 {
        self.successors.lock().unwrap().last().copied().unwrap_or_else(|| self.child.id())
    }

    /// All processes, also those that have ended.
    pub fn pids(&self) -> Vec<u32> {
        let successors = self.successors.lock().unwrap();
        std::iter::once(self.child.id()).chain(successors.iter().copied()).collect()
    }

    /// SIGUSR2, and waits until a successor accepts connections.
    #[track_caller]
    pub fn hand_over(&self) {
        const DONE: &str = "handed over to the successor process=";
        let so_far = self.log().matches(DONE).count();
        self.signal("-USR2");
        self.wait_log(DONE, so_far);
        let log = self.log();
        let process = log.rsplit_once(DONE).unwrap().1.lines().next().unwrap().parse().unwrap();
        self.successors.lock().unwrap().push(process);
    }

    /// Waits until the log has that text more often than `so_far`.
    #[track_caller]
    pub fn wait_log(&self, text: &str, so_far: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.log().matches(text).count() <= so_far {
            assert!(Instant::now() < deadline, "not {text:?}: {}", self.log());
            // Nothing is said there; it is where time passes.
            drop(self.output.lock().unwrap().recv_timeout(LOG_POLL));
        }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Everything it logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path().join("log")).unwrap()
    }

    /// CPU time of one request: the least of five tries of ten, since the machine is busy.
    pub fn cpu_time_of(&self, request: &Request, status: u16) -> Duration {
        const TIMES: u32 = 10;
        let (bytes, mut client) = (request.bytes(), Client::connect(self.address));
        let tries = (0..5).map(|_| {
            let before = self.cpu_time();
            for _ in 0..TIMES {
                client.send(&bytes);
                let response = client.response();
                assert_eq!(response.status, status, "{}", response.text());
            }
            self.cpu_time().saturating_sub(before) / TIMES
        });
        tries.min().unwrap_or_default()
    }

    /// What all its threads have used.
    fn cpu_time(&self) -> Duration {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        let used = tasks.filter_map(|task| {
            let stat = fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
            stat.split(' ').next()?.parse::<u64>().ok()
        });
        Duration::from_nanos(used.sum())
    }

    /// Its resident memory in bytes.
    pub fn resident_bytes(&self) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        self.signal("-TERM");
    }

    /// Sends it a signal, named as kill(1) does.
    pub fn signal(&self, name: &str) {
        let told = Command::new("kill").args([name, &self.pid().to_string()]).status().unwrap();
        assert!(told.success());
    }

    /// Writes another configuration in place of the one it was started with, SIGHUP, and waits until it is told what
    /// came of it: a line with that text.
    #[track_caller]
    pub fn reload(&self, setup: &Setup, outcome: &str) {
        let so_far = self.log().matches(outcome).count();
        fs::write(self.path().join("metamcp.toml"), setup.toml()).unwrap();
        self.signal("-HUP");
        self.wait_log(outcome, so_far);
    }

    /// Waits for its end, which closes its output.
    #[track_caller]
    pub fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        let left = || deadline.saturating_duration_since(Instant::now());
        let output = self.output.get_mut().unwrap();
        while output.recv_timeout(left()).is_ok() {}
        assert!(!left().is_zero(), "the gateway did not end: {}", self.log());
        self.child.wait().unwrap()
    }

    /// Another process in the same directory, as after a restart. The port is another one.
    pub fn restart(mut self) -> Self {
        self.terminate();
        assert!(self.ended().success());
        self.start_again()
    }

    /// The same after SIGKILL.
    pub fn kill_and_restart(mut self) -> Self {
        self.kill();
        self.start_again()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Another process in the same directory, once the first one has ended.
    pub fn start_again(mut self) -> Self {
        let key = self.key.take();
        let launch = Launch { keys: key.is_some(), ..self.launch.clone() };
        let mut next = Self::run(Dir(self.dir.0.take()), launch);
        next.key = key;
        next
    }

    /// What was used, as the store tells it: key id, server, tool, and counts.
    pub fn usage(&self) -> Vec<UsageRow> {
        self.keys().run(async |store| store.usage(UsageFilter::default(), None, 500).await.unwrap().items)
    }

    /// More keys, made as `keyadm` makes them.
    pub fn keys(&self) -> Keys {
        Keys::at(self.path().join("data"))
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        for process in self.successors.get_mut().unwrap() {
            drop(Command::new("kill").args(["-KILL", &process.to_string()]).stderr(Stdio::null()).status());
        }
        drop(self.child.kill());
        drop(self.child.wait());
        if thread::panicking() && self.dir.0.is_some() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!(
                "the gateway's log:\n{}",
                lines[lines.len().saturating_sub(LOG_LINES_MAX)..].join("\n")
            );
        }
    }
}

/// More than one, so that what they share is shared.
const WORKERS: usize = 2;

/// Between two looks into the log.
const LOG_POLL: Duration = Duration::from_millis(5);

/// Of its log, when a test fails.
const LOG_LINES_MAX: usize = 20;

/// The store of a gateway's keys.
pub struct Keys {
    data_dir: PathBuf,
}

impl Keys {
    /// Those of a data directory.
    pub fn at(data_dir: PathBuf) -> Self {
        Self { data_dir }
    }

    /// A new key: its id, and itself.
    pub fn create(&self, name: &str) -> (String, String) {
        self.grant(name, Grants::everything())
    }

    /// A new key that may do that: its id, and itself.
    pub fn grant(&self, name: &str, grants: Grants) -> (String, String) {
        self.make(KeyRequest { name: name.into(), description: String::new(), grants, expires_at: None })
    }

    /// A new key for so long: its id, and itself.
    pub fn lend(&self, name: &str, time: Duration) -> (String, String) {
        let until = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + time;
        let (grants, expires_at) = (Grants::everything(), Some(until.as_secs()));
        self.make(KeyRequest { name: name.into(), description: String::new(), grants, expires_at })
    }

    fn make(&self, request: KeyRequest) -> (String, String) {
        let sealer = self.sealer();
        self.run(async |store| {
            let (key, row) = create_key(&store, &sealer, request, Audit::by("test")).await.unwrap();
            (row.key_id, key.expose().to_owned())
        })
    }

    /// What binds the rows.
    pub fn sealer(&self) -> Sealer {
        let (secrets, _) = InstallationSecrets::load_or_create(&self.data_dir).unwrap();
        Sealer::new(&parse_encryption_key(&secrets.encryption_key).unwrap()).unwrap()
    }

    /// Switches a key off.
    pub fn revoke(&self, key_id: &str) {
        assert!(self.run(async |store| {
            store.set_key_status(key_id, KeyStatus::Inactive, Audit::by("test")).await.unwrap()
        }));
    }

    /// What signs tokens.
    pub fn jwt_secret(&self) -> Vec<u8> {
        let (secrets, _) = InstallationSecrets::load_or_create(&self.data_dir).unwrap();
        parse_jwt_secret(&secrets.jwt_secret).unwrap().to_vec()
    }

    /// That token as if it had been issued long ago, with a valid signature.
    pub fn expire_token(&self, token: &str) -> String {
        let mut parts = token.split('.');
        let (header, payload) = (parts.next().unwrap(), parts.next().unwrap());
        let mut claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap();
        for time in ["iat", "exp"] {
            claims[time] = (claims[time].as_u64().unwrap() - 100_000).into();
        }
        let message = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
        let key = EncodingKey::from_secret(&self.jwt_secret());
        format!("{message}.{}", sign(message.as_bytes(), &key, Algorithm::HS256).unwrap())
    }

    /// Where the database is.
    pub fn database(&self) -> PathBuf {
        self.data_dir.join("metamcp.sqlite")
    }

    /// With the store itself, as another process that has it open.
    pub fn run<T>(&self, work: impl AsyncFnOnce(Store) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let store = Store::open_sqlite(&self.data_dir.join("metamcp.sqlite")).await.unwrap();
            work(store.bound_by(self.sealer())).await
        })
    }
}
