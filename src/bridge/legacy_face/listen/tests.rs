use std::pin::pin;
use std::sync::mpsc;
use std::task::{Context, Poll, Waker};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{LocalSet, spawn_blocking, yield_now};
use tokio::time::{Instant, advance};

use super::super::open::Offers;
use super::super::session::Introduced;
use super::*;
use crate::base::ServerName;
use crate::protocol::{ClientCapabilities, Revision};
use crate::upstream::{Address, ChangedTools, Config, EraChoice, TlsRoots, Upstream, UpstreamId};

/// Longer than any wait here, on a clock that only the tests move.
const LONG: Duration = Duration::from_hours(1);

/// By the clock on the wall: for all that goes through sockets in one test.
const PATIENCE: Duration = Duration::from_mins(1);

const URI: &str = "test://x";
const TOOLS: &str = "notifications/tools/list_changed";
const PROMPTS: &str = "notifications/prompts/list_changed";
const UPDATED: &str = "notifications/resources/updated";

/// A server that does what the test says, and one session with it.
struct Rig {
    face: Arc<LegacyFace>,
    pool: Rc<Pool>,
    server: TcpListener,
    session: Arc<Session>,
    /// While it is there, time stands still even when nothing is to be done but to wait for a socket.
    _still: mpsc::Sender<()>,
}

impl Rig {
    async fn new() -> Self {
        let (still, ends) = mpsc::channel();
        // A test that waits in vain goes on with a clock that runs, upon which it fails.
        spawn_blocking(move || ends.recv_timeout(PATIENCE).ok());
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/mcp", server.local_addr().unwrap());
        let config = Config {
            name: ServerName::new("a").unwrap(),
            address: Address::Http(url.parse().unwrap()),
            headers: Vec::new(),
            era: EraChoice::Modern,
            connect_timeout: LONG,
            first_byte_timeout: LONG,
            stream_idle_timeout: 2 * LONG,
            in_flight_max: 8,
            queue_timeout: LONG,
            queue_max: 8,
            idle_connections_max: 1,
            idle_age_max: LONG,
            fast_lane: true,
            private_addresses: true,
            may_be_sse: false,
            left_alone: false,
            alias: None,
            changed_tools: ChangedTools::Allow,
        };
        let roots = TlsRoots::from_roots(rustls::RootCertStore::empty());
        let pool = Pool::new(Upstream::new(UpstreamId(0), config, &roots).unwrap());
        let (face, session) = (Arc::new(LegacyFace::new(LONG)), session());
        Self { face, pool, server, session, _still: still }
    }

    /// The client opens its stream.
    fn open(&self) -> Client {
        Client(open(&self.face, &self.session, &self.pool))
    }

    /// The client subscribes to a resource; gives the wish that has it.
    fn subscribe(&self) -> u64 {
        let wish = self.session.subscribe(URI).unwrap();
        wake(&self.face, &self.session, &self.pool);
        wish
    }

    /// The next subscription that the server is asked for.
    async fn asked(&self) -> Asked {
        let asked = async {
            let (mut socket, _) = self.server.accept().await.unwrap();
            let mut request = Vec::new();
            loop {
                socket.read_buf(&mut request).await.unwrap();
                let body = request.windows(4).position(|end| end == b"\r\n\r\n").map(|at| &request[at + 4..]);
                if let Some(message) = body.and_then(|body| serde_json::from_slice::<Value>(body).ok()) {
                    assert_eq!(message["method"], "subscriptions/listen");
                    let has_uris = !message["params"]["notifications"]["resourceSubscriptions"].is_null();
                    return Asked { socket, has_uris };
                }
            }
        };
        timeout(LONG, asked).await.expect("the server is asked")
    }
}

fn session() -> Arc<Session> {
    let introduced = Introduced {
        revision: Revision::LEGACY_LATEST,
        capabilities: ClientCapabilities::from_json(b"{}").unwrap(),
        declared: "{}".into(),
        client_info: None,
    };
    let offers = Offers { subscribe: true, tools_changed: true, prompts_changed: true, ..Offers::default() };
    Session::new(UpstreamId(0), Arc::new(introduced), None, offers)
}

/// What the client reads.
struct Client(Box<Answered>);

impl Client {
    /// The next that it is told is of this method.
    #[track_caller]
    fn hears(&mut self, expected: &'static str) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            let event = timeout(LONG, self.0.body.chunk()).await;
            let event = event.unwrap_or_else(|_| panic!("{caller}: {expected} was not told"));
            let event = event.expect("the stream has not ended").ok().unwrap();
            assert_eq!(method_of(&event).as_deref(), Some(expected), "{caller}");
        }
    }
}

fn method_of(event: &Bytes) -> Option<String> {
    let data = std::str::from_utf8(event).ok()?.lines().find_map(|line| line.strip_prefix("data: "))?;
    Some(serde_json::from_str::<Value>(data).ok()?["method"].as_str()?.to_owned())
}

/// A subscription that the server was asked for.
struct Asked {
    socket: TcpStream,
    has_uris: bool,
}

impl Asked {
    async fn refuse(mut self, status: &str) {
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        self.socket.write_all(head.as_bytes()).await.unwrap();
    }

    async fn acknowledge(&mut self) {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
        self.socket.write_all(head.as_bytes()).await.unwrap();
        self.tell("notifications/subscriptions/acknowledged").await;
    }

    async fn tell(&mut self, method: &str) {
        let event = write_event(json!({"jsonrpc": "2.0", "method": method}).to_string().as_bytes());
        let chunk = [format!("{:x}\r\n", event.len()).as_bytes(), &event, b"\r\n"].concat();
        self.socket.write_all(&chunk).await.unwrap();
    }

    /// The gateway listens no more.
    async fn left(mut self) {
        let end = timeout(LONG, self.socket.read(&mut [0; 1])).await.expect("it is closed");
        assert_eq!(end.ok().unwrap_or(0), 0);
    }
}

async fn settled(rig: &Rig, wish: u64) {
    timeout(LONG, rig.session.settled(wish)).await.expect("the server has heard of it");
}

/// A session in a hub that is told of lists there.
async fn in_a_hub(rig: &Rig) -> (Client, Asked) {
    let mut client = rig.open();
    let mut hub = rig.asked().await;
    assert!(!hub.has_uris);
    hub.acknowledge().await;
    hub.tell(TOOLS).await;
    client.hears(TOOLS).await;
    (client, hub)
}

#[tokio::test(start_paused = true)]
async fn one_that_comes_out_of_its_hub_is_told_all() {
    let test = async {
        let rig = Rig::new().await;
        let (mut client, mut hub) = in_a_hub(&rig).await;
        let wish = rig.subscribe();
        let mut own = rig.asked().await;
        assert!(own.has_uris);
        hub.tell(PROMPTS).await;
        client.hears(PROMPTS).await;
        own.acknowledge().await;
        settled(&rig, wish).await;
        // What changed before that, and what comes both ways, whichever first.
        hub.tell(TOOLS).await;
        client.hears(TOOLS).await;
        for method in [TOOLS, UPDATED] {
            own.tell(method).await;
            client.hears(method).await;
        }
        own.tell(PROMPTS).await;
        client.hears(PROMPTS).await;
        for method in [PROMPTS, TOOLS] {
            hub.tell(method).await;
            client.hears(method).await;
        }
        advance(Duration::from_secs(2)).await;
        hub.left().await;
        for method in [TOOLS, TOOLS, UPDATED, PROMPTS] {
            own.tell(method).await;
            client.hears(method).await;
        }
        // It is the only one that listens for itself.
        rig.session.unsubscribe(URI);
        rig.subscribe();
        assert!(rig.asked().await.has_uris);
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test(start_paused = true)]
async fn one_whose_own_stream_does_not_come_is_told_by_its_hub() {
    let check = async |fails: &'static str, patience: Duration| {
        let test = async move {
            let rig = Rig::new().await;
            let (mut client, mut hub) = in_a_hub(&rig).await;
            rig.subscribe();
            let mut own = rig.asked().await;
            if fails.is_empty() {
                // It says that it tells, and does not.
                own.acknowledge().await;
                drop(own);
            } else {
                own.refuse(fails).await;
            }
            hub.tell(TOOLS).await;
            client.hears(TOOLS).await;
            // Asked again, it does not answer for a while.
            let mut own = came_within(&rig, patience).await;
            advance(Duration::from_secs(10)).await;
            hub.tell(PROMPTS).await;
            client.hears(PROMPTS).await;
            own.acknowledge().await;
            own.tell(UPDATED).await;
            client.hears(UPDATED).await;
        };
        LocalSet::new().run_until(test).await;
    };
    check("503 Service Unavailable", BACKOFF_MIN).await;
    check("404 Not Found", REFUSED_FOR).await;
    check("", BACKOFF_MIN).await;
}

/// What the server is asked for after that time. It begins when the gateway has read what the server said, which is soon.
async fn came_within(rig: &Rig, wait: Duration) -> Asked {
    for _ in 0..100 {
        advance(wait).await;
        if let Some(own) = came(rig).await {
            return own;
        }
    }
    panic!("the server is not asked again");
}

/// What the server is asked for in this moment.
async fn came(rig: &Rig) -> Option<Asked> {
    let mut asked = pin!(rig.asked());
    // As many turns as a request may take that all of which is there already.
    for _ in 0..100 {
        yield_now().await;
        if let Poll::Ready(asked) = asked.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return Some(asked);
        }
    }
    None
}

#[tokio::test(start_paused = true)]
async fn one_whose_client_goes_meanwhile_is_asked_for_no_more() {
    let test = async {
        let rig = Rig::new().await;
        let (client, mut hub) = in_a_hub(&rig).await;
        rig.subscribe();
        let own = rig.asked().await;
        drop(client);
        own.left().await;
        hub.tell(TOOLS).await;
        hub.left().await;
    };
    LocalSet::new().run_until(test).await;
}

/// What was refused may have been so by what stands in front of the server.
#[tokio::test(start_paused = true)]
async fn a_server_that_refuses_is_asked_again_after_a_while() {
    let test = async {
        let rig = Rig::new().await;
        let wish = rig.subscribe();
        let mut client = rig.open();
        let begin = Instant::now();
        let (one, other) = (rig.asked().await, rig.asked().await);
        let (own, mut hub) = if one.has_uris { (one, other) } else { (other, one) };
        assert!(own.has_uris && !hub.has_uris);
        hub.acknowledge().await;
        own.refuse("404 Not Found").await;
        // It is no use to wait for longer.
        settled(&rig, wish).await;
        assert_eq!(begin.elapsed(), Duration::ZERO);
        advance(REFUSED_FOR.saturating_sub(Duration::from_secs(1))).await;
        assert!(came(&rig).await.is_none(), "it is asked too early");
        // Of lists it is told meanwhile.
        hub.tell(TOOLS).await;
        client.hears(TOOLS).await;
        advance(Duration::from_secs(1)).await;
        let mut own = rig.asked().await;
        own.acknowledge().await;
        for method in [TOOLS, UPDATED] {
            own.tell(method).await;
            client.hears(method).await;
        }
    };
    LocalSet::new().run_until(test).await;
}
