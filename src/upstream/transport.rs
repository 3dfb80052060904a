//! How a server is spoken to.

use std::sync::Arc;

use http::HeaderValue;
use http::uri::PathAndQuery;

use super::http::{
    ConnectTarget, HttpServer, HttpSettings, InvalidTarget, RequestHeads, TlsRoots, UrlTarget, parse_path,
    resolve_url,
};
use super::limit::InFlightLimit;
use super::sse::{SseCandidate, SseServer, SseTarget};
use super::stdio::StdioServer;
use metamcp_config::server::{ServerAddress, ServerConfig};

/// The transport of one server, shared by all workers.
pub enum Transport {
    /// Streamable HTTP.
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
    pub fn new(config: &ServerConfig, roots: &TlsRoots) -> Result<Self, InvalidTarget> {
        let no_thread =
            |error| InvalidTarget::new(format!("the thread of the server cannot be started: {error}"));
        match &config.address {
            ServerAddress::Stdio(program) => {
                let program = program.as_ref().clone();
                let server = StdioServer::start(config.name.clone(), program, config.era);
                Ok(Self::Stdio(server.map_err(no_thread)?))
            }
            ServerAddress::Sse(url) => {
                let target = sse_target(config, url, http_server_at(config, url, roots)?);
                Ok(Self::Sse(SseServer::start(target).map_err(no_thread)?))
            }
            ServerAddress::Unix { socket, path } => {
                let host = HeaderValue::from_static("localhost");
                let server =
                    http_server(config, ConnectTarget::Unix(socket.clone()), parse_path(path)?, host);
                Ok(Self::Http(server))
            }
            ServerAddress::Http(url) => {
                let server = http_server_at(config, url, roots)?;
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

fn http_server_at(
    config: &ServerConfig,
    url: &url::Url,
    roots: &TlsRoots,
) -> Result<Arc<HttpServer>, InvalidTarget> {
    let UrlTarget { target, path, host } = resolve_url(url, roots)?;
    Ok(http_server(config, target, path, host))
}

fn http_server(
    config: &ServerConfig,
    target: ConnectTarget,
    path: PathAndQuery,
    host: HeaderValue,
) -> Arc<HttpServer> {
    let settings = HttpSettings {
        connect_timeout: config.connect_timeout,
        first_byte_timeout: config.first_byte_timeout,
        stream_idle_timeout: config.stream_idle_timeout,
        idle_connections_max: config.idle_connections_max,
        idle_age_max: config.idle_age_max,
        fast_lane: config.fast_lane,
        private_addresses: config.private_addresses,
    };
    Arc::new(HttpServer { settings, target, heads: RequestHeads::new(path, host, &config.headers) })
}

fn sse_target(config: &ServerConfig, url: &url::Url, http: Arc<HttpServer>) -> SseTarget {
    let post_limit = InFlightLimit::new(config.in_flight_max, config.queue_max, config.queue_timeout);
    SseTarget { name: config.name.clone(), url: url.clone(), http, post_limit: Arc::new(post_limit) }
}
