//! What a run does, drawn from its seed: the call of each client and number, and what happens meanwhile.

use std::fmt;

use crate::fault::Fault;
use crate::kind::Kind;
use crate::random::Random;
use crate::servers::Era;
use crate::support::Transport;
use crate::tag::Tag;

/// A run. Two plans with the same fields do the same, except for timing.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub clients: u32,
    pub calls_each: u32,
    /// A call of another kind is a plain one.
    pub kinds: Vec<Kind>,
    /// A call with another fault has none.
    pub faults: Vec<Fault>,
    /// In the order of their numbers of calls.
    pub actions: Vec<Action>,
    /// Whether most calls are cheap, and few have faults.
    pub is_long: bool,
    /// Whether the gateway serves TLS: then all clients use it.
    pub is_tls: bool,
}

/// Something that happens to the gateway or a server when so many calls have begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Action {
    pub at_call: u64,
    pub event: Event,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The configuration is read again (SIGHUP).
    Reload,
    /// A server refuses connections for so many milliseconds (A1).
    Refuse { server: u8, ms: u32 },
    /// A server loses its sessions (A13).
    LoseSessions { server: u8 },
    /// A key is switched off for so many milliseconds.
    SwitchOff { key: u8, ms: u32 },
    /// The server `extra` is removed over REST for so many milliseconds.
    Remove { ms: u32 },
    /// A program is killed (B2).
    KillProgram,
    /// A program is stopped for so many milliseconds (B17).
    StopProgram { ms: u32 },
    /// The gateway is killed (SIGKILL), and started again.
    Kill,
    /// The gateway is ended (SIGTERM), and started again.
    Restart,
}

/// One call as it is drawn.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    pub tag: Tag,
    pub kind: Kind,
    pub fault: Fault,
    pub number: u32,
    /// A number of a server, to be taken modulo how many there are.
    pub server: u32,
    pub is_aggregate: bool,
    pub pad: usize,
    pub manner: Manner,
}

/// How a request is sent, and its response read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    Whole,
    /// Each byte in a write of its own (C14).
    Bytewise,
    /// In two writes.
    Split,
    /// The response is not read for a while (C3).
    SlowReader,
}

/// How many clients a run has: more than workers, and few enough for one thread.
const CLIENTS: u64 = 64;

/// Keys that the clients share.
pub const KEYS: u64 = 4;

/// One action in so many calls, in a short run and in a long one.
const CALLS_PER_ACTION: (u64, u64) = (400, 10_000);

/// However long a run is, it has at most so many actions.
const ACTIONS_MAX: u64 = 2000;

/// Of a thousand calls, so many have a fault in a short run and in a long one, in which most calls are cheap.
const FAULTS_PER_MILLE: (u64, u64) = (150, 30);

/// Of a thousand clients, so many use HTTP/2 in a short run and in a long one, in which it would cost much.
const HTTP2_PER_MILLE: (u64, u64) = (250, 60);

/// From so many calls on, a run is a long one.
const LONG: u64 = 100_000;

impl Plan {
    pub fn draw(seed: u64, calls: u64, servers: u8) -> Self {
        let mut random = Random::of(seed, ACTIONS, 0);
        let is_long = calls >= LONG;
        let calls_per_action = if is_long { CALLS_PER_ACTION.1 } else { CALLS_PER_ACTION.0 };
        let count = (calls / calls_per_action).min(ACTIONS_MAX);
        let mut actions: Vec<Action> = (0..count)
            .map(|_| Action { at_call: random.below(calls), event: Event::draw(&mut random, servers) })
            .collect();
        actions.sort_by_key(|action| action.at_call);
        Self {
            seed,
            clients: u32::try_from(CLIENTS.min(calls)).unwrap_or(1),
            calls_each: u32::try_from(calls.div_ceil(CLIENTS)).unwrap_or(u32::MAX),
            kinds: Kind::ALL.to_vec(),
            faults: Fault::ALL.to_vec(),
            actions,
            is_long,
            is_tls: Random::of(seed, TRANSPORTS, TRANSPORTS).happens(if is_long { 125 } else { 250 }),
        }
    }

    /// Plans with less in them, to find what a violation needs: half of the calls, the actions, the faults, the kinds.
    pub fn halves(&self) -> Vec<Self> {
        fn parts<T: Clone>(all: &[T]) -> [Vec<T>; 2] {
            let (first, second) = all.split_at(all.len() / 2);
            [first.to_vec(), second.to_vec()]
        }
        let shorter = Self { calls_each: self.calls_each / 2, ..self.clone() };
        let actions = parts(&self.actions).map(|actions| Self { actions, ..self.clone() });
        let faults = parts(&self.faults).map(|faults| Self { faults, ..self.clone() });
        let kinds = parts(&self.kinds).map(|kinds| Self { kinds, ..self.clone() });
        let is_less = |plan: &Self| {
            let size =
                |plan: &Self| (plan.calls_each, plan.actions.len(), plan.faults.len(), plan.kinds.len());
            size(plan) != size(self) && plan.calls_each > 0 && !plan.kinds.is_empty()
        };
        let all = [shorter].into_iter().chain(actions).chain(faults).chain(kinds);
        all.filter(is_less).collect()
    }

    pub fn calls(&self) -> u64 {
        u64::from(self.clients) * u64::from(self.calls_each)
    }

    /// The era of a client.
    pub fn era(client: u32) -> Era {
        if client.is_multiple_of(2) { Era::Legacy } else { Era::Modern }
    }

    /// How a client reaches the gateway.
    pub fn transport(&self, client: u32) -> Transport {
        let per_mille = if self.is_long { HTTP2_PER_MILLE.1 } else { HTTP2_PER_MILLE.0 };
        let is_http2 = Random::of(self.seed, TRANSPORTS, client.into()).happens(per_mille);
        match (is_http2, self.is_tls) {
            (false, false) => Transport::Http1,
            (false, true) => Transport::Http1Tls,
            (true, false) => Transport::Http2,
            (true, true) => Transport::Http2Tls,
        }
    }

    /// The same for the same client and number, whatever else the plan leaves out.
    pub fn call(&self, tag: Tag) -> Call {
        let mut random = Random::of(self.seed, u64::from(tag.client), u64::from(tag.sequence));
        let kinds = if self.is_long { Kind::WEIGHTS_LONG } else { Kind::WEIGHTS };
        let kind = random.weighted(kinds);
        let per_mille = if self.is_long { FAULTS_PER_MILLE.1 } else { FAULTS_PER_MILLE.0 };
        let is_faulty = random.happens(per_mille);
        let fault = random.weighted(&Fault::WEIGHTS);
        let number = u32::try_from(random.below(1 << 20)).unwrap_or_default();
        let server = u32::try_from(random.below(1 << 20)).unwrap_or_default();
        let is_aggregate = random.happens(500);
        let pad_max = if random.happens(20) { 20_000 } else { 200 };
        let pad = random.index(pad_max);
        let kind = if self.kinds.contains(&kind) { kind } else { Kind::Plain };
        let fault = if is_faulty && self.faults.contains(&fault) { fault } else { Fault::None };
        // Each delays the next start of the program, by up to 30 s.
        let is_rare = self.is_long && fault == Fault::Exit && !number.is_multiple_of(64);
        let fault = if is_rare { Fault::None } else { fault };
        let manner = match random.below(500) {
            0 => Manner::Bytewise,
            1..4 => Manner::Split,
            4 => Manner::SlowReader,
            _ => Manner::Whole,
        };
        Call { tag, kind, fault, number, server, is_aggregate, pad, manner }
    }
}

impl Call {
    /// As one of the calls that are sent together with the first of them: over the same endpoint.
    pub fn beside(self, first: &Self) -> Self {
        if !first.kind.is_group() {
            return self;
        }
        let server = if first.is_aggregate { self.server } else { first.server };
        Self { kind: first.kind, is_aggregate: first.is_aggregate, server, ..self }
    }

    /// Whether the server answers on an event stream.
    pub fn is_stream(&self) -> bool {
        self.kind.is_stream(self.number)
    }
}

/// The purposes of the generators for actions and for transports: no client has those numbers.
const ACTIONS: u64 = u64::MAX;
const TRANSPORTS: u64 = u64::MAX - 1;

impl Event {
    fn draw(random: &mut Random, servers: u8) -> Self {
        let server = u8::try_from(random.below(servers.into())).unwrap_or_default();
        let ms = u32::try_from(50 + random.below(500)).unwrap_or_default();
        let key = u8::try_from(random.below(KEYS)).unwrap_or_default();
        let rows = [
            (Self::Reload, 6),
            (Self::Refuse { server, ms }, 6),
            (Self::LoseSessions { server }, 6),
            (Self::SwitchOff { key, ms }, 4),
            (Self::Remove { ms }, 4),
            (Self::KillProgram, 2),
            (Self::StopProgram { ms }, 2),
            (Self::Kill, 1),
            (Self::Restart, 1),
        ];
        random.weighted(&rows)
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (clients, calls) = (self.clients, self.calls());
        let tls = if self.is_tls { ", with TLS" } else { "" };
        writeln!(f, "seed {}, {calls} calls of {clients} clients{tls}", self.seed)?;
        let is_http2 =
            |client: &u32| matches!(self.transport(*client), Transport::Http2 | Transport::Http2Tls);
        writeln!(f, "clients of HTTP/2: {}", (0..clients).filter(is_http2).count())?;
        writeln!(f, "kinds: {:?}", self.kinds)?;
        writeln!(f, "faults: {:?}", self.faults)?;
        write!(f, "actions: {}", self.actions.len())?;
        for action in self.actions.iter().take(SHOWN_MAX) {
            write!(f, "\n  after {} calls: {:?}", action.at_call, action.event)?;
        }
        Ok(())
    }
}

/// Actions that are printed.
const SHOWN_MAX: usize = 30;
