//! A session of the gateway's at one upstream, on behalf of one client: opened on first use, repaired once
//! when the upstream lost it.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::ask::{BufferedRequest, BufferedResponse, RequestContext, ask, send_buffered_for};
use crate::auth::KeyId;
use crate::upstream::{RequestKind, UpstreamPool, UpstreamRequest};
use metamcp_core::base::{Fault, FaultKind, RecentInterner};
use metamcp_core::protocol::{ClientCapabilities, Era, McpMethod, Revision, TASKS_EXTENSION, header};

/// Of what a server says when it refuses a session, in an error of ours.
const SAID_CHARS_MAX: usize = 300;

/// How a client introduced itself, and so how the gateway introduces itself to upstreams for it.
#[derive(Clone)]
pub struct ClientHandshake {
    /// What it says; the same for all clients of one kind.
    pub said: Arc<InitializeParams>,
    /// The client's key; none for the gateway's own sessions.
    pub owner: Option<KeyId>,
    /// Whether it shares nothing with other sessions, no process either.
    pub is_isolated: bool,
}

/// What a client says of itself.
#[derive(PartialEq, Eq)]
pub struct InitializeParams {
    /// The revision asked for.
    pub revision: Revision,
    /// What it declared.
    pub capabilities: ClientCapabilities,
    /// The raw `params` of `initialize`.
    pub params: Bytes,
}

impl ClientHandshake {
    /// The gateway's own: for the catalog, and where a client's was lost.
    pub fn ours(revision: Revision, capabilities: ClientCapabilities) -> Self {
        let params = format!(
            r#"{{"protocolVersion":"{}","capabilities":{},"clientInfo":{{"name":"metamcp","version":"{}"}}}}"#,
            revision,
            capabilities.to_json(),
            env!("CARGO_PKG_VERSION"),
        );
        let said = Arc::new(InitializeParams { revision, capabilities, params: params.into() });
        Self { said, owner: None, is_isolated: false }
    }
}

/// The place of one upstream session.
pub struct UpstreamSessionSlot {
    /// No other has or had it.
    number: u64,
    ready: ArcSwapOption<UpstreamSession>,
    /// Held by the one who opens, so that a burst of first calls opens one session.
    opening: tokio::sync::Mutex<()>,
}

/// An open upstream session. Replaced as a whole when it was lost.
pub struct UpstreamSession {
    /// The id the upstream gave; some have none.
    pub session_id: Option<HeaderValue>,
    /// The revision it chose, which later requests name.
    pub revision: Revision,
    /// What it offers; the same for all sessions with it, usually.
    pub features: Arc<ServerFeatures>,
    /// Whether its event stream was opened or refused.
    stream: StreamState,
}

/// Whether the event stream of a upstream session was asked for, and answered.
#[derive(Default)]
struct StreamState {
    settled: AtomicBool,
    changed: Notify,
}

/// Which parts of the protocol a server offers (its capabilities).
#[expect(clippy::struct_excessive_bools, reason = "each is a member of its own in the protocol")]
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerFeatures {
    /// `tools`
    pub tools: bool,
    /// `prompts`
    pub prompts: bool,
    /// `resources`
    pub resources: bool,
    /// `resources.subscribe`
    pub subscribe: bool,
    /// `logging`
    pub logging: bool,
    /// `completions`
    pub completions: bool,
    /// Its instructions to the model.
    pub instructions: Option<String>,
    /// `tasks`, or the extension of that name.
    pub tasks: TaskFeatures,
}

/// What a server does with tasks: the experimental ones of 2025-11-25, or the extension of 2026-07-28.
#[expect(clippy::struct_excessive_bools, reason = "each is a member of its own in the protocol")]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TaskFeatures {
    /// `tasks.requests.tools.call`
    pub calls: bool,
    /// `tasks.list`
    pub list: bool,
    /// `tasks.cancel`
    pub cancel: bool,
    /// `extensions["io.modelcontextprotocol/tasks"]`
    pub extension: bool,
}

impl TaskFeatures {
    /// What the one or the other does.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self {
            calls: self.calls || other.calls,
            list: self.list || other.list,
            cancel: self.cancel || other.cancel,
            extension: self.extension || other.extension,
        }
    }
}

/// The number of the next place.
static NEXT: AtomicU64 = AtomicU64::new(0);

impl Default for UpstreamSessionSlot {
    fn default() -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self { number, ready: ArcSwapOption::default(), opening: tokio::sync::Mutex::default() }
    }
}

impl UpstreamSessionSlot {
    /// The session, when it is open. One atomic load.
    pub fn ready(&self) -> Option<Arc<UpstreamSession>> {
        self.ready.load_full()
    }

    /// The session, opened when it is not. Cancel safe: another caller opens it then.
    pub async fn open(
        &self,
        pool: &Rc<UpstreamPool>,
        introduction: &ClientHandshake,
        log_level: Option<Bytes>,
    ) -> Result<Arc<UpstreamSession>, Fault> {
        self.open_with_result(pool, introduction, log_level, |_| {}).await
    }

    /// Likewise; whoever opens it hears the server's whole answer. Cancel safe, likewise.
    pub async fn open_with_result(
        &self,
        pool: &Rc<UpstreamPool>,
        introduction: &ClientHandshake,
        log_level: Option<Bytes>,
        hear: impl FnOnce(Bytes),
    ) -> Result<Arc<UpstreamSession>, Fault> {
        if let Some(ready) = self.ready() {
            return Ok(ready);
        }
        let _turn = self.opening.lock().await;
        if let Some(ready) = self.ready() {
            return Ok(ready);
        }
        let (ready, answer) = initialize(pool, introduction, self.number).await?;
        hear(answer);
        announce(pool, &ready).await?;
        if let Some(level) = log_level.filter(|_| ready.features.logging) {
            set_level(pool, &ready, &level).await?;
        }
        Ok(self.publish(ready))
    }

    /// Opens with the client's own `initialize`, and gives the whole answer to it; what follows
    /// (`notifications/initialized`) is its own too.
    pub async fn open_for_client(
        &self,
        pool: &Rc<UpstreamPool>,
        introduction: &ClientHandshake,
    ) -> Result<Bytes, Fault> {
        let _turn = self.opening.lock().await;
        let (ready, message) = initialize(pool, introduction, self.number).await?;
        self.publish(ready);
        Ok(message)
    }

    /// The upstream does not know this session any more. Only the one who sees it first forgets it, so that
    /// a newer one stays.
    pub fn forget(&self, lost: &Arc<UpstreamSession>) {
        let current = self.ready.load();
        if current.as_ref().is_some_and(|ready| Arc::ptr_eq(ready, lost)) {
            self.ready.compare_and_swap(&*current, None);
        }
    }

    fn publish(&self, ready: UpstreamSession) -> Arc<UpstreamSession> {
        let ready = Arc::new(ready);
        self.ready.store(Some(Arc::clone(&ready)));
        ready
    }
}

/// An answer to `initialize` by which a server opened a session.
#[derive(PartialEq, Eq)]
struct CachedInitialize {
    /// As it came.
    message: Bytes,
    revision: Revision,
    features: Arc<ServerFeatures>,
}

thread_local! {
    /// What servers offer, as sessions that were opened on this thread know it.
    static OFFERED: RefCell<RecentInterner<ServerFeatures>> = RefCell::default();

    /// What servers answered by. A server mostly says the same to each session, under the id that is always the same: then
    /// its answer is compared, and not read.
    static OPENINGS: RefCell<RecentInterner<CachedInitialize>> = RefCell::default();
}

/// Answers that are longer are read each time: usual ones have some hundred bytes.
const OPENING_BYTES_MAX: usize = 4 << 10;

/// What that answer says, if a server opened a session by it lately.
fn known_opening(heard: &BufferedResponse) -> Option<Arc<CachedInitialize>> {
    let is_usual = heard.status.is_success() && heard.message.len() <= OPENING_BYTES_MAX;
    let find = |openings: &mut RecentInterner<CachedInitialize>| {
        openings.find(|known| known.message == heard.message)
    };
    is_usual.then(|| OPENINGS.with_borrow_mut(find)).flatten()
}

fn remember_opening(message: &Bytes, revision: Revision, features: &Arc<ServerFeatures>) {
    if message.len() <= OPENING_BYTES_MAX {
        // A copy: it may be a slice of what is much longer.
        let message = Bytes::copy_from_slice(message);
        let opening = CachedInitialize { message, revision, features: Arc::clone(features) };
        OPENINGS.with_borrow_mut(|openings| drop(openings.intern(Arc::new(opening))));
    }
}

/// Instructions of a server that are longer are kept by each session of its own: usual ones have some thousand bytes.
const SHARED_BYTES_MAX: usize = 16 << 10;

/// What a server offers, for as long as a session.
fn kept(features: ServerFeatures) -> Arc<ServerFeatures> {
    if features.instructions.as_ref().is_some_and(|text| text.len() > SHARED_BYTES_MAX) {
        return Arc::new(features);
    }
    OFFERED.with_borrow_mut(|offered| offered.intern(Arc::new(features)))
}

/// Opens a session; also gives the whole answer.
async fn initialize(
    pool: &Rc<UpstreamPool>,
    introduction: &ClientHandshake,
    place: u64,
) -> Result<(UpstreamSession, Bytes), Fault> {
    let server = pool.upstream().name().clone();
    let params = &introduction.said.params;
    let mut message = Vec::with_capacity(params.len() + 64);
    message.extend_from_slice(br#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":"#);
    message.extend_from_slice(params);
    message.push(b'}');
    let message = Bytes::from(message);
    let introduce = async || {
        let message = message.clone();
        let asked = BufferedRequest { method: McpMethod::Initialize, message, ready: None, modern: None };
        let ClientHandshake { owner, is_isolated, .. } = *introduction;
        let whom = RequestContext { owner, place: Some(place), is_isolated };
        send_buffered_for(pool, asked, whom).await.map_err(|error| error.into_fault(&server))
    };
    let mut heard = introduce().await?;
    if let Some(known) = known_opening(&heard) {
        let BufferedResponse { session_id, message, .. } = heard;
        return Ok((UpstreamSession::new(session_id, known.revision, Arc::clone(&known.features)), message));
    }
    // A server of the transport of 2024-11-05 may have nothing there that takes a POST.
    let is_unknown = matches!(heard.status, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED);
    if is_unknown && pool.detect_sse().await {
        heard = introduce().await?;
    }
    if is_refusal(&heard) && pool.upstream().speaks(Era::Legacy) == Some(true) {
        // It may not be what it was: it is found out again, with what may stand in for it.
        pool.upstream().set_spoken(Era::Legacy, None);
        if pool.upstream().speaks(Era::Legacy).is_none() {
            heard = introduce().await?;
        }
    }
    let BufferedResponse { status, session_id, message, .. } = heard;
    let nonsense = || {
        let status = status.as_u16();
        Fault::upstream(
            FaultKind::InvalidResponse,
            format!("server `{server}` did not open a session (HTTP {status})"),
        )
    };
    let answer: InitializeAnswer<'_> = serde_json::from_slice(&message).map_err(|_| nonsense())?;
    if let Some(error) = answer.error.filter(|_| status.is_success() || status == StatusCode::BAD_REQUEST) {
        let said: String = error.get().chars().take(SAID_CHARS_MAX).collect();
        return Err(Fault::upstream(
            FaultKind::EraMismatch,
            format!("server `{server}` opens no sessions; it says {said}"),
        ));
    }
    let result = answer.result.filter(|_| status.is_success()).ok_or_else(nonsense)?;
    let mut features = result.capabilities.features(result.instructions);
    // Of the other era, whatever it says.
    features.tasks.extension = false;
    let revision = Revision::parse(result.protocol_version.as_bytes()).ok_or_else(nonsense)?;
    let features = kept(features);
    remember_opening(&message, revision, &features);
    Ok((UpstreamSession::new(session_id, revision, features), message))
}

/// Whether a server opens no session, and it is no failure that passes.
fn is_refusal(heard: &BufferedResponse) -> bool {
    let is_error = || {
        let answer: Result<InitializeAnswer<'_>, _> = serde_json::from_slice(&heard.message);
        answer.is_ok_and(|answer| answer.error.is_some())
    };
    match heard.status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS => false,
        status if status.is_success() => is_error(),
        status => status.is_client_error(),
    }
}

/// `notifications/initialized`, after which the session may be used.
async fn announce(pool: &Rc<UpstreamPool>, ready: &UpstreamSession) -> Result<(), Fault> {
    const MESSAGE: &[u8] = br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
    tell(pool, ready, McpMethod::Initialized, Bytes::from_static(MESSAGE)).await
}

async fn set_level(pool: &Rc<UpstreamPool>, ready: &UpstreamSession, level: &Bytes) -> Result<(), Fault> {
    let level = String::from_utf8_lossy(level);
    let message =
        format!(r#"{{"jsonrpc":"2.0","id":0,"method":"logging/setLevel","params":{{"level":{level}}}}}"#);
    tell(pool, ready, McpMethod::SetLevel, message.into()).await
}

async fn tell(
    pool: &Rc<UpstreamPool>,
    ready: &UpstreamSession,
    method: McpMethod,
    message: Bytes,
) -> Result<(), Fault> {
    let asked = BufferedRequest { method, message, ready: Some(ready), modern: None };
    ask(pool, asked).await.map_err(|error| error.into_fault(pool.upstream().name()))?;
    Ok(())
}

#[derive(Deserialize)]
struct InitializeAnswer<'a> {
    result: Option<InitializeResult>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct InitializeResult {
    #[serde(rename = "protocolVersion")]
    protocol_version: String,
    #[serde(default)]
    capabilities: ServerCapabilities,
    instructions: Option<String>,
}

/// `ServerCapabilities`, as far as the gateway does something about it.
#[derive(Deserialize, Default)]
pub struct ServerCapabilities {
    tools: Option<IgnoredAny>,
    prompts: Option<IgnoredAny>,
    resources: Option<Resources>,
    logging: Option<IgnoredAny>,
    completions: Option<IgnoredAny>,
    /// Whatever stands there: what is not as it should be is no reason to have no session.
    #[serde(default)]
    tasks: Value,
    #[serde(default)]
    extensions: Value,
}

impl ServerCapabilities {
    fn task_features(&self) -> TaskFeatures {
        let calls = self.tasks["requests"]["tools"]["call"].is_object();
        TaskFeatures {
            calls,
            list: calls && self.tasks["list"].is_object(),
            cancel: calls && self.tasks["cancel"].is_object(),
            extension: self.extensions[TASKS_EXTENSION].is_object(),
        }
    }
}

#[derive(Deserialize)]
struct Resources {
    subscribe: Option<bool>,
}

impl ServerCapabilities {
    /// As plain flags.
    pub fn features(self, instructions: Option<String>) -> ServerFeatures {
        ServerFeatures {
            tasks: self.task_features(),
            tools: self.tools.is_some(),
            prompts: self.prompts.is_some(),
            subscribe: self.resources.as_ref().is_some_and(|resources| resources.subscribe == Some(true)),
            resources: self.resources.is_some(),
            logging: self.logging.is_some(),
            completions: self.completions.is_some(),
            instructions,
        }
    }
}

impl UpstreamSession {
    pub(super) fn new(
        session_id: Option<HeaderValue>,
        revision: Revision,
        features: Arc<ServerFeatures>,
    ) -> Self {
        Self { session_id, revision, features, stream: StreamState::default() }
    }

    /// The event stream was opened, or refused.
    pub fn mark_stream_settled(&self) {
        self.stream.settled.store(true, Ordering::Release);
        self.stream.changed.notify_waiters();
    }

    /// Waits until then. Cancel safe.
    pub async fn wait_stream_settled(&self) {
        let changed = self.stream.changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        if !self.stream.settled.load(Ordering::Acquire) {
            changed.await;
        }
    }

    /// Tells the server that the session is over, and says whether it answered anything.
    pub async fn part(&self, pool: &Rc<UpstreamPool>) -> bool {
        let mut request = UpstreamRequest::delete();
        self.write_headers(&mut request);
        matches!(timeout(FAREWELL_TIMEOUT, pool.send(&request, RequestKind::Call)).await, Ok(Ok(_)))
    }

    /// What later requests of the session carry.
    pub fn write_headers(&self, request: &mut UpstreamRequest) {
        request.set_era(Era::Legacy);
        request.set_header(&header::PROTOCOL_VERSION, &HeaderValue::from_static(self.revision.as_str()));
        if let Some(id) = &self.session_id {
            request.set_header(&header::SESSION_ID, id);
        }
    }
}

/// Telling a upstream that its session is over; nobody waits for it.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(status: StatusCode, message: &Bytes) -> BufferedResponse {
        BufferedResponse { status, session_id: None, message: message.clone() }
    }

    #[test]
    fn an_answer_that_was_heard_before_says_the_same() {
        let features = Arc::new(ServerFeatures { tools: true, ..ServerFeatures::default() });
        let check = |status: StatusCode, message: &Bytes, expected: Option<Revision>| {
            let known = known_opening(&heard(status, message));
            assert_eq!(known.as_ref().map(|known| known.revision), expected, "{status} {message:?}");
            assert!(known.is_none_or(|known| Arc::ptr_eq(&known.features, &features)));
        };
        let (old, new) = (Revision::V2025_03_26, Revision::V2025_11_25);
        let [first, second, third] = ["1", "2", "3"].map(|text| Bytes::from(text.repeat(100)));
        check(StatusCode::OK, &first, None);
        remember_opening(&first, old, &features);
        remember_opening(&second, new, &features);
        check(StatusCode::OK, &first, Some(old));
        check(StatusCode::OK, &second, Some(new));
        check(StatusCode::OK, &third, None);
        check(StatusCode::OK, &first.slice(1..), None);
        // What is no success opens nothing, whatever it says.
        check(StatusCode::BAD_REQUEST, &first, None);
        let long = Bytes::from(vec![b' '; OPENING_BYTES_MAX + 1]);
        remember_opening(&long, old, &features);
        check(StatusCode::OK, &long, None);
    }
}
