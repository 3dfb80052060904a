//! One run: servers, the gateway, clients and the schedule, until nothing is in flight, and what came of it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use metamcp_store::store::{Audit, Grants, KeyStatus, Role};

use crate::admin::Admin;
use crate::clients::{Client, Shared};
use crate::ledger::{Ledger, Violation};
use crate::oracle;
use crate::residue::Residue;
use crate::schedule::{Event, KEYS, Plan};
use crate::servers::{Era, PROGRAMS, Programs, Script, Server, Transport};
use crate::support::{self, Gateway, MODERN, Request, Setup, with_certificate};
use crate::tag::Canary;

/// What came of a run.
pub struct Report {
    pub violations: Vec<Violation>,
    /// For each kind, and for each fault: calls by outcome.
    pub counts: BTreeMap<String, BTreeMap<String, u64>>,
    /// Processor seconds of the gateway, over all its processes, and of this one.
    pub cpu: [f64; 2],
    /// How often each text of an error came.
    pub errors: BTreeMap<String, u64>,
    /// The first calls that took several seconds.
    pub slow: Vec<String>,
    /// Connections to servers that were not closed, to tell what a socket that is left is for.
    pub connections: Vec<String>,
    pub time: Duration,
    pub baseline: Residue,
    pub residue: Residue,
    pub settling: Settling,
}

/// How long it took until everything was given back, and what was last.
pub struct Settling {
    pub time: Duration,
    pub last: Vec<String>,
}

/// The scripted servers, by number. The last one does nothing wrong; the stored server has its URL.
const SERVERS: [Script; 5] = [
    script("old", Era::Legacy, Transport::Http, true),
    script("new", Era::Modern, Transport::Http, true),
    script("local", Era::Legacy, Transport::HttpUnix, true),
    script("oldest", Era::Legacy, Transport::Sse, true),
    script("calm", Era::Modern, Transport::Http, false),
];

/// How many there are.
pub const SERVERS_COUNT: u8 = 5;

const fn script(name: &'static str, era: Era, transport: Transport, obeys_faults: bool) -> Script {
    Script { name, era, transport, obeys_faults }
}

/// Within this time after the last call, everything is given back: the gateway searches for expired sessions every 30 s.
const SETTLE: Duration = Duration::from_secs(40);

/// Between two looks.
const POLL: Duration = Duration::from_millis(50);

/// `session.resume_for` of [`SETTINGS`].
pub const RESUME_FOR: Duration = Duration::from_secs(3);

/// Short times, so that what is kept for a while is given back within [`SETTLE`].
const SETTINGS: &str = r#"
[server]
idle_timeout = "5s"
[session]
idle_timeout = "5s"
resume_for = "3s"
[bridge]
session_idle_timeout = "2s"
hold_timeout = "2s"
[backend]
first_byte_timeout = "1s"
stream_idle_timeout = "1s"
idle_age_max = "1s"
[limits]
key_in_flight_max = 2000
"#;

/// Runs a plan.
pub fn run(plan: &Plan) -> Report {
    let ledger = Arc::new(Ledger::new(plan.seed, plan.clients, plan.calls_each));
    let servers = start_servers(&ledger);
    let programs = Programs::new(plan.seed);
    let setup = setup(&servers, &programs);
    let (setup, certificate) = if plan.is_tls {
        let (setup, certificate) = with_certificate(setup);
        (setup, Some(certificate))
    } else {
        (setup, None)
    };
    let gateway = setup.clone().keys().start();
    let key = gateway.keys().grant("admin", Grants { role: Role::Admin, ..Grants::everything() }).1;
    let admin = Admin { key, certificate: certificate.clone() };
    let keys: Vec<(String, String)> =
        (0..KEYS).map(|number| gateway.keys().create(&format!("key{number}"))).collect();
    let (key_ids, keys): (Vec<_>, Vec<_>) = keys.into_iter().unzip();
    put_extra(&gateway, &admin, &servers);
    let baseline = warm_up(&gateway, &admin, &keys);
    let listed = list_streams(&servers);
    let shared = Arc::new(Shared {
        plan: plan.clone(),
        ledger: ledger.clone(),
        names: names(),
        have_legacy_tasks: have_legacy_tasks(),
        keys,
        certificate,
        port: AtomicU16::new(gateway.address.port()),
        epoch: AtomicU32::new(0),
        errors: Mutex::default(),
        cpu_ms: AtomicU32::new(0),
        slow: Mutex::default(),
    });
    let begun = Instant::now();
    let is_over = Arc::new(AtomicBool::new(false));
    let clients = start_clients(&shared, &is_over);
    let gateway = act(
        gateway,
        &World { setup, servers: &servers, admin: &admin, key_ids: &key_ids },
        &shared,
        &is_over,
    );
    clients.join().expect("a client does not panic");
    let time = begun.elapsed();
    let (residue, settling) = settle(&gateway, &admin, &baseline, || lingering(plan, &servers, listed));
    programs.enter(&ledger);
    let mut violations = oracle::judge(&ledger);
    violations.extend(
        residue
            .excess(&baseline, lingering(plan, &servers, listed))
            .into_iter()
            .map(|what| Violation { tag: None, what }),
    );
    violations.extend(judge_log(&gateway.log(), &shared.keys));
    let mut counts: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
    for entry in ledger.entries() {
        for row in [format!("kind {:?}", entry.kind), format!("fault {:?}", entry.fault)] {
            *counts.entry(row).or_default().entry(format!("{:?}", entry.outcome)).or_default() += 1;
        }
    }
    let cpu = [shared.cpu_ms.load(Ordering::Relaxed) + cpu_ms(gateway.pid()), cpu_ms(std::process::id())];
    let cpu = cpu.map(|ms| Duration::from_millis(ms.into()).as_secs_f64());
    let errors = shared.errors.lock().unwrap().clone();
    let slow = shared.slow.lock().unwrap().iter().map(|slow| format!("{slow:?}")).collect();
    let connections = servers.iter().flat_map(|server| server.connections()).collect();
    Report { violations, counts, cpu, errors, slow, connections, time, baseline, residue, settling }
}

/// Servers on a thread of their own, which ends with the process.
fn start_servers(ledger: &Arc<Ledger>) -> Vec<Arc<Server>> {
    let (sender, receiver) = std::sync::mpsc::channel();
    let ledger = ledger.clone();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let servers = SERVERS.iter().map(|script| Server::start(*script, &ledger).unwrap());
            sender.send(servers.collect::<Vec<_>>()).unwrap();
            std::future::pending::<()>().await;
        });
    });
    receiver.recv().unwrap()
}

fn setup(servers: &[Arc<Server>], programs: &Programs) -> Setup {
    let table = |server: &Arc<Server>| {
        let Script { name, era, transport, .. } = server.script;
        let era = if era == Era::Legacy { "legacy" } else { "modern" };
        let transport = if transport == Transport::Sse { "transport = \"sse\"" } else { "" };
        format!("[servers.{name}]\nurl = \"{}\"\nera = \"{era}\"\n{transport}\n", server.url())
    };
    let tables: String = servers.iter().map(table).collect();
    Setup::new().with(&tables).with(&programs.toml()).with(SETTINGS)
}

fn start_clients(shared: &Arc<Shared>, is_over: &Arc<AtomicBool>) -> thread::JoinHandle<()> {
    let (shared, is_over) = (shared.clone(), is_over.clone());
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let clients: Vec<_> = (0..shared.plan.clients)
                .map(|number| tokio::spawn(Client::new(&shared, number).run()))
                .collect();
            for client in clients {
                client.await.expect("a client does not panic");
            }
        });
        is_over.store(true, Ordering::Relaxed);
    })
}

/// What actions act on, besides the gateway.
struct World<'a> {
    setup: Setup,
    servers: &'a [Arc<Server>],
    admin: &'a Admin,
    key_ids: &'a [String],
}

/// Lets happen what the plan says, until the clients have ended.
fn act(mut gateway: Gateway, world: &World<'_>, shared: &Shared, is_over: &AtomicBool) -> Gateway {
    for action in &shared.plan.actions {
        while shared.ledger.begun() < action.at_call && !is_over.load(Ordering::Relaxed) {
            thread::park_timeout(POLL);
        }
        if is_over.load(Ordering::Relaxed) {
            break;
        }
        if !matches!(action.event, Event::Kill | Event::Restart) {
            disturb(&gateway, world, action.event);
            continue;
        }
        shared.epoch.fetch_add(1, Ordering::Relaxed);
        shared.cpu_ms.fetch_add(cpu_ms(gateway.pid()), Ordering::Relaxed);
        let is_kill = action.event == Event::Kill;
        gateway = if is_kill { gateway.kill_and_restart() } else { gateway.restart() };
        shared.port.store(gateway.address.port(), Ordering::Relaxed);
        shared.epoch.fetch_add(1, Ordering::Relaxed);
    }
    gateway
}

/// Lets one thing happen that the gateway survives.
fn disturb(gateway: &Gateway, world: &World<'_>, event: Event) {
    let pause = |ms: u32| thread::park_timeout(Duration::from_millis(ms.into()));
    match event {
        Event::Reload => gateway.reload(&world.setup, "reload"),
        Event::Refuse { server, ms } => {
            let server = &world.servers[usize::from(server) % world.servers.len()];
            server.set_refusing(true);
            pause(ms);
            server.set_refusing(false);
        }
        Event::LoseSessions { server } => {
            world.servers[usize::from(server) % world.servers.len()].lose_sessions();
        }
        Event::SwitchOff { key, ms } => {
            let id = &world.key_ids[usize::from(key) % world.key_ids.len()];
            switch(gateway, id, KeyStatus::Inactive);
            pause(ms);
            switch(gateway, id, KeyStatus::Active);
        }
        Event::Remove { ms } => {
            let path = format!("{STORED}/{EXTRA}");
            drop(world.admin.administer(gateway, &Request::new("DELETE", &path)));
            pause(ms);
            put_extra(gateway, world.admin, world.servers);
        }
        Event::KillProgram => drop(Programs::signal(gateway.pid(), "-KILL")),
        Event::StopProgram { ms } => {
            if let Some(pid) = Programs::signal(gateway.pid(), "-STOP") {
                pause(ms);
                drop(std::process::Command::new("kill").args(["-CONT", &pid.to_string()]).status());
            }
        }
        Event::Kill | Event::Restart => {}
    }
}

fn switch(gateway: &Gateway, key: &str, status: KeyStatus) {
    gateway.keys().run(async |store| store.set_key_status(key, status, Audit::by("ledger")).await.unwrap());
}

/// Adds the stored server, which leads to the last of the scripted ones.
fn put_extra(gateway: &Gateway, admin: &Admin, servers: &[Arc<Server>]) {
    let url = servers[servers.len() - 1].url();
    let body = format!(r#"{{"name":"{EXTRA}","kind":"http","url":"{url}"}}"#);
    let request = Request::new("PUT", &format!("{STORED}/{EXTRA}")).body(body);
    let answer = admin.administer(gateway, &request);
    assert!(matches!(answer.status, 200 | 201), "{}", answer.text);
}

const STORED: &str = "/api/v1/mcp/servers";

/// The name of the stored server.
const EXTRA: &str = "extra";

/// All servers, as clients name them; a call's server is an index of it.
fn names() -> Vec<&'static str> {
    let scripted = SERVERS.iter().map(|script| script.name);
    scripted.chain(PROGRAMS.iter().map(|(name, _)| *name)).chain([EXTRA]).collect()
}

/// Of servers, likewise: whether they have the tasks of the Legacy era.
fn have_legacy_tasks() -> Vec<bool> {
    let has = |script: &Script| script.era == Era::Legacy && script.transport != Transport::Sse;
    SERVERS.iter().map(has).chain(PROGRAMS.iter().map(|_| false)).chain([false]).collect()
}

/// Processor time of a process so far, in milliseconds.
fn cpu_ms(pid: u32) -> u32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    // utime and stime, in hundredths of a second (proc_pid_stat(5)).
    fields.skip(11).take(2).filter_map(|field| field.parse::<u32>().ok()).sum::<u32>() * 10
}

/// One call with each key, so that what is made at first use is there; then what the gateway holds.
fn warm_up(gateway: &Gateway, admin: &Admin, keys: &[String]) -> Residue {
    for key in keys {
        request_lists(gateway, admin, key);
    }
    let health = admin.ask(gateway, &Request::new("GET", "/health"));
    assert_eq!(health.status, 200);
    let begun = Instant::now();
    let mut before = Residue::measure(gateway, admin);
    // Until the connections of the lists are closed.
    while begun.elapsed() < WARM_UP || (!before.is_at_rest() && begun.elapsed() < WARM_UP_MAX) {
        thread::park_timeout(POLL);
        before = Residue::measure(gateway, admin);
    }
    before
}

/// Requests lists with all capabilities that clients declare. For each of these the gateway keeps lists of its own, and
/// sessions that keep them current; those at a server of the SSE transport have streams that stay open.
fn request_lists(gateway: &Gateway, admin: &Admin, key: &str) {
    let ask = |request: Request| {
        let answer = admin.ask(gateway, &request.with("Authorization", format!("Bearer {key}")));
        assert!(matches!(answer.status, 200 | 202 | 204), "{}", answer.text);
        answer.session
    };
    let body = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{{"_meta":{{"io.modelcontextprotocol/protocolVersion":"{MODERN}","io.modelcontextprotocol/clientCapabilities":{{"elicitation":{{"form":{{}}}}}}}}}}}}"#
    );
    let modern = Request::post("/mcp", body).with("MCP-Protocol-Version", MODERN);
    ask(modern.with("Mcp-Method", "tools/list"));
    // Without capabilities, as all clients of 2025-03-26: that revision has no elicitation.
    let session = ask(support::initialize("/mcp")).expect("a session id");
    ask(support::notification("/mcp", &session, "notifications/initialized", ""));
    ask(support::legacy("/mcp", &session, "1", "tools/list", ""));
    ask(Request::new("DELETE", "/mcp").with("Mcp-Session-Id", &session));
}

/// Streams of sessions in which the gateway keeps its lists of the server of the SSE transport current.
fn list_streams(servers: &[Arc<Server>]) -> usize {
    servers.iter().map(|server| server.list_streams()).sum::<usize>().min(LIST_STREAMS_MAX)
}

/// For the gateway's first look at the server, and for each set of capabilities that clients declare.
const LIST_STREAMS_MAX: usize = 3;

/// A little longer than `idle_age_max`.
const WARM_UP: Duration = Duration::from_millis(2500);

/// Until the programs that were started for their lists have ended.
const WARM_UP_MAX: Duration = Duration::from_secs(15);

/// Waits until everything is given back, and says what was given back last.
fn settle(
    gateway: &Gateway,
    admin: &Admin,
    baseline: &Residue,
    lingering: impl Fn() -> usize,
) -> (Residue, Settling) {
    let begun = Instant::now();
    let mut last = Vec::new();
    loop {
        let residue = Residue::measure(gateway, admin);
        let excess = residue.excess(baseline, lingering());
        if excess.is_empty() || begun.elapsed() > SETTLE {
            return (residue, Settling { time: begun.elapsed(), last });
        }
        last = excess;
        thread::park_timeout(POLL);
    }
}

/// Event streams of sessions whose key was switched off, which the gateway ends with its next search for expired
/// sessions, within 30 s. Only a long run waits for it. Beside these, the
/// streams that keep lists current and were not open yet when the baseline was taken.
fn lingering(plan: &Plan, servers: &[Arc<Server>], listed: usize) -> usize {
    let was_off = |client: u32| {
        let keys = plan.actions.iter().filter_map(|action| match action.event {
            Event::SwitchOff { key, .. } => Some(u64::from(key) % KEYS),
            _ => None,
        });
        keys.into_iter().any(|key| key == u64::from(client) % KEYS)
    };
    let clients = servers.iter().flat_map(|server| server.streaming_clients());
    let abandoned = if plan.is_long { 0 } else { clients.filter(|client| was_off(*client)).count() };
    abandoned + list_streams(servers).saturating_sub(listed)
}

/// The log has no panic, no key, and no argument of a call.
fn judge_log(log: &str, keys: &[String]) -> Vec<Violation> {
    let is_bad = |line: &&str| {
        line.contains("panicked")
            || line.contains(Canary::PREFIX)
            || keys.iter().any(|key| line.contains(&**key))
    };
    let found = log.lines().filter(is_bad).take(LOG_LINES_MAX);
    found.map(|line| Violation { tag: None, what: format!("in the log: {line}") }).collect()
}

const LOG_LINES_MAX: usize = 5;
