//! HTTP/1.1 with a client, as far as its requests have a usual shape: a small POST to an MCP path with a length
//! that was said, or the DELETE of a session, without a body. Every other request is hyper's, in whole, from
//! its first byte, and so is what follows it on the connection.
//!
//! Invariant: what is read here, hyper would read in the same way. The parser is the same.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::link::{Detached, Link};
use crate::runtime::{let_others_go_first, with_scratch};
use crate::server::http1::activity::{Control, Order, Speaks};
use crate::server::http1::codec::{Read, read_request};
use crate::server::http1::request::Asked;
use crate::server::path::handler;
use crate::server::reply::response_writer::Writing;
use crate::server::worker::Worker;

/// Why the lane was left.
pub enum End {
    /// The connection is over.
    Gone,
    /// Nothing goes on, and the connection can be parked.
    Rest,
    /// Likewise, but for an event stream that is silent.
    Silent(Box<Writing>),
    /// What came is hyper's.
    Unusual,
}

/// Of requests that come while one is under way. A client that sends more is not noticed when it goes, until its
/// call has ended.
const AHEAD_BYTES_MAX: usize = 64 << 10;

/// For the rest of a request whose beginning came: clients write head and body one behind the other. What
/// takes longer is hyper's, with its clocks for slow clients.
const PATIENCE: Duration = Duration::from_millis(50);

/// Serves a connection for as long as its requests are usual, behind an event stream that is under way on it.
pub async fn serve(
    worker: &Rc<Worker>,
    control: &Rc<Control>,
    link: &mut Link,
    stream: Option<Box<Detached>>,
) -> End {
    let mut lane = FastLane { worker, control, link };
    if let Some(detached) = stream {
        match Box::pin(lane.pass(detached)).await {
            Pause::Rest => {}
            pause => return pause.end(),
        }
    }
    let can_be_parked = lane.link.socket.can_be_still();
    loop {
        if !worker.shared.config.fast_lane {
            let is_at_rest = can_be_parked && control.is_at_rest() && lane.link.ahead.is_empty();
            return if is_at_rest { End::Rest } else { End::Unusual };
        }
        let pause = match lane.next(can_be_parked).await {
            // Boxed for as long as one request follows the other: a connection does not hold the place of an
            // exchange while nothing is asked on it.
            Ok(asked) => Box::pin(lane.serve_busy(asked)).await,
            Err(pause) => pause,
        };
        match pause {
            Pause::Rest if can_be_parked => return End::Rest,
            Pause::Rest => {}
            pause => return pause.end(),
        }
    }
}

struct FastLane<'a> {
    worker: &'a Rc<Worker>,
    control: &'a Rc<Control>,
    link: &'a mut Link,
}

/// Why no request follows.
enum Pause {
    /// None came in a while.
    Rest,
    /// An event stream is under way, and silent.
    Silent(Box<Writing>),
    /// What came of it lies in `ahead`.
    Unusual,
    Gone,
}

impl Pause {
    fn end(self) -> End {
        match self {
            Self::Rest => End::Rest,
            Self::Silent(writing) => End::Silent(writing),
            Self::Unusual => End::Unusual,
            Self::Gone => End::Gone,
        }
    }
}

impl FastLane<'_> {
    /// Answers this request and those that follow it.
    async fn serve_busy(&mut self, first: Asked) -> Pause {
        self.link.speaks = Some(Speaks::Http1);
        let mut asked = first;
        loop {
            let active = self.control.begin();
            match self.answer(asked).await {
                Answered::Kept => drop(active),
                Answered::Gone => return Pause::Gone,
                Answered::Stream(writing) => {
                    match Box::pin(self.pass(Box::new(Detached { writing, active }))).await {
                        Pause::Rest => {}
                        pause => return pause,
                    }
                }
            }
            match self.next(true).await {
                Ok(next) => asked = next,
                Err(pause) => return pause,
            }
        }
    }

    /// Waits for the next request. Nothing is held here while nothing comes; who holds something waits no longer
    /// than until the connection is at rest.
    async fn next(&mut self, until_rest: bool) -> Result<Asked, Pause> {
        let mut patience: Option<Pin<Box<Sleep>>> = None;
        if !self.link.ahead.is_empty() {
            self.control.note_read();
            if let Some(next) = self.read_ahead() {
                return next;
            }
        }
        poll_fn(|cx| {
            let order = self.control.order(cx.waker());
            if order == Order::Close {
                return Poll::Ready(Err(Pause::Gone));
            }
            loop {
                match self.poll_read(cx) {
                    Poll::Ready(Some(next)) => return Poll::Ready(next),
                    Poll::Ready(None) => {}
                    // Only now: a request that has begun is answered.
                    Poll::Pending if self.link.ahead.is_empty() && order == Order::Drain => {
                        return Poll::Ready(Err(Pause::Gone));
                    }
                    Poll::Pending
                        if self.link.ahead.is_empty() && until_rest && self.control.is_at_rest() =>
                    {
                        return Poll::Ready(Err(Pause::Rest));
                    }
                    Poll::Pending if self.link.ahead.is_empty() => return Poll::Pending,
                    Poll::Pending => {
                        let patience = patience.get_or_insert_with(|| Box::pin(sleep(PATIENCE)));
                        return patience.as_mut().poll(cx).map(|()| Err(Pause::Unusual));
                    }
                }
            }
        })
        .await
    }

    /// Reads once; `None` while the request is not whole.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Asked, Pause>>> {
        let (shared, pools) = (&self.worker.shared, self.worker.pools());
        with_scratch(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            let read = ready!(Pin::new(&mut self.link.socket).poll_read(cx, &mut buffer));
            let came = buffer.filled();
            if read.is_err() || came.is_empty() {
                return Poll::Ready(Some(Err(Pause::Gone)));
            }
            self.control.note_read();
            if self.link.ahead.is_empty()
                && let Read::Usual(asked, bytes) = read_request(&shared.config, &pools.topology().table, came)
            {
                self.link.ahead.extend_from_slice(&came[bytes..]);
                return Poll::Ready(Some(Ok(asked)));
            }
            self.link.ahead.extend_from_slice(came);
            Poll::Ready(self.read_ahead())
        })
    }

    /// Reads what has come before.
    fn read_ahead(&mut self) -> Option<Result<Asked, Pause>> {
        let (shared, pools) = (&self.worker.shared, self.worker.pools());
        match read_request(&shared.config, &pools.topology().table, &self.link.ahead) {
            Read::Partial => None,
            Read::Unusual => Some(Err(Pause::Unusual)),
            Read::Usual(asked, bytes) => {
                self.link.ahead.advance(bytes);
                if self.link.ahead.is_empty() {
                    self.link.ahead = BytesMut::new();
                }
                Some(Ok(asked))
            }
        }
    }

    /// Answers a request, but for an event stream, which may last.
    async fn answer(&mut self, asked: Asked) -> Answered {
        let reply = {
            let mut answering = pin!(handler::answer(self.worker, self.control, asked));
            poll_fn(|cx| match answering.as_mut().poll(cx) {
                Poll::Ready(reply) => Poll::Ready(Some(reply)),
                Poll::Pending if self.is_over(cx) => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            })
            .await
        };
        let Some(reply) = reply else { return Answered::Gone };
        let_others_go_first().await;
        let mut writing = Writing::new(reply, &self.worker.date(), self.worker.phase());
        if writing.is_stream() {
            return Answered::Stream(writing);
        }
        if self.write(&mut writing).await { Answered::Kept } else { Answered::Gone }
    }

    /// Passes an event stream on, until its end (then the connection is at rest) or for as long as it says something.
    async fn pass(&mut self, detached: Box<Detached>) -> Pause {
        let Detached { mut writing, active } = *detached;
        self.control.note_stream(true);
        let can_be_parked = self.link.socket.can_be_still();
        let pause = poll_fn(|cx| match writing.poll(&mut self.link.socket, self.control, cx) {
            Poll::Ready(true) => Poll::Ready(Some(Pause::Rest)),
            Poll::Ready(false) => Poll::Ready(Some(Pause::Gone)),
            Poll::Pending if self.is_over(cx) => Poll::Ready(Some(Pause::Gone)),
            Poll::Pending => {
                let is_at_rest = can_be_parked && self.control.is_at_rest() && writing.is_silent();
                if is_at_rest && self.link.ahead.is_empty() { Poll::Ready(None) } else { Poll::Pending }
            }
        })
        .await;
        self.control.note_stream(false);
        drop(active);
        pause.unwrap_or_else(|| Pause::Silent(Box::new(writing)))
    }

    async fn write(&mut self, writing: &mut Writing) -> bool {
        poll_fn(|cx| match writing.poll(&mut self.link.socket, self.control, cx) {
            Poll::Pending if self.is_over(cx) => Poll::Ready(false),
            polled => polled,
        })
        .await
    }

    /// Whether the client has gone, or was given up. A client that closes has gone, also when it closes only
    /// its sending side: in the Modern era that is how a call is cancelled (MCP 2026-07-28, transports).
    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        if self.control.order(cx.waker()) == Order::Close {
            return true;
        }
        // Further requests are taken in too, up to a bound, for behind them the client may go.
        while self.link.ahead.len() < AHEAD_BYTES_MAX && !self.link.socket.is_silent(cx) {
            let read = with_scratch(|scratch| {
                let mut buffer = ReadBuf::new(scratch);
                let read = Pin::new(&mut self.link.socket).poll_read(cx, &mut buffer);
                self.link.ahead.extend_from_slice(buffer.filled());
                read.map(|read| read.is_ok() && !buffer.filled().is_empty())
            });
            match read {
                Poll::Pending => return false,
                Poll::Ready(true) => {}
                Poll::Ready(false) => return true,
            }
        }
        false
    }
}

/// What became of a request.
enum Answered {
    /// Another may follow.
    Kept,
    Gone,
    /// An event stream, of which nothing is written yet.
    Stream(Writing),
}
