//! How a process comes to be: started under bounds, and introduced to.

use std::cell::RefCell;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::select;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep, timeout};

use super::super::shim::{Backoff, CallOutcome, LocalResponse};
use super::super::{EraChoice, FailureStage, UpstreamError};
use super::Sharing;
use super::fate::{self, End};
use super::link::Link;
use super::process::Spawned;
use super::server::Call;
use super::supervisor::{Key, Supervisor, Who};
use super::tally::ProcessStage;
use metamcp_core::frame::{Envelope, MessageKind};
use metamcp_core::protocol::{Era, McpMethod, Revision, code};

/// A wait for the next try up to this long is waited out by the call; a longer one is told.
const BACKOFF_WAITED: Duration = Duration::from_secs(2);

/// A server that says nothing to `server/discover` for so long does not know it (MCP 2026-07-28, versioning: silence means
/// the other era), or has not started yet: then it is asked what every one knows.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// Behind the answer to `initialize`, for one to `server/discover` that was asked before.
const PROBE_GRACE: Duration = Duration::from_secs(1);

/// What a process was told first, and what it said to that.
pub struct Introduced {
    /// The process.
    pub link: Rc<Link>,
    /// The whole answer to `initialize`.
    answer: Bytes,
    envelope: Envelope,
}

impl Supervisor {
    /// A process that nobody has spoken to. Nothing is started, and nobody waits for it, once all is over.
    async fn start(&self, era: Era, backoff: &Rc<RefCell<Backoff>>) -> Result<Rc<Link>, UpstreamError> {
        let over = self.told_over.notified();
        tokio::pin!(over);
        over.as_mut().enable();
        if self.is_over.get() {
            return Err(UpstreamError::from_stage(FailureStage::NotSent));
        }
        tokio::select! {
            biased;
            () = over => Err(UpstreamError::from_stage(FailureStage::NotSent)),
            started = self.start_in_turn(era, backoff) => started,
        }
    }

    async fn start_in_turn(
        &self,
        era: Era,
        backoff: &Rc<RefCell<Backoff>>,
    ) -> Result<Rc<Link>, UpstreamError> {
        let common = &self.common;
        let now = Instant::now();
        let waits = [&common.backoff, &**backoff].map(|backoff| backoff.borrow().wait(now));
        let wait = waits[0].max(waits[1]);
        if wait > BACKOFF_WAITED {
            let failures = common.backoff.borrow().failures().max(backoff.borrow().failures());
            // Not a moment too early.
            let wait = wait.as_millis().div_ceil(1000);
            let text = format!("it failed {failures} times in a row; the next try is in {wait} s");
            return Err(UpstreamError::not_started(text, None));
        }
        sleep(wait).await;
        let turn = self.turns.take(common.program.settings.start_timeout).await?;
        let spare = self.spare.borrow_mut().take();
        let spawned = if let Some(spare) = spare.and_then(|spare| self.running(spare)) {
            spare
        } else {
            self.make_room()?;
            self.spawn()?
        };
        self.keep_spare_soon();
        let link = Link::new(common, era, spawned.pid, spawned.began, Rc::clone(backoff));
        spawned.run(Rc::clone(&link));
        turn.hold_for(&link);
        Ok(link)
    }

    /// A spare one, if it still runs. One that ended has failed to start, though nobody has asked it anything.
    pub fn running(&self, mut spare: Spawned) -> Option<Spawned> {
        let Some(status) = spare.ended() else { return Some(spare) };
        let common = &self.common;
        let why = End::Exited(status).text(&common.program);
        common.tally.fail(ProcessStage::Start, &*why);
        common.backoff.borrow_mut().fail(spare.began.elapsed());
        tracing::warn!(server = %common.name, why, "a process that was kept started has ended");
        spawn_local(spare.discard(Rc::clone(common)));
        None
    }

    /// Starts one more.
    pub fn spawn(&self) -> Result<Spawned, UpstreamError> {
        if self.is_over.get() {
            return Err(UpstreamError::from_stage(FailureStage::NotSent));
        }
        Spawned::start(&self.common).map_err(|error| {
            self.common.tally.fail(ProcessStage::Start, error.to_string());
            self.common.backoff.borrow_mut().fail(Duration::ZERO);
            tracing::warn!(server = %self.common.name, %error, "a server process cannot be started");
            UpstreamError::not_started(fate::unstarted(&error, &self.common.program), Some(error.to_string()))
        })
    }

    /// If as many run as may, the one that was idle for longest has to go.
    fn make_room(&self) -> Result<(), UpstreamError> {
        if self.common.tally.running() < self.common.program.settings.processes_max {
            return Ok(());
        }
        let now = Instant::now();
        let links = self.common.links.borrow().clone();
        let idle = links.iter().filter(|link| link.is_idle_for(now, Duration::ZERO));
        if let Some(longest) = idle.min_by_key(|link| link.last_used()) {
            longest.close(FailureStage::NoResponse);
            longest.end();
            return Ok(());
        }
        Err(UpstreamError::new(FailureStage::QueueFull, "as many of its processes are in use as may be"))
    }

    /// Whether one more may run for a call that could do with a shared one: half of them are left to clients
    /// that cannot.
    fn has_room_apart(&self) -> bool {
        2 * self.common.tally.running() < self.common.program.settings.processes_max
    }

    /// Opens a Legacy session: a seat on a process that was introduced to in the same way, or on a new one.
    pub async fn initialize(self: Rc<Self>, call: Call, message: Bytes, envelope: Envelope) {
        let outcome = self.seat(&call, &message, &envelope).await;
        let session = outcome.as_ref().ok().and_then(|reply| reply.session_id.clone());
        let is_unheard = call.reply.send(outcome).is_err();
        if let Some(session) = session.filter(|_| is_unheard) {
            self.leave(&session);
        }
    }

    async fn seat(self: &Rc<Self>, call: &Call, message: &Bytes, envelope: &Envelope) -> CallOutcome {
        let id = envelope.id.map_or(&b""[..], |id| id.span.slice(message));
        let Some(params) = envelope.params.object.map(|span| span.slice(message)) else {
            return Ok(LocalResponse::from_error(
                StatusCode::OK,
                id,
                code::INVALID_PARAMS,
                "initialize needs params",
            ));
        };
        if self.era == EraChoice::Modern {
            return Ok(LocalResponse::from_error(
                StatusCode::OK,
                id,
                code::UNSUPPORTED_VERSION,
                "this server speaks revision 2026-07-28 only",
            ));
        }
        let (who, params) = match self.common.program.settings.sharing {
            Sharing::Shared => (Who::Everybody, ours()),
            Sharing::Key if !call.is_apart => (Who::Key(call.owner), Bytes::copy_from_slice(params)),
            Sharing::Key | Sharing::Session => {
                (call.place.map_or(Who::Session(call.number), Who::Place), Bytes::copy_from_slice(params))
            }
        };
        if call.is_apart && !self.has_room_apart() {
            return Err(UpstreamError::new(FailureStage::QueueFull, "half of its processes are in use"));
        }
        let is_ones_own = matches!(who, Who::Session(_) | Who::Place(_));
        let key = Key::Legacy(who, likeness(&params));
        let introduced = self.introduced(key, &params).await?;
        let Introduced { link, answer, envelope } = &*introduced;
        if envelope.kind != MessageKind::Response {
            return Ok(LocalResponse::from_message(with_id(id, answer, envelope)));
        }
        if !link.is_alive() {
            return Err(UpstreamError::from_stage(FailureStage::NotSent));
        }
        link.is_ones_own.set(is_ones_own);
        let session = session_id()?;
        let seat = link.state.borrow_mut().seats.take(session.clone(), call.owner.is_some());
        self.common.sessions.borrow_mut().insert(session.clone(), (Rc::clone(link), seat));
        let message = with_id(id, answer, envelope);
        let message = match self.common.program.settings.sharing {
            Sharing::Shared => without_tasks(message),
            Sharing::Key | Sharing::Session => message,
        };
        Ok(LocalResponse { session_id: Some(session), ..LocalResponse::from_message(message) })
    }

    /// A process that was introduced to in that way: the one there is, or a new one.
    async fn introduced(self: &Rc<Self>, key: Key, params: &Bytes) -> Result<Rc<Introduced>, UpstreamError> {
        let slot = self.slot(key);
        let mut there = slot.legacy.lock().await;
        if let Some(introduced) = there.as_ref().filter(|introduced| introduced.link.is_alive()) {
            return Ok(Rc::clone(introduced));
        }
        let link = self.start(Era::Legacy, &slot.backoff).await?;
        let heard = link.ask_own(McpMethod::Initialize, params);
        let (answer, envelope) = match timeout(self.common.program.settings.start_timeout, heard).await {
            Ok(Ok(heard)) => heard,
            // That was noted.
            Ok(Err(_gone)) => {
                self.found_era.set(None);
                return Err(link.gone());
            }
            Err(_elapsed) => {
                self.found_era.set(None);
                link.note_failure();
                let why = "it did not answer `initialize` within start_timeout";
                self.common.tally.fail(ProcessStage::Introduce, why);
                tracing::warn!(server = %self.common.name, "a server process does not answer `initialize`");
                link.close(FailureStage::ProcessStart);
                link.end();
                return Err(UpstreamError::not_started("it did not answer within start_timeout", None));
            }
        };
        if envelope.kind == MessageKind::Response {
            // Each client says so as well; the process is told once, whoever of them comes first.
            link.tell(br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#, &[]);
        } else {
            self.found_era.set(None);
            link.end();
        }
        let introduced = Rc::new(Introduced { link, answer, envelope });
        *there = Some(Rc::clone(&introduced));
        Ok(introduced)
    }

    /// A process that is asked in the Modern era.
    pub async fn modern(self: &Rc<Self>, call: &Call) -> Result<Rc<Link>, UpstreamError> {
        let who = match self.common.program.settings.sharing {
            Sharing::Shared => Who::Everybody,
            // The era has no sessions.
            Sharing::Key | Sharing::Session => Who::Key(call.owner),
        };
        let slot = self.slot(Key::Modern(who));
        let mut there = slot.modern.lock().await;
        if let Some(link) = there.as_ref().filter(|link| link.is_alive()) {
            return Ok(Rc::clone(link));
        }
        let link = self.start(Era::Modern, &slot.backoff).await?;
        *there = Some(Rc::clone(&link));
        Ok(link)
    }

    /// Whether it speaks the Modern era: as configured, or found out on a process that is used for nothing
    /// else, once and again after it failed to open a session. Some servers exit at anything before
    /// `initialize`, others keep to the era of the first message.
    pub async fn is_modern(self: &Rc<Self>) -> Result<bool, UpstreamError> {
        match self.era {
            EraChoice::Modern => return Ok(true),
            EraChoice::Legacy => return Ok(false),
            EraChoice::Auto => {}
        }
        let _turn = self.probing.lock().await;
        if let Some(era) = self.found_era.get() {
            return Ok(era == Era::Modern);
        }
        let link = self.start(Era::Modern, &Rc::default()).await?;
        let (failed_before, tally_before) = (self.common.backoff.borrow().clone(), self.common.tally.look());
        let discovering = link.ask_own(McpMethod::Discover, DISCOVER_PARAMS);
        let introduce = || link.ask_own(McpMethod::Initialize, &ours());
        let heard = probed(discovering, introduce, self.common.program.settings.start_timeout).await;
        let era = match &heard {
            Some(Ok((answer, envelope))) => era_of(answer, envelope),
            Some(Err(_gone)) => {
                // To exit at a message that one does not know is not to fail.
                *self.common.backoff.borrow_mut() = failed_before;
                self.common.tally.forgive(tally_before);
                Era::Legacy
            }
            None => Era::Legacy,
        };
        link.close(FailureStage::NoResponse);
        link.end();
        tracing::info!(server = %self.common.name, ?era, "the era of a server was found out");
        self.found_era.set(Some(era));
        Ok(era == Era::Modern)
    }
}

/// What it says to `server/discover`; `None`: nothing, though it answers, or though there was time for it to start.
async fn probed<T, I: Future>(
    discovering: impl Future<Output = T>,
    introduce: impl FnOnce() -> I,
    start_timeout: Duration,
) -> Option<T> {
    let mut discovering = pin!(discovering);
    if let Ok(heard) = timeout(PROBE_TIMEOUT.min(start_timeout), &mut discovering).await {
        return Some(heard);
    }
    let answering = async {
        introduce().await;
        sleep(PROBE_GRACE).await;
    };
    select! {
        biased;
        heard = discovering => Some(heard),
        () = answering => None,
        () = sleep(start_timeout.saturating_sub(PROBE_TIMEOUT)) => None,
    }
}

/// `_meta` of a request of our own (MCP 2026-07-28, basic).
const DISCOVER_PARAMS: &[u8] = br#"{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/clientInfo":{"name":"metamcp","version":"1"}}}"#;

/// A result, or an error that only the Modern era has, is Modern; any other error is not (MCP 2026-07-28,
/// versioning).
fn era_of(answer: &Bytes, envelope: &Envelope) -> Era {
    #[derive(Deserialize)]
    struct Error {
        code: i32,
    }
    let outcome = envelope.outcome.map_or(&b""[..], |span| span.slice(answer));
    let is_modern = match envelope.kind {
        MessageKind::Response => true,
        _ => serde_json::from_slice(outcome).is_ok_and(|Error { code }| (-32022..=-32020).contains(&code)),
    };
    if is_modern { Era::Modern } else { Era::Legacy }
}

/// The gateway's own introduction, for a process that cannot know which of its clients can do what.
fn ours() -> Bytes {
    let revision = Revision::LEGACY_LATEST;
    let version = env!("CARGO_PKG_VERSION");
    format!(
        r#"{{"protocolVersion":"{revision}","capabilities":{{}},"clientInfo":{{"name":"metamcp","version":"{version}"}}}}"#
    )
    .into()
}

/// What two clients must say alike to share a process: the revision, and what they can do. Who they are is no
/// difference.
fn likeness(params: &Bytes) -> Bytes {
    #[derive(Deserialize)]
    struct Params<'a> {
        #[serde(borrow, rename = "protocolVersion")]
        revision: Option<&'a RawValue>,
        capabilities: Option<serde_json::Value>,
    }
    // What cannot be read is like nothing but itself.
    let Ok(read) = serde_json::from_slice::<Params<'_>>(params) else { return params.clone() };
    let revision = read.revision.map_or("null", RawValue::get);
    // The members of an object come out in one order, however they were written.
    format!("{revision} {}", read.capabilities.unwrap_or_default()).into()
}

/// The answer to one client's `initialize` for another: the same result, under its own id.
fn with_id(id: &[u8], answer: &Bytes, envelope: &Envelope) -> Bytes {
    let outcome = envelope.outcome.map_or(&b"null"[..], |span| span.slice(answer));
    let member: &[u8] = if envelope.kind == MessageKind::Response { b"result" } else { b"error" };
    [br#"{"jsonrpc":"2.0","id":"#, id, b",\"", member, b"\":", outcome, b"}"].concat().into()
}

/// The answer to `initialize` of a process that is everybody's: so would be the tasks that it lists and
/// answers for (MCP 2025-11-25, tasks, security: where who asks cannot be told apart).
fn without_tasks(message: Bytes) -> Bytes {
    let read: Option<serde_json::Value> = serde_json::from_slice(&message).ok();
    let Some(mut read) = read.filter(|read| !read["result"]["capabilities"]["tasks"].is_null()) else {
        return message;
    };
    if let Some(capabilities) = read["result"]["capabilities"].as_object_mut() {
        capabilities.remove("tasks");
    }
    read.to_string().into()
}

/// 128 random bits.
fn session_id() -> Result<HeaderValue, UpstreamError> {
    let mut random = [0; 16];
    let failed = |error: String| UpstreamError::new(FailureStage::NotSent, error);
    getrandom::fill(&mut random).map_err(|error| failed(error.to_string()))?;
    let text = format!("{:032x}", u128::from_be_bytes(random));
    HeaderValue::from_str(&text).map_err(|error| failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::task::{LocalSet, yield_now};

    use super::super::tests::program;
    use super::*;
    use metamcp_core::base::ServerName;
    use metamcp_core::frame::Scanner;

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_for_a_start_is_told_that_all_is_over() {
        let test = async {
            let name = ServerName::new("a").expect("valid");
            let supervisor = Supervisor::new(name, program(), EraChoice::Auto, Arc::default());
            supervisor.common.backoff.borrow_mut().fail(Duration::ZERO);
            let begun = Instant::now();
            let start = async |supervisor: Rc<Supervisor>| {
                supervisor.start(Era::Modern, &Rc::default()).await.map(drop).map_err(|error| error.stage)
            };
            let waiting = spawn_local(start(Rc::clone(&supervisor)));
            yield_now().await;
            supervisor.stop().await;
            assert_eq!(waiting.await.expect("no panic"), Err(FailureStage::NotSent));
            assert_eq!(start(supervisor).await, Err(FailureStage::NotSent), "nor is one started later");
            assert_eq!(begun.elapsed(), Duration::ZERO, "nobody waited for the next try");
        };
        LocalSet::new().run_until(test).await;
    }

    #[test]
    fn clients_that_are_alike_share() {
        let check = |one: &str, other: &str, alike: bool| {
            let (one, other) = (likeness(&one.to_owned().into()), likeness(&other.to_owned().into()));
            assert_eq!(one == other, alike, "{one:?} {other:?}");
        };
        let a = r#"{"protocolVersion":"2025-06-18","capabilities":{"roots":{},"sampling":{}},"clientInfo":{"name":"a"}}"#;
        let b = r#"{"clientInfo":{"name":"b"},"capabilities":{"sampling":{}, "roots":{}},"protocolVersion":"2025-06-18"}"#;
        check(a, b, true);
        check(a, &b.replace("06-18", "11-25"), false);
        check(a, &b.replace(r#", "roots":{}"#, ""), false);
        check(a, "{}", false);
        check("[1]", "[2]", false);
    }

    #[test]
    fn what_is_everybodys_has_no_tasks() {
        let check = |message: &'static str, expected: &str| {
            assert_eq!(without_tasks(Bytes::from_static(message.as_bytes())), expected);
        };
        check(
            r#"{"id":1,"result":{"capabilities":{"tasks":{"list":{}},"tools":{}}}}"#,
            r#"{"id":1,"result":{"capabilities":{"tools":{}}}}"#,
        );
        for same in [r#"{"id":1, "result":{"capabilities":{"tools":{}}}}"#, r#"{"id":1,"error":{}}"#, "no"] {
            check(same, same);
        }
    }

    #[tokio::test]
    async fn one_that_starts_slowly_is_not_taken_for_one_that_is_silent() {
        /// When it answers either, in seconds, and how long it may take to start; what comes of it, and when.
        async fn check(discover: u64, initialize: u64, start: u64, expected: Option<u64>, after: u64) {
            let begun = Instant::now();
            let heard = probed(
                async {
                    sleep(Duration::from_secs(discover)).await;
                    discover
                },
                || sleep((begun + Duration::from_secs(initialize)).duration_since(Instant::now())),
                Duration::from_secs(start),
            );
            assert_eq!(heard.await, expected, "{discover} {initialize} {start}");
            assert_eq!(begun.elapsed().as_secs(), after, "{discover} {initialize} {start}");
        }
        const NEVER: u64 = 1 << 30;
        tokio::time::pause();
        check(0, NEVER, 60, Some(0), 0).await;
        check(4, NEVER, 60, Some(4), 4).await;
        check(30, 30, 60, Some(30), 30).await;
        check(NEVER, 0, 60, None, 6).await;
        check(NEVER, 30, 60, None, 31).await;
        check(NEVER, NEVER, 60, None, 60).await;
        check(NEVER, NEVER, 3, None, 3).await;
    }

    #[test]
    fn eras() {
        let check = |answer: &'static str, expected: Era| {
            let answer = Bytes::from_static(answer.as_bytes());
            let envelope = Scanner::new().scan(&answer).unwrap();
            assert_eq!(era_of(&answer, &envelope), expected, "{answer:?}");
        };
        check(r#"{"jsonrpc":"2.0","id":1,"result":{"capabilities":{}}}"#, Era::Modern);
        check(r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32022,"message":""}}"#, Era::Modern);
        check(r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":""}}"#, Era::Legacy);
        check(r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":""}}"#, Era::Legacy);
        check(r#"{"jsonrpc":"2.0","id":1,"error":{"message":""}}"#, Era::Legacy);
    }

    #[test]
    fn the_first_answer_serves_the_next_client() {
        let check = |answer: &'static str, id: &str, expected: &str| {
            let answer = Bytes::from_static(answer.as_bytes());
            let envelope = Scanner::new().scan(&answer).unwrap();
            assert_eq!(with_id(id.as_bytes(), &answer, &envelope), expected);
        };
        let answer = r#"{"result": {"a": [1]}, "jsonrpc":"2.0","id":1}"#;
        check(answer, "\"x\"", r#"{"jsonrpc":"2.0","id":"x","result":{"a": [1]}}"#);
        let answer = r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"no"}}"#;
        check(answer, "0", r#"{"jsonrpc":"2.0","id":0,"error":{"code":1,"message":"no"}}"#);
    }
}
