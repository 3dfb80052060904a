//! Requests over the HTTP connections of one thread to one server.

use std::rc::Rc;
use std::sync::Arc;

use http::HeaderValue;
use metamcp_config::server::{ServerAddress, ServerConfig, ServerSettings};
use tokio::select;
use tokio::task::yield_now;
use tokio::time::timeout;

use super::body_timer::BodyTimeouts;
use super::connect::{ConnectTarget, connect};
use super::connection::Connection;
use super::encode::RequestHeads;
use super::idle::IdleConnections;
use super::response::{PooledConnection, UpstreamBody, UpstreamResponse};
use super::response_timer::ResponseTimer;
use super::url_target::{InvalidTarget, TlsRoots, UrlTarget, parse_path, resolve_url};
use crate::error::{FailureStage, SendError, UpstreamError};
use crate::limit::InFlightPermit;
use crate::request::{RequestKind, UpstreamRequest};

/// One server reached over HTTP, shared by all threads.
pub struct HttpServer {
    pub settings: ServerSettings,
    /// Whether private addresses may be connected to.
    pub private_addresses: bool,
    pub target: ConnectTarget,
    pub heads: RequestHeads,
}

/// The connections of one thread to one server.
pub struct HttpPool {
    server: Arc<HttpServer>,
    idle: Rc<IdleConnections>,
}

impl HttpServer {
    /// Prepares what each connection and each request needs. Opens nothing.
    ///
    /// # Errors
    /// If the address cannot be requested, or names a program.
    pub fn new(config: &ServerConfig, roots: &TlsRoots) -> Result<Arc<Self>, InvalidTarget> {
        let UrlTarget { target, path, host } = match &config.address {
            ServerAddress::Http(url) | ServerAddress::Sse(url) => {
                resolve_url(url, roots)?.with_tls(config.tls.as_deref(), roots)?
            }
            ServerAddress::Unix { socket, path } => UrlTarget {
                target: ConnectTarget::Unix(socket.clone()),
                path: parse_path(path)?,
                host: HeaderValue::from_static("localhost"),
            },
            ServerAddress::Stdio(_) => return Err(InvalidTarget::new("a program has no address".to_owned())),
        };
        Ok(Arc::new(Self {
            settings: config.settings,
            private_addresses: config.private_addresses,
            target,
            heads: RequestHeads::new(path, host, &config.headers),
        }))
    }
}

impl HttpPool {
    /// Creates a pool without connections.
    pub fn new(server: Arc<HttpServer>) -> Self {
        let settings = server.settings;
        Self { server, idle: IdleConnections::new(settings.idle_connections_max, settings.idle_age_max) }
    }

    pub fn settings(&self) -> &ServerSettings {
        &self.server.settings
    }

    /// Sends a request and waits for the head of its response. The permit is held until the end of the body.
    ///
    /// A request is sent a second time only if nothing of it was written the first time.
    ///
    /// Not cancel safe: dropping it closes the connection, which tells the server to stop.
    pub async fn send(
        &self,
        request: &UpstreamRequest,
        kind: RequestKind,
        permit: Option<InFlightPermit>,
    ) -> Result<Box<UpstreamResponse>, UpstreamError> {
        // Continues right after the runtime has asked the kernel what arrived: bytes that a server sent out
        // of turn are then seen when its connection is checked. It also lets all that arrived be read before
        // anything is written.
        yield_now().await;
        loop {
            let (mut connection, is_new) = match self.idle.take() {
                Some(connection) => (connection, false),
                None => Box::pin(self.open_or_wait()).await?,
            };
            let server = &self.server;
            match connection.send(request, &server.heads, server.settings.fast_lane).await {
                Ok((head, source)) => {
                    let pooled = PooledConnection { connection, idle: Rc::clone(&self.idle) };
                    let timeouts = BodyTimeouts::new(&server.settings, kind, &head);
                    let body = UpstreamBody::new(source, Some(pooled), timeouts, permit);
                    return Ok(Box::new(UpstreamResponse { head, body }));
                }
                Err(SendError::NotSent) if !is_new => {}
                Err(SendError::NotSent) => return Err(UpstreamError::from_stage(FailureStage::NotSent)),
                // The handshake of a connection that was used before has ended.
                Err(SendError::Failed(mut error)) if error.stage == FailureStage::Tls && !is_new => {
                    error.stage = FailureStage::NoResponse;
                    return Err(error);
                }
                Err(SendError::Failed(error)) => return Err(error),
            }
        }
    }

    /// Returns a connection, and whether it is new: one that is opened, or one that another request returns,
    /// whichever comes first. A server that many connect to at once drops what its accept queue cannot hold,
    /// and the kernel tries again only after a second; requests need not wait for that when others finish
    /// meanwhile.
    ///
    /// Cancel safe: a connection being opened is closed.
    async fn open_or_wait(&self) -> Result<(Box<Connection>, bool), UpstreamError> {
        select! {
            biased;
            connection = self.idle.wait() => Ok((connection, false)),
            opened = self.open() => Ok((opened?, true)),
        }
    }

    async fn open(&self) -> Result<Box<Connection>, UpstreamError> {
        let HttpServer { settings, private_addresses, target, .. } = &*self.server;
        let opening = async {
            let timer = ResponseTimer::new(settings.first_byte_timeout);
            Ok(Box::new(Connection::new(connect(target, *private_addresses).await?, timer)))
        };
        timeout(settings.connect_timeout, opening)
            .await
            .unwrap_or_else(|_elapsed| Err(UpstreamError::from_stage(FailureStage::ConnectTimeout)))
    }

    /// Returns how many connections are open and unused.
    pub fn idle_connections(&self) -> usize {
        self.idle.len()
    }

    /// Closes connections that were idle for too long. Called every second by the thread.
    pub fn sweep(&self) {
        self.idle.sweep();
    }
}
