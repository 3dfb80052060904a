//! PostgreSQL goes away while clients call, by its end and by hanging; the gateway is killed and started again
//! meanwhile. Known keys are served as if nothing were, and what they used is exact in the end, against the clients' own
//! count, by key, server and tool.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{
    Client, Cluster, Database, Gateway, Peer, Request, Response, is_long, modern_call, until, within,
};
use metamcp_store::store::UsageFilter;

/// How the database goes away.
#[derive(Clone, Copy, Debug)]
enum Away {
    /// Its server ends, and refuses connections.
    Ended,
    /// Its processes are stopped: connections are open, and nothing comes.
    Frozen,
}

/// One of the clients: always the same call, on one connection.
struct Caller {
    key_id: String,
    credential: String,
    server: &'static str,
    tool: &'static str,
}

/// What a client knows of its calls.
#[derive(Clone, Copy, Default, Debug)]
struct Own {
    answered: u64,
    bytes_in: u64,
    bytes_out: u64,
    /// Calls that the gateway's end cut: they count or not.
    cut: u64,
    slowest: Duration,
}

/// A gateway on a database that can go away, its clients, and what they did.
struct House {
    cluster: Cluster,
    database: Database,
    gateway: Option<Gateway>,
    callers: Vec<Caller>,
    own: Vec<Own>,
    admin: String,
}

impl House {
    fn new() -> Option<Self> {
        let cluster = Cluster::start()?;
        let (database, [a, b]) = (cluster.database(), [Peer::script([]), Peer::script([])]);
        let gateway = database.gateway().server("a", a.address).server("b", b.address).start();
        let (one, other) = (database.key("one"), database.key("other"));
        let token = Client::once(gateway.address, &token_request(&one.1)).json();
        let token = token["access_token"].as_str().unwrap().to_owned();
        let caller = |(key_id, credential): (&String, &String), server, tool| Caller {
            key_id: key_id.clone(),
            credential: credential.clone(),
            server,
            tool,
        };
        let callers = vec![
            caller((&one.0, &one.1), "a", "echo"),
            caller((&one.0, &token), "b", "other"),
            caller((&other.0, &other.1), "a", "echo"),
            caller((&other.0, &other.1), "a", "other"),
        ];
        let (own, admin) = (vec![Own::default(); callers.len()], database.admin_key());
        // Known before the database goes away, as all others.
        let house = Self { cluster, database, gateway: Some(gateway), callers, own, admin };
        assert_eq!(house.administer().status, 200);
        Some(house)
    }

    fn gateway(&self) -> &Gateway {
        self.gateway.as_ref().unwrap()
    }

    /// Has everybody call for as long as `meanwhile` takes, and counts.
    #[track_caller]
    fn call(&mut self, meanwhile: impl FnOnce(&mut Meanwhile<'_>)) {
        let (address, done, answered) = (self.gateway().address, AtomicBool::new(false), AtomicU64::new(0));
        let counts: Vec<Own> = thread::scope(|scope| {
            let calling =
                self.callers.iter().map(|caller| scope.spawn(|| caller.run(address, &done, &answered)));
            let calling: Vec<_> = calling.collect();
            let Self { cluster, gateway, admin, .. } = self;
            let mut house =
                Meanwhile { cluster, gateway: gateway.as_mut().unwrap(), admin, answered: &answered };
            // However it ends, the callers do.
            let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| meanwhile(&mut house)));
            done.store(true, Ordering::SeqCst);
            let counts = calling.into_iter().map(|calling| calling.join().unwrap()).collect();
            ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            counts
        });
        for (own, more) in self.own.iter_mut().zip(counts) {
            own.answered += more.answered;
            own.bytes_in += more.bytes_in;
            own.bytes_out += more.bytes_out;
            own.cut += more.cut;
            own.slowest = own.slowest.max(more.slowest);
        }
    }

    fn administer(&self) -> Response {
        administer(self.gateway().address, &self.admin)
    }

    fn restart(&mut self) {
        self.gateway = self.gateway.take().map(Gateway::kill_and_restart);
    }

    /// Ends the gateway, which hands on the rest, and compares.
    #[track_caller]
    fn check_usage(mut self, away: Away) {
        until("the store takes usage again", || {
            let answered: u64 = self.own.iter().map(|own| own.answered).sum();
            counted(&self.database).values().map(|counts| counts[0]).sum::<u64>() >= answered
        });
        self.gateway().terminate();
        assert!(self.gateway.as_mut().unwrap().ended().success());
        let counted = counted(&self.database);
        for (caller, own) in self.callers.iter().zip(&self.own) {
            let name = (caller.key_id.clone(), caller.server.to_owned(), caller.tool.to_owned());
            let [calls, errors, bytes_in, bytes_out] = counted[&name];
            println!("{away:?}: {}.{}: {own:?}; counted {calls} calls, {errors} errors", name.1, name.2);
            assert!((own.answered..=own.answered + own.cut).contains(&calls), "{calls} calls of {own:?}");
            assert!(errors <= own.cut, "{errors} errors");
            if own.cut == 0 {
                assert_eq!((bytes_in, bytes_out), (own.bytes_in, own.bytes_out));
            }
            assert!(own.answered > 0 && own.slowest < within(STALL_MAX), "{own:?}");
        }
        assert_eq!(counted.len(), self.callers.len(), "{counted:?}");
    }
}

/// What a test may do to the house while clients call.
struct Meanwhile<'a> {
    cluster: &'a mut Cluster,
    gateway: &'a mut Gateway,
    admin: &'a str,
    /// By everybody.
    answered: &'a AtomicU64,
}

impl Meanwhile<'_> {
    fn lose(&mut self, away: Away) {
        match away {
            Away::Ended => self.cluster.end(),
            Away::Frozen => self.cluster.freeze(),
        }
    }

    fn find(&mut self, away: Away) {
        match away {
            Away::Ended => self.cluster.begin(),
            Away::Frozen => self.cluster.thaw(),
        }
    }

    /// Administration and readiness say that the database is away, and calls go on meanwhile.
    #[track_caller]
    fn is_said(&self) {
        let answered = || self.answered.load(Ordering::SeqCst);
        let before = answered();
        let answer = administer(self.gateway.address, self.admin);
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("5")), "{}", answer.text());
        until("/ready says it", || self.ready()["store"]["answers"] == false);
        assert_eq!(self.ready()["degraded"], true);
        // One that may be good, which cannot be found out.
        let unknown = metamcp_store::auth::ApiKey::generate();
        let asked = Instant::now();
        let answer = Client::once(self.gateway.address, &token_request(unknown.expose()));
        assert_eq!((answer.status, answer.header("retry-after").is_some()), (503, true));
        assert!(asked.elapsed() < within(STALL_MAX), "{:?}", asked.elapsed());
        until("calls are answered without the database", || answered() >= before + ANSWERED_MIN);
    }

    #[track_caller]
    fn is_back(&self) {
        until("/ready says it is back", || self.ready().get("degraded").is_none());
        assert_eq!(administer(self.gateway.address, self.admin).status, 200);
    }

    fn ready(&self) -> serde_json::Value {
        let request = Request::new("GET", "/ready").with("X-API-Key", self.admin);
        let answer = Client::once(self.gateway.address, &request);
        assert_eq!(answer.status, 200, "it goes on serving");
        answer.json()
    }
}

impl Caller {
    /// Calls until it is done, or the gateway is.
    fn run(&self, address: SocketAddr, done: &AtomicBool, answered: &AtomicU64) -> Own {
        let request = modern_call("/mcp", &format!("{}__{}", self.server, self.tool), r#"{"n":1}"#);
        let request = request.with("Authorization", format!("Bearer {}", self.credential));
        let (mut own, mut client) = (Own::default(), Client::connect(address));
        while !done.load(Ordering::SeqCst) {
            let asked = Instant::now();
            let sent = client.send(&request.bytes());
            let Some(answer) = client.outcome().filter(|answer| sent && answer.whole) else {
                own.cut += 1;
                return own;
            };
            assert_eq!(answer.status, 200, "{}", answer.text());
            assert!(answer.json()["error"].is_null(), "{}", answer.text());
            own.answered += 1;
            answered.fetch_add(1, Ordering::SeqCst);
            own.bytes_in += request.body.len() as u64;
            own.bytes_out += answer.body.len() as u64;
            own.slowest = own.slowest.max(asked.elapsed());
            thread::park_timeout(PACE);
        }
        own
    }
}

fn token_request(key: &str) -> Request {
    Request::post("/api/v1/auth/token", format!("{{\"api_key\": \"{key}\"}}"))
}

fn administer(address: SocketAddr, key: &str) -> Response {
    Client::once(address, &Request::new("GET", "/api/v1/mcp/servers").with("X-API-Key", key))
}

/// Calls, errors, bytes in and out by key id, server and tool, over all hours.
fn counted(database: &Database) -> BTreeMap<(String, String, String), [u64; 4]> {
    let mut counted: BTreeMap<_, [u64; 4]> = BTreeMap::new();
    for row in
        database.store(async |store| store.usage(UsageFilter::default(), None, 500).await.unwrap().items)
    {
        let sums = counted.entry((row.key.key_id, row.key.server, row.key.tool)).or_default();
        let counts = [row.counts.calls, row.counts.errors, row.counts.bytes_in, row.counts.bytes_out];
        sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
    }
    counted
}

fn check(away: Away, killed: bool) {
    let Some(mut house) = House::new() else { return };
    let outage = if is_long() { Duration::from_mins(1) } else { Duration::from_secs(8) };
    let (lost, half) = (Instant::now(), outage / 2);
    house.call(|house| {
        thread::park_timeout(BEFORE);
        house.lose(away);
        house.is_said();
        thread::park_timeout(half.saturating_sub(lost.elapsed()));
        if killed {
            // Under load: one call of each may be lost, and none that was answered.
            house.gateway.kill();
        }
    });
    if killed {
        house.restart();
    }
    house.call(|house| {
        if killed {
            house.is_said();
        }
        thread::park_timeout(outage.saturating_sub(lost.elapsed()));
        house.find(away);
        house.is_back();
        thread::park_timeout(BEFORE);
    });
    house.check_usage(away);
}

#[test]
fn nothing_fails_and_nothing_is_lost_while_the_database_is_down() {
    check(Away::Ended, false);
}

#[test]
fn nothing_fails_and_nothing_is_lost_while_the_database_hangs() {
    check(Away::Frozen, false);
}

#[test]
fn the_same_when_the_gateway_is_killed_while_the_database_is_down() {
    check(Away::Ended, true);
}

#[test]
fn the_same_when_the_gateway_is_killed_while_the_database_hangs() {
    check(Away::Frozen, true);
}

/// Between two calls of a client: what is shown does not need a machine at its limit.
const PACE: Duration = Duration::from_millis(2);

/// While all is well.
const BEFORE: Duration = Duration::from_secs(1);

/// Calls while the database is away: if each waited for one of its timeouts, so many would take minutes.
const ANSWERED_MIN: u64 = 200;

/// No call waits for the database, not even for one of its timeouts.
const STALL_MAX: Duration = Duration::from_secs(2);
