//! Two gateways alike but for the fast lane, each in front of a scripted server of its own: what a client and
//! a server can see of the one is compared with what they can see of the other.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::thread;
use std::time::Instant;

use super::{
    Client, Gateway, PATIENCE, Peer, Request, Response, Seen, Setup, legacy_call, modern_call, open_session,
};

pub const SINGLE: &str = "/servers/a/mcp";
pub const AGGREGATED: &str = "/mcp";

/// The pair.
pub struct Twins {
    sides: [Side; 2],
    /// Rows that were compared.
    rows: usize,
    differences: Vec<String>,
}

/// One of them.
pub struct Side {
    pub gateway: Gateway,
    pub peer: Peer,
    sessions: [String; 2],
}

/// A call over one of the endpoints, in one of the eras.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    ModernSingle,
    ModernAggregated,
    LegacySingle,
    LegacyAggregated,
}

pub const WAYS: [Way; 4] =
    [Way::ModernSingle, Way::ModernAggregated, Way::LegacySingle, Way::LegacyAggregated];

/// Those that share the least.
pub const TWO_WAYS: [Way; 2] = [Way::ModernSingle, Way::LegacyAggregated];

/// A gateway that reads requests and responses on the fast lane, and one that leaves them to hyper: name, gateway, and the
/// scripted server behind it.
pub fn both_readers() -> [(&'static str, Gateway, Peer); 2] {
    [("fast lane", true), ("hyper", false)].map(|(name, is_fast)| {
        let peer = Peer::script([]);
        let tables = format!("[server]\nfast_lane = {is_fast}\n[backend]\nfast_lane = {is_fast}\n");
        let gateway = Setup::new().server("a", peer.address).with(&tables).workers(1).start();
        (name, gateway, peer)
    })
}

impl Twins {
    /// With these lines under `[server]` and `[backend]`.
    pub fn new(server: &str, backend: &str) -> Self {
        let side = |is_fast: bool| {
            let peer = Peer::script([]);
            // One worker, so that it is no matter of luck which connections to the server there are; and
            // none of them is too old for the next row.
            let more = format!(
                "[server]\nfast_lane = {is_fast}\n{server}\n\
                 [backend]\nfast_lane = {is_fast}\nidle_age_max = \"10m\"\n{backend}"
            );
            let gateway = Setup::new().server("a", peer.address).with(&more).workers(1).start();
            let sessions = [SINGLE, AGGREGATED].map(|path| open_session(&gateway, path, None));
            let side = Side { gateway, peer, sessions };
            // All that is asked once was asked, and an idle connection is there.
            for way in WAYS {
                let response = Client::once(side.gateway.address, &side.call(way, "{}"));
                assert_eq!(response.status, 200, "{}", response.text());
            }
            side
        };
        Self { sides: [side(true), side(false)], rows: 0, differences: Vec::new() }
    }

    /// Does the same at both, at the same time.
    pub fn check<T: Debug + PartialEq + Send>(&mut self, what: &str, observe: impl Fn(&Side) -> T + Sync) {
        let [fast, general] = &self.sides;
        let outcomes = thread::scope(|scope| {
            [fast, general].map(|side| scope.spawn(|| observe(side))).map(thread::ScopedJoinHandle::join)
        });
        let [fast, general] = outcomes.map(|outcome| outcome.unwrap_or_else(|_| panic!("in {what}")));
        self.rows += 1;
        if fast != general {
            self.differences.push(format!("{what}\n  fast lane: {fast:?}\n  hyper:     {general:?}"));
        }
    }

    /// Fails when any row differed.
    #[track_caller]
    pub fn finish(self) {
        println!("{} rows compared", self.rows);
        let differ = self.differences.len();
        assert!(differ == 0, "{differ} of {} rows differ:\n{}", self.rows, self.differences.join("\n"));
    }
}

impl Side {
    /// A usual call.
    pub fn call(&self, way: Way, arguments: &str) -> Request {
        match way {
            Way::ModernSingle => modern_call(SINGLE, "echo", arguments),
            Way::ModernAggregated => modern_call(AGGREGATED, "a__echo", arguments),
            Way::LegacySingle => legacy_call(SINGLE, &self.sessions[0], "1", "echo", arguments),
            Way::LegacyAggregated => legacy_call(AGGREGATED, &self.sessions[1], "1", "a__echo", arguments),
        }
    }

    /// Likewise, in a session that nothing else is asked in.
    pub fn call_apart(&self, way: Way, arguments: &str) -> Request {
        let session = match way {
            Way::ModernSingle | Way::ModernAggregated => return self.call(way, arguments),
            Way::LegacySingle => open_session(&self.gateway, SINGLE, None),
            Way::LegacyAggregated => open_session(&self.gateway, AGGREGATED, None),
        };
        self.call(way, arguments).set("Mcp-Session-Id", session)
    }

    /// What becomes of these bytes on a connection of their own, until it ends. `answers`: how many of them to
    /// await before it is tried whether another request may follow, by a usual one and by one that ends the
    /// connection, however they are read. Ended with FIN or RST is the same: which of them it is depends on
    /// whether those two were there already.
    pub fn outcome(&self, bytes: &[u8], answers: usize, pace: Pace) -> Outcome {
        let before = self.peer.all().len();
        let mut client = Client::connect(self.gateway.address);
        match pace {
            Pace::Whole => drop(client.send(bytes)),
            Pace::Bytewise => drop(bytes.iter().all(|byte| client.send(&[*byte]))),
        }
        let began = Instant::now();
        let mut came: Vec<Answered> = Vec::new();
        let mut next = |client: &mut Client| match client.outcome() {
            Some(response) => {
                came.push(Answered::of(response));
                true
            }
            None => false,
        };
        if (0..answers).all(|_| next(&mut client)) {
            let probe = modern_call(SINGLE, "echo", PROBE);
            client.send(&[probe.bytes(), probe.with("Connection", "close").bytes()].concat());
            while next(&mut client) {}
        }
        assert!(began.elapsed() < PATIENCE, "the connection was not ended after {came:?}");
        Outcome { answers: came, reached: self.reached(before) }
    }

    /// The calls that reached the server since it had seen so much.
    pub fn reached(&self, before: usize) -> Vec<Reached> {
        self.peer.all().iter().skip(before).filter(|seen| seen.is_call()).map(Reached::of).collect()
    }
}

/// The arguments of what is sent to try whether another request may follow.
const PROBE: &str = r#"{"probe":true}"#;

/// How bytes are sent.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// All at once.
    Whole,
    /// Each in a packet of its own.
    Bytewise,
}

/// What can be seen from outside.
#[derive(Debug, PartialEq)]
pub struct Outcome {
    answers: Vec<Answered>,
    reached: Vec<Reached>,
}

/// A response, without what is another one each time, and without the order of its fields.
#[derive(Debug, PartialEq)]
pub struct Answered {
    pub status: u16,
    headers: BTreeSet<(String, String)>,
    pub body: String,
    /// Whether the body came to its end.
    whole: bool,
}

impl Answered {
    pub fn of(response: Response) -> Self {
        const OTHER_EACH_TIME: [&str; 3] = ["date", "x-request-id", "mcp-session-id"];
        let mut headers = BTreeSet::new();
        for (name, mut value) in response.headers {
            if OTHER_EACH_TIME.contains(&name.as_str()) {
                "*".clone_into(&mut value);
            }
            assert!(headers.insert((name.clone(), value)), "{name} came twice");
        }
        let body = String::from_utf8_lossy(&response.body).into_owned();
        Self { status: response.status, headers, body, whole: response.whole }
    }
}

/// A call as the server saw it.
#[derive(Debug, PartialEq)]
pub struct Reached {
    pub line: String,
    pub headers: Vec<String>,
    pub body: String,
}

impl Reached {
    fn of(seen: &Seen) -> Self {
        let mut lines = seen.head.lines().filter(|line| !line.is_empty()).map(str::to_owned);
        let line = lines.next().unwrap_or_default();
        let mut headers: Vec<String> = lines.map(|line| with_alike_values(&line)).collect();
        headers.sort();
        Self { line, headers, body: String::from_utf8_lossy(&seen.body).into_owned() }
    }
}

/// The two servers have a port and sessions of their own.
fn with_alike_values(line: &str) -> String {
    match line.split_once(": ") {
        Some((name, _)) if ["host", "mcp-session-id"].contains(&name) => format!("{name}: *"),
        _ => line.to_owned(),
    }
}
