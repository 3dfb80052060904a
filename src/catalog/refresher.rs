//! Keeps the lists of one server fresh for one view: fetches them, watches for changes, fetches them again.

use std::cell::{Cell, RefCell};
use std::future::pending;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::{Instant, sleep_until, timeout};

use super::fetch::{FetchError, FetchMode, discover, fetch_lists};
use super::list::ServerLists;
use super::missing::{ListFailure, MissingReason};
use super::view::{View, modern_headers, modern_meta};
use crate::session::{
    BufferedRequest, ClientHandshake, ListenRequest, StreamSource, UpstreamSession, UpstreamSessionSlot,
    UpstreamStream, send_buffered,
};
use crate::upstream::{UpstreamId, UpstreamPool};
use arc_swap::ArcSwap;
use metamcp_config::sections::CatalogConfig;
use metamcp_config::server::{EraChoice, ToolPinPolicy};
use metamcp_core::base::{FaultKind, unix_seconds};
use metamcp_core::frame::{Envelope, MessageKind, Scanner};
use metamcp_core::protocol::{ClientCapabilities, McpMethod, Revision};

/// The lists of one server as one kind of client sees them, kept fresh by a task of its own.
pub struct ListRefresher {
    pool: Rc<UpstreamPool>,
    view: View,
    upstream_slot: UpstreamSessionSlot,
    state: RefCell<RefreshState>,
    /// When clients of the view last used the lists.
    last_used: Cell<Option<Instant>>,
    /// Whether the lists were not fetched because no client had asked.
    is_dormant: Cell<bool>,
    /// Notified to request a fetch.
    refresh: Notify,
    /// How often the server announced changes of its tools, prompts or resources.
    announced: Cell<ChangeCounts>,
    /// The same when the newest fetch began.
    fetched: Cell<ChangeCounts>,
    /// The task that listens for changes, while it runs.
    watch: RefCell<Option<AbortOnDrop>>,
}

struct RefreshState {
    lists: Result<Arc<ServerLists>, MissingReason>,
    /// The generation of the server's lists when these were fetched.
    generation: u64,
    /// The changes that the server had announced by then.
    announced: ChangeCounts,
}

/// How often the server announced changes of its tools, prompts and resources.
pub type ChangeCounts = [u64; 3];

/// Receives what refreshers report.
pub trait ListObserver {
    /// Returns the generation of a server's lists: how often they were marked stale.
    fn generation(&self, upstream: UpstreamId) -> u64;

    /// Called after each fetch that reached the server.
    fn record_fetch(&self, upstream: UpstreamId, view: View, outcome: Result<(), &MissingReason>);

    /// Called when a server's lists changed or were fetched for the first time.
    fn record_change(&self, pool: &UpstreamPool, view: View, lists: &ServerLists);

    /// Publishes the lists of all endpoints with that server, in one view.
    fn publish_server(&self, pool: &UpstreamPool, view: View);

    /// Publishes the lists of all endpoints in all views.
    fn publish_all(&self);
}

/// Lists and snapshots that no client used in this time are dropped, and with them the catalog's session at
/// the server.
pub const IDLE_TIMEOUT: Duration = Duration::from_mins(30);

/// Between two fetches of one server: a storm of `list_changed` costs the server one list a second.
const FETCH_INTERVAL_MIN: Duration = Duration::from_secs(1);

/// A server whose lists are stale at once by its own `ttlMs` is polled at this interval.
const POLL_INTERVAL_MIN: Duration = Duration::from_mins(1);

/// A fetch that takes longer is abandoned. No request waits for so long.
const FETCH_TIMEOUT: Duration = Duration::from_mins(1);

/// The first wait before a failed fetch is retried; it doubles.
const RETRY_MIN: Duration = Duration::from_secs(1);

/// The longest wait: a server that is back is noticed within half a minute.
const RETRY_MAX: Duration = Duration::from_secs(30);

impl ListRefresher {
    /// Creates a refresher that has fetched nothing.
    pub fn new(pool: Rc<UpstreamPool>, view: View) -> Rc<Self> {
        Rc::new(Self {
            pool,
            view,
            upstream_slot: UpstreamSessionSlot::default(),
            state: RefCell::new(RefreshState {
                lists: Err(MissingReason::Loading),
                generation: 0,
                announced: [0; 3],
            }),
            last_used: Cell::new(None),
            is_dormant: Cell::new(false),
            refresh: Notify::new(),
            announced: Cell::default(),
            fetched: Cell::default(),
            watch: RefCell::new(None),
        })
    }

    /// Returns the current lists and their generation.
    pub fn lists(&self) -> (Result<Arc<ServerLists>, MissingReason>, u64) {
        let state = self.state.borrow();
        (state.lists.clone(), state.generation)
    }

    /// Returns the changes that the server had announced when the lists were fetched. Clients are notified
    /// even if the lists are equal, because nothing else tells them of other changes, such as a prompt's
    /// text.
    pub fn announced(&self) -> ChangeCounts {
        self.state.borrow().announced
    }

    /// Records that clients of the view use the lists.
    pub fn note_use(&self) {
        self.last_used.set(Some(Instant::now()));
        if self.is_dormant.replace(false) {
            self.refresh();
        }
    }

    fn is_in_use(&self) -> bool {
        self.last_used.get().is_some_and(|at| at.elapsed() < IDLE_TIMEOUT)
    }

    /// Requests a fetch, now or soon.
    pub fn refresh(&self) {
        self.refresh.notify_one();
    }

    /// Fetches, and again whenever requested, announced, or due. Runs until it is dropped.
    pub async fn run(self: Rc<Self>, live: Arc<ArcSwap<CatalogConfig>>, observer: Rc<dyn ListObserver>) {
        let upstream = self.pool.upstream();
        let mut retry = RETRY_MIN;
        let mut fetched = Instant::now();
        loop {
            let config = CatalogConfig::clone(&live.load());
            let began = Instant::now();
            let generation = observer.generation(upstream.id);
            self.fetched.set(self.announced.get());
            let outcome = self.fetch_or_report_slow(&config, &*observer, generation).await;
            // While it cannot be reached, its callers know more, and notice earlier that it is back.
            if outcome.is_ok() || upstream.status().failures_in_a_row == 0 {
                observer.record_fetch(upstream.id, self.view, outcome.as_ref().map(|_| ()));
            }
            let due = match outcome {
                Ok(lists) => {
                    (retry, fetched) = (RETRY_MIN, Instant::now());
                    let ttl = lists.ttl_ms.map_or(Duration::MAX, Duration::from_millis);
                    let due = config.refresh_after.min(ttl.max(POLL_INTERVAL_MIN));
                    self.update(&*observer, Ok(Arc::new(lists)), generation);
                    due
                }
                Err(MissingReason::NotRequested) => {
                    // The lists that were fetched for earlier clients are still valid.
                    if self.lists().0.is_err() {
                        self.update(&*observer, Err(MissingReason::NotRequested), generation);
                    }
                    config.refresh_after
                }
                Err(reason) => {
                    let (server, view) = (upstream.name(), self.view);
                    tracing::debug!(%server, %view, reason = reason.text(), "server not listed");
                    let due = match reason {
                        MissingReason::OtherEra => config.refresh_after,
                        _ => next_backoff(&mut retry),
                    };
                    // A short outage changes no list.
                    let is_news = self.lists().0.is_err() || fetched.elapsed() >= config.refresh_after;
                    let lists = if is_news { Err(reason) } else { self.lists().0 };
                    self.update(&*observer, lists, generation);
                    due
                }
            };
            tokio::select! {
                () = self.refresh.notified() => sleep_until(began + FETCH_INTERVAL_MIN).await,
                () = sleep_until(began + due) => {}
            }
        }
    }

    /// Fetches. If the server takes longer than a list request waits, it is reported as slow meanwhile,
    /// unless its earlier lists are known.
    async fn fetch_or_report_slow(
        self: &Rc<Self>,
        config: &CatalogConfig,
        observer: &dyn ListObserver,
        generation: u64,
    ) -> Result<ServerLists, MissingReason> {
        let mut fetching = pin!(self.fetch(config));
        if let Ok(fetched) = timeout(config.list_deadline, &mut fetching).await {
            return fetched;
        }
        let known = self.lists().0.map_err(|_| MissingReason::Slow);
        self.update(observer, known, generation);
        let too_long = || Err(self.failure("it took too long to list".to_owned()));
        timeout(FETCH_TIMEOUT, fetching).await.unwrap_or_else(|_elapsed| too_long())
    }

    fn update(
        &self,
        observer: &dyn ListObserver,
        lists: Result<Arc<ServerLists>, MissingReason>,
        generation: u64,
    ) {
        let is_known = |lists: &ServerLists| self.lists().0.is_ok_and(|known| known.items == lists.items);
        let news = lists.as_ref().ok().filter(|lists| !is_known(lists));
        let is_news = news.is_some();
        if let Some(lists) = news {
            observer.record_change(&self.pool, self.view, lists);
        }
        *self.state.borrow_mut() = RefreshState { lists, generation, announced: self.fetched.get() };
        // A tool as one kind of client sees it may quarantine the tool for all kinds.
        if is_news && self.pool.upstream().config.settings.changed_tools == ToolPinPolicy::Quarantine {
            observer.publish_all();
        } else {
            observer.publish_server(&self.pool, self.view);
        }
    }

    async fn fetch(self: &Rc<Self>, config: &CatalogConfig) -> Result<ServerLists, MissingReason> {
        let era = self.pool.upstream().config.settings.era;
        let result = match (self.view, era) {
            (View::Legacy(capabilities), _) => self.fetch_legacy(config, capabilities).await,
            (View::Modern, EraChoice::Legacy) => self.fetch_bridged(config).await,
            (View::Modern, EraChoice::Auto) => match self.fetch_modern(config).await {
                Err(FetchError::OtherEra) => self.fetch_bridged(config).await,
                other => other,
            },
            (View::Modern, EraChoice::Modern) => self.fetch_modern(config).await,
        };
        result.map_err(|error| match error {
            FetchError::OtherEra => MissingReason::OtherEra,
            FetchError::NotRequested => MissingReason::NotRequested,
            FetchError::SessionLost => self.failure("it does not keep its sessions".to_owned()),
            FetchError::Failed(text) => {
                self.failure(missing_reason(&text, self.pool.upstream().name().as_str()))
            }
        })
    }

    /// Returns the failure; since the first one if the fetch fails in the same way again.
    fn failure(&self, text: String) -> MissingReason {
        let stage = self.pool.upstream().status().last_failure.map(|failure| failure.stage.text());
        let failed = ListFailure { text, stage, since: Some(unix_seconds()) };
        match self.lists().0 {
            Err(MissingReason::Failed(before)) if (&before.text, before.stage) == (&failed.text, stage) => {
                MissingReason::Failed(before)
            }
            _ => MissingReason::Failed(failed),
        }
    }

    async fn fetch_modern(self: &Rc<Self>, config: &CatalogConfig) -> Result<ServerLists, FetchError> {
        let features = discover(&self.pool).await?;
        // From the time when the server did not speak the Modern era.
        self.end_session();
        let lists = fetch_lists(&self.pool, config, &FetchMode::Modern(features)).await?;
        self.watch_changes(|| {
            let listen = ListenRequest { message: listen_message(), headers: listen_headers(), owner: None };
            StreamSource::Modern(Box::new(listen))
        });
        Ok(lists)
    }

    /// Fetches from a server that speaks only the Legacy era, for Modern clients. Lists of the Modern era do
    /// not depend on capabilities, so the gateway declares all of them, as it does to a Modern server. This
    /// takes a session, perhaps a process, so there is none before a Modern client asks, nor long after; but a program of
    /// which nothing is known is tried once.
    async fn fetch_bridged(self: &Rc<Self>, config: &CatalogConfig) -> Result<ServerLists, FetchError> {
        if self.is_in_use() {
            return self.fetch_legacy(config, ClientCapabilities::ALL).await;
        }
        // A program that ends when it gets a message of the other era has told nothing of itself.
        let status = self.pool.upstream().status();
        let is_untried = status.processes.is_some() && !status.has_answered && status.failures_in_a_row == 0;
        let fetched = if is_untried {
            self.fetch_legacy(config, ClientCapabilities::ALL).await
        } else {
            Err(FetchError::NotRequested)
        };
        self.is_dormant.set(true);
        self.end_session();
        fetched
    }

    /// Ends the catalog's own session, if there is one.
    fn end_session(&self) {
        let Some(upstream_session) = self.upstream_slot.current() else { return };
        self.upstream_slot.discard(&upstream_session);
        *self.watch.borrow_mut() = None;
        let pool = Rc::clone(&self.pool);
        spawn_local(async move { upstream_session.terminate(&pool).await });
    }

    /// Fetches in the catalog's own session, which is opened again once if the server lost it.
    async fn fetch_legacy(
        self: &Rc<Self>,
        config: &CatalogConfig,
        capabilities: ClientCapabilities,
    ) -> Result<ServerLists, FetchError> {
        match self.fetch_in_session(config, capabilities).await {
            Err(FetchError::SessionLost) => self.fetch_in_session(config, capabilities).await,
            other => other,
        }
    }

    async fn fetch_in_session(
        self: &Rc<Self>,
        config: &CatalogConfig,
        capabilities: ClientCapabilities,
    ) -> Result<ServerLists, FetchError> {
        let handshake = ClientHandshake::gateway(Revision::LEGACY_LATEST, capabilities);
        let is_new = self.upstream_slot.current().is_none();
        let opened = self.upstream_slot.open(&self.pool, &handshake, None).await;
        let upstream_session = opened.map_err(|fault| match fault.kind {
            FaultKind::EraMismatch => FetchError::OtherEra,
            _ => FetchError::Failed(fault.for_client().to_owned()),
        })?;
        if is_new {
            *self.watch.borrow_mut() = None;
        }
        self.watch_changes(|| StreamSource::Legacy(Arc::clone(&upstream_session)));
        let fetched = fetch_lists(&self.pool, config, &FetchMode::Legacy(&upstream_session)).await;
        if let Err(FetchError::SessionLost) = fetched {
            self.upstream_slot.discard(&upstream_session);
        }
        fetched
    }

    /// Starts to listen for changes, unless it does already.
    fn watch_changes(self: &Rc<Self>, source: impl FnOnce() -> StreamSource) {
        let mut watch = self.watch.borrow_mut();
        if watch.is_none() {
            let refresher = Rc::downgrade(self);
            let stream = UpstreamStream::open(Rc::clone(&self.pool), source(), true, None);
            let upstream_session = self.upstream_slot.current();
            let task = spawn_local(async move {
                listen(stream, &refresher, upstream_session).await;
                // A stream that is refused permanently is not requested again before the next session.
                pending::<()>().await;
            });
            *watch = Some(AbortOnDrop(task.abort_handle()));
        }
    }
}

/// Reads the stream; an announced change requests a fetch.
async fn listen(
    mut stream: UpstreamStream,
    refresher: &std::rc::Weak<ListRefresher>,
    upstream_session: Option<Arc<UpstreamSession>>,
) {
    let mut scanner = Scanner::new();
    while let Ok(event) = stream.next().await {
        let Some(refresher) = refresher.upgrade() else { return };
        let Some(data) = event.data.filter(|data| !data.is_empty()) else { continue };
        let Ok(envelope) = scanner.scan(&data) else { continue };
        let method = envelope.method.map(|method| method.decode_bytes(&data));
        let method = method.as_deref().and_then(McpMethod::parse);
        let list_index = match method {
            Some(McpMethod::ToolsListChanged) => Some(0),
            Some(McpMethod::PromptsListChanged) => Some(1),
            Some(McpMethod::ResourcesListChanged) => Some(2),
            _ => None,
        };
        match (envelope.kind, list_index, &upstream_session) {
            (MessageKind::Notification, Some(list_index), _) => {
                let mut announced = refresher.announced.get();
                announced[list_index] += 1;
                refresher.announced.set(announced);
                refresher.refresh();
            }
            (MessageKind::Request, _, Some(upstream_session)) => {
                if let Some(id) = envelope.id {
                    let id = id.span.slice(&data);
                    answer_request(&refresher.pool, upstream_session, id, &envelope, &data).await;
                }
            }
            _ => {}
        }
    }
    if let Some(refresher) = refresher.upgrade() {
        tracing::debug!(server = %refresher.pool.upstream().name(), "no stream of list changes");
    }
}

/// Answers a request of the server. The catalog's session has no client: no roots, no model and no user.
async fn answer_request(
    pool: &Rc<UpstreamPool>,
    upstream_session: &UpstreamSession,
    id: &[u8],
    envelope: &Envelope,
    data: &Bytes,
) {
    let method = envelope.method.map(|method| method.decode(data));
    let body = match method.as_deref() {
        Some("ping") => r#""result":{}"#,
        Some("roots/list") => r#""result":{"roots":[]}"#,
        Some("elicitation/create") => r#""result":{"action":"cancel"}"#,
        _ => r#""error":{"code":-32601,"message":"this session only lists"}"#,
    };
    let id = String::from_utf8_lossy(id);
    let message = format!(r#"{{"jsonrpc":"2.0","id":{id},{body}}}"#);
    let request = BufferedRequest {
        method: McpMethod::Ping,
        message: message.into(),
        session: Some(upstream_session),
        modern_headers: None,
    };
    // The lists do not depend on whether the server accepts it.
    let _ = send_buffered(pool, request).await;
}

/// Turns the text of a failed call into the reason for a missing server, where there was no call.
fn missing_reason(text: &str, server: &str) -> String {
    let text = ["; the call did not run", "; the call may have run"]
        .iter()
        .fold(text, |text, suffix| text.strip_suffix(suffix).unwrap_or(text));
    let of_server = text.strip_prefix("server `").and_then(|rest| rest.strip_prefix(server));
    match of_server.and_then(|rest| rest.strip_prefix("` ")) {
        Some(predicate) => format!("it {predicate}"),
        None => text.to_owned(),
    }
}

fn listen_message() -> Bytes {
    format!(
        r#"{{"jsonrpc":"2.0","id":"metamcp-catalog","method":"subscriptions/listen","params":{{"_meta":{},"notifications":{{"toolsListChanged":true,"promptsListChanged":true,"resourcesListChanged":true}}}}}}"#,
        modern_meta()
    )
    .into()
}

fn listen_headers() -> Vec<(http::HeaderName, http::HeaderValue)> {
    use metamcp_core::protocol::header;
    let mut headers = modern_headers();
    headers.push((header::METHOD, http::HeaderValue::from_static(McpMethod::Listen.as_str())));
    headers
}

fn next_backoff(retry: &mut Duration) -> Duration {
    let now = *retry;
    *retry = (now * 2).min(RETRY_MAX);
    now
}

/// Aborts a task when it is dropped.
pub struct AbortOnDrop(pub AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        assert_eq!(missing_reason(text, "tok"), expected);
    }

    #[test]
    fn reasons_describe_the_server_alone() {
        check("server `tok` cannot be reached; the call did not run", "it cannot be reached");
        check("server `tok` did not answer in time; the call may have run", "it did not answer in time");
        check("its list of tools has too many pages", "its list of tools has too many pages");
        check("server `other` is away", "server `other` is away");
    }
}
