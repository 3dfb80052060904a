//! Connections of one worker to one upstream, and the upstream's bounds over all workers.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam::utils::CachePadded;
use tokio::select;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::{spawn_local, yield_now};
use tokio::time::timeout;

use super::answer::{BodySource, ResponseHead, UpstreamBody, UpstreamResponse};
use super::connect::{ConnectTarget, connect};
use super::outgoing::UpstreamRequest;
use super::patience::ResponseTimer;
use super::shim::{CallGuard, LocalResponse};
use super::wire::{SendError, Wire};
use super::{FailureStage, Reach, Upstream, UpstreamError};

/// What one worker holds open to one upstream. Not shared, so nothing here is locked.
pub struct UpstreamPool {
    upstream: Arc<Upstream>,
    #[expect(clippy::vec_box, reason = "they are moved from hand to hand with every request")]
    idle: RefCell<Vec<Box<Wire>>>,
    /// Given back in this turn of the runtime. A upstream that sends more than one answer sends it right
    /// behind the first; in the next turn it has come, and is seen.
    #[expect(clippy::vec_box, reason = "likewise")]
    resting: RefCell<Vec<Box<Wire>>>,
    /// Requests that wait for a connection to be made.
    opening: Cell<usize>,
    /// Told of each connection that is given back while there are any.
    given_back: Notify,
    /// As of the last sweep, a second ago at most: an age may be that much off, which `idle_age_max` allows for.
    now: Cell<Instant>,
}

/// Whether a request is a call, which ends, or an event stream, which may stay for days.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestKind {
    /// Counted among the upstream's calls; silence is bounded.
    Call,
    /// Bounded by the clients that hold it; silence is normal.
    Stream,
}

impl UpstreamPool {
    /// An empty one.
    pub fn new(upstream: Arc<Upstream>) -> Rc<Self> {
        Rc::new(Self {
            upstream,
            idle: RefCell::default(),
            resting: RefCell::default(),
            opening: Cell::new(0),
            given_back: Notify::new(),
            now: Cell::new(Instant::now()),
        })
    }

    /// The upstream it leads to.
    pub fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }

    /// Sends a request and waits for the head of its response; the body follows in the [`Answer`]. One of an era that
    /// the upstream does not speak, or of which that is not known yet, goes to what stands in for it.
    ///
    /// A request is sent a second time only when nothing of it was written the first time.
    ///
    /// Not cancel safe: dropping it closes the connection, which tells the upstream to stop.
    pub async fn send(
        self: &Rc<Self>,
        request: &UpstreamRequest,
        lane: RequestKind,
    ) -> Result<Box<UpstreamResponse>, UpstreamError> {
        if let Some(era) = request.era()
            && let Some(face) = self.upstream.side(era).face()
        {
            return Arc::clone(face).answer(Rc::clone(self), request.clone(), lane).await;
        }
        self.send_direct(request, lane).await
    }

    /// Likewise, to the upstream itself, whatever it speaks.
    ///
    /// Not cancel safe, likewise.
    pub async fn send_direct(
        self: &Rc<Self>,
        request: &UpstreamRequest,
        lane: RequestKind,
    ) -> Result<Box<UpstreamResponse>, UpstreamError> {
        self.upstream.breaker.admit()?;
        let permit = match lane {
            RequestKind::Call => Some(self.upstream.bounds.admit(&self.upstream.config).await?),
            RequestKind::Stream => None,
        };
        let target = match &self.upstream.reach {
            Reach::Wire(target) => target,
            Reach::Unsaid(target, candidate) => match candidate.found() {
                None => target,
                Some(server) => {
                    return Box::pin(self.hand_over(server.call(request.clone()), lane, permit)).await;
                }
            },
            Reach::Process(server) => {
                let (verb, session, owner) = request.to_verb();
                let (place, is_apart) = (request.place(), request.is_exclusive());
                let calling = server.call(verb, session, owner, place, is_apart);
                return Box::pin(self.hand_over(calling, lane, permit)).await;
            }
            Reach::Sse(server) => {
                return Box::pin(self.hand_over(server.call(request.clone()), lane, permit)).await;
            }
        };
        // Goes on right after the runtime has asked the kernel what has come: what a upstream sent out of turn
        // is known when its connection is looked at. And all that came is read before anything is written, as
        // in `let_others_go_first`.
        yield_now().await;
        loop {
            let (mut wire, fresh) = match self.take() {
                Some(wire) => (wire, false),
                None => Box::pin(self.open_or_wait(target)).await.map_err(|error| self.note(error))?,
            };
            match wire.send(request, &self.upstream).await {
                Ok((head, body)) => {
                    self.upstream.breaker.note_answer(self.upstream.name());
                    return Ok(self.answer(head, body, wire, lane, permit));
                }
                Err(SendError::Unsent) if !fresh => {}
                Err(SendError::Unsent) => {
                    return Err(self.note(UpstreamError::from_stage(FailureStage::NotSent)));
                }
                Err(SendError::Sent(error)) => return Err(self.note(error)),
            }
        }
    }

    /// Looks whether the server is one of the transport of 2024-11-05, where nobody said, and speaks to it so from now
    /// on if it is. Says whether it is spoken to so.
    ///
    /// Cancel safe: it is not known then.
    pub async fn detect_sse(&self) -> bool {
        match &self.upstream.reach {
            Reach::Unsaid(_, candidate) => candidate.look().await,
            Reach::Wire(_) | Reach::Sse(_) | Reach::Process(_) => false,
        }
    }

    /// Has a server answer that only looks like one of Streamable HTTP.
    async fn hand_over(
        self: &Rc<Self>,
        calling: impl Future<Output = Result<(LocalResponse, CallGuard), UpstreamError>>,
        lane: RequestKind,
        permit: Option<Permit>,
    ) -> Result<Box<UpstreamResponse>, UpstreamError> {
        let called = timeout(self.upstream.config.first_byte_timeout, calling).await;
        let called =
            called.unwrap_or_else(|_elapsed| Err(UpstreamError::from_stage(FailureStage::FirstByteTimeout)));
        let (reply, hold) = called.map_err(|error| self.note(error))?;
        self.upstream.breaker.note_answer(self.upstream.name());
        let (head, body) = BodySource::of_reply(reply, Some(hold));
        let body = UpstreamBody::new(body, None, Rc::clone(self), self.idle_timeout(lane), permit);
        Ok(Box::new(UpstreamResponse { head, body }))
    }

    fn note(&self, error: UpstreamError) -> UpstreamError {
        self.upstream.breaker.note_failure(self.upstream.name(), &error);
        error
    }

    fn idle_timeout(&self, lane: RequestKind) -> Option<Duration> {
        match lane {
            RequestKind::Call => Some(self.upstream.config.stream_idle_timeout),
            RequestKind::Stream => None,
        }
    }

    fn answer(
        self: &Rc<Self>,
        head: ResponseHead,
        body: BodySource,
        wire: Box<Wire>,
        lane: RequestKind,
        permit: Option<Permit>,
    ) -> Box<UpstreamResponse> {
        let idle_timeout = self.idle_timeout(lane);
        Box::new(UpstreamResponse {
            head,
            body: UpstreamBody::new(body, Some(wire), Rc::clone(self), idle_timeout, permit),
        })
    }

    /// An idle connection that can be used. The youngest first, so that the old ones age and close.
    fn take(&self) -> Option<Box<Wire>> {
        let mut idle = self.idle.borrow_mut();
        while let Some(mut wire) = idle.pop() {
            if wire.is_fresh(self.now.get(), self.upstream.config.idle_age_max) {
                return Some(wire);
            }
        }
        None
    }

    /// A connection, and whether it is a new one: whichever comes first, one that is made or one that another request
    /// gives back. A upstream that many connect to at once drops what its queue has no room for, and the kernel
    /// tries again only after a second; requests need not wait for that where others are done meanwhile.
    ///
    /// Cancel safe: what was begun is closed.
    async fn open_or_wait(&self, target: &ConnectTarget) -> Result<(Box<Wire>, bool), UpstreamError> {
        let _opening = Opening::enter(&self.opening);
        let given_back = async {
            loop {
                self.given_back.notified().await;
                if let Some(wire) = self.take() {
                    return wire;
                }
            }
        };
        select! {
            biased;
            wire = given_back => Ok((wire, false)),
            opened = self.open(target) => Ok((opened?, true)),
        }
    }

    async fn open(&self, target: &ConnectTarget) -> Result<Box<Wire>, UpstreamError> {
        let config = &self.upstream.config;
        let opening = async {
            let patience = ResponseTimer::new(config.first_byte_timeout);
            Ok(Box::new(Wire::new(connect(target, config.private_addresses).await?, patience)))
        };
        timeout(self.upstream.config.connect_timeout, opening)
            .await
            .unwrap_or_else(|_elapsed| Err(UpstreamError::from_stage(FailureStage::ConnectTimeout)))
    }

    pub(super) fn put(self: &Rc<Self>, mut wire: Box<Wire>) {
        let mut resting = self.resting.borrow_mut();
        let kept = self.idle.borrow().len() + resting.len();
        if kept >= self.upstream.config.idle_connections_max || !wire.may_rest() {
            return;
        }
        wire.rest(self.now.get());
        resting.push(wire);
        if resting.len() == 1 {
            let pool = Rc::clone(self);
            spawn_local(async move {
                // Goes on only after the runtime has asked the kernel what has come.
                yield_now().await;
                let mut resting = pool.resting.borrow_mut();
                for _ in 0..resting.len().min(pool.opening.get()) {
                    pool.given_back.notify_one();
                }
                pool.idle.borrow_mut().append(&mut resting);
            });
        }
    }

    /// How many connections are open that nothing uses.
    pub fn idle_connections(&self) -> usize {
        self.idle.borrow().len() + self.resting.borrow().len()
    }

    /// Closes what has been idle for too long. Called every second by its thread.
    pub fn sweep(&self) {
        let now = Instant::now();
        self.now.set(now);
        self.idle.borrow_mut().retain_mut(|wire| wire.is_fresh(now, self.upstream.config.idle_age_max));
    }
}

/// A place among those who wait for a connection to be made, left when dropped.
struct Opening<'a>(&'a Cell<usize>);

impl<'a> Opening<'a> {
    fn enter(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// How much one upstream may have under way, over all workers.
pub struct Bounds {
    slots: Arc<Semaphore>,
    waiting: CachePadded<AtomicUsize>,
}

/// A place among a upstream's calls.
pub struct Permit(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

impl Bounds {
    /// With room for `in_flight_max` calls.
    pub fn new(in_flight_max: usize) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(in_flight_max.min(Semaphore::MAX_PERMITS))),
            waiting: CachePadded::new(AtomicUsize::new(0)),
        }
    }

    /// How many have one, and how many wait for one.
    pub fn count(&self, config: &super::Config) -> (usize, usize) {
        let all = config.in_flight_max.min(Semaphore::MAX_PERMITS);
        let taken = all.saturating_sub(self.slots.available_permits());
        (taken, self.waiting.load(Ordering::Relaxed))
    }

    /// A place now, or after waiting in the bounded queue. Cancel safe.
    async fn admit(&self, config: &super::Config) -> Result<Permit, UpstreamError> {
        if let Ok(permit) = Arc::clone(&self.slots).try_acquire_owned() {
            return Ok(Permit(permit));
        }
        let _place = Waiting::enter(&self.waiting, config.queue_max)?;
        match timeout(config.queue_timeout, Arc::clone(&self.slots).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(Permit(permit)),
            Ok(Err(_)) | Err(_) => Err(UpstreamError::from_stage(FailureStage::QueueTimeout)),
        }
    }
}

/// A place in the queue, left when dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn enter(count: &'a AtomicUsize, max: usize) -> Result<Self, UpstreamError> {
        let place = Self(count);
        if count.fetch_add(1, Ordering::Relaxed) < max {
            Ok(place)
        } else {
            Err(UpstreamError::from_stage(FailureStage::QueueFull))
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
