//! The state of one worker thread.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval};

use super::clock::Clock;
use super::credential_cache::CredentialCache;
use super::metering::{FAULT_LOG, Metering};
use super::parking::Parking;
use super::revocable_calls::RevocableCalls;
use super::session_cache::SessionCache;
use super::settings::{HttpSettings, SettingsFollower};
use super::shared::SharedState;
use super::topology_follower::TopologyFollower;
use crate::runtime::MemoryPurger;
use crate::server::http1::activity::ConnectionRegistry;
use crate::server::http1::mapped;
use crate::server::http1::stream_wakeups::StreamWakeups;
use crate::server::reply::transport_body::TransportBodies;
use crate::session::SessionTerminator;
use crate::telemetry::records::CallRecorder;
use crate::upstream::UpstreamId;
use metamcp_core::base::ShutdownPhase;
use metamcp_core::frame::Scanner;

/// One worker: owns the parts that its functions use. Lives on one thread, so nothing in it is locked.
pub struct Worker {
    pub shared: Arc<SharedState>,
    pub clock: Rc<Clock>,
    settings: SettingsFollower,
    /// Endpoints, servers and connection pools.
    pub topology: TopologyFollower,
    pub sessions: SessionCache,
    pub credentials: CredentialCache,
    pub metering: Metering,
    pub scanner: RefCell<Scanner>,
    pub terminator: Rc<SessionTerminator>,
    /// The connections with a task.
    pub connections: ConnectionRegistry,
    pub stream_wakeups: Rc<StreamWakeups>,
    /// The calls that wait for an answer.
    pub revocable_calls: RevocableCalls,
    /// The bodies that hyper sends.
    pub bodies: Rc<TransportBodies>,
    /// The connections without a task.
    pub parking: Parking,
}

/// The period of timeouts, the clock and cleanup.
const TICK: Duration = Duration::from_secs(1);

/// A client that takes nothing for so long does not delay the end of the gateway.
const STALL_AT_DRAIN: Duration = Duration::from_secs(5);

impl Worker {
    /// On this thread, in its runtime.
    ///
    /// # Errors
    /// The system has no descriptor left.
    pub fn new(shared: Arc<SharedState>, number: usize) -> io::Result<Rc<Self>> {
        let parking = Parking::new()?;
        let clock = Rc::new(Clock::new(*shared.phase.borrow()));
        let topology = TopologyFollower::new(shared.topology.clone(), shared.followed.clone(), number);
        let sessions = SessionCache::new(Arc::clone(&shared.sessions), Rc::clone(&clock), topology.pools());
        let settings = SettingsFollower::new(shared.settings.clone());
        let metrics = shared.metrics.as_ref();
        let metering = Metering {
            counters: shared.usage.as_ref().and_then(|usage| usage.worker(number)),
            metrics: metrics.and_then(|metrics| metrics.writer(number)).map(Rc::new),
            tracer: metrics.and_then(|metrics| metrics.traces()?.tracer()),
            recorder: CallRecorder::new(shared.records.as_ref(), &shared.events),
            catalog: Arc::clone(&shared.catalog),
            clock: Rc::clone(&clock),
            number,
            requests: Cell::new(0),
            fault_log: RefCell::new(FAULT_LOG),
        };
        Ok(Rc::new(Self {
            clock,
            topology,
            sessions,
            credentials: CredentialCache::new(Arc::clone(&shared.auth), Arc::clone(&shared.limits)),
            metering,
            scanner: RefCell::new(Scanner::new()),
            // One more, because the thread that sweeps sessions also terminates sessions at servers.
            terminator: SessionTerminator::new(settings.current().config.workers + 1),
            connections: ConnectionRegistry::default(),
            revocable_calls: RevocableCalls::default(),
            bodies: Rc::default(),
            stream_wakeups: StreamWakeups::new(settings.current().config.keep_alive),
            parking,
            settings,
            shared,
        }))
    }

    /// Updates the clock, closes idle connections and frees memory, once per tick. Never ends.
    pub async fn housekeep(self: Rc<Self>) {
        let mut tick = self.new_tick();
        let mut settings = self.shared.settings.clone();
        let mut phase = self.shared.phase.clone();
        let mut keys = self.shared.keys.clone();
        let mut topologies = self.shared.topology.clone();
        let mut lists = self.shared.catalog.subscribe();
        let purge = MemoryPurger::default();
        loop {
            let has_changed = tokio::select! {
                _ = tick.tick() => false,
                Ok(()) = topologies.changed() => true,
                Ok(()) = keys.changed() => true,
                Ok(()) = phase.changed() => true,
                Ok(()) = lists.changed() => true,
                Ok(()) = settings.changed() => false,
            };
            if self.settings.follow() {
                tick = self.new_tick();
                self.stream_wakeups.set_period(self.settings().config.keep_alive);
            }
            self.clock.set_state(*phase.borrow(), *keys.borrow());
            self.topology.follow();
            self.sessions.evict_replaced();
            if has_changed {
                self.stream_wakeups.notify_all();
            } else {
                self.stream_wakeups.tick();
            }
            let config = &self.settings().config;
            self.connections.sweep(config, self.shared.client_generation());
            self.revocable_calls.sweep(|owner| self.shared.auth.is_still_valid(owner));
            self.sweep_bodies();
            self.parking.sweep(config.idle_timeout);
            self.clock.tick();
            self.topology.pools().sweep();
            mapped::sweep();
            self.publish();
            self.shared.streams.iter().for_each(|streams| streams.expire());
            self.sessions.sweep();
            if !has_changed {
                // A connection leaves memory where it is parked, and where it ends, but not where it wakes.
                let (open, parked) = (self.connections.open(), self.parking.count());
                purge.observe([open, open + parked, self.shared.sessions.count()]);
            }
        }
    }

    /// The settings of `[server]`. To be loaded once per request or connection.
    pub fn settings(&self) -> Rc<HttpSettings> {
        self.settings.current()
    }

    /// The ticks of [`Self::housekeep`]: often enough that a slow head is ended at one and a half of its timeout.
    fn new_tick(&self) -> Interval {
        let mut tick = interval(TICK.min(self.settings().config.header_timeout / 2));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tick
    }

    /// Ends responses that outlive their credential, or that their client does not take.
    fn sweep_bodies(&self) {
        let idle_timeout = self.settings().config.idle_timeout;
        let is_draining = self.clock.phase() >= ShutdownPhase::Drain;
        let stall_max = if is_draining { idle_timeout.min(STALL_AT_DRAIN) } else { idle_timeout };
        self.bodies.sweep(stall_max, |owner| self.shared.auth.is_still_valid(owner));
    }

    /// Publishes the connection counts for the metrics.
    fn publish(&self) {
        let Some(metrics) = &self.metering.metrics else { return };
        metrics.set_connection_counts(self.connections.count());
        let pools = self.topology.pools();
        for server in pools.topology().table.server_endpoints().map(|endpoint| &endpoint.servers[0]) {
            let idle = pools.find(UpstreamId(server.upstream)).map_or(0, |pool| pool.idle_connections());
            metrics.set_idle_connections(server.label, idle);
        }
    }
}
