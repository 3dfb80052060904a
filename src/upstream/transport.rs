//! How a server is spoken to.

use std::sync::Arc;

use super::message_limit::new_message_limit;
use super::sse::{SseCandidate, SseServer, SseTarget};
use super::stdio::{StdioServer, StdioTarget};
use super::surroundings::Surroundings;
use metamcp_config::server::{ServerAddress, ServerConfig};
use metamcp_http::{HttpServer, InFlightLimit, InvalidTarget, TlsRoots};

/// The transport of one server, shared by all workers.
pub enum Transport {
    Http(Arc<HttpServer>),
    /// Streamable HTTP, until HTTP+SSE is detected.
    HttpOrSse(Arc<HttpServer>, SseCandidate),
    /// HTTP+SSE, by messages to the thread that owns the event streams.
    Sse(SseServer),
    /// stdio, by messages to the thread that owns the processes.
    Stdio(StdioServer),
}

impl Transport {
    /// Prepares what each connection and each request needs. Opens nothing, and starts no process but the
    /// thread that will.
    pub fn new(
        config: &ServerConfig,
        roots: &TlsRoots,
        surroundings: &Surroundings,
    ) -> Result<Self, InvalidTarget> {
        let no_thread =
            |error| InvalidTarget::new(format!("the thread of the server cannot be started: {error}"));
        match &config.address {
            ServerAddress::Stdio(program) => {
                let target = StdioTarget {
                    name: config.name.clone(),
                    program: program.as_ref().clone(),
                    era: config.settings.era,
                    queue_timeout: config.settings.queue_timeout,
                    behavior: Arc::clone(&surroundings.behavior),
                    events: surroundings.events.clone(),
                };
                Ok(Self::Stdio(StdioServer::start(target).map_err(no_thread)?))
            }
            ServerAddress::Sse(url) => {
                let target = sse_target(config, url, HttpServer::new(config, roots)?);
                Ok(Self::Sse(SseServer::start(target).map_err(no_thread)?))
            }
            ServerAddress::Unix { .. } => Ok(Self::Http(HttpServer::new(config, roots)?)),
            ServerAddress::Http(url) => {
                let server = HttpServer::new(config, roots)?;
                Ok(if config.may_be_sse {
                    let target = sse_target(config, url, Arc::clone(&server));
                    Self::HttpOrSse(server, SseCandidate::new(target))
                } else {
                    Self::Http(server)
                })
            }
        }
    }

    /// Returns the HTTP server, unless the address names another transport.
    pub fn http(&self) -> Option<&Arc<HttpServer>> {
        match self {
            Self::Http(server) | Self::HttpOrSse(server, _) => Some(server),
            Self::Sse(_) | Self::Stdio(_) => None,
        }
    }
}

fn sse_target(config: &ServerConfig, url: &url::Url, http: Arc<HttpServer>) -> SseTarget {
    let post_limit = InFlightLimit::new(
        config.settings.in_flight_max,
        config.settings.queue_max,
        config.settings.queue_timeout,
    );
    SseTarget {
        name: config.name.clone(),
        url: url.clone(),
        http,
        post_limit: Arc::new(post_limit),
        message_limit: Arc::new(new_message_limit(&config.settings)),
    }
}
