//! What one worker thread has at hand.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use foldhash::fast::RandomState;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use zeroize::Zeroizing;

use super::parking::Parking;
use crate::auth::{AuthDenial, AuthMode, Authenticator, Credential, CredentialCheck, Identity, KeyId};
use crate::catalog::Catalog;
use crate::journal::usage::{Counters, Usage};
use crate::limits::{KeyUsage, Limits, Permit};
use crate::route::{Endpoint, RoutedServer};
use crate::runtime::Purge;
use crate::server::config::Config;
use crate::server::http1::cached_credential::CachedCredential;
use crate::server::http1::date::{Date, now as date};
use crate::server::http1::activity::{Control, Controls};
use crate::server::http1::control_plane::ControlPlane;
use crate::server::http1::fields::{Field, Fields};
use crate::server::http1::guard::Guard;
use crate::server::http1::mapped;
use crate::server::http1::stream_wakeups::StreamWakeups;
use crate::session::{ResumableStreams, Session, SessionError, SessionTerminator, Sessions};
use crate::telemetry::metrics::{LabelId, Metrics, MetricsWriter, OpenStreamGuard, StreamKind};
use crate::telemetry::traces::Tracer;
use crate::topology::{Topology, UpstreamPools};
use crate::upstream::{UpstreamId, UpstreamPool};
use metamcp_core::base::{Fault, FaultKind, FaultOrigin, ServerName, ShutdownPhase, unix_seconds};
use metamcp_core::frame::Scanner;

/// What all workers share: snapshots, and what is locked for a few lines off the usual path.
pub struct Shared {
    /// What the data plane was told.
    pub config: Config,
    /// Host and Origin.
    pub guard: Guard,
    /// Keys and tokens.
    pub auth: Arc<Authenticator>,
    /// What is served. Each worker follows it with a copy of its own.
    pub topology: watch::Receiver<Arc<Topology>>,
    /// By worker: the epoch of the version that it serves.
    pub followed: watch::Sender<Vec<u64>>,
    /// Lists.
    pub catalog: Arc<Catalog>,
    /// Legacy sessions.
    pub sessions: Arc<Sessions>,
    /// Their event streams that can be taken up again, where there are such.
    pub streams: Option<Arc<ResumableStreams>>,
    /// Per key.
    pub limits: Arc<Limits>,
    /// What is used, where that is counted.
    pub usage: Option<Usage>,
    /// How much there is to do, and how it goes, where that is counted.
    pub metrics: Option<Arc<Metrics>>,
    /// The control plane, for every path that is not MCP's.
    pub control: Arc<dyn ControlPlane>,
    /// How far the gateway is on its way out.
    pub phase: watch::Receiver<ShutdownPhase>,
    /// Moves when keys changed.
    pub keys: watch::Receiver<u64>,
}

/// One worker. Lives on one thread; nothing in it is locked.
pub struct Worker {
    /// What it shares with the others.
    pub shared: Arc<Shared>,
    /// What is served, and the connections to it.
    pools: Rc<UpstreamPools>,
    /// Reads messages.
    pub scanner: RefCell<Scanner>,
    /// Sessions this worker has met, by the text of their ids: a hit needs neither the seal nor a lock.
    sessions: RefCell<HashMap<Bytes, Arc<Session>, RandomState>>,
    gauges: RefCell<HashMap<KeyId, Arc<KeyUsage>, RandomState>>,
    /// Servers that are to be told of sessions that clients ended.
    pub farewells: Rc<SessionTerminator>,
    /// Its connections.
    pub controls: Controls,
    /// What concerns all event streams.
    pub bell: Rc<StreamWakeups>,
    /// The connections on which nothing goes on.
    pub parking: Parking,
    now_s: Cell<u64>,
    /// Likewise, as the field `Date` has it (RFC 9110, section 5.6.7).
    date: Cell<Date>,
    /// Moves when keys changed.
    keys: Cell<u64>,
    /// How far the gateway is on its way out.
    phase: Cell<ShutdownPhase>,
    number: usize,
    requests: Cell<u64>,
    /// What is used, where that is counted.
    pub counters: Option<Counters>,
    /// How it goes, likewise.
    pub metrics: Option<Rc<MetricsWriter>>,
    /// What traces some of it, likewise.
    pub tracer: Option<Tracer>,
}

/// Sessions a worker has at hand. Beyond it all are let go, and met again.
const SESSIONS_AT_HAND_MAX: usize = 16_384;

/// A session not used for this many seconds is not kept at hand: its id, a fifth of all that there is of it, is opened
/// once more when it is used again.
const AT_HAND_S: u64 = 10;

/// Room for fewer is not worth giving back.
const ROOM_MIN: usize = 64;

/// Keys a worker has at hand, likewise.
const GAUGES_AT_HAND_MAX: usize = 4096;

/// Between two looks at the clock and at what is idle.
const TICK: Duration = Duration::from_secs(1);

impl Worker {
    /// On this thread, in its runtime.
    ///
    /// # Errors
    /// The system has no descriptor left.
    pub fn new(shared: Arc<Shared>, number: usize) -> io::Result<Rc<Self>> {
        let topology = Arc::clone(&shared.topology.borrow());
        let phase = *shared.phase.borrow();
        let worker = Rc::new(Self {
            pools: Rc::new(UpstreamPools::new(&topology)),
            counters: shared.usage.as_ref().and_then(|usage| usage.worker(number)),
            metrics: shared.metrics.as_ref().and_then(|metrics| metrics.writer(number)).map(Rc::new),
            tracer: shared.metrics.as_ref().and_then(|metrics| metrics.traces()?.tracer()),
            scanner: RefCell::new(Scanner::new()),
            sessions: RefCell::default(),
            gauges: RefCell::default(),
            // The thread that sweeps sessions tells servers, too.
            farewells: SessionTerminator::new(shared.config.workers + 1),
            controls: Controls::default(),
            bell: StreamWakeups::new(shared.config.keep_alive),
            parking: Parking::new()?,
            now_s: Cell::new(unix_seconds()),
            date: Cell::new(date()),
            keys: Cell::new(0),
            phase: Cell::new(phase),
            number,
            requests: Cell::new(0),
            shared,
        });
        worker.tell_epoch();
        Ok(worker)
    }

    /// The endpoint that a request path names.
    pub fn endpoint(&self, path: &str) -> Option<Arc<Endpoint>> {
        self.pools.topology().table.find_by_path(path).cloned()
    }

    /// The endpoint of a scope.
    pub fn endpoint_of(&self, scope: &str) -> Option<Arc<Endpoint>> {
        self.pools.topology().table.find_by_scope(scope).cloned()
    }

    /// The endpoint whose framed stream a request path names.
    pub fn streamed_endpoint(&self, path: &str) -> Option<Arc<Endpoint>> {
        self.pools.topology().table.find_by_stream_path(path).cloned()
    }

    /// The endpoint of a scope as it is now, by the newest version there is. Off the usual path: takes a lock.
    pub fn endpoint_now(&self, scope: &str) -> Option<Arc<Endpoint>> {
        self.follow();
        self.pools.topology().table.find_by_scope(scope).cloned()
    }

    /// Its connections to a server. One that is gone is a fault of the request that still means it.
    pub fn pool(&self, place: &RoutedServer) -> Result<Rc<UpstreamPool>, Fault> {
        let id = UpstreamId(place.upstream);
        match self.pools.find(id) {
            Some(pool) => Ok(pool),
            None => self.newer_pool(id, &place.name),
        }
    }

    /// A session may be ahead of this worker, by the moment that it takes to follow.
    #[cold]
    fn newer_pool(&self, id: UpstreamId, server: &ServerName) -> Result<Rc<UpstreamPool>, Fault> {
        self.follow();
        self.pools.find(id).ok_or_else(|| {
            let text = format!("server `{server}` was removed or changed; the call did not run: try again");
            Fault::gateway(FaultKind::Unreachable, text)
        })
    }

    /// Its connections to all servers.
    pub fn pools(&self) -> Rc<UpstreamPools> {
        Rc::clone(&self.pools)
    }

    /// Serves the newest version from now on. Requests that came before keep theirs.
    fn follow(&self) {
        let topology = Arc::clone(&self.shared.topology.borrow());
        if self.pools.adopt(&topology) {
            // Sessions whose endpoint changed are met again over what it is now.
            self.sessions.borrow_mut().retain(|_, session| topology.table.contains(&session.endpoint));
            self.tell_epoch();
        }
    }

    fn tell_epoch(&self) {
        let epoch = self.pools.topology().epoch;
        self.shared.followed.send_modify(|epochs| {
            if let Some(own) = epochs.get_mut(self.number) {
                *own = epoch;
            }
        });
    }

    /// Seconds since the Unix epoch, a second old at most.
    pub fn now_s(&self) -> u64 {
        self.now_s.get()
    }

    /// Likewise, for the field `Date`.
    pub fn date(&self) -> Date {
        self.date.get()
    }

    /// Moves when keys changed.
    pub fn keys_version(&self) -> u64 {
        self.keys.get()
    }

    /// How far the gateway is on its way out, as far as this worker has noticed.
    pub fn phase(&self) -> ShutdownPhase {
        self.phase.get()
    }

    /// Keeps the clock, closes what is idle. Never ends.
    pub async fn housekeep(self: Rc<Self>) {
        let config = &self.shared.config;
        // Often enough that a slow head is ended at one and a half of its timeout.
        let mut tick = interval(TICK.min(config.header_timeout / 2));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut phase = self.shared.phase.clone();
        let mut keys = self.shared.keys.clone();
        let mut topologies = self.shared.topology.clone();
        let mut lists = self.shared.catalog.changes();
        let purge = Purge::default();
        loop {
            let is_told = tokio::select! {
                _ = tick.tick() => false,
                Ok(()) = topologies.changed() => true,
                Ok(()) = keys.changed() => true,
                Ok(()) = phase.changed() => true,
                Ok(()) = lists.changed() => true,
            };
            self.keys.set(*keys.borrow());
            self.phase.set(*phase.borrow());
            self.follow();
            if is_told {
                self.bell.ring();
            } else {
                self.bell.tick();
            }
            self.controls.sweep(config);
            self.parking.sweep(config.idle_timeout);
            self.now_s.set(unix_seconds());
            self.date.set(date());
            self.pools.sweep();
            mapped::sweep();
            self.publish();
            self.shared.streams.iter().for_each(|streams| streams.expire());
            // What is not at hand any more can be dropped by the table.
            let is_at_hand = |session: &Session| session.last_used_s() + AT_HAND_S > self.now_s();
            let mut sessions = self.sessions.borrow_mut();
            sessions.retain(|_, session| !session.is_ended() && is_at_hand(session));
            if sessions.capacity() > ROOM_MIN && sessions.len() < sessions.capacity() / 4 {
                sessions.shrink_to_fit();
            }
            drop(sessions);
            if !is_told {
                // A connection leaves memory where it is parked, and where it ends, but not where it wakes.
                let (open, parked) = (self.controls.open(), self.parking.count());
                purge.note([open, open + parked, self.shared.sessions.count()]);
            }
        }
    }

    /// Tells how its connections are, for whoever looks at the metrics.
    fn publish(&self) {
        let Some(metrics) = &self.metrics else { return };
        metrics.set_connection_counts(self.controls.count());
        for server in self.pools.topology().table.server_endpoints().map(|endpoint| &endpoint.servers[0]) {
            let idle = self.pools.find(UpstreamId(server.upstream)).map_or(0, |pool| pool.idle_connections());
            metrics.set_idle_connections(server.label, idle);
        }
    }

    /// Counts an event stream for as long as the guard is there.
    pub fn streaming(&self, kind: StreamKind) -> Option<OpenStreamGuard> {
        self.metrics.as_ref().map(|metrics| OpenStreamGuard::open(metrics, kind))
    }

    /// Who asks. No await and no lock on the usual path.
    async fn identify(&self, fields: &Fields) -> Result<Identity, Fault> {
        let auth = &self.shared.auth;
        if auth.mode() == AuthMode::Open {
            return Ok(auth.anonymous_identity());
        }
        let (authorization, x_api_key) = (fields.get(Field::Authorization), fields.get(Field::XApiKey));
        let credential = Credential::from_headers(authorization, x_api_key)
            .map_err(denied)?
            .ok_or_else(|| denied(AuthDenial::Missing))?;
        match auth.check(&credential) {
            CredentialCheck::Granted(identity) => Ok(identity),
            CredentialCheck::Denied(reason) => Err(denied(reason)),
            // Boxed, as is what is not usual, so that it does not make every request's future bigger.
            CredentialCheck::Undecided => Box::pin(auth.authenticate(&credential)).await.map_err(denied),
        }
    }

    /// Who asks, and a place among the key's requests under way.
    ///
    /// A client sends the same credential with every request of a connection. What was found out about it
    /// is believed until the next second or the next change of a key, whichever comes first.
    pub async fn let_in(&self, control: &Control, fields: &Fields) -> Result<(Identity, Permit), Fault> {
        if fields.is_doubled(Field::Authorization) || fields.is_doubled(Field::XApiKey) {
            // A proxy in front may have looked at the other one.
            return Err(denied(AuthDenial::Invalid));
        }
        let value = fields.get(Field::Authorization).unwrap_or_default();
        // Only what `Authorization` alone says is remembered under it.
        let other = fields.has(Field::XApiKey) || value.is_empty();
        let known = control
            .known
            .borrow()
            .as_ref()
            .filter(|known| !other && known.matches(value, self.now_s(), self.keys.get()))
            .map(|known| (known.identity.clone(), Arc::clone(&known.gauge)));
        if let Some((identity, gauge)) = known {
            let permit = admit(&gauge, &identity)?;
            return Ok((identity, permit));
        }
        // As of before the asking: what changes meanwhile is asked for again.
        let (second, keys) = (self.now_s(), self.keys.get());
        let identity = self.identify(fields).await?;
        let gauge = self.gauge(&identity);
        *control.known.borrow_mut() = (!other).then(|| CachedCredential {
            value: Zeroizing::new(value.to_vec()),
            identity: identity.clone(),
            gauge: Arc::clone(&gauge),
            second,
            keys_version: keys,
        });
        let permit = admit(&gauge, &identity)?;
        Ok((identity, permit))
    }

    /// One more place for a request that is several.
    pub fn admit(&self, identity: &Identity) -> Result<Permit, Fault> {
        admit(&self.gauge(identity), identity)
    }

    fn gauge(&self, identity: &Identity) -> Arc<KeyUsage> {
        let mut gauges = self.gauges.borrow_mut();
        if gauges.len() > GAUGES_AT_HAND_MAX {
            gauges.clear();
        }
        let gauge = gauges.entry(identity.key_id()).or_insert_with(|| self.shared.limits.usage(identity));
        Arc::clone(gauge)
    }

    /// The session a Legacy request names. It may be over a newer version of the endpoint.
    pub fn session(
        &self,
        fields: &Fields,
        identity: &Identity,
        endpoint: &Arc<Endpoint>,
    ) -> Result<Arc<Session>, Fault> {
        let Some(text) = fields.get(Field::McpSessionId) else {
            return Err(Fault::client(
                FaultKind::SessionMissing,
                "send the Mcp-Session-Id that `initialize` answered with, or open a session by `initialize`",
            ));
        };
        let now_s = self.now_s();
        let at_hand = self.sessions.borrow().get(text).cloned();
        if let Some(session) = at_hand.filter(|session| self.may_use(session, identity, endpoint)) {
            session.touch(now_s);
            return Ok(session);
        }
        let found = self.shared.sessions.find(text, identity, endpoint, now_s);
        let session = found.map_err(|why| match why {
            SessionError::Unknown => Fault::client(
                FaultKind::SessionUnknown,
                "this session is unknown or has ended; open another by `initialize`",
            ),
            SessionError::Full => {
                Fault::gateway(FaultKind::Overloaded, "there are too many sessions; try again later")
            }
        })?;
        session.touch(now_s);
        self.have_at_hand(Bytes::copy_from_slice(text), &session);
        Ok(session)
    }

    /// Has a session at hand from now on, by the text of its id. One over an endpoint that was replaced while it was opened
    /// would be found by nobody, and keep what was replaced.
    pub fn have_at_hand(&self, text: Bytes, session: &Arc<Session>) {
        if !self.pools.topology().table.contains(&session.endpoint) {
            return;
        }
        let mut sessions = self.sessions.borrow_mut();
        if sessions.len() >= SESSIONS_AT_HAND_MAX {
            sessions.clear();
        }
        sessions.insert(text, Arc::clone(session));
    }

    /// The session that a request names has ended: it is not kept at hand until the next look at the clock.
    pub fn let_go(&self, fields: &Fields) {
        let text = fields.get(Field::McpSessionId).unwrap_or_default();
        self.sessions.borrow_mut().remove(text);
    }

    fn may_use(&self, session: &Session, identity: &Identity, endpoint: &Endpoint) -> bool {
        let lifetime_s = self.shared.sessions.config().lifetime.as_secs();
        !session.is_ended()
            && session.seal.key_id == identity.key_id()
            && session.endpoint.id == endpoint.id
            && self.now_s() < session.seal.created_s.saturating_add(lifetime_s)
    }

    /// A name for the request in hand, for logs and the `X-Request-Id` of a fault.
    pub fn request_id(&self) -> String {
        let count = self.requests.get() + 1;
        self.requests.set(count);
        let mut text = String::with_capacity(24);
        // Writing to a String cannot fail.
        let _ = write!(text, "{:x}-{:x}-{count:x}", self.now_s(), self.number);
        text
    }

    /// Counts a fault that a client is told of, by the endpoint that it asked; `None`: by none. Tells the log of it.
    #[cold]
    pub fn answer_fault(&self, endpoint: Option<LabelId>, fault: &Fault) -> String {
        self.metrics.iter().for_each(|metrics| metrics.record_fault(endpoint, fault.kind));
        self.note_fault(fault)
    }

    /// Tells the log of a fault; what a client did wrong is no news.
    #[cold]
    pub fn note_fault(&self, fault: &Fault) -> String {
        let request_id = self.request_id();
        let kind = fault.kind.label();
        if fault.origin == FaultOrigin::Client {
            tracing::debug!(request_id, kind, %fault);
        } else {
            tracing::warn!(request_id, kind, %fault);
        }
        request_id
    }
}

fn admit(gauge: &Arc<KeyUsage>, identity: &Identity) -> Result<Permit, Fault> {
    gauge.admit(identity).map_err(|refused| Fault::client(FaultKind::TooManyInFlight, refused.to_string()))
}

#[cold]
fn denied(reason: AuthDenial) -> Fault {
    let kind = if matches!(reason, AuthDenial::Busy | AuthDenial::Unsigned) {
        FaultKind::Overloaded
    } else {
        FaultKind::Unauthenticated
    };
    Fault::client(kind, reason.to_string())
}
