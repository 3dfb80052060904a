//! A PostgreSQL server of a test's own, which can be ended, killed, frozen and started again.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::{Database, PATIENCE, run};

/// A running server; ended when dropped, with all that was in it.
pub struct Cluster {
    programs: PathBuf,
    /// Its data, its log, its socket.
    folder: PathBuf,
    owner: Option<(u32, u32)>,
    port: u16,
    password: String,
    postmaster: Option<Child>,
}

impl Cluster {
    /// A new one; `None`, said aloud, where PostgreSQL is not installed.
    pub fn start() -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let Some(programs) = programs() else {
            println!("PostgreSQL is not installed: NOT tested (tools/check installs it)");
            return None;
        };
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("metamcp-pg-{}-{number}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let owner = owner(&folder);
        let password = metamcp_store::store::new_id().simple().to_string();
        let mut cluster = Self { programs, folder, owner, port: free_port(), password, postmaster: None };
        cluster.make();
        cluster.begin();
        Some(cluster)
    }

    /// Its one database.
    pub fn database(&self) -> Database {
        Database::at(self.url())
    }

    pub fn url(&self) -> String {
        format!("postgres://postgres:{}@127.0.0.1:{}/postgres", self.password, self.port)
    }

    /// Starts it again after `end`, and waits until it lets clients in.
    pub fn begin(&mut self) {
        assert!(self.postmaster.is_none());
        let log = fs::File::options().create(true).append(true).open(self.folder.join("log")).unwrap();
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data()).args(["-p", &self.port.to_string(), "-k"]).arg(&self.folder);
        // Nothing in it has to outlive the machine; the statistics tell which statements a test caused.
        for setting in [
            "listen_addresses=127.0.0.1",
            "fsync=off",
            "max_connections=100",
            "shared_preload_libraries=pg_stat_statements",
        ] {
            command.args(["-c", setting]);
        }
        self.postmaster =
            Some(command.stdout(log.try_clone().unwrap()).stderr(log).stdin(Stdio::null()).spawn().unwrap());
        let deadline = Instant::now() + PATIENCE;
        while run(tokio_postgres::connect(&self.url(), tokio_postgres::NoTls)).is_err() {
            assert!(Instant::now() < deadline, "PostgreSQL did not start: {}", self.log());
            thread::park_timeout(START_POLL);
        }
    }

    /// Ends it. Whoever is connected is thrown out, and what was not committed is undone.
    pub fn end(&mut self) {
        self.end_by("-INT");
    }

    fn end_by(&mut self, signal: &str) {
        if let Some(mut postmaster) = self.postmaster.take() {
            kill(signal, &[postmaster.id()]);
            postmaster.wait().unwrap();
        }
    }

    /// Stops every process of it: connections stay open, and nothing answers.
    pub fn freeze(&self) {
        // The postmaster first, so that no process comes after those that are seen.
        let postmaster = self.postmaster.as_ref().unwrap().id();
        kill("-STOP", &[postmaster]);
        kill("-STOP", &children(postmaster));
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        let postmaster = self.postmaster.as_ref().unwrap().id();
        kill("-CONT", &children(postmaster));
        kill("-CONT", &[postmaster]);
    }

    fn make(&self) {
        let secret = self.folder.join("password");
        fs::write(&secret, &self.password).unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
        if let Some((user, group)) = self.owner {
            chown(&secret, Some(user), Some(group)).unwrap();
        }
        let mut command = self.command("initdb");
        command.arg("-D").arg(self.data()).arg("--pwfile").arg(&secret);
        command.args(["-U", "postgres", "-A", "scram-sha-256", "-E", "UTF8", "--locale=C", "--no-sync"]);
        let made = command.output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.env_clear().current_dir(&self.folder);
        if let Some((user, group)) = self.owner {
            command.uid(user).gid(group);
        }
        command
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.postmaster.is_some() {
            self.thaw();
            self.end_by("-QUIT");
        }
        drop(fs::remove_dir_all(&self.folder));
    }
}

/// The folder of PostgreSQL's programs, the newest when there are several.
fn programs() -> Option<PathBuf> {
    let installed = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().filter_map(Result::ok);
    let release = |path: &PathBuf| -> Option<u32> { path.file_name()?.to_str()?.parse().ok() };
    let newest = installed.map(|entry| entry.path()).max_by_key(release)?;
    Some(newest.join("bin")).filter(|programs| programs.join("initdb").exists())
}

/// PostgreSQL refuses to run as root: gives the folder to somebody else, and says to whom.
fn owner(folder: &Path) -> Option<(u32, u32)> {
    use std::os::unix::fs::MetadataExt;
    if fs::metadata(folder).unwrap().uid() != 0 {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let ids = |name: &str| {
        let line = users.lines().find(|line| line.starts_with(&format!("{name}:")))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    let (user, group): (u32, u32) = ids("postgres").or_else(|| ids("nobody")).expect("an unprivileged user");
    chown(folder, Some(user), Some(group)).unwrap();
    Some((user, group))
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

fn children(process: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap();
    children.split_whitespace().map(|id| id.parse().unwrap()).collect()
}

/// Some of them may just have ended by themselves.
fn kill(signal: &str, processes: &[u32]) {
    let ids = processes.iter().map(u32::to_string);
    let _ = Command::new("kill").arg(signal).args(ids).stderr(Stdio::null()).status().unwrap();
}

/// Between two tries to reach a server that starts.
const START_POLL: Duration = Duration::from_millis(20);
