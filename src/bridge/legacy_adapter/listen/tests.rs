use std::pin::pin;
use std::sync::mpsc;
use std::task::{Context, Poll, Waker};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{LocalSet, spawn_blocking, yield_now};
use tokio::time::{Instant, advance};

use super::super::session::{ClientIntroduction, SessionFeatures};
use super::*;
use crate::upstream::{Upstream, UpstreamId};
use metamcp_config::server::settings::DEFAULTS;
use metamcp_config::server::{EraChoice, ServerAddress, ServerConfig, ServerSettings, ToolPinPolicy};
use metamcp_core::base::ServerName;
use metamcp_core::protocol::{ClientCapabilities, Revision};
use metamcp_http::TlsRoots;

/// Longer than any wait here, on the paused clock.
const LONG: Duration = Duration::from_hours(1);

/// Wall-clock bound for the socket traffic of one test.
const WALL_CLOCK_TIMEOUT: Duration = Duration::from_mins(1);

const URI: &str = "test://x";
const TOOLS: &str = "notifications/tools/list_changed";
const PROMPTS: &str = "notifications/prompts/list_changed";
const UPDATED: &str = "notifications/resources/updated";

/// A scripted server, and one session with it.
struct ListenTest {
    subscriptions: Subscriptions,
    pool: Rc<UpstreamPool>,
    server: TcpListener,
    session: Arc<Session>,
    /// Keeps the clock paused even while the runtime only waits for a socket.
    _paused_clock: mpsc::Sender<()>,
}

impl ListenTest {
    async fn new() -> Self {
        let (paused, ends) = mpsc::channel();
        // After this the clock runs, so that a test that waits in vain fails by its timeout.
        spawn_blocking(move || ends.recv_timeout(WALL_CLOCK_TIMEOUT).ok());
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/mcp", server.local_addr().unwrap());
        let settings = ServerSettings {
            era: EraChoice::Modern,
            connect_timeout: LONG,
            first_byte_timeout: LONG,
            stream_idle_timeout: 2 * LONG,
            in_flight_max: 8,
            queue_timeout: LONG,
            queue_max: 8,
            idle_connections_max: 1,
            idle_age_max: LONG,
            changed_tools: ToolPinPolicy::Allow,
            ..DEFAULTS
        };
        let config = ServerConfig {
            has_breaker: false,
            ..ServerConfig::new(
                ServerName::new("a").unwrap(),
                ServerAddress::Http(url.parse().unwrap()),
                Vec::new(),
                settings,
            )
        };
        let roots = TlsRoots::from_roots(rustls::RootCertStore::empty());
        let pool = UpstreamPool::new(Upstream::new(UpstreamId(0), config, &roots).unwrap());
        let (subscriptions, session) = (Subscriptions::new(Arc::default()), session());
        Self { subscriptions, pool, server, session, _paused_clock: paused }
    }

    /// The client opens its stream.
    fn open(&self) -> Client {
        Client(self.subscriptions.open_stream(&self.session, &self.pool))
    }

    /// The client subscribes to a resource. Returns the filter version.
    fn subscribe(&self) -> u64 {
        let filter_version = self.session.subscribe(URI).unwrap();
        self.subscriptions.wake(&self.session, &self.pool);
        filter_version
    }

    /// Returns the next `subscriptions/listen` that the server receives.
    async fn next_listen(&self) -> ListenRequest {
        let next_listen = async {
            let (mut socket, _) = self.server.accept().await.unwrap();
            let mut request = Vec::new();
            loop {
                socket.read_buf(&mut request).await.unwrap();
                let body = request.windows(4).position(|end| end == b"\r\n\r\n").map(|at| &request[at + 4..]);
                if let Some(message) = body.and_then(|body| serde_json::from_slice::<Value>(body).ok()) {
                    assert_eq!(message["method"], "subscriptions/listen");
                    let has_resources =
                        !message["params"]["notifications"]["resourceSubscriptions"].is_null();
                    return ListenRequest { socket, has_resources };
                }
            }
        };
        timeout(LONG, next_listen).await.expect("the server is asked")
    }
}

fn session() -> Arc<Session> {
    let introduction = ClientIntroduction {
        revision: Revision::LEGACY_LATEST,
        capabilities: ClientCapabilities::from_json(b"{}").unwrap(),
        declared: "{}".into(),
        client_info: None,
    };
    let offers = SessionFeatures {
        subscribe: true,
        tools_changed: true,
        prompts_changed: true,
        ..SessionFeatures::default()
    };
    Session::new(UpstreamId(0), Arc::new(introduction), None, offers)
}

/// The client's end of its stream.
struct Client(Box<UpstreamResponse>);

impl Client {
    /// Expects the next event to have this method.
    #[track_caller]
    fn expect_event(&mut self, expected: &'static str) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            let event = timeout(LONG, self.0.body.chunk()).await;
            let event = event.unwrap_or_else(|_| panic!("{caller}: no {expected}"));
            let event = event.expect("the stream has not ended").ok().unwrap();
            assert_eq!(method_of(&event).as_deref(), Some(expected), "{caller}");
        }
    }
}

fn method_of(event: &Bytes) -> Option<String> {
    let data = std::str::from_utf8(event).ok()?.lines().find_map(|line| line.strip_prefix("data: "))?;
    Some(serde_json::from_str::<Value>(data).ok()?["method"].as_str()?.to_owned())
}

/// A `subscriptions/listen` at the server.
struct ListenRequest {
    socket: TcpStream,
    has_resources: bool,
}

impl ListenRequest {
    async fn refuse(mut self, status: &str) {
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        self.socket.write_all(head.as_bytes()).await.unwrap();
    }

    async fn acknowledge(&mut self) {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
        self.socket.write_all(head.as_bytes()).await.unwrap();
        self.notify("notifications/subscriptions/acknowledged").await;
    }

    async fn notify(&mut self, method: &str) {
        let event = write_event(json!({"jsonrpc": "2.0", "method": method}).to_string().as_bytes());
        let chunk = [format!("{:x}\r\n", event.len()).as_bytes(), &event, b"\r\n"].concat();
        self.socket.write_all(&chunk).await.unwrap();
    }

    /// Expects the gateway to close the connection.
    async fn expect_closed(mut self) {
        let end = timeout(LONG, self.socket.read(&mut [0; 1])).await.expect("it is closed");
        assert_eq!(end.ok().unwrap_or(0), 0);
    }
}

async fn wait_until_settled(test: &ListenTest, filter_version: u64) {
    timeout(LONG, test.session.wait_until_settled(filter_version))
        .await
        .expect("the server has settled the filter");
}

/// Opens a stream in a shared subscription that delivers list changes.
async fn open_shared(test: &ListenTest) -> (Client, ListenRequest) {
    let mut client = test.open();
    let mut shared = test.next_listen().await;
    assert!(!shared.has_resources);
    shared.acknowledge().await;
    shared.notify(TOOLS).await;
    client.expect_event(TOOLS).await;
    (client, shared)
}

#[tokio::test(start_paused = true)]
async fn a_session_that_leaves_a_shared_subscription_misses_nothing() {
    let test = async {
        let test = ListenTest::new().await;
        let (mut client, mut shared) = open_shared(&test).await;
        let filter_version = test.subscribe();
        let mut dedicated = test.next_listen().await;
        assert!(dedicated.has_resources);
        shared.notify(PROMPTS).await;
        client.expect_event(PROMPTS).await;
        dedicated.acknowledge().await;
        wait_until_settled(&test, filter_version).await;
        // Changes before that, and changes that arrive both ways in either order.
        shared.notify(TOOLS).await;
        client.expect_event(TOOLS).await;
        for method in [TOOLS, UPDATED] {
            dedicated.notify(method).await;
            client.expect_event(method).await;
        }
        dedicated.notify(PROMPTS).await;
        client.expect_event(PROMPTS).await;
        for method in [PROMPTS, TOOLS] {
            shared.notify(method).await;
            client.expect_event(method).await;
        }
        advance(Duration::from_secs(2)).await;
        shared.expect_closed().await;
        for method in [TOOLS, TOOLS, UPDATED, PROMPTS] {
            dedicated.notify(method).await;
            client.expect_event(method).await;
        }
        // There is one dedicated subscription at a time.
        test.session.unsubscribe(URI);
        test.subscribe();
        assert!(test.next_listen().await.has_resources);
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test(start_paused = true)]
async fn the_shared_subscription_serves_while_the_dedicated_one_fails() {
    let check = async |fails: &'static str, retry_after: Duration| {
        let test = async move {
            let test = ListenTest::new().await;
            let (mut client, mut shared) = open_shared(&test).await;
            test.subscribe();
            let mut dedicated = test.next_listen().await;
            if fails.is_empty() {
                // The server acknowledges the subscription and breaks the stream.
                dedicated.acknowledge().await;
                drop(dedicated);
            } else {
                dedicated.refuse(fails).await;
            }
            shared.notify(TOOLS).await;
            client.expect_event(TOOLS).await;
            // The second attempt is not answered for a while.
            let mut dedicated = next_listen_after(&test, retry_after).await;
            advance(Duration::from_secs(10)).await;
            shared.notify(PROMPTS).await;
            client.expect_event(PROMPTS).await;
            dedicated.acknowledge().await;
            dedicated.notify(UPDATED).await;
            client.expect_event(UPDATED).await;
        };
        LocalSet::new().run_until(test).await;
    };
    check("503 Service Unavailable", BACKOFF_MIN).await;
    check("404 Not Found", UNSUPPORTED_RETRY_INTERVAL).await;
    check("", BACKOFF_MIN).await;
}

/// Returns the next listen request after that time. The time begins when the gateway has read the response,
/// which is soon.
async fn next_listen_after(test: &ListenTest, wait: Duration) -> ListenRequest {
    for _ in 0..100 {
        advance(wait).await;
        if let Some(dedicated) = next_listen_now(test).await {
            return dedicated;
        }
    }
    panic!("no listen request arrived");
}

/// Returns a listen request that has arrived already.
async fn next_listen_now(test: &ListenTest) -> Option<ListenRequest> {
    let mut next_listen = pin!(test.next_listen());
    // Enough turns to read a request that is in the socket.
    for _ in 0..100 {
        yield_now().await;
        if let Poll::Ready(next_listen) = next_listen.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return Some(next_listen);
        }
    }
    None
}

#[tokio::test(start_paused = true)]
async fn subscriptions_close_when_the_client_goes() {
    let test = async {
        let test = ListenTest::new().await;
        let (client, mut shared) = open_shared(&test).await;
        test.subscribe();
        let dedicated = test.next_listen().await;
        drop(client);
        dedicated.expect_closed().await;
        shared.notify(TOOLS).await;
        shared.expect_closed().await;
    };
    LocalSet::new().run_until(test).await;
}

/// A proxy in front of the server may have refused.
#[tokio::test(start_paused = true)]
async fn a_refused_subscription_is_retried_later() {
    let test = async {
        let test = ListenTest::new().await;
        let filter_version = test.subscribe();
        let mut client = test.open();
        let begin = Instant::now();
        let (one, other) = (test.next_listen().await, test.next_listen().await);
        let (dedicated, mut shared) = if one.has_resources { (one, other) } else { (other, one) };
        assert!(dedicated.has_resources && !shared.has_resources);
        shared.acknowledge().await;
        dedicated.refuse("404 Not Found").await;
        // A refusal settles the filter.
        wait_until_settled(&test, filter_version).await;
        assert_eq!(begin.elapsed(), Duration::ZERO);
        advance(UNSUPPORTED_RETRY_INTERVAL.saturating_sub(Duration::from_secs(1))).await;
        assert!(next_listen_now(&test).await.is_none(), "the retry is too early");
        // List changes arrive meanwhile.
        shared.notify(TOOLS).await;
        client.expect_event(TOOLS).await;
        advance(Duration::from_secs(1)).await;
        let mut dedicated = test.next_listen().await;
        dedicated.acknowledge().await;
        for method in [TOOLS, UPDATED] {
            dedicated.notify(method).await;
            client.expect_event(method).await;
        }
    };
    LocalSet::new().run_until(test).await;
}
