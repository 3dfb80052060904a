//! One server as the gateway uses it: the part that all workers share, each worker's connections, and the
//! adapters for eras that the server does not speak. They refer to each other, so they are in one file.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::time::timeout;

use super::breaker::{Breaker, UpstreamStatus};
use super::era::EraSupport;
use super::id::UpstreamId;
use super::message_limit::new_message_limit;
use super::stdio::{StdioHealth, StdioRequest, behavior_key};
use super::surroundings::Surroundings;
use super::transport::Transport;
use metamcp_config::server::{EraChoice, ServerAddress, ServerConfig, Sharing};
use metamcp_core::base::ServerName;
use metamcp_core::protocol::Era;
use metamcp_http::client::{BodySource, BodyTimeouts};
use metamcp_http::multiplex::{CancelGuard, LocalResponse};
use metamcp_http::{FailureStage, UpstreamError};
use metamcp_http::{HttpPool, InvalidTarget, TlsRoots, UpstreamBody, UpstreamResponse};
use metamcp_http::{InFlightLimit, InFlightPermit};
use metamcp_http::{RequestKind, UpstreamRequest};

/// Answers requests of an era that a server does not speak, or is not yet known to speak. To callers the
/// server then speaks both eras.
pub trait EraAdapter: Send + Sync {
    /// Answers a request. Dropping the future cancels the call.
    fn answer(
        self: Arc<Self>,
        pool: Rc<UpstreamPool>,
        request: UpstreamRequest,
        kind: RequestKind,
    ) -> ResponseFuture;

    /// Whether the adapted era is announced to clients that ask which eras there are. Clients that speak both
    /// eras may then choose it, even where the other carries more.
    fn is_announced(&self) -> bool {
        true
    }
}

/// A response to come.
pub type ResponseFuture = Pin<Box<dyn Future<Output = Result<Box<UpstreamResponse>, UpstreamError>>>>;

/// One MCP server behind the gateway, shared by all workers.
pub struct Upstream {
    pub config: ServerConfig,
    /// Identifies the server in each worker's pools.
    pub id: UpstreamId,
    transport: Transport,
    limit: InFlightLimit,
    /// Bounds notifications and responses in flight.
    message_limit: InFlightLimit,
    breaker: Breaker,
    legacy: AdaptedEra,
    modern: AdaptedEra,
    /// Whether the server has sent a request to a client's user or model.
    has_sent_request: AtomicBool,
}

/// One era of a server: whether it is spoken, and the adapter if not.
struct AdaptedEra {
    support: EraSupport,
    adapter: OnceLock<Arc<dyn EraAdapter>>,
}

/// The connections of one worker to one server. Not shared, so nothing here is locked.
pub struct UpstreamPool {
    upstream: Arc<Upstream>,
    /// `None` for transports whose connections are owned by a thread of their own.
    http: Option<HttpPool>,
}

impl AdaptedEra {
    fn new(era: Era, choice: EraChoice) -> Self {
        Self { support: EraSupport::new(era, choice), adapter: OnceLock::new() }
    }

    /// Whether the server does not speak the era, and clients must not learn of the adapter.
    fn is_hidden(&self) -> bool {
        self.support.is_spoken() == Some(false)
            && self.adapter.get().is_some_and(|adapter| !adapter.is_announced())
    }

    /// Returns the adapter, unless the server is known to speak the era.
    fn adapter(&self) -> Option<&Arc<dyn EraAdapter>> {
        if self.support.is_spoken() == Some(true) { None } else { self.adapter.get() }
    }
}

impl Upstream {
    /// Prepares what each connection and each request needs. Opens nothing, and starts no process but the
    /// thread that will.
    pub fn new(id: UpstreamId, config: ServerConfig, roots: &TlsRoots) -> Result<Arc<Self>, InvalidTarget> {
        Self::within(id, config, roots, &Surroundings::default())
    }

    /// As [`Self::new`], with what the gateway keeps for all servers.
    pub fn within(
        id: UpstreamId,
        config: ServerConfig,
        roots: &TlsRoots,
        surroundings: &Surroundings,
    ) -> Result<Arc<Self>, InvalidTarget> {
        let transport = Transport::new(&config, roots, surroundings)?;
        let has_sent_request = match &config.address {
            ServerAddress::Stdio(program) => {
                surroundings.behavior.find(&behavior_key(&config.name, program)).has_sent_request()
            }
            _ => false,
        };
        let breaker = match &transport {
            Transport::Http(_) | Transport::HttpOrSse(..) if config.has_breaker => {
                Breaker::new(surroundings.events.clone())
            }
            // The thread of the transport backs off between two attempts, and reports that.
            _ => Breaker::never_open(),
        };
        Ok(Arc::new(Self {
            legacy: AdaptedEra::new(Era::Legacy, config.era_choice()),
            modern: AdaptedEra::new(Era::Modern, config.era_choice()),
            limit: InFlightLimit::new(
                config.settings.in_flight_max,
                config.settings.queue_max,
                config.settings.queue_timeout,
            ),
            message_limit: new_message_limit(&config.settings),
            config,
            id,
            transport,
            breaker,
            has_sent_request: AtomicBool::new(has_sent_request),
        }))
    }

    pub fn name(&self) -> &ServerName {
        &self.config.name
    }

    /// Sets the adapter of an era. Only the first call counts.
    pub fn set_adapter(&self, era: Era, adapter: Arc<dyn EraAdapter>) {
        let _ = self.era(era).adapter.set(adapter);
    }

    /// Whether the server speaks an era; `None` when that is unknown.
    pub fn speaks(&self, era: Era) -> Option<bool> {
        self.era(era).support.is_spoken()
    }

    /// Whether the server does not speak an era, and clients of both eras are to choose the other.
    pub fn hides_era(&self, era: Era) -> bool {
        self.era(era).is_hidden()
    }

    /// Records whether the server speaks an era; `None` if that must be detected again. A configured era does
    /// not change.
    pub fn set_spoken(&self, era: Era, is_spoken: Option<bool>) {
        if self.config.era_choice() == EraChoice::Auto {
            self.era(era).support.set_spoken(is_spoken);
        }
    }

    fn era(&self, era: Era) -> &AdaptedEra {
        match era {
            Era::Legacy => &self.legacy,
            Era::Modern => &self.modern,
        }
    }

    /// Returns the health of the server's processes; `None` if it is not a program or was stopped. Cancel safe.
    pub async fn process_health(&self) -> Option<StdioHealth> {
        match &self.transport {
            Transport::Http(_) | Transport::HttpOrSse(..) | Transport::Sse(_) => None,
            Transport::Stdio(server) => server.health().await,
        }
    }

    /// Whether one channel carries all messages that the server sends without a request, for every call of a
    /// session.
    pub fn has_shared_channel(&self) -> bool {
        match &self.transport {
            Transport::Http(_) => false,
            Transport::HttpOrSse(_, candidate) => candidate.server().is_some(),
            Transport::Sse(_) | Transport::Stdio(_) => true,
        }
    }

    /// Whether the server is a program that the gateway runs.
    pub fn is_program(&self) -> bool {
        matches!(self.transport, Transport::Stdio(_))
    }

    /// Returns how many calls are in flight and how many are queued, over all workers.
    pub fn load(&self) -> (usize, usize) {
        self.limit.load()
    }

    /// Notes that the server has sent a request to a client's user or model.
    pub fn note_server_request(&self) {
        self.has_sent_request.store(true, Ordering::Relaxed);
    }

    /// Whether each call gets a session of its own, so that a request of the server certainly belongs to that
    /// call. A program whose process the sessions of a key share is not isolated before it sends a request:
    /// it may keep in the process what the sessions share.
    pub fn has_session_per_call(&self) -> bool {
        match &self.config.address {
            ServerAddress::Http(_) | ServerAddress::Unix { .. } | ServerAddress::Sse(_) => {
                self.has_shared_channel()
            }
            ServerAddress::Stdio(program) => match program.settings.sharing {
                Sharing::Shared => false,
                Sharing::Auto | Sharing::Key => self.has_sent_request.load(Ordering::Relaxed),
                Sharing::Session => true,
            },
        }
    }

    /// Returns the health of the server as its callers observed it.
    pub fn status(&self) -> UpstreamStatus {
        let processes = match &self.transport {
            Transport::Stdio(server) => Some(server.process_stats()),
            Transport::Http(_) | Transport::HttpOrSse(..) | Transport::Sse(_) => None,
        };
        UpstreamStatus { processes, ..self.breaker.status() }
    }

    /// Whether it is a program of which no process has answered since the last failure.
    fn is_silent_program(&self) -> bool {
        matches!(&self.transport, Transport::Stdio(server) if !server.is_answering())
    }

    /// Ends the server's processes, if any, and waits until they have ended. Cancel safe: they end in any case.
    pub async fn stop(&self) {
        if let Transport::Stdio(server) = &self.transport {
            server.stop().await;
        }
    }
}

impl UpstreamPool {
    /// Creates a pool without connections.
    pub fn new(upstream: Arc<Upstream>) -> Rc<Self> {
        let http = upstream.transport.http().map(|server| HttpPool::new(Arc::clone(server)));
        Rc::new(Self { upstream, http })
    }

    pub fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }

    /// Whether requests of an era go to an era adapter.
    pub fn has_adapter(&self, era: Era) -> bool {
        self.upstream.era(era).adapter().is_some()
    }

    /// Sends a request and waits for the head of its response; the body is read later. A request of an era
    /// that the server does not speak, or is not yet known to speak, goes to the era adapter.
    ///
    /// A request is sent a second time only if nothing of it was written the first time.
    ///
    /// Not cancel safe: dropping it closes the connection, which tells the server to stop.
    pub async fn send(
        self: &Rc<Self>,
        request: &UpstreamRequest,
        kind: RequestKind,
    ) -> Result<Box<UpstreamResponse>, UpstreamError> {
        if let Some(era) = request.era()
            && let Some(adapter) = self.upstream.era(era).adapter()
        {
            return Arc::clone(adapter).answer(Rc::clone(self), request.clone(), kind).await;
        }
        self.send_direct(request, kind).await
    }

    /// Sends a request to the server itself, whatever eras it speaks. See [`Self::send`].
    pub async fn send_direct(
        self: &Rc<Self>,
        request: &UpstreamRequest,
        kind: RequestKind,
    ) -> Result<Box<UpstreamResponse>, UpstreamError> {
        let Upstream { breaker, limit, message_limit, .. } = &*self.upstream;
        breaker.admit()?;
        let permit = match kind {
            RequestKind::Call => Some(limit.acquire().await?),
            RequestKind::Message => Some(message_limit.acquire().await?),
            RequestKind::Stream => None,
        };
        let result = self.send_admitted(request, kind, permit).await;
        match &result {
            // Of a program that does not run, the gateway itself answers that it does not speak the era.
            Ok(_) if self.upstream.is_silent_program() => {}
            Ok(_) => breaker.record_response(self.upstream.name()),
            Err(error) => breaker.record_failure(self.upstream.name(), error),
        }
        result
    }

    /// Sends a request over the server's transport. The rarer transports are boxed, so that they do not make
    /// the future of every request bigger.
    async fn send_admitted(
        &self,
        request: &UpstreamRequest,
        kind: RequestKind,
        permit: Option<InFlightPermit>,
    ) -> Result<Box<UpstreamResponse>, UpstreamError> {
        let sse = match &self.upstream.transport {
            Transport::Http(_) => None,
            Transport::HttpOrSse(_, candidate) => candidate.server(),
            Transport::Sse(server) => Some(server),
            Transport::Stdio(server) => {
                let (operation, session) = request.operation();
                let request = StdioRequest {
                    operation,
                    session,
                    owner: request.owner(),
                    client_session: request.client_session(),
                    is_exclusive: request.is_exclusive(),
                };
                return Box::pin(self.await_call(server.call(request), kind, permit)).await;
            }
        };
        match (sse, &self.http) {
            (Some(server), _) => Box::pin(self.await_call(server.call(request.clone()), kind, permit)).await,
            (None, Some(http)) => http.send(request, kind, permit).await,
            (None, None) => Err(UpstreamError::from_stage(FailureStage::NotSent)),
        }
    }

    /// Probes whether the server speaks HTTP+SSE, where the configuration leaves that open, and uses that
    /// transport from now on if so. Returns whether the server is spoken to over HTTP+SSE.
    ///
    /// Cancel safe: the transport is then not known.
    pub async fn detect_sse(&self) -> bool {
        match &self.upstream.transport {
            Transport::HttpOrSse(_, candidate) => candidate.probe().await,
            Transport::Http(_) | Transport::Sse(_) | Transport::Stdio(_) => false,
        }
    }

    /// Waits for the response of a transport that has a thread of its own.
    async fn await_call(
        &self,
        call: impl Future<Output = Result<(LocalResponse, CancelGuard), UpstreamError>>,
        kind: RequestKind,
        permit: Option<InFlightPermit>,
    ) -> Result<Box<UpstreamResponse>, UpstreamError> {
        let config = &self.upstream.config;
        let timed_out = |_elapsed| Err(UpstreamError::from_stage(FailureStage::FirstByteTimeout));
        let (response, guard) =
            timeout(config.settings.first_byte_timeout, call).await.unwrap_or_else(timed_out)?;
        let (head, source) = BodySource::from_local(response, Some(guard));
        let timeouts = BodyTimeouts::new(&config.settings, kind, &head);
        let body = UpstreamBody::new(source, None, timeouts, permit);
        Ok(Box::new(UpstreamResponse { head, body }))
    }

    /// Returns how many connections are open and unused.
    pub fn idle_connections(&self) -> usize {
        self.http.as_ref().map_or(0, HttpPool::idle_connections)
    }

    /// Closes connections that were idle for too long. Called every second by the worker.
    pub fn sweep(&self) {
        self.http.iter().for_each(HttpPool::sweep);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use metamcp_config::server::ServerSettings;
    use metamcp_config::server::settings::DEFAULTS;

    fn upstream(address: ServerAddress) -> Arc<Upstream> {
        let timeout = Duration::from_secs(1);
        let settings = ServerSettings {
            connect_timeout: timeout,
            first_byte_timeout: timeout,
            stream_idle_timeout: timeout,
            in_flight_max: 8,
            queue_timeout: timeout,
            queue_max: 8,
            idle_connections_max: 1,
            idle_age_max: timeout,
            ..DEFAULTS
        };
        let config = ServerConfig::new(ServerName::new("a").unwrap(), address, Vec::new(), settings);
        let roots = TlsRoots::from_roots(rustls::RootCertStore::empty());
        Upstream::new(UpstreamId(0), config, &roots).unwrap()
    }

    #[test]
    fn the_transport_determines_the_era() {
        // Port 9 is `discard`; no service listens there.
        const URL: &str = "http://127.0.0.1:9/sse";
        let check = |address: ServerAddress, before: [Option<bool>; 2], after: Option<bool>| {
            let server = upstream(address);
            assert_eq!([Era::Legacy, Era::Modern].map(|era| server.speaks(era)), before);
            server.set_spoken(Era::Legacy, Some(true));
            // Whatever it answers while it restarts.
            server.set_spoken(Era::Legacy, None);
            assert_eq!(server.speaks(Era::Legacy), after);
        };
        check(ServerAddress::Sse(URL.parse().unwrap()), [Some(true), Some(false)], Some(true));
        check(ServerAddress::Http(URL.parse().unwrap()), [None, None], None);
    }
}
