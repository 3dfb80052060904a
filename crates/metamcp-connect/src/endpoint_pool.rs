use metamcp_config::server::ServerConfig;
use metamcp_http::{
    HttpPool, HttpServer, InFlightLimit, InvalidTarget, RequestKind, TlsRoots, UpstreamError,
    UpstreamRequest, UpstreamResponse,
};

/// The connections to the endpoint, and a limit for calls in flight.
pub struct EndpointPool {
    http: HttpPool,
    limit: InFlightLimit,
}

impl EndpointPool {
    /// Creates a pool without connections.
    pub fn new(config: &ServerConfig, roots: &TlsRoots) -> Result<Self, InvalidTarget> {
        let limit = InFlightLimit::new(
            config.settings.in_flight_max,
            config.settings.queue_max,
            config.settings.queue_timeout,
        );
        Ok(Self { http: HttpPool::new(HttpServer::new(config, roots)?), limit })
    }

    /// Sends a request and waits for the head of its response; see [`HttpPool::send`].
    pub async fn send(
        &self,
        request: &UpstreamRequest,
        kind: RequestKind,
    ) -> Result<Box<UpstreamResponse>, UpstreamError> {
        let permit = match kind {
            RequestKind::Call => Some(self.limit.acquire().await?),
            RequestKind::Stream => None,
        };
        self.http.send(request, kind, permit).await
    }

    /// Closes connections that were idle for too long. To be called every second.
    pub fn sweep(&self) {
        self.http.sweep();
    }
}
