//! The state of one bridge: a client, an endpoint, and what is in flight between them.
//!
//! The rest of the folder implements its steps: `serve` and `dispatch` for what the client sends, `exchange` for
//! requests to the endpoint.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use tokio::sync::mpsc;

use super::client::ClientRequests;
use super::endpoint::{EndpointRequests, LegacySession, ParamHeaders, to_line};
use metamcp_config::server::ServerAddress;
use metamcp_config::server::settings::DEFAULTS;
use metamcp_config::server::{ServerConfig, ServerSettings};
use metamcp_core::base::ServerName;
use metamcp_core::frame::Scanner;
use metamcp_http::{HttpPool, HttpServer, InvalidTarget, TlsRoots};

/// What the bridge connects to, and its limits.
pub struct StdioBridgeConfig {
    /// The address of the endpoint.
    pub address: ServerAddress,
    /// Sent with every request, the credential among them.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The longest line of the client.
    pub line_bytes_max: usize,
    /// How long the endpoint may take to begin a response, and between two reads of one.
    pub response_timeout: Duration,
}

/// Long enough for TLS over the internet through a proxy, with one lost SYN.
const ENDPOINT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Carries messages between one client and one endpoint.
pub struct StdioBridge {
    /// This bridge, for tasks that outlive the request which spawned them.
    pub this: Weak<Self>,
    /// The connections to the endpoint. How many calls are in flight is bounded by `client_requests`.
    pub pool: HttpPool,
    /// Lines to the client.
    output: mpsc::Sender<Bytes>,
    pub scanner: RefCell<Scanner>,
    pub client_requests: Rc<ClientRequests>,
    pub endpoint_requests: EndpointRequests,
    pub session: Rc<LegacySession>,
    pub param_headers: RefCell<ParamHeaders>,
    /// Whether the endpoint ever responded; only then are requests to it retried.
    pub has_responded: Cell<bool>,
}

impl StdioBridge {
    /// Builds a bridge that writes its lines to `output`. Errors: the address cannot be used.
    pub fn new(
        config: StdioBridgeConfig,
        roots: &TlsRoots,
        output: mpsc::Sender<Bytes>,
    ) -> Result<Rc<Self>, InvalidTarget> {
        let StdioBridgeConfig { address, headers, response_timeout, .. } = config;
        let name = ServerName::new("endpoint").expect("a valid name");
        let settings = ServerSettings {
            connect_timeout: ENDPOINT_CONNECT_TIMEOUT,
            first_byte_timeout: response_timeout,
            stream_idle_timeout: response_timeout,
            ..DEFAULTS
        };
        let server = ServerConfig::new(name, address, headers, settings);
        let pool = HttpPool::new(HttpServer::new(&server, roots)?);
        Ok(Rc::new_cyclic(|this| Self {
            this: Weak::clone(this),
            pool,
            output,
            scanner: RefCell::new(Scanner::new()),
            client_requests: Rc::default(),
            endpoint_requests: EndpointRequests::default(),
            session: Rc::default(),
            param_headers: RefCell::default(),
            has_responded: Cell::new(false),
        }))
    }

    /// Writes a message to the client. Cancel safe: either the whole line is queued or nothing.
    pub async fn write(&self, message: &[u8]) {
        // It fails only when the client no longer reads.
        let _ = self.output.send(to_line(message)).await;
    }

    /// Writes several messages to the client.
    pub async fn write_all(&self, messages: Vec<String>) {
        for message in messages {
            self.write(message.as_bytes()).await;
        }
    }

    /// Waits until the client no longer reads. Cancel safe.
    pub async fn output_closed(&self) {
        self.output.closed().await;
    }

    /// Passes a request or notification of the endpoint on to the client. `id` is that of a request; `during` is
    /// the id of the client's request on whose stream it arrived. Cancel safe, as [`Self::write`].
    pub async fn forward(&self, message: &[u8], id: Option<String>, during: Option<&[u8]>) {
        if let Some(id) = id {
            self.endpoint_requests.open(id, during);
        }
        self.write(message).await;
    }

    /// Passes on that the endpoint cancels the request `id`. Cancel safe, as [`Self::write`].
    pub async fn forward_cancellation(&self, message: &[u8], id: &str) {
        self.endpoint_requests.close(id.as_bytes());
        self.write(message).await;
    }
}
